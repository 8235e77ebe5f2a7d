"""`spawn`: a task that begins at the next turn of the loop; `retrieve`: its error.

`check_function` is for what a caller gives to be called in one.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def spawn(
    coroutine: Coroutine[Any, Any, T],
    *,
    name: str,
    into: set[asyncio.Task[T]] | None = None,
) -> asyncio.Task[T]:
    """Return a task of the running loop.

    With `asyncio.eager_task_factory` (Python 3.12) `create_task` runs the coroutine up
    to its first wait, and to its end if it never waits: before the caller has stored
    the task, in the middle of what the caller is doing. A task that clears the place
    where it is stored when it ends would be stored after that, and stay there for ever.
    Therefore the library's own tasks do not begin at once.

    Args:
        coroutine: What it runs.
        name: Shown in lists of tasks and in reports of asyncio.
        into: Holds the task until it ends: the loop itself holds a task only weakly.
    """
    task = asyncio.Task(coroutine, loop=asyncio.get_running_loop(), name=name)
    if into is not None:
        into.add(task)
        task.add_done_callback(into.discard)
    return task


def retrieve(done: asyncio.Future[Any]) -> None:
    """Read the error of a future, if it has one: asyncio logs what is never read.

    The done-callback of a future or a task whose callers may all have left.
    """
    if not done.cancelled():
        done.exception()


def check_function(name: str, function: object, error: type[Exception]) -> None:
    """Refuse what cannot be called, and what nobody would run: a generator function.

    Raises:
        Exception: Of the type `error`; it names the argument.
    """
    if not callable(function):
        raise error(f"{name} must be a function, not {type(function).__name__}")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise error(
            f"{name} must be a function without yield: a generator would never run"
        )
