"""`Heartbeat`: finds links that are open and dead, and replies out of step."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from oddswire.connection.handshake import Refusals
from oddswire.connection.multiplexer import CallLabel
from oddswire.connection.packing import pack
from oddswire.errors import ConnectionLost, NoPermission, ProtocolBroken

if TYPE_CHECKING:
    from oddswire.connection.multiplexer import Multiplexer

# Replies after which an echo is due, whatever the time.
_EACH_REPLIES = 1_000

# Seconds after which an echo is due while calls are in flight, or were answered: the
# few calls of a process that is all but idle are checked by the next idle ping.
_EACH_SECONDS = 1.0
_FEW = 10

# A loop that was held up has not read yet what may be in the socket: it gets this many
# seconds to do so before the silence counts.
_SECOND_LOOK = 0.05

_LABEL = CallLabel("PING")


class Heartbeat:
    """Pings a connection, and compares the echo with what was sent.

    One reply too few or too many shifts every reply behind it to the wrong call, and
    nothing else would show it. The echo carries a number, which finds the shift. An
    echo is due after 1,000 replies, after a second with calls, or after `idle` seconds
    (of other clients only StackExchange.Redis has such a check). No task waits for an
    echo, and it has no deadline: behind a slow call it is as late as that one.

    Args:
        connection: The connection; it is aborted when the echo is late or is not the
            echo.
        idle: Seconds without a reply after which a ping is sent.
        answer: Seconds of silence in which the echo of an idle connection has to come.
        echoes: Whether the server returns what it is given. Where a proxy does not, a
            bare PING on an idle connection has to be answered, by anything.
        refusals: Whether the user may PING. If not, an idle connection is asked by
            HELLO, which is refused to no user.
    """

    def __init__(
        self,
        connection: Multiplexer,
        *,
        idle: float,
        answer: float,
        echoes: bool = True,
        refusals: Refusals | None = None,
    ) -> None:
        self._connection = connection
        self._idle = idle
        self._answer = answer
        self._refusals = refusals or Refusals()
        self._echoes = echoes and not self._refusals.ping_denied
        self._beats = 0
        self._pending: bytes | None = None
        self._sent = monotonic()
        self._suspected = False
        if self._echoes:
            connection.when_unchecked(_EACH_REPLIES, self._ping)
        self._timer = connection.loop.call_later(min(idle, _EACH_SECONDS), self._beat)

    def stop(self) -> None:
        """Send no more pings."""
        self._timer.cancel()
        # Each holds the other: a connection that ended would stay for the garbage
        # collector.
        self._connection.when_unchecked(0, None)

    def _beat(self) -> None:
        connection = self._connection
        if connection.error is not None:
            return
        now = monotonic()
        quiet = now - connection.last_read
        rest = min(self._idle, _EACH_SECONDS)
        if self._pending is not None:
            # The deadlines of calls in flight watch the connection; once they are gone
            # the echo is the next reply. Push messages in front of it are a sign of
            # life.
            late = now - max(self._sent, connection.last_read) - self._answer
            if late >= 0 and connection.flow.commands <= 1:
                if self._suspected:
                    connection.abort(
                        ConnectionLost(
                            f"the heartbeat was not answered within {self._answer:g} s"
                        )
                    )
                    return
                self._suspected, rest = True, _SECOND_LOOK
            elif late < 0:
                self._suspected, rest = False, min(rest, max(-late, 0.001))
        elif self._is_due(now, quiet):
            self._ping()
            rest = min(rest, self._answer)
        elif quiet < self._idle:
            rest = min(rest, max(self._idle - quiet, 0.001))
        self._timer = connection.loop.call_later(rest, self._beat)

    def _is_due(self, now: float, quiet: float) -> bool:
        connection = self._connection
        if not connection.flow.commands and quiet >= self._idle:
            return True
        since = now - self._sent
        if not self._echoes:
            return False
        return (
            since >= _EACH_SECONDS
            and (connection.flow.commands > 0 or connection.unchecked >= _FEW)
        ) or (since >= self._idle and connection.unchecked > 0)

    def _ping(self) -> None:
        if self._pending is not None:
            return
        self._beats += 1
        self._pending = b"oddswire-%d" % self._beats
        self._suspected = False
        self._sent = monotonic()
        self._connection.unchecked = 0
        if self._refusals.ping_denied:  # another connection may have heard it
            self._give_up_echoes()
        idle = ("HELLO",) if self._refusals.ping_denied else ("PING",)
        words = ("PING", self._pending) if self._echoes else idle
        self._connection.send_unawaited(pack(words), _LABEL, self._judge)

    def _judge(self, reply: Any) -> None:
        """Take the echo; the parser's hook, so what it raises ends the connection."""
        nonce, self._pending = self._pending, None
        if isinstance(reply, NoPermission):
            # A sign of life, this time.
            self._refusals.ping_denied = True
            self._give_up_echoes()
        # Any other error (LOADING, the end of the connection) says nothing about the
        # order.
        if isinstance(reply, Exception) or not self._echoes or reply == nonce:
            return
        raise ProtocolBroken(
            f"the heartbeat {nonce!r} was answered with {reply!r:.60}: "
            "replies and calls are out of step"
        )

    def _give_up_echoes(self) -> None:
        self._echoes = False
        self._connection.when_unchecked(0, None)
