"""`ReconnectingConnection`: keeps one multiplexed connection connected, for ever.

1. At most one task attempts to connect, however many callers wait.
2. Callers wait for it within their own deadlines. They fail at once when the circuit is
   open or the server refused the credentials.
3. When the connection is lost the task starts again by itself, so the next caller finds
   it ready. After a refusal of the credentials only a caller starts it again.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from oddswire._tasks import spawn
from oddswire.connection.deadline import Deadline
from oddswire.connection.dial import Progress
from oddswire.connection.errors import clone_error
from oddswire.connection.handshake import Refusals
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
        emit: Called with each change of state.
        name: The connection's name in the events.
        heartbeat: Seconds of silence before a ping, and for its echo.
        pacer: Shared with the other connections of the client.
        progress: How far the attempt under way has come.
        refusals: What the user may not do; shared as the pacer is.

    Attributes:
        current: The live connection, or None.
        server_info: The newest answer of the server about itself.
        connects: Connections opened so far.
        closed: Whether it takes no more calls.
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
        refusals: Refusals | None = None,
    ) -> None:
        self.current: Multiplexer | None = None
        self.server_info: ServerInfo | None = None
        self.connects = 0
        self.closed = False
        self._dial = dial
        self._backoff = backoff
        self._emit = emit
        self._name = name
        self._heartbeat_times = heartbeat
        self._pacer = pacer or AttemptPacer()
        self._progress = progress or Progress()
        self._refusals = refusals or Refusals()
        self._pause: Pause | None = None
        # When the backoff wants the next attempt. An attempt that a caller hastens and
        # that fails before that time does not count. If it did, waiting callers would
        # open the circuit early, and a failover of some seconds would be refused.
        self._scheduled = 0.0
        # A caller was refused since the last attempt began: the next one is hastened.
        self._wanted = False
        self._heartbeat: Heartbeat | None = None
        # In the order they came. A caller that comes in the very tick in which the
        # connection opens may still be ahead of them.
        self._waiters: dict[asyncio.Future[Multiplexer], None] = {}
        # Connections to a server that was left, until their last replies are here.
        self._left: set[Multiplexer] = set()
        self._task: asyncio.Task[None] | None = None
        # Ended by `disconnect`: it connects again for the next caller, not before.
        self._disconnected = False
        self._last_error: OddswireError | None = None
        self._next_attempt = 0.0
        self._lost_at: float | None = None
        self._was_primary = False

    @property
    def circuit_open(self) -> bool:
        """Whether callers are refused at once."""
        return self._backoff.circuit_open

    @property
    def idle(self) -> bool:
        """Whether it holds nothing open and does nothing: closed, or not in use."""
        return self.closed or (self.current is None and self._task is None)

    async def ready(self, timeout: float) -> Multiplexer:
        """Return the live connection, connecting first if there is none.

        Any number of callers may wait, each within its own deadline. A caller hastens
        the next attempt. If it is cancelled, the attempt goes on for the others.

        Raises:
            CircuitOpen: Too many attempts failed in a row; when the next is due.
            Unavailable: Not connected within `timeout` seconds; or never connected yet,
                and several attempts failed.
            AuthFailed, NoPermission: The server refused the credentials.
            ClosedError: It was closed.
        """
        if self.closed:
            raise ClosedError("the client was closed")
        if self.current is not None:
            return self.current
        self._disconnected = False
        if self.circuit_open and self._task is not None:
            # Also while a probe is under way: it may take as long as the last ones.
            self._hasten()
            wait = self._until_next_attempt()
            raise CircuitOpen(
                f"{self._backoff.failures} attempts to connect failed in a row, "
                f"the next is in {wait:.1f} s: {self._last_error}",
                retry_after=wait,
            )
        error = self._last_error
        if error is not None and _is_final(error) and self._until_next_attempt():
            raise clone_error(error, error.outcome)
        waiter: asyncio.Future[Multiplexer] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        self._start()
        self._hasten()
        try:
            async with Deadline(timeout):
                return await waiter
        except TimeoutError:
            # A call whose connection was lost may come back with no time left.
            when = f"within {timeout:.3g} s" if timeout > 0 else "in the call's time"
            raise Unavailable(f"not connected {when}: {self._why_not()}") from None
        finally:
            self._waiters.pop(waiter, None)

    def _until_next_attempt(self) -> float:
        return max(0.0, self._next_attempt - asyncio.get_running_loop().time())

    def _why_not(self) -> str:
        """Say why there is no connection, for the error of a caller that waited."""
        why = [str(self._last_error)] if self._last_error is not None else []
        if self._progress.stage:
            # The attempt may outlast the caller, which then would not learn the cause.
            why.append(f"{'now ' if why else ''}{self._progress.stage}")
        return "; ".join(why)

    # --- the task that connects

    def _start(self) -> None:
        """Have exactly one task connecting."""
        if self._task is None and not self.closed:
            name = f"oddswire {self._name} connecting"
            self._task = spawn(self._connect(), name=name)

    async def _connect(self) -> None:
        try:
            while self.current is None and not self.closed:
                await self._wait_for_turn()
                await self._attempt()
                if self._last_error is not None and _is_final(self._last_error):
                    # Another attempt with the same password only fills the server's
                    # log; the next caller starts it.
                    return
        finally:
            self._task = None
            # A caller may have come while this task was on its way out.
            if any(not waiter.done() for waiter in self._waiters):
                self._start()

    def _hasten(self) -> None:
        """Let the next attempt come earlier: a caller waits, or was refused."""
        if self._pause is None:
            self._wanted = True
        else:
            self._pause.hasten()
            self._next_attempt = self._pause.due

    async def _wait_for_turn(self) -> None:
        """Wait for the time of the next attempt, or less if a caller hastens it."""
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
        self._pause, self._next_attempt = pause, pause.due
        delay = self._until_next_attempt()
        attempt, reason = self._backoff.failures + 1, str(self._last_error or "")
        self._report(Reconnecting, attempt=attempt, delay=delay, reason=reason)
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
            self._pause = None

    async def _attempt(self) -> None:
        loop = asyncio.get_running_loop()
        was_open = self.circuit_open
        started = loop.time()
        self._pacer.attempt_begins(started)
        self._report(Connecting)
        try:
            connection, server_info = await self._dial(self._on_closed)
        except Exception as error:  # noqa: BLE001 - a credential provider may raise anything, and one attempt must not end the attempts
            if not isinstance(error, OddswireError):
                error = Unavailable(f"{type(error).__name__}: {error}")
            self._attempt_failed(error, was_open=was_open)
            return
        if connection.error is not None:
            # Lost between the handshake's last reply and here: no call was sent on it.
            lost = Unavailable(f"right after the handshake: {connection.error}")
            self._attempt_failed(lost, was_open=was_open)
            return
        before = self.server_info
        if before is not None and not server_info.run_id:
            # Not known this time (busy, loading): compare with the last known one.
            server_info = msgspec.structs.replace(server_info, run_id=before.run_id)
        self.server_info, self.current = server_info, connection
        self._was_primary |= server_info.role == "master"
        self._last_error = None
        self.connects += 1
        self._backoff.succeeded(loop.time())
        self._scheduled = 0.0
        self._pacer.server_answers()
        idle, answer = self._heartbeat_times
        self._heartbeat = Heartbeat(
            connection,
            idle=idle,
            answer=answer,
            echoes=server_info.echoes,
            refusals=self._refusals,
        )
        self._report(Connected)
        if was_open:
            self._report(CircuitClosed)
        if before is not None:
            self._report_changes(before, server_info)
        outage = 0.0 if self._lost_at is None else loop.time() - self._lost_at
        self._lost_at = None
        self._report(Ready, took=loop.time() - started, outage=outage)
        # Last: subscribers know of another server before any caller reads from it.
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(connection)

    def _attempt_failed(self, error: OddswireError, *, was_open: bool) -> None:
        """Decide which callers wait on after a failed attempt.

        1. Refused credentials will be refused again: every waiter fails.
        2. The circuit opens: the waiters fail in `_wait_for_turn`.
        3. Nothing ever answered there, and several attempts failed: every waiter fails.
        4. Otherwise the waiters wait on, each within its deadline.
        """
        loop = asyncio.get_running_loop()
        self._last_error = error
        if _is_final(error):
            self._next_attempt = loop.time() + _REFUSED_FOR
            self._report(Refused, reason=str(error))
            self._fail_waiters(lambda: clone_error(error, error.outcome))
            return
        if loop.time() >= self._scheduled:
            self._backoff.failed()
        if was_open:
            return
        failures = self._backoff.failures
        if self.circuit_open:
            self._report(CircuitOpened, attempts=failures, reason=str(error))
        elif self.server_info is None and failures >= _NEVER_THERE:
            self._fail_waiters(lambda: clone_error(error, error.outcome))

    def _fail_waiters(self, error: Callable[[], OddswireError]) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error())

    # --- events

    def _report(self, event: type[Event], **details: Any) -> None:
        self._emit(event(connection=self._name, **details))

    def _report_changes(self, before: ServerInfo, now: ServerInfo) -> None:
        if before.address != now.address:
            self._report(Failover, old=before.address, new=now.address)
        if before.run_id and now.run_id and before.run_id != now.run_id:
            reason = "another server process answers: a restart, or a replica took over"
            self._report(DataReset, reason=reason)

    # --- the connection ends, or is left

    def _on_closed(self, connection: Multiplexer, error: OddswireError) -> None:
        if connection is not self.current:
            return  # it never became ours: the handshake failed
        self.current = None
        if self._heartbeat is not None:
            self._heartbeat.stop()
        now = connection.loop.time()
        self._lost_at = now
        self._backoff.lost(now)
        ours = self.closed or self._disconnected
        self._report(
            Disconnected,
            reason=str(error),
            closed=ours,
            protocol_desync=isinstance(error, ProtocolBroken),
        )
        if not ours:
            # At once and unasked: the next caller finds the connection ready.
            self._start()

    def leave_if_demoted(self, sent: float) -> bool:
        """Leave a primary that has become a replica; False if it never was one to us.

        The connection ends, and the next one asks again where the primary is. It may be
        the same server once more: a name is sometimes moved later than the role. Then
        a refusal some time later leaves it again.

        Args:
            sent: When the call was sent that it refused, by `time.monotonic`.
        """
        server_info, connection = self.server_info, self.current
        if server_info is None or not self._was_primary:
            return False
        if server_info.role != "master" and (
            connection is None or monotonic() - connection.connected_at < STAYS
        ):
            # The name still leads to the server that was demoted.
            return False
        # The refusal of an earlier connection says nothing of the one after it.
        if connection is not None and connection.connected_at <= sent:
            self.leave(ConnectionLost(f"{server_info.address} became a replica"))
        return True

    def leave(self, error: OddswireError) -> None:
        """Open another connection, and let the calls on this one have their replies.

        A server that is alive sends them at once; after a moment the connection ends
        with `error`.
        """
        connection = self.current
        if connection is None:
            return
        self._on_closed(connection, error)
        self._left.add(connection)
        connection.loop.call_later(LINGER, self._forget, connection, error)

    def retire(self, error: OddswireError) -> None:
        """Leave the server for good; see `leave`."""
        self.closed = True
        self._fail_waiters(lambda: clone_error(error, Outcome.NOT_SENT))
        self.leave(error)

    def _forget(self, connection: Multiplexer, error: OddswireError) -> None:
        self._left.discard(connection)
        connection.abort(error)

    def server_moved(self) -> None:
        """The server is elsewhere now: connect at once, if there is no connection."""
        self._backoff.server_moved()
        self._scheduled = 0.0
        if self._pause is not None:
            self._pause.end_at(0.0)

    def credentials_renewed(self) -> None:
        """There are newer credentials: a refusal of older ones holds up no caller."""
        if isinstance(self._last_error, AuthFailed):
            self._next_attempt = 0.0

    # --- closing

    async def disconnect(self, error: OddswireError) -> None:
        """End the connection, and connect again only when the next caller comes."""
        self._disconnected = True
        if self.current is not None:
            self.current.abort(error)
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def abandon(self) -> None:
        """End everything at once: the client was dropped without being closed."""
        self.closed = True
        if self._task is not None:
            self._task.cancel()
        for connection in (*self._left, self.current):
            if connection is not None:
                connection.abort(ClosedError("the client was dropped without aclose()"))

    async def aclose(self, drain: float) -> None:
        """Stop connecting, let running calls finish for `drain` seconds, close."""
        self.closed = True
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
    """Whether another attempt with the same settings cannot help."""
    return error.outcome is Outcome.REJECTED and isinstance(
        error, AuthFailed | NoPermission | Unavailable
    )
