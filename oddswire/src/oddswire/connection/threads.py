"""`in_own_thread`: reads files without waiting for the application's threads."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


async def in_own_thread(function: Callable[[], _Result]) -> _Result:
    """Run a function in a thread made for it, and return its result.

    `asyncio.to_thread` shares a few threads with the application: while all of them are
    busy with slow work of its own, no connection could be made. Cancelled, the function
    runs to its end and its result is dropped.
    """
    executor = ThreadPoolExecutor(1, thread_name_prefix="oddswire")
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, function)
    finally:
        executor.shutdown(wait=False)
