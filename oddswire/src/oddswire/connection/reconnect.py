"""`ReconnectingConnection`: keeps one multiplexed connection connected, for ever.

One attempt at a time whoever asks. Callers wait for it within their own deadlines, or
fail at once when the circuit is open or the server refused the credentials.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from oddswire._tasks import spawn
from oddswire.connection.deadline import Deadline
from oddswire.connection.dial import Progress
from oddswire.connection.errors import clone_error
from oddswire.connection.heartbeat import Heartbeat
from oddswire.connection.pacing import AttemptPacer
from oddswire.errors import (
    AuthFailed,
    CircuitOpen,
    ClosedError,
    ConnectionLost,
    NoPermission,
    OddswireError,
    Outcome,
    ProtocolBroken,
    Unavailable,
)
from oddswire.events import (
    CircuitClosed,
    CircuitOpened,
    Connected,
    Connecting,
    DataReset,
    Disconnected,
    Failover,
    Ready,
    Reconnecting,
    Refused,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.connection.backoff import ReconnectBackoff
    from oddswire.connection.handshake import ServerInfo
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.connection.pacing import Pause
    from oddswire.events import Event

# After credentials were refused, callers get that answer for this long without
# another attempt: enough against a storm, short enough to notice a rotation.
_REFUSED_FOR = 1.0

# Before the first connection, a server that was never there is more likely a wrong
# address than one that restarts: after so many failures in a row callers get the cause
# and do not wait out their deadlines. One failure may be a restart after all.
_NEVER_THERE = 3

# Seconds that a connection to a replica stays, where there was a primary before.
STAYS = 1.0

# Seconds in which the replies of a connection that is left may still come.
LINGER = 0.2


class ReconnectingConnection:
    """A connection that comes back.

    Args:
        dial: Opens a connection; raises `OddswireError`.
        backoff: The spacing of attempts.
        emit: Told of each change of state.
        name: What the events call it.
        heartbeat: Seconds of silence before a ping, and for its echo.
        pacer: Shared with the other connections of the client.
        progress: How far the attempt under way has come.

    Attributes:
        current: The live connection, or None.
        server_info: What the server last said of itself.
        connects: Connections opened so far.
    """

    def __init__(
        self,
        dial: Callable[
            [Callable[[Multiplexer, OddswireError], None]],
            Awaitable[tuple[Multiplexer, ServerInfo]],
        ],
        backoff: ReconnectBackoff,
        emit: Callable[[Event], None],
        *,
        name: str,
        heartbeat: tuple[float, float],
        pacer: AttemptPacer | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.current: Multiplexer | None = None
        self.server_info: ServerInfo | None = None
        self.connects = 0
        self._dial = dial
        self._backoff = backoff
        self._emit = emit
        self._name = name
        self._heartbeat = heartbeat
        self._pacer = pacer or AttemptPacer()
        self._progress = progress or Progress()
        self._paused: Pause | None = None
        # When the backoff wants the next attempt. One that a caller hastens, and that
        # fails before that time, does not count: else callers who wait would open the
        # circuit early: a failover of some seconds would be refused, not waited out.
        self._scheduled = 0.0
        # A caller was refused since the last attempt began: the next one is hastened.
        self._wanted = False
        self._pulse: Heartbeat | None = None
        # In the order they came. A caller that comes in the very tick in which the
        # connection opens may still be ahead of them.
        self._waiters: dict[asyncio.Future[Multiplexer], None] = {}
        self._left: set[Multiplexer] = set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._resting = False
        self._last_error: OddswireError | None = None
        self._next_attempt = 0.0
        self._lost_at: float | None = None
        self._was_primary = False

    @property
    def circuit_open(self) -> bool:
        """Whether callers are refused at once."""
        return self._backoff.circuit_open

    @property
    def closed(self) -> bool:
        """Whether it takes no more calls."""
        return self._closed

    @property
    def idle(self) -> bool:
        """Whether it holds nothing open and does nothing: closed, or not in use."""
        return self._closed or (self.current is None and self._task is None)

    async def ready(self, timeout: float) -> Multiplexer:
        """Return the live connection, connecting first if there is none.

        However many callers wait; each only within its own deadline. A caller hastens
        the next attempt. Cancelled, the attempt goes on for the others.

        Raises:
            CircuitOpen: Too many attempts failed in a row; when the next is due.
            Unavailable: Not connected within `timeout` seconds; or never connected yet,
                and several attempts failed.
            AuthFailed, NoPermission: The server refused the credentials.
            ClosedError: The link was closed.
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ClosedError("the client was closed")
        if self.current is not None:
            return self.current
        self._resting = False
        if self.circuit_open and self._task is not None:
            # While a probe is under way too: it may take as long as the last ones.
            self._hasten()
            wait = self._until_next_attempt()
            raise CircuitOpen(
                f"{self._backoff.failures} attempts to connect failed in a row, "
                f"the next is in {wait:.1f} s: {self._last_error}",
                retry_after=wait,
            )
        if (
            self._last_error is not None
            and self._until_next_attempt()
            and _is_final(self._last_error)
        ):
            raise clone_error(self._last_error, self._last_error.outcome)
        waiter: asyncio.Future[Multiplexer] = loop.create_future()
        self._waiters[waiter] = None
        self._start()
        self._hasten()
        try:
            async with Deadline(timeout):
                return await waiter
        except TimeoutError:
            raise Unavailable(
                f"not connected within {timeout:.3g} s: {self._why_not()}"
            ) from None
        finally:
            self._waiters.pop(waiter, None)

    def _until_next_attempt(self) -> float:
        return max(0.0, self._next_attempt - asyncio.get_running_loop().time())

    def _why_not(self) -> str:
        """Say why there is no connection, for the error of a caller that waited."""
        why = [str(self._last_error)] if self._last_error is not None else []
        if self._progress.stage:
            # The attempt may outlast the caller, and would take the cause with it.
            why.append(f"{'now ' if why else ''}{self._progress.stage}")
        return "; ".join(why)

    def _hasten(self) -> None:
        """A caller waits, or was refused: let the next attempt come earlier."""
        if self._paused is None:
            self._wanted = True
        else:
            self._paused.hasten()
            self._next_attempt = self._paused.due

    def _start(self) -> None:
        """Have exactly one task connecting."""
        if self._task is None and not self._closed:
            self._task = spawn(
                self._connect(), name=f"oddswire {self._name} connecting"
            )

    async def _connect(self) -> None:
        try:
            while self.current is None and not self._closed:
                await self._pause()
                await self._attempt()
                if self._last_error is not None and _is_final(self._last_error):
                    # Trying again with the same password only fills the server's log;
                    # the next caller starts the next attempt.
                    return
        finally:
            self._task = None
            # A caller may have come while this task was on its way out.
            if any(not waiter.done() for waiter in self._waiters):
                self._start()

    async def _pause(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._scheduled <= now:
            delay = self._backoff.delay()
            if delay <= 0:
                return
            self._scheduled = now + delay
        pause = self._pacer.pause(self._scheduled - now)
        if self._wanted or self._waiters:
            pause.hasten()
        self._wanted = False
        self._paused, self._next_attempt = pause, pause.due
        delay = self._until_next_attempt()
        self._emit(
            Reconnecting(
                connection=self._name,
                attempt=self._backoff.failures + 1,
                delay=delay,
                reason=str(self._last_error or ""),
            )
        )
        if self.circuit_open:
            self._fail_waiters(
                lambda: CircuitOpen(
                    f"{self._backoff.failures} attempts to connect failed in a row: "
                    f"{self._last_error}",
                    retry_after=delay,
                )
            )
        try:
            await pause.wait()
        finally:
            self._paused = None

    async def _attempt(self) -> None:
        loop = asyncio.get_running_loop()
        was_open = self.circuit_open
        started = loop.time()
        self._pacer.attempt_begins(started)
        self._emit(Connecting(connection=self._name))
        try:
            connection, server_info = await self._dial(self._on_closed)
        except Exception as failure:  # noqa: BLE001 - a credential provider may raise anything, and one attempt must not end the attempts
            error = (
                failure
                if isinstance(failure, OddswireError)
                else Unavailable(f"{type(failure).__name__}: {failure}")
            )
            self._last_error = error
            if _is_final(error):
                self._next_attempt = loop.time() + _REFUSED_FOR
                self._emit(Refused(connection=self._name, reason=str(error)))
                self._fail_waiters(lambda: clone_error(error, error.outcome))
            else:
                if loop.time() >= self._scheduled:
                    self._backoff.failed()
                if self.circuit_open and not was_open:
                    self._emit(
                        CircuitOpened(
                            connection=self._name,
                            attempts=self._backoff.failures,
                            reason=str(error),
                        )
                    )
                elif (
                    self.server_info is None
                    and self._backoff.failures >= _NEVER_THERE
                    and not was_open
                ):
                    self._fail_waiters(lambda: clone_error(error, error.outcome))
            return
        if connection.error is not None:
            # Lost between the handshake's last reply and here.
            self._last_error = connection.error
            self._backoff.failed()
            return
        before = self.server_info
        if before is not None and not server_info.run_id:
            # Not told this time (busy, loading): compare with the last that was.
            server_info = msgspec.structs.replace(server_info, run_id=before.run_id)
        self.server_info, self.current = server_info, connection
        self._was_primary |= server_info.role == "master"
        self._last_error = None
        self.connects += 1
        self._backoff.succeeded(loop.time())
        self._scheduled = 0.0
        self._pacer.server_answers()
        self._pulse = Heartbeat(
            connection,
            idle=self._heartbeat[0],
            answer=self._heartbeat[1],
            echoes=server_info.echoes,
        )
        self._emit(Connected(connection=self._name))
        if was_open:
            self._emit(CircuitClosed(connection=self._name))
        if before is not None:
            self._emit_changes(before, server_info)
        outage = 0.0 if self._lost_at is None else loop.time() - self._lost_at
        self._lost_at = None
        self._emit(
            Ready(connection=self._name, took=loop.time() - started, outage=outage)
        )
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(connection)

    def _emit_changes(self, before: ServerInfo, now: ServerInfo) -> None:
        if before.address != now.address:
            self._emit(
                Failover(connection=self._name, old=before.address, new=now.address)
            )
        if before.run_id and now.run_id and before.run_id != now.run_id:
            self._emit(
                DataReset(
                    connection=self._name,
                    reason="another server process answers: it restarted, or a "
                    "replica took over",
                )
            )

    def demoted(self, sent: float) -> bool:
        """Leave a primary that has become a replica; False if it never was one to us.

        The connection ends, and the next one asks anew who the primary is. Should that
        be the same server once more, as where a name is moved later than the role, it
        is left again by a refusal some time after that.

        Args:
            sent: When the call was sent that it refused, by `time.monotonic`.
        """
        server_info, connection = self.server_info, self.current
        if server_info is None or not self._was_primary:
            return False
        if server_info.role != "master" and (
            connection is None or monotonic() - connection.connected_at < STAYS
        ):
            # The name still leads to the one that was demoted.
            return False
        # The refusal of a connection that is gone says nothing of the one after it.
        if connection is not None and connection.connected_at <= sent:
            self.leave(ConnectionLost(f"{server_info.address} became a replica"))
        return True

    def leave(self, error: OddswireError) -> None:
        """Connect anew, and let the calls on the present connection have their replies.

        They come at once where there is anybody to send them; after a moment the
        connection ends with `error`.
        """
        connection = self.current
        if connection is None:
            return
        self._on_closed(connection, error)
        self._left.add(connection)
        connection.loop.call_later(LINGER, self._forget, connection, error)

    def server_moved(self) -> None:
        """The server is elsewhere now: connect at once, if there is no connection."""
        self._backoff.server_moved()
        self._scheduled = 0.0
        if self._paused is not None:
            self._paused.end_at(0.0)

    def _forget(self, connection: Multiplexer, error: OddswireError) -> None:
        self._left.discard(connection)
        connection.abort(error)

    def _on_closed(self, connection: Multiplexer, error: OddswireError) -> None:
        if connection is not self.current:
            return  # it never became ours: the handshake failed
        self.current = None
        if self._pulse is not None:
            self._pulse.stop()
        now = connection.loop.time()
        self._lost_at = now
        self._backoff.lost(now)
        self._emit(
            Disconnected(
                connection=self._name,
                reason=str(error),
                closed=self._closed or self._resting,
                protocol_desync=isinstance(error, ProtocolBroken),
            )
        )
        if not self._closed and not self._resting:
            # At once and unasked: the next caller finds the connection ready.
            self._start()

    def _fail_waiters(self, error: Callable[[], OddswireError]) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error())

    def abandon(self) -> None:
        """End everything at once: nobody is there to close it."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        for connection in self._left:
            connection.abort(ClosedError("the client was dropped without aclose()"))
        if self.current is not None:
            self.current.abort(ClosedError("the client was dropped without aclose()"))

    async def rest(self, error: OddswireError) -> None:
        """End the connection and do not connect again before the next caller comes."""
        self._resting = True
        if self.current is not None:
            self.current.abort(error)
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def aclose(self, drain: float) -> None:
        """Stop connecting, let running calls finish for `drain` seconds, close."""
        self._closed = True
        for connection in self._left:
            connection.abort(ClosedError("the client was closed"))
        self._fail_waiters(lambda: ClosedError("the client was closed"))
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self.current is not None:
            await self.current.aclose(drain)


def _is_final(error: OddswireError) -> bool:
    """Whether trying again with the same settings cannot help."""
    return error.outcome is Outcome.REJECTED and isinstance(
        error, AuthFailed | NoPermission | Unavailable
    )
