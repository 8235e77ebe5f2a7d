"""Rules that people change, and the bell that has their watchers look at once."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from oddsbot.store import AlreadyHandled
from oddswire.errors import OddswireError
from oddswire.pubsub import Delivery, Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oddsbot.alerts import Rule
    from oddsbot.store import SqlRules, StoredRule
    from oddswire.pubsub import PubSub

RULES = Topic("rules", int, delivery=Delivery.VOLATILE)
"""The revision of a change. A bell: the database says what changed, and a bell that
nobody hears costs ten seconds."""


class RuleDesk:
    """Where people's rules are changed; their watchers hear of it at once.

    Args:
        rules: All rules.
        pubsub: Rings the bell.
        look: Called with each change; has the shard of this process look, also while
            Redis is away.
    """

    def __init__(
        self, rules: SqlRules, pubsub: PubSub, look: Callable[[], object]
    ) -> None:
        self._rules = rules
        self._pubsub = pubsub
        self._look = look

    async def of(self, user_id: int) -> list[StoredRule]:
        """Return a person's rules that have not ended, in the order of their ids.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        return [each for each in await self._rules.of(user_id) if not each.state.ended]

    async def add(self, rule: Rule, update_id: int | None = None) -> None:
        """Keep a rule, and have it watched; the same rule again changes nothing.

        Args:
            rule: The rule.
            update_id: Of the update that asks for it; the same one changes nothing.

        Raises:
            AlreadyHandled: The update was handled, and the rule is not there any more.
            OtherOwner, SameRule, UnknownUser: As from `SqlRules.save`.
            SourceError: The database failed; the outcome says what that means.
        """
        known = await self._rules.get(rule.user_id, rule.id)
        if known is None or known.rule != rule:
            try:
                revision = await self._rules.save(rule, update_id)
            except AlreadyHandled:
                if known is None:
                    raise
                return
            await self._ring(revision)

    async def change(
        self,
        user_id: int,
        save: Sequence[Rule] = (),
        remove: Sequence[str] = (),
        *,
        update_id: int | None = None,
    ) -> None:
        """Remove and keep rules of a person, all of them or none; see `SqlRules`.

        Raises:
            AlreadyHandled: The update was handled before; nothing is changed.
            OtherOwner, SameRule, UnknownUser: As from `SqlRules.change`.
            SourceError: The database failed; the outcome says what that means.
        """
        await self._ring(
            await self._rules.change(user_id, save, remove, update_id=update_id)
        )

    async def handled(self, update_id: int) -> bool:
        """Return whether an update changed rules before.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        return await self._rules.handled(update_id)

    async def remove(self, user_id: int, rule_id: str) -> bool:
        """Delete a person's rule; False when she has none with this id.

        Raises:
            SourceError: The database failed; the outcome says what that means.
        """
        removed = await self._rules.delete(user_id, rule_id)
        if removed:
            await self._ring(0)
        return removed

    async def _ring(self, revision: int) -> None:
        self._look()
        # The rule is kept already.
        with suppress(OddswireError):
            await self._pubsub.publish(RULES, revision)


async def listen(pubsub: PubSub, look: Callable[[], object]) -> None:
    """Call `look` whenever rules changed, for ever; and after each gap."""
    async with pubsub.subscribe(RULES) as changes:
        async for _ in changes:
            look()
