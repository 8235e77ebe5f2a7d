"""`Services`: what the commands work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from oddsbot.alerts import Rule
    from oddsbot.markets import Markets
    from oddsbot.store import SqlFollowers, UserSession
    from oddsbot.telegram.chat import TelegramChat
    from oddsbot.telegram.effects import Effects
    from oddsbot.telegram.handles import Handles
    from oddsbot.telegram.pictures import Pictures
    from oddsbot.telegram.screens.person import StatusView
    from oddsbot.wallets import Wallets
    from oddswire.clock import Clock
    from oddswire.erasure import Receipt
    from oddswire.sessions import Sessions


class RuleBook(Protocol):
    """What people asked to be told of."""

    async def of(self, user_id: int) -> Sequence[Rule]:
        """Return a person's rules, the oldest first."""
        ...

    async def add(self, rule: Rule, update_id: int | None = None) -> None:
        """Keep a rule, and watch it from now on; the same rule again changes nothing.

        Args:
            rule: The rule.
            update_id: Of the update that asks for it, where it asks for a new one.

        Raises:
            AlreadyHandled: The update made it before, and it was removed since.
            RuleError: It cannot be watched.
            SourceError: The database failed.
        """
        ...

    async def remove(self, user_id: int, rule_id: str) -> bool:
        """Delete a person's rule; False when she has none with this id."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What the commands work with, one of each in a process.

    Attributes:
        followers: Who is told how a market ended.
        pictures: Draws charts; None: there is nothing to draw with.
        status: Looks at how the bot is.
        erase: Deletes everything of a person.
    """

    chat: TelegramChat
    markets: Markets
    wallets: Wallets
    rules: RuleBook
    followers: SqlFollowers
    sessions: Sessions[UserSession]
    clock: Clock
    effects: Effects
    handles: Handles
    pictures: Pictures | None
    status: Callable[[], Awaitable[StatusView]]
    erase: Callable[[int], Awaitable[Receipt]]
