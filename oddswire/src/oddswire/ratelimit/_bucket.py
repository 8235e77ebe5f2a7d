"""What this process knows of a rule, and of one subject under it."""

from __future__ import annotations

from math import inf
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from oddswire.connection.packing import pack
from oddswire.errors import RuleError
from oddswire.keys import RATE_BLOCK, RATE_CHANGE, RATE_LIMIT, KeySpace
from oddswire.ratelimit.decision import Decision
from oddswire.ratelimit.rules import never
from oddswire.ratelimit.statistics import RuleCounts
from oddswire.scripts import load

if TYPE_CHECKING:
    from oddswire.ratelimit._shares import Share
    from oddswire.ratelimit.rules import Limit, Rule

# With the module: reading a file in a running loop would hold it up.
HIT = load("ratelimit_hit")
"""Decides all rules of a request together."""

PACKED = Struct(">cIQIIB")
"""What the scripts are told of a rule: its kind, limit and width, the cost, what has to
stay free, and whether it only watches."""

SUBJECTS = 10_000
"""Subjects of a rule that are remembered; of more, the oldest denials are forgotten."""


Call = tuple[bytes, tuple[Any, ...]]


class Bucket:
    """One subject under one rule.

    Attributes:
        rule: The rule.
        keys: Its state, its block, and the rule's changed limit.
        until: When the denial ends that is remembered; 0 when there is none.
        weight: What was denied, cost and reserve; more would be denied as well.
        retry_at: When that is admitted.
        limit: Of the rule, as Redis last said.
        remaining: What it would still admit, as Redis last said.
        reset_at: When all of it is free, as Redis last said.
        resume: When those who wait for it are to ask again, if they want
            `resume_weight` or more.
        waiting: How many wait for it, alone or among others.
        pending: Costs that Redis was asked for and has not answered.
        leases: Slots of this process and when they end.
        share: What this process used of it while Redis could not be asked.
        usual: The request of a single hit of this bucket alone.
    """

    __slots__ = (
        "keys",
        "leases",
        "limit",
        "pending",
        "remaining",
        "reset_at",
        "resume",
        "resume_weight",
        "retry_at",
        "rule",
        "share",
        "until",
        "usual",
        "waiting",
        "weight",
    )

    def __init__(self, rule: RuleState, keys: tuple[str, str, str]) -> None:
        self.rule = rule
        self.keys = keys
        self.until = self.retry_at = self.reset_at = self.resume = 0.0
        self.weight = self.resume_weight = self.waiting = self.pending = 0
        self.limit = self.remaining = rule.most
        self.leases: dict[str, float] = {}
        self.share: Share | None = None
        self.usual: Request | None = None

    def denial(self, now: float) -> Decision:
        """Return the denial that is remembered."""
        rule = self.rule
        return Decision(
            False,  # noqa: FBT003 - fields by position: this answer has to be fast
            rule.name,
            self.limit,
            self.remaining,
            self.reset_at - now,
            self.retry_at - now,
            rule.window,
            "memory",
        )

    def forget(self) -> None:
        """Ask Redis the next time, whatever it said last."""
        self.until = self.resume = 0.0

    def idle(self, now: float) -> bool:
        """Whether nothing would be lost by dropping it."""
        return not (
            self.waiting
            or self.pending
            or self.leases
            or self.share is not None
            or self.until > now
        )


