"""`Link`: keeps one multiplexed wire connected, for ever.

One attempt at a time whoever asks. Callers wait for it within their own deadlines, or
fail at once when the circuit is open or the server refused the credentials.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from oddswire.connection.heartbeat import Heartbeat
from oddswire.connection.multiplexer import copy_of
from oddswire.errors import (
    AuthFailed,
    CircuitOpen,
    ClosedError,
    NoPermission,
    OddswireError,
    Outcome,
    Overloaded,
    Unavailable,
)
from oddswire.events import (
    CircuitClosed,
    CircuitOpened,
    Connected,
    Connecting,
    Disconnected,
    Ready,
    Reconnecting,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.connection.backoff import Backoff
    from oddswire.connection.handshake import Greeting
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.events import Event

# After credentials were refused, callers get that answer for this long without
# another attempt: enough against a storm, short enough to notice a rotation.
_REFUSED_FOR = 1.0


class Link:
    """A wire that comes back.

    Args:
        dial: Opens a wire; raises `OddswireError`.
        backoff: The spacing of attempts.
        emit: Told of each change of state.
        name: What the events call it.
        heartbeat: Seconds of silence before a ping, and for its echo.
        most_waiting: Callers that may wait for the connection at once.

    Attributes:
        wire: The live wire, or None.
        greeting: What the server last said of itself.
        connects: Wires opened so far.
    """

    def __init__(
        self,
        dial: Callable[
            [Callable[[Multiplexer, OddswireError], None]],
            Awaitable[tuple[Multiplexer, Greeting]],
        ],
        backoff: Backoff,
        emit: Callable[[Event], None],
        *,
        name: str,
        heartbeat: tuple[float, float],
        most_waiting: int,
    ) -> None:
        self.wire: Multiplexer | None = None
        self.greeting: Greeting | None = None
        self.connects = 0
        self._dial = dial
        self._backoff = backoff
        self._emit = emit
        self._name = name
        self._heartbeat = heartbeat
        self._most_waiting = most_waiting
        self._pulse: Heartbeat | None = None
        # In the order they came. A caller that comes in the very tick in which the
        # wire opens may still be ahead of them.
        self._waiters: dict[asyncio.Future[Multiplexer], None] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._last_error: OddswireError | None = None
        self._next_attempt = 0.0
        self._lost_at: float | None = None

    @property
    def circuit_open(self) -> bool:
        """Whether callers are refused at once."""
        return self._backoff.circuit_open

    async def ready(self, timeout: float) -> Multiplexer:
        """Return the live wire, connecting first if there is none.

        Cancelled, the attempt goes on for the others.

        Raises:
            CircuitOpen: Too many attempts failed in a row; when the next is due.
            Overloaded: Too many callers wait for the connection already.
            Unavailable: Not connected within `timeout` seconds.
            AuthFailed, NoPermission: The server refused the credentials.
            ClosedError: The link was closed.
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ClosedError("the client was closed")
        if self.wire is not None:
            return self.wire
        wait = max(0.0, self._next_attempt - loop.time())
        if self.circuit_open and self._task is not None:
            # While a probe is under way too: it may take as long as the last ones.
            raise CircuitOpen(
                f"{self._backoff.failures} attempts to connect failed in a row, "
                f"the next is in {wait:.1f} s: {self._last_error}",
                retry_after=wait,
            )
        if self._last_error is not None and wait and _is_final(self._last_error):
            raise copy_of(self._last_error, self._last_error.outcome)
        if len(self._waiters) >= self._most_waiting:
            raise Overloaded(
                f"{len(self._waiters)} calls wait for the connection already"
            )
        waiter: asyncio.Future[Multiplexer] = loop.create_future()
        self._waiters[waiter] = None
        self._start()
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except TimeoutError:
            why = f": {self._last_error}" if self._last_error else ""
            raise Unavailable(f"not connected within {timeout:g} s{why}") from None
        finally:
            self._waiters.pop(waiter, None)

    def _start(self) -> None:
        """Have exactly one task connecting."""
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(
                self._connect(), name=f"oddswire {self._name} connecting"
            )

    async def _connect(self) -> None:
        try:
            while self.wire is None and not self._closed:
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
        delay = self._backoff.delay()
        loop = asyncio.get_running_loop()
        if delay <= 0:
            return
        self._next_attempt = loop.time() + delay
        self._emit(
            Reconnecting(
                wire=self._name, attempt=self._backoff.failures + 1, delay=delay
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
        await asyncio.sleep(delay)

    async def _attempt(self) -> None:
        loop = asyncio.get_running_loop()
        was_open = self.circuit_open
        started = loop.time()
        self._emit(Connecting(wire=self._name))
        try:
            wire, greeting = await self._dial(self._on_closed)
        except Exception as failure:  # noqa: BLE001 - a credential provider may raise anything, and one attempt must not end the attempts
            error = (
                failure
                if isinstance(failure, OddswireError)
                else Unavailable(f"{type(failure).__name__}: {failure}")
            )
            self._last_error = error
            if _is_final(error):
                self._next_attempt = loop.time() + _REFUSED_FOR
                self._fail_waiters(lambda: copy_of(error, error.outcome))
            else:
                self._backoff.failed()
                if self.circuit_open and not was_open:
                    self._emit(
                        CircuitOpened(
                            wire=self._name,
                            attempts=self._backoff.failures,
                            reason=str(error),
                        )
                    )
            return
        if wire.error is not None:
            # Lost between the handshake's last reply and here.
            self._last_error = wire.error
            self._backoff.failed()
            return
        self.wire, self.greeting = wire, greeting
        self._last_error = None
        self.connects += 1
        self._backoff.succeeded(loop.time())
        self._pulse = Heartbeat(
            wire, idle=self._heartbeat[0], answer=self._heartbeat[1]
        )
        self._emit(Connected(wire=self._name))
        if was_open:
            self._emit(CircuitClosed(wire=self._name))
        outage = 0.0 if self._lost_at is None else loop.time() - self._lost_at
        self._lost_at = None
        self._emit(Ready(wire=self._name, took=loop.time() - started, outage=outage))
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(wire)

    def _on_closed(self, wire: Multiplexer, error: OddswireError) -> None:
        if wire is not self.wire:
            return  # it never became ours: the handshake failed
        self.wire = None
        if self._pulse is not None:
            self._pulse.stop()
        now = wire.loop.time()
        self._lost_at = now
        self._backoff.lost(now)
        self._emit(Disconnected(wire=self._name, reason=str(error)))
        if not self._closed:
            # At once and unasked: the next caller finds the wire ready.
            self._start()

    def _fail_waiters(self, error: Callable[[], OddswireError]) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error())

    async def aclose(self, drain: float) -> None:
        """Stop connecting, let running calls finish for `drain` seconds, close."""
        self._closed = True
        self._fail_waiters(lambda: ClosedError("the client was closed"))
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self.wire is not None:
            await self.wire.aclose(drain)


def _is_final(error: OddswireError) -> bool:
    """Whether trying again with the same settings cannot help."""
    return error.outcome is Outcome.REJECTED and isinstance(
        error, AuthFailed | NoPermission | Unavailable
    )
