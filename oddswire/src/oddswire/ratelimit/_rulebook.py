"""The rules of a limiter by name, and the requests that are made of them."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from oddswire.errors import RateLimited, RuleError
from oddswire.ratelimit._bucket import Part, Request, RuleState
from oddswire.ratelimit.rules import Priority, Rule, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.keys import KeySpace
    from oddswire.ratelimit._bucket import Bucket
    from oddswire.ratelimit.decision import Decision

_MOST_RULES = 32  # of one request


class RuleBook:
    """Rules by name, with what was counted of each.

    Args:
        space: Makes the keys.
        now: The limiter's clock, seconds.
    """

    def __init__(self, space: KeySpace, now: Callable[[], float]) -> None:
        self.rules: dict[str, RuleState] = {}
        self._space = space
        self._now = now

    def add(self, *rules: Rule) -> None:
        """Add rules, all or none; the same rule again changes nothing.

        Raises:
            RuleError: See `RateLimiter.add`.
        """
        added: dict[str, RuleState] = {}
        for rule in rules:
            if not isinstance(rule, Rule):
                raise RuleError(f"{rule!r} is no Rule")
            known = self.rules.get(rule.name) or added.get(rule.name)
            if known is None:
                added[rule.name] = RuleState(rule, self._space)
            elif known.rule != rule:
                raise RuleError(
                    f"there is another rule {rule.name!r}; give this one its own name, "
                    "or change the limit by set_limit"
                )
        self.rules |= added

    def state(self, name: str) -> RuleState:
        """Return a rule by its name.

        Raises:
            RuleError: There is none.
        """
        try:
            return self.rules[name]
        except (KeyError, TypeError):
            known = ", ".join(sorted(self.rules)) or "none"
            raise RuleError(f"no rule {name!r}; there are: {known}") from None

    def request(
        self,
        rules: tuple[str, ...],
        cost: int | dict[str, int],
        subjects: dict[str, int | str],
        priority: Priority = Priority.NORMAL,
    ) -> Request:
        """Return what is asked of the buckets of these subjects.

        Raises:
            RuleError: See `RateLimiter.hit`.
            InvalidKey: A subject is too long or not valid Unicode.
        """
        if type(cost) is not int or cost < 1:
            for each in cost.values() if isinstance(cost, dict) else (cost,):
                whole("cost", each)
        if len(rules) == cost == 1 and priority is not Priority.LOW:
            # By far the most: made once.
            bucket = self.state(rules[0]).bucket(subjects, self._now())
            if bucket.usual is None:
                bucket.usual = Request((Part(bucket, bucket.rule.cost, 0),))
            return bucket.usual
        states = [self.state(name) for name in rules]
        if not 1 <= len(rules) <= _MOST_RULES or len(set(rules)) < len(rules):
            raise RuleError(
                f"name 1 to {_MOST_RULES} different rules, not {list(rules)}"
            )
        if isinstance(cost, dict) and cost.keys() != set(rules):
            raise RuleError(
                f"the costs are of {sorted(cost)}: name one for each of {list(rules)}"
            )
        now, low = self._now(), priority is Priority.LOW
        return Request(
            tuple(
                Part(
                    state.bucket(subjects, now),
                    *state.weight(
                        cost[name] if isinstance(cost, dict) else cost, low=low
                    ),
                )
                for name, state in zip(rules, states, strict=True)
            )
        )

    def buckets_of(self, subjects: dict[str, int | str]) -> list[Bucket]:
        """Return the buckets of these subjects, of every rule that counts by one."""
        now = self._now()
        return [
            state.bucket(subjects, now)
            for state in self.rules.values()
            if state.key in subjects
        ]

    def count(self, request: Request, decision: Decision) -> None:
        """Count a decision that was told to whoever asked."""
        source = decision.source
        if decision.allowed:
            for bucket, _, _ in request.parts:
                bucket.rule.admitted += 1
        elif source == "memory":
            self.rules[decision.rule].remembered += 1
        else:
            self.rules[decision.rule].denied += 1
        if source == "local":
            for bucket, _, _ in request.parts:
                bucket.rule.degraded += 1
        for name in decision.shadow:
            self.rules[name].would_deny += 1

    def limited(self, request: Request, decision: Decision | None) -> RateLimited:
        """Count a denial, and return its error; None: it was not asked in time."""
        if decision is None:
            buckets = [part.bucket for part in request.parts]
            denying = max(buckets, key=lambda bucket: bucket.retry_at)
            name, wait = denying.rule.name, max(0.0, denying.retry_at - self._now())
            denying.rule.denied += 1
        else:
            name, wait = decision.rule, decision.retry_after
            self.count(request, decision)
        when = (
            "its limit was lowered below the cost, so it is never admitted"
            if wait == inf
            else f"the next try may succeed in {wait:.3f} s"
        )
        return RateLimited(f"rule {name!r}: {when}", retry_after=wait)
