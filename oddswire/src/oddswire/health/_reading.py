"""Reads the state of a server and of this process once, and judges nothing."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from oddswire._text import text
from oddswire.client import ClientStats
from oddswire.clock import LoopLag
from oddswire.connection.multiplexer import CallLabel
from oddswire.connection.packing import pack
from oddswire.errors import ConnectionLost, NoPermission, OddswireError

if TYPE_CHECKING:
    from oddswire.client import Client
    from oddswire.counters import Window

_PINGS = 5


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one look.

    Attributes:
        stats: The client's, from before anything was asked.
        pings: Seconds of each PING that was answered, connecting not included.
        refused: The server's answer instead of PONG.
        unreachable: Why nothing came at all.
        info: INFO by field; None when it could not be read.
        info_error: Why not.
        cluster: CLUSTER INFO of a node by field; None when it could not be read.
        loop_lag: Seconds by which the event loop was late meanwhile, at worst.
        own: Replies of the last minute that were to questions of ours.
        took: Seconds of all of it.
    """

    stats: ClientStats
    pings: tuple[float, ...] = ()
    refused: Exception | None = None
    unreachable: OddswireError | None = None
    info: dict[str, Any] | None = None
    info_error: str = ""
    cluster: dict[str, str] | None = None
    loop_lag: float = 0.0
    own: int = 0
    took: float = 0.0


async def read(client: Client, timeout: float, asked: Window) -> Reading:
    """Ask the server and watch the loop; a failure is in what is returned.

    It asks on the command connection. If it is cancelled, the server may still answer;
    the reply is dropped.

    Args:
        client: Whose server, and whose own state.
        timeout: Seconds for all of it.
        asked: Counts our questions, which are among the calls of the last minute.
    """
    started = monotonic()
    deadline = started + timeout
    before = client.stats()
    own, _ = asked.counts(started)
    pings: list[float] = []
    refused: Exception | None = None
    unreachable: OddswireError | None = None
    info, info_error = None, "the server does not answer"
    cluster: dict[str, str] | None = None
    with LoopLag() as lag:
        try:
            # The first PING may have to connect, and that time is not the latency.
            for count in range(_PINGS + 1):
                sent = monotonic()
                pong = await ask(client, deadline, "PING")
                asked.record(monotonic())
                refused = pong if isinstance(pong, Exception) else None
                if count:
                    pings.append(monotonic() - sent)
            reply = await ask(client, deadline, "INFO")
            asked.record(monotonic())
            info, info_error = _parsed(client, reply)
            if client.in_cluster:
                reply = await ask(client, deadline, "CLUSTER", "INFO")
                asked.record(monotonic())
                cluster = _fields(reply)
        except OddswireError as error:
            unreachable = error
    return Reading(
        stats=before,
        pings=tuple(pings),
        refused=refused,
        unreachable=unreachable,
        info=info,
        info_error=info_error,
        cluster=cluster,
        loop_lag=lag.worst,
        own=own,
        took=monotonic() - started,
    )


async def ask(client: Client, deadline: float, *words: str) -> Any:
    """Return the reply to a command that only reads; an error reply is returned too.

    A call of the client waits while the server loads its data; this one does not. The
    statistics do not count it among the calls by command.

    Args:
        client: Whose command connection.
        deadline: By `time.monotonic`.
        *words: The command.

    Raises:
        OddswireError: No reply came.
    """
    data = pack(words)
    while True:
        try:
            return await client.send_once(data, deadline, CallLabel(words[0]), raw=True)
        except ConnectionLost:
            # A server that was restarted: the next connection is on its way. When
            # that fails, the error is of another class, and ends this loop.
            if monotonic() >= deadline:
                raise
            await asyncio.sleep(0)


def _fields(reply: Any) -> dict[str, str] | None:
    if isinstance(reply, Exception):
        return None
    lines = text(reply).splitlines()
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def _parsed(client: Client, reply: Any) -> tuple[dict[str, Any] | None, str]:
    if isinstance(reply, NoPermission):
        return None, "this user may not run INFO"
    if isinstance(reply, Exception):
        return None, str(reply)
    parse: Any = client.response_callbacks["INFO"]
    return parse(reply), ""
