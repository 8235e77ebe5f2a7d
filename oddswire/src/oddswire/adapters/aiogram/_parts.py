"""A conversation's key as the parts of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiogram.fsm.storage.base import StorageKey


def parts(key: StorageKey) -> tuple[int, int, int, str, str, str]:
    """Return the parts of CONVERSATION; different keys have different parts.

    The bot and the destiny are always among them.
    """
    business = key.business_connection_id
    return (
        key.bot_id,
        key.chat_id,
        key.user_id,
        "" if key.thread_id is None else str(key.thread_id),
        # Marked, so that an empty one is not the same as none.
        "" if business is None else f"b{business}",
        key.destiny,
    )
