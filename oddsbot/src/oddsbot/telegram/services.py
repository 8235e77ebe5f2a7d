"""`Services`: what the commands work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from oddsbot.alerts import Rule
    from oddsbot.markets import Markets
    from oddsbot.store import AlertLog, SqlFollowers, SqlTags, StoredRule
    from oddsbot.telegram.chat import TelegramChat
    from oddsbot.telegram.effects import Effects
    from oddsbot.telegram.export import Export
    from oddsbot.telegram.handles import Handles
    from oddsbot.telegram.people import People
    from oddsbot.telegram.pictures import Pictures
    from oddsbot.telegram.screens.person import StatusView
    from oddsbot.wallets import Wallets
    from oddswire.clock import Clock
    from oddswire.erasure import Receipt


class RuleBook(Protocol):
    """What people asked to be told of."""

    async def of(self, user_id: int) -> Sequence[Rule]:
        """Return a person's rules, in the order of their ids."""
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

    async def standing(self, user_id: int) -> Sequence[StoredRule]:
        """Return a person's rules with where each stands, in the same order."""
        ...

    async def change(
        self,
        user_id: int,
        save: Sequence[Rule] = (),
        remove: Sequence[str] = (),
        *,
        update_id: int | None = None,
    ) -> None:
        """Remove and keep rules of a person, all of them or none.

        Raises:
            AlreadyHandled: The update was handled before; nothing is changed.
            RuleError: One cannot be watched.
            SourceError: The database failed.
        """
        ...

    async def handled(self, update_id: int) -> bool:
        """Return whether an update changed rules before."""
        ...

    async def remove(self, user_id: int, rule_id: str) -> bool:
        """Delete a person's rule; False when she has none with this id."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What the commands work with, one of each in a process.

    Attributes:
        followers: Who is told how a market ended.
        tags: The followers of each tag.
        pictures: Draws charts; None: there is nothing to draw with.
        log: What was due, and what became of it.
        status: Looks at how the bot is.
        asked: What a person may ask for in a minute.
        max_rules: Alerts that a person may have.
        erase: Deletes everything of a person.
        export: Makes files of what that would be.
    """

    chat: TelegramChat
    markets: Markets
    wallets: Wallets
    rules: RuleBook
    followers: SqlFollowers
    tags: SqlTags
    people: People
    clock: Clock
    effects: Effects
    handles: Handles
    pictures: Pictures | None
    log: AlertLog
    status: Callable[[], Awaitable[StatusView]]
    asked: int
    max_rules: int
    erase: Callable[[int], Awaitable[Receipt]]
    export: Export
