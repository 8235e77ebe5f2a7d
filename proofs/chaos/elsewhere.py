"""A `FaultProxy` on a thread and a loop of its own.

valkey-glide holds up the event loop while it connects: a proxy on that loop would never
take its connection.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from oddswire.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable


class Elsewhere:
    """Has what a `FaultProxy` has; each use of it runs where the proxy does.

    Args:
        upstream: The server's URL.
        seed: Of jitter and corruption.
    """

    def __init__(self, upstream: str, *, seed: int) -> None:
        self._upstream = upstream
        self._seed = seed
        self._ready: Future[FaultProxy] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="proxy"
        )

    async def __aenter__(self) -> Self:
        self._thread.start()
        self._proxy = await asyncio.wrap_future(self._ready)
        self.up = _There(self._proxy.up, self._run)
        self.down = _There(self._proxy.down, self._run)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        await asyncio.to_thread(self._thread.join)

    def __getattr__(self, name: str) -> Any:
        return getattr(_There(self._proxy, self._run), name)

    async def quiet(self) -> None:
        """Wait until no link is up."""
        waiting = asyncio.run_coroutine_threadsafe(self._proxy.quiet(), self._loop)
        await asyncio.wrap_future(waiting)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with FaultProxy(self._upstream, seed=self._seed) as proxy:
                self._ready.set_result(proxy)
                await self._over.wait()
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    def _run(self, call: Callable[[], Any]) -> Any:
        """Call something on the proxy's loop and wait for it: a moment, at most."""
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(call())
            except Exception as error:  # noqa: BLE001 - it is raised where it was called
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result(timeout=5)


class _There:
    """An object of the other thread."""

    def __init__(self, target: Any, run: Callable[[Callable[[], Any]], Any]) -> None:
        vars(self).update(_target=target, _run=run)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value):
            return value
        return lambda *args: self._run(lambda: value(*args))

    def __setattr__(self, name: str, value: Any) -> None:
        self._run(lambda: setattr(self._target, name, value))
