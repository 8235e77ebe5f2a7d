"""pytest fixtures: ``pytest_plugins = ["oddswire.testing.fixtures"]``."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from oddswire.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Ready = tuple[EmbeddedServer, asyncio.AbstractEventLoop, asyncio.Event]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """One real server for the whole run, on its own thread's loop."""
    with on_its_own_thread(EmbeddedServer) as server:
        yield server


@contextmanager
def on_its_own_thread(make: Callable[[], EmbeddedServer]) -> Iterator[EmbeddedServer]:
    """Run a server for the block, on a thread and an event loop of its own.

    The server outlives the loops of the tests. The kernel kills it when the thread that
    started it ends. Therefore this thread lives until the end of the block.

    Args:
        make: Returns the server, not started yet.
    """
    ready: Future[_Ready] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(_host(make, ready)), name="server of the tests"
    )
    thread.start()
    server, loop, stop = ready.result(timeout=25)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _host(make: Callable[[], EmbeddedServer], ready: Future[_Ready]) -> None:
    stop = asyncio.Event()
    try:
        async with make() as server:
            ready.set_result((server, asyncio.get_running_loop(), stop))
            await stop.wait()
    except BaseException as error:
        if ready.done():
            raise
        ready.set_exception(error)
