"""`Groups`: changes of a session that would wait for their turn are saved together."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from oddswire._tasks import spawn
from oddswire.sessions.record import Record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from oddswire._lines import Lines, Turn

T = TypeVar("T", bound=Record)


class Wish(Generic[T]):
    """One call of `update`.

    Args:
        fn: Changes the session.
        create: Whether it may begin one.
        active: Whether it is the user's own activity.
        also: What the source stores in the same transaction.

    Attributes:
        value: The session after `fn`, once that is stored.
        error: Why this change was not stored, or may not have been.
    """

    __slots__ = ("active", "also", "create", "error", "fn", "value")

    def __init__(
        self,
        fn: Callable[[T], object],
        *,
        create: bool,
        active: bool,
        also: Any = None,
    ) -> None:
        self.fn = fn
        self.also = also
        self.create = create
        self.active = active
        self.value: T
        self.error: BaseException | None = None

    def run(self, value: T) -> None:
        """Change a value, and keep it.

        Raises:
            TypeError: `fn` is a coroutine function.
        """
        if inspect.isawaitable(result := self.fn(value)):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("fn is a plain function: it may run several times")
        self.value = value

    def outcome(self) -> T:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


class _Group(Generic[T]):
    """Changes that will be saved at once, when their turn has come."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.wishes: dict[asyncio.Future[None], Wish[T]] = {}
        self.task: asyncio.Task[None]


class Groups(Generic[T]):
    """Collects changes for each user while she is in use.

    A group has a task of its own: a caller that is cancelled leaves it, the others'
    changes go on. Without callers, the task is cancelled too.

    Args:
        turns: A group waits for one.
        commit: Makes changes and saves them; they know what became of them, or it
            raises what became of all.
    """

    def __init__(
        self,
        turns: Lines[int],
        commit: Callable[[int, Sequence[Wish[T]]], Awaitable[None]],
    ) -> None:
        self._turns = turns
        self._commit = commit
        self._open: dict[int, _Group[T]] = {}

    def close(self, user_id: int) -> None:
        """Have changes that come from now on wait for a turn after the next one."""
        self._open.pop(user_id, None)

    async def join(self, user_id: int, wish: Wish[T]) -> None:
        """Have a change made with others that wait too.

        Cancelled before its group's turn, it is not made; later, it may be stored.
        """
        loop = asyncio.get_running_loop()
        group = self._open.get(user_id)
        if group is None:
            turn = self._turns.line_up(user_id)
            group = self._open[user_id] = _Group(turn)
            group.task = spawn(self._run(user_id, group), name="sessions: changes")
            # Not in the task: one that is cancelled before its first step runs nothing.
            group.task.add_done_callback(lambda _: self._turns.leave(user_id, turn))
        settled = loop.create_future()
        group.wishes[settled] = wish
        try:
            await settled
        except asyncio.CancelledError:
            if all(each.cancelled() for each in group.wishes):
                self._end(user_id, group)
                group.task.cancel()
                await asyncio.wait([group.task])
            raise

    def _end(self, user_id: int, group: _Group[T]) -> None:
        if self._open.get(user_id) is group:
            self.close(user_id)

    async def _run(self, user_id: int, group: _Group[T]) -> None:
        try:
            await group.turn
            self._end(user_id, group)
            await self._commit(
                user_id,
                [wish for settled, wish in group.wishes.items() if not settled.done()],
            )
        except BaseException as error:  # noqa: BLE001 - the callers raise it
            for wish in group.wishes.values():
                wish.error = wish.error or error
        finally:
            for settled in group.wishes:
                if not settled.done():
                    settled.set_result(None)
