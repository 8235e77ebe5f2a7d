"""What this process knows of a rule and of its subjects, and what a call demands."""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from oddswire.errors import RuleError
from oddswire.keys import (
    RATE_BLOCK,
    RATE_CHANGE,
    RATE_LIMIT,
    RATE_SCOPES,
    KeySpace,
    int_text,
)
from oddswire.ratelimit.decision import NO_RETRY, Decision
from oddswire.ratelimit.rules import Concurrency, check_cost
from oddswire.ratelimit.statistics import RuleCounts
from oddswire.scripts import load

if TYPE_CHECKING:
    from oddswire.ratelimit._local_quota import LocalQuota
    from oddswire.ratelimit.rules import Limit, Rule
    from oddswire.scripts import PackedCall

# Loaded with the module: reading a file would block a running loop.
HIT = load("ratelimit_hit")
"""Decides all rules of a request together."""

PACKED = Struct(">cIQIIB")
"""A rule as the scripts read it: kind, limit, width, cost, headroom, shadow."""

SUBJECTS = 10_000
"""Subjects of a rule that are remembered; beyond, the oldest denials are forgotten."""


# Compared by identity: two states of one subject would be a mistake.
@dataclass(slots=True, eq=False)
class SubjectState:
    """One subject under one rule.

    Attributes:
        rule: The rule.
        keys: Of the subject's state, of its block, and of the rule's changed limit.
        limit: The limit in the last reply of Redis.
        remaining: What the limit still admits, by that reply.
        scope: ``7`` of a subject such as ``7:42``; None: it has no such form.
        reset_at: When the limit is unused again, by that reply.
        denied_until: Until when a denial is remembered; 0 if there is none.
        denied_weight: Cost and headroom of the remembered denial. A request of this
            weight or more is denied as well.
        retry_at: When the denied request is admitted.
        blocked_until: When the wait queue asks again for `blocked_weight` or more.
        blocked_weight: Cost and headroom of the blocked waiter.
        waiters: Calls that wait for this subject, alone or among others.
        pending: Cost of the requests that Redis has not answered yet.
        leases: Slots of this process, and when each ends.
        quota: What this process may use while Redis is down; None before.
        fast_request: The request of a single hit of this subject alone.
    """

    rule: RuleState
    keys: tuple[str, str, str]
    limit: int
    remaining: int
    scope: str | None = None
    reset_at: float = 0.0
    denied_until: float = 0.0
    denied_weight: int = 0
    retry_at: float = 0.0
    blocked_until: float = 0.0
    blocked_weight: int = 0
    waiters: int = 0
    pending: int = 0
    leases: dict[str, float] = field(default_factory=dict)
    quota: LocalQuota | None = None
    fast_request: Request | None = None

    def denial(self, now: float) -> Decision:
        """Return the denial that is remembered."""
        return Decision(
            False,  # noqa: FBT003 - fields by position: this answer has to be fast
            self.rule.name,
            self.limit,
            self.remaining,
            self.reset_at - now,
            self.retry_at - now,
            self.rule.window,
            "memory",
        )

    def deny(self, until: float) -> None:
        """Remember that every request is denied until a time at least."""
        self.denied_weight = self.remaining = 0
        self.retry_at = self.denied_until = max(self.denied_until, until)
        self.reset_at = max(self.reset_at, self.denied_until)

    def forget_denial(self) -> None:
        """Have the next request ask Redis."""
        self.denied_until = self.blocked_until = 0.0

    def is_idle(self, now: float) -> bool:
        """Return whether dropping this state loses nothing."""
        in_use = self.waiters or self.pending or self.leases or self.quota is not None
        return not (in_use or self.denied_until > now)


