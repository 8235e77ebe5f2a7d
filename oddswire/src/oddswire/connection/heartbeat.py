"""`Heartbeat`: finds links that are open and dead, and replies out of step."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from oddswire.connection.calls import Named
from oddswire.connection.packing import pack
from oddswire.errors import ConnectionLost, ProtocolBroken

if TYPE_CHECKING:
    import asyncio

    from oddswire.connection.multiplexer import Multiplexer


class Heartbeat:
    """Pings a wire on which nothing was read for a while.

    The echo carries a number, so a reply that belongs to another call is found out
    within one interval (StackExchange.Redis calls this a consistency check).

    Args:
        wire: The wire; it is aborted when the answer is late or is not the echo.
        idle: Seconds without a reply after which a ping is sent.
        answer: Seconds the echo may take.
    """

    def __init__(self, wire: Multiplexer, *, idle: float, answer: float) -> None:
        self._wire = wire
        self._idle = idle
        self._answer = answer
        self._beats = 0
        self._timer = wire.loop.call_later(idle, self._beat)

    def stop(self) -> None:
        """Send no more pings."""
        self._timer.cancel()

    def _beat(self) -> None:
        wire = self._wire
        if wire.error is not None:
            return
        quiet = monotonic() - wire.last_read
        if quiet < self._idle or wire.gate.commands:
            # While calls are in flight their deadlines watch the link, and a ping
            # behind a slow one would be judged by how long that one takes.
            rest = self._idle - quiet if quiet < self._idle else self._answer
            self._timer = wire.loop.call_later(rest, self._beat)
            return
        self._beats += 1
        nonce = b"oddswire-%d" % self._beats
        sent = monotonic()
        ping = wire.send(pack(("PING", nonce)), self._answer, Named("PING"), raw=True)
        ping.add_done_callback(lambda pong: self._judge(pong, nonce, sent))
        self._timer = wire.loop.call_later(self._idle, self._beat)

    def _judge(self, pong: asyncio.Future[Any], nonce: bytes, sent: float) -> None:
        if pong.cancelled():
            return
        failure = pong.exception()
        if self._wire.error is not None:
            return
        if failure is not None and self._wire.last_read > sent:
            # Push messages that wait in front of the echo: slow, and alive.
            return
        if failure is not None:
            self._wire.abort(
                ConnectionLost(f"the heartbeat was not answered: {failure}")
            )
        # An error reply (LOADING, NOPERM) is an answer: the link is alive.
        elif not isinstance(pong.result(), Exception) and pong.result() != nonce:
            self._wire.abort(
                ProtocolBroken(
                    f"the heartbeat {nonce!r} was answered with {pong.result()!r:.60}: "
                    "replies and calls are out of step"
                )
            )
