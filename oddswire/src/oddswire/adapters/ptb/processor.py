"""`UpdateProcessor`: one update of a user and chat at a time, saved before the next."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Unpack

from telegram import Update
from telegram.ext import BaseUpdateProcessor

from oddswire.adapters._update_locks import UpdateLocks
from oddswire.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from telegram.ext import Application

    from oddswire.adapters._update_locks import UpdateLockOptions
    from oddswire.client import Client


class UpdateProcessor(BaseUpdateProcessor):
    """Updates of different users run together; those of one user and chat in turns.

    The locks hold over all processes. The persistence gets what a handler changed
    before the next update of its user has its turn, so none is lost. Handlers with
    ``block=False`` and jobs run outside of it.

    ``processor = UpdateProcessor(client)``;
    ``ApplicationBuilder().concurrent_updates(processor)``; and when it is built,
    ``processor.application = application``.

    Args:
        client: Where the locks are kept. It stays yours to close.
        prefix: What the keys begin with; None: as its settings say.
        max_concurrent_updates: How many updates may run or wait in this process.
        **options: `lease`, `timeout`, `queue`, `on_error`: see `UpdateLockOptions` of
            `oddswire.adapters.aiogram`; a conversation is a user's, or a chat's.

    Raises:
        SettingsError: One of them is out of range.

    Attributes:
        application: Whose updates it processes; to be set.
        locks: Counts: `lost` and `local`.
    """

    __slots__ = ("application", "locks")

    def __init__(
        self,
        client: Client,
        *,
        prefix: str | None = None,
        max_concurrent_updates: int = 256,
        **options: Unpack[UpdateLockOptions],
    ) -> None:
        super().__init__(max_concurrent_updates)
        self.application: Application[Any, Any, Any, Any, Any, Any] | None = None
        self.locks = UpdateLocks(client, prefix=prefix, **options)

    async def initialize(self) -> None:
        """Make sure that it knows its application.

        Raises:
            SettingsError: It does not.
        """
        if self.application is None:
            raise SettingsError(
                "UpdateProcessor: set `processor.application` to the application that "
                "was built with it"
            )

    async def shutdown(self) -> None:
        """Do nothing: the client is closed by its owner."""

    async def do_process_update(
        self,
        update: object,
        coroutine: Coroutine[Any, Any, Any],  # type: ignore[override]
    ) -> None:
        """Process an update in its turn, and save what it changed.

        Raises:
            ConversationBusy: Too many updates wait, or the turn did not come in time.
            OddswireError: Redis could not be asked, and `on_error` is ``"raise"``.
        """
        application = self.application
        if application is None:
            coroutine.close()
            await self.initialize()
            return
        begun = False
        try:
            async with AsyncExitStack() as stack:
                # In one order everywhere: two updates cannot wait for each other.
                for number in sorted(_data_of(update)):
                    turn = self.locks.take("ptb", application.bot.id, number)
                    await stack.enter_async_context(turn)
                begun = True
                try:
                    await coroutine
                finally:
                    await application.update_persistence()
        finally:
            if not begun:
                coroutine.close()  # or Python warns that it was never awaited


def _data_of(update: object) -> set[int]:
    """Return whose data an update may change: its user, and its chat."""
    if not isinstance(update, Update):
        return set()
    both = (update.effective_user, update.effective_chat)
    # The two are one number in a private chat, and never the same otherwise.
    return {each.id for each in both if each is not None}
