"""`EventIsolation`: one update of a conversation at a time."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Unpack

from aiogram import Dispatcher
from aiogram.fsm.storage.base import BaseEventIsolation

from oddswire.adapters._update_locks import UpdateLocks
from oddswire.adapters.aiogram._parts import parts
from oddswire.adapters.aiogram.throttle import throttles_first

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import _AsyncGeneratorContextManager

    from aiogram.fsm.storage.base import StorageKey

    from oddswire.adapters._update_locks import UpdateLockOptions
    from oddswire.client import Client


class EventIsolation(BaseEventIsolation):
    """First in, first out in this process; one at a time among all of them.

    Its lease is renewed for as long as the handler runs. A handler that was done is
    done: releasing the lock never raises.

    Args:
        client: Where the locks are kept. It stays yours to close.
        prefix: What the keys begin with; None: as its settings say.
        **options: See `UpdateLockOptions`.

    Raises:
        SettingsError: One of them is out of range.

    Attributes:
        locks: Counts: `lost` and `local`.
    """

    def __init__(
        self,
        client: Client,
        *,
        prefix: str | None = None,
        **options: Unpack[UpdateLockOptions],
    ) -> None:
        self.locks = UpdateLocks(client, prefix=prefix, **options)
        self._asked = False

    def lock(self, key: StorageKey) -> _AsyncGeneratorContextManager[None, None]:
        """Have the conversation for a block.

        Raises:
            ConversationBusy: Too many updates wait, or the lock was not free in time.
            OddswireError: Redis could not be asked, and `on_error` is ``"raise"``.
        """
        if not self._asked:
            self._asked = True
            # Before the first wait: a flood that is a process's very first updates
            # would else line up here before any `Throttle` ran. aiogram hands an
            # isolation the key alone; its caller has the dispatcher in its `data`. Not
            # found there, the throttle moves itself when its first update comes.
            data = sys._getframe(1).f_locals.get("data")  # noqa: SLF001
            dispatcher = data.get("dispatcher") if isinstance(data, dict) else None
            if isinstance(dispatcher, Dispatcher):
                throttles_first(dispatcher)
        return self._locked(key)

    @asynccontextmanager
    async def _locked(self, key: StorageKey) -> AsyncGenerator[None, None]:
        async with self.locks.take("conversation", *parts(key)):
            yield

    async def close(self) -> None:
        """Do nothing: the program that opened the client closes it."""
