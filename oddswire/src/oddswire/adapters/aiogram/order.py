"""`before_isolation`: middlewares that run before the lock of a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiogram import BaseMiddleware, Dispatcher


def before_isolation(dispatcher: Dispatcher, *middlewares: BaseMiddleware) -> None:
    """Register middlewares of updates in front of the dispatcher's state and isolation.

    ``before_isolation(dispatcher, Throttle(...), Deduplicate(...))``. A middleware of
    ``dispatcher.update.outer_middleware`` runs after an update has waited for the lock
    of its conversation and read its state. There a flood is limited too late: each of
    its updates has waited already. (A `Throttle` moves itself to the front when it
    can.) The user and the chat of the update are known in either place.

    Args:
        dispatcher: Whose updates.
        *middlewares: The first runs first; a second call adds after those of the first.
    """
    registered = dispatcher.update.outer_middleware
    # Without a state (`disable_fsm`) there is no turn to be in front of.
    later: list[Any] = []
    if dispatcher.fsm in registered:
        later = list(registered[registered.index(dispatcher.fsm) :])
    for each in later:
        registered.unregister(each)
    for each in (*middlewares, *later):
        registered.register(each)
