"""`in_own_thread`: waits for a function that blocks, and holds up nobody else."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


async def in_own_thread(function: Callable[[], _Result]) -> _Result:
    """Run a function in a thread made for it, and return its result.

    `asyncio.to_thread` shares a few threads with the application: while all of them are
    busy with slow work of its own, no connection could be made. Cancelled, the function
    runs to its end and its result is dropped. The interpreter does not wait for it, as
    it would for an executor's thread: a name server that is silent holds up no exit.
    """
    result: Future[_Result] = Future()
    result.set_running_or_notify_cancel()  # it cannot be cancelled any more

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            result.set_exception(error)

    Thread(target=run, name="oddswire", daemon=True).start()
    return await asyncio.wrap_future(result)