class RuleState:
    """A rule at work: its subjects, its counts, its part of a script's arguments."""

    __slots__ = (
        "_full",
        "_space",
        "admitted",
        "buckets",
        "change",
        "cost",
        "degraded",
        "denied",
        "is_slots",
        "key",
        "most",
        "name",
        "remembered",
        "rule",
        "shadow",
        "waited",
        "width",
        "window",
        "would_deny",
    )

    def __init__(self, rule: Rule, space: KeySpace) -> None:
        self.rule = rule
        self.name = rule.name
        self.key = rule.key
        self.cost = rule.cost
        self.most = rule.limit.most
        self.width = rule.limit.width
        self.window = rule.limit.window
        self.shadow = rule.shadow
        self.is_slots = rule.limit.kind == b"s"
        self.buckets: dict[int | str, Bucket] = {}
        self.admitted = self.denied = self.remembered = 0
        self.would_deny = self.waited = self.degraded = 0
        self._space = space
        self._full = 2 * SUBJECTS
        self.change = space.key(RATE_CHANGE, rule.name)

    def bucket(self, subjects: dict[str, int | str], now: float) -> Bucket:
        """Return the bucket of the subject that this rule counts by.

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
        found = self.buckets.get(subject)
        if found is not None:
            return found
        text = str(subject)
        # 42 and "42" are one subject in Redis, so they are one here.
        found = self.buckets.get(text)
        if found is None:
            state = self._space.key(RATE_LIMIT, self.name, text)
            block = self._space.key(RATE_BLOCK, self.name, text)
            found = Bucket(self, (state, block, self.change))
        if len(self.buckets) >= self._full:
            self._make_room(now)
        self.buckets[text] = self.buckets[subject] = found
        return found

    def _make_room(self, now: float) -> None:
        busy = [(each, b) for each, b in self.buckets.items() if not b.idle(now)]
        # Those with waiters stay, or a subject would have two lines; and those with a
        # share, or what it admitted without Redis would be admitted again.
        kept = [
            (each, b)
            for each, b in busy[:-SUBJECTS]
            if b.waiting or b.share is not None
        ]
        self.buckets = dict(kept + busy[-SUBJECTS:])
        # Not before as many came again, so that each costs the same in the long run.
        self._full = len(self.buckets) + SUBJECTS

    def require_like(self, limit: Limit) -> None:
        """Refuse a limit that cannot take the place of the declared one.

        Raises:
            RuleError: It is of another kind, or leases would change their time.
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

    def forget(self) -> None:
        """Forget every denial."""
        for bucket in self.buckets.values():
            bucket.forget()

    def packed(self, cost: int, hold: int) -> bytes:
        """Return what the scripts are told of it."""
        limit = self.rule.limit
        return PACKED.pack(limit.kind, limit.most, limit.width, cost, hold, self.shadow)

    def weight(self, cost: int, *, low: bool) -> tuple[int, int]:
        """Return what a hit costs this rule, and what it has to leave to others.

        Raises:
            RuleError: The cost is above the limit.
        """
        cost *= self.cost
        if cost > self.most:
            raise never(self.rule, cost)
        if not low:
            return cost, 0
        return cost, min(int(self.most * self.rule.reserve), self.most - cost)

    def counts(self) -> RuleCounts:
        """Return what was counted."""
        return RuleCounts(
            admitted=self.admitted,
            denied=self.denied + self.remembered,
            remembered=self.remembered,
            would_deny=self.would_deny,
            waited=self.waited,
            degraded=self.degraded,
        )


class Part(NamedTuple):
    """What a request wants of one bucket."""

    bucket: Bucket
    cost: int
    hold: int

    def contended(self) -> bool:
        """Whether others come first: they wait, or asked for all there can be."""
        bucket = self.bucket
        return bucket.waiting > 0 or bucket.pending + self.cost > bucket.limit


class Request:
    """What is asked of all its rules at once; it does not change.

    Attributes:
        parts: By rule.
        keys: Of the scripts, three for each rule.
        packed: What the scripts are told of the rules.
        has_slots: Whether a lease is to be named.
    """

    __slots__ = ("_usual", "has_slots", "keys", "packed", "parts")

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts
        self.keys = [key for part in parts for key in part.bucket.keys]
        self.packed = b"".join(
            bucket.rule.packed(cost, hold) for bucket, cost, hold in parts
        )
        self.has_slots = any(part.bucket.rule.is_slots for part in parts)
        self._usual: Call | None = None

    @property
    def usual(self) -> Call:
        """The call that takes it, where there are no slots.

        Packing is the dearest step of a hit, so this one is packed once.
        """
        if self._usual is None:
            self._usual = self.call()
        return self._usual

    def call(self, *args: str) -> Call:
        """Return the command that asks for it, packed, and its parts.

        Args:
            *args: Of ratelimit_hit.lua: the mode, and the name of the leases.
        """
        keys = self.keys
        command = ("EVALSHA", HIT.sha, len(keys), *keys, self.packed, *args)
        return pack(command), command

    def denied_by(self, now: float) -> Bucket | None:
        """Return a bucket that is known to deny it."""
        for bucket, cost, hold in self.parts:
            if bucket.until > now and cost + hold >= bucket.weight:
                return bucket
        return None

    def least_wait(self, decision: Decision) -> float:
        """Return seconds that it has to wait at least, given what denied it."""
        # Slots come back before their time; Redis may be back before a share is free.
        if (self.has_slots or decision.degraded) and decision.retry_after != inf:
            return 0.0
        return decision.retry_after
