"""`Outbox`: where alerts wait, in a Redis stream, until they were delivered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from oddsbot.alerts import Alert
from oddswire.codec import Codec
from oddswire.errors import CommandRejected, OddswireError
from oddswire.keys import Family, KeySpace

from .outage import Outage

if TYPE_CHECKING:
    from types import TracebackType

    from oddswire import Client
    from oddswire.clock import Clock

# One group: they are written in one transaction.
OUTBOX = Family("outbox", group="outbox")
DEAD_LETTERS = Family("outbox-dead", group="outbox")
FIELD = b"alert"


class Entry(msgspec.Struct, frozen=True):
    """What one entry of the stream holds."""

    alert: Alert


class OutboxError(OddswireError):
    """The stream holds what this producer did not write: there is a second one."""


class Outbox:
    """The one producer of an outbox stream: ``async with Outbox(...) as outbox``.

    Every entry gets its id here, ``n-0`` with n growing by one, and not from the
    server. So an entry may be sent again after a lost reply: the server refuses an id
    that is not greater than its last one, and the entry under that id tells whether
    the first attempt was the one that arrived.

    Args:
        client: Where the stream is.
        keys: Names the stream. Only one producer may write to it.
        clock: Gives the first id of a new stream, and sleeps.
    """

    def __init__(self, client: Client, keys: KeySpace, clock: Clock) -> None:
        self._client = client
        self._stream = keys.key(OUTBOX)
        self._clock = clock
        self._codec = Codec(Entry)
        self._outage = Outage("outbox", clock)
        self._turn = asyncio.Lock()
        self._first = self._last = 0

    @property
    def last_id(self) -> str | None:
        """The id of the newest entry of this process; None before the first."""
        return f"{self._last}-0" if self._last > self._first else None

    async def __aenter__(self) -> Self:
        """Continue after the newest id; waits while Redis is away.

        Raises:
            OddswireError: A refusal that waiting does not mend.
        """
        async with self._turn:
            newest = await self._patiently(self._newest)
            # Never below the clock: ids must go on growing when the server lost its
            # data, or a consumer that remembers the old ones takes the new for done.
            self._first = self._last = max(newest, int(self._clock.now() * 1000))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to undo: the stream stays."""

    async def put(self, alert: Alert) -> str:
        """Write an alert; return its entry id once the server has it.

        Waits through outages for as long as they last, and writes once. Concurrent
        calls write in the order of their calls. Cancelled, the alert may or may not
        have been written; the next `put` is not affected.

        Raises:
            OutboxError: Another producer writes to the stream.
            OddswireError: A refusal that waiting does not mend.
        """
        payload = self._codec.encode(Entry(alert))
        async with self._turn:
            # Taken before the attempt: after a cancelled one the id may be in use.
            self._last += 1
            entry = f"{self._last}-0"
            await self._patiently(self._write, entry, payload)
        return entry

    async def _patiently(self, attempt: Any, *args: Any) -> Any:
        while True:
            try:
                result = await attempt(*args)
            except OddswireError as error:
                await self._outage.wait(error)
            else:
                self._outage.over()
                return result

    async def _newest(self) -> int:
        try:
            info = await self._client.xinfo_stream(self._stream)
        except CommandRejected as error:
            if "no such key" in str(error):
                return 0
            raise
        newest: bytes = info["last-generated-id"]
        return int(newest.partition(b"-")[0])

    async def _write(self, entry: str, payload: bytes) -> None:
        try:
            await self._client.xadd(self._stream, {FIELD: payload}, id=entry)
        except CommandRejected as error:
            if "equal or smaller" not in str(error):
                raise
            # An earlier attempt may have arrived although its reply was lost. The
            # courier never trims the newest entry, so if it did, it is still there.
            found = await self._client.xrange(self._stream, entry, entry)
            if [fields for _, fields in found or ()] != [{FIELD: payload}]:
                raise OutboxError(
                    f"{self._stream}: id {entry} was used by another producer; "
                    "stop it, there may be one only"
                ) from error


class Backlog(NamedTuple):
    """What an outbox holds.

    Attributes:
        length: Entries in the stream; the newest stays even when it was delivered.
        pending: Entries handed to the courier and not acknowledged.
        lag: Entries not handed out yet; None when the server cannot tell.
        dead: Entries among the dead letters.
    """

    length: int
    pending: int
    lag: int | None
    dead: int


async def backlog(client: Client, keys: KeySpace, group: str) -> Backlog:
    """Ask the server what an outbox holds.

    Raises:
        CommandRejected: There is no such stream or group.
    """
    stream = keys.key(OUTBOX)
    length = await client.xlen(stream)
    dead = await client.xlen(keys.key(DEAD_LETTERS))
    for info in await client.xinfo_groups(stream):
        if info["name"] == group.encode():
            return Backlog(length, info["pending"], info["lag"], dead)
    raise CommandRejected(f"{stream} has no group {group!r}: no courier ran yet")