class RuleState:
    """A rule at work: its subjects and its counts.

    The attributes of the rule are copied, because some of its own are computed and the
    decision on a hit reads them each time.
    """

    def __init__(self, rule: Rule, space: KeySpace) -> None:
        self.rule = rule
        self.name = rule.name
        self.key = rule.key
        self.cost = rule.cost
        self.most = rule.limit.most
        self.width = rule.limit.width
        self.window = rule.limit.window
        self.shadow = rule.shadow
        self.is_slots = isinstance(rule.limit, Concurrency)
        self.change_key = space.key(RATE_CHANGE, rule.name)
        self.scopes_key = space.key(RATE_SCOPES, rule.name)
        # What this process noted there, and until when that is believed.
        self.noted_scopes: dict[str, float] = {}
        self.subjects: dict[int | str, SubjectState] = {}
        self.admitted = self.denied = self.remembered = 0
        self.would_deny = self.waited = self.degraded = 0
        self._space = space
        self._full_at = 2 * SUBJECTS

    def subject(self, subjects: dict[str, int | str], now: float) -> SubjectState:
        """Return the state of the subject that this rule counts by.

        Raises:
            RuleError: The subject is missing, or neither a text nor a whole number.
            InvalidKey: It is too long, or not valid Unicode.
        """
        subject: int | str = ""
        if self.key is not None:
            if self.key not in subjects:
                raise RuleError(
                    f"rule {self.name!r} counts by {self.key}: give {self.key}=..."
                )
            subject = subjects[self.key]
            # By exact type: True is an int.
            if type(subject) not in (int, str):
                raise RuleError(
                    f"rule {self.name!r}: {self.key}={subject!r}: accepted is a text "
                    "or a whole number"
                )
        state = self.subjects.get(subject)
        if state is not None:
            return state
        # 42 and "42" are one subject in Redis, so they are one here.
        text = subject if isinstance(subject, str) else int_text(str(self.key), subject)
        state = self.subjects.get(text)
        if state is None:
            key = self._space.key(RATE_LIMIT, self.name, text)
            block = self._space.key(RATE_BLOCK, self.name, text)
            keys = (key, block, self.change_key)
            scope, colon, _ = text.rpartition(":")
            state = SubjectState(
                self, keys, self.most, self.most, scope if colon else None
            )
        if len(self.subjects) >= self._full_at:
            self._evict(now)
        self.subjects[text] = self.subjects[subject] = state
        return state

    def states_of(self, subjects: dict[str, int | str]) -> set[SubjectState]:
        """Return what this process remembers of a subject: ``42``, ``<bot>:42``."""
        subject = str(subjects.get(self.key or "", ""))
        return {
            state
            for counted, state in self.subjects.items()
            if str(counted) == subject or str(counted).endswith(f":{subject}")
        }

    def _evict(self, now: float) -> None:
        """Keep the newest subjects that are in use, and all that must not be lost."""
        in_use = [each for each in self.subjects.items() if not each[1].is_idle(now)]
        # A second state of a subject with waiters would be served beside the first. A
        # second state of one with a quota would admit what the first admitted.
        kept = [
            (subject, state)
            for subject, state in in_use[:-SUBJECTS]
            if state.waiters or state.quota is not None
        ]
        self.subjects = dict(kept + in_use[-SUBJECTS:])
        # The next eviction waits for as many new subjects, so its cost is spread.
        self._full_at = len(self.subjects) + SUBJECTS

    def check_replacement(self, limit: Limit) -> None:
        """Refuse a limit that cannot take the place of the declared one.

        Raises:
            RuleError: It is of another kind, or the leases get another ttl.
        """
        declared = self.rule.limit
        if type(limit) is not type(declared):
            raise RuleError(
                f"rule {self.name!r} is a {type(declared).__name__}; a limit of "
                "another kind needs a rule of its own"
            )
        if self.is_slots and limit.width != declared.width:
            raise RuleError(
                f"rule {self.name!r}: the ttl of its leases stays "
                f"{declared.window:g} s for as long as somebody holds one"
            )

    def forget_denials(self) -> None:
        """Have the next request of each subject ask Redis."""
        for state in self.subjects.values():
            state.forget_denial()

    def demand(
        self, subjects: dict[str, int | str], cost: int, now: float, *, low: bool
    ) -> Demand:
        """Return what a request demands; with `low` it leaves the reserve free.

        Raises:
            RuleError: As `subject`, or the cost is above the limit.
            InvalidKey: As `subject`.
        """
        state = self.subject(subjects, now)
        cost *= self.cost
        check_cost(self.rule, cost)
        reserve = int(self.most * self.rule.reserve) if low else 0
        return Demand(state, cost, min(reserve, self.most - cost))

    def counts(self) -> RuleCounts:
        """Return what was counted."""
        return RuleCounts(
            self.admitted,
            self.denied + self.remembered,
            self.remembered,
            self.would_deny,
            self.waited,
            self.degraded,
        )


class Demand(NamedTuple):
    """What a request demands of one subject: a cost, and a headroom that stays free."""

    state: SubjectState
    cost: int
    headroom: int

    def packed(self) -> bytes:
        """Return it as the scripts read it."""
        rule = self.state.rule
        limit = rule.rule.limit
        return PACKED.pack(
            limit.kind, rule.most, rule.width, self.cost, self.headroom, rule.shadow
        )

    def is_contended(self) -> bool:
        """Return whether others come first: they wait, or may use the whole limit."""
        state = self.state
        return state.waiters > 0 or state.pending + self.cost > state.limit


class Request:
    """What a call demands of all its rules at once. It does not change.

    Attributes:
        demands: One for each rule.
        keys: For the scripts, three for each rule.
        packed: The demands as the scripts read them.
        packed_fast_request: The call that takes it; None if a rule has slots.
        has_slots: Whether the call needs the name of a lease.
        scoped: The subjects whose scope has to be noted before they are counted.
    """

    __slots__ = (
        "demands",
        "has_slots",
        "keys",
        "packed",
        "packed_fast_request",
        "scoped",
    )

    def __init__(self, demands: tuple[Demand, ...]) -> None:
        self.demands = demands
        self.keys = [key for demand in demands for key in demand.state.keys]
        self.packed = b"".join([demand.packed() for demand in demands])
        self.has_slots = any(demand.state.rule.is_slots for demand in demands)
        self.scoped = [state for state, _, _ in demands if state.scope is not None]
        # Packing is the most expensive step of a hit. A single hit is packed once.
        self.packed_fast_request = None if self.has_slots else self.call()

    def call(self, *args: str) -> PackedCall:
        """Return the packed call of ratelimit_hit.lua; args: mode, name of leases."""
        return HIT.pack(self.keys, (self.packed, *args))

    def denied_by(self, now: float) -> SubjectState | None:
        """Return a subject whose remembered denial covers this request."""
        for state, cost, headroom in self.demands:
            if state.denied_until > now and cost + headroom >= state.denied_weight:
                return state
        return None

    def least_wait(self, decision: Decision) -> float:
        """Return the seconds that it has to wait at least after a denial."""
        # A holder may release a slot early, and Redis may return before a local quota
        # has room.
        early = self.has_slots or decision.degraded
        if early and decision.retry_after != NO_RETRY:
            return 0.0
        return decision.retry_after
