"""pytest fixtures: ``pytest_plugins = ["oddswire.testing.fixtures"]``."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest

from oddswire.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

_Ready = tuple[EmbeddedServer, asyncio.AbstractEventLoop, asyncio.Event]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """One real server for the whole run, on its own thread's loop.

    It outlives the loops of the tests, and the kernel kills it when the thread that
    started it ends, so that thread stays until the last test.
    """
    ready: Future[_Ready] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(_host(ready)), name="server of the tests"
    )
    thread.start()
    server, loop, stop = ready.result(timeout=25)
    yield server
    loop.call_soon_threadsafe(stop.set)
    thread.join()


async def _host(ready: Future[_Ready]) -> None:
    stop = asyncio.Event()
    try:
        async with EmbeddedServer() as server:
            ready.set_result((server, asyncio.get_running_loop(), stop))
            await stop.wait()
    except BaseException as error:
        if ready.done():
            raise
        ready.set_exception(error)
