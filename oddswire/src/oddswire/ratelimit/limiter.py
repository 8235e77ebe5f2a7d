"""`RateLimiter`: ask before you act."""

from __future__ import annotations

import asyncio
import functools
import time
from contextlib import asynccontextmanager, suppress
from math import ceil, inf
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

import msgspec

from oddswire._tasks import spawn
from oddswire.client import keyspace
from oddswire.counters import Histogram
from oddswire.errors import OddswireError
from oddswire.events import DataReset, Failover
from oddswire.ratelimit._deciding import Deciding
from oddswire.ratelimit._rulebook import RuleBook
from oddswire.ratelimit._waiting import Waiting
from oddswire.ratelimit.decision import Decision
from oddswire.ratelimit.rules import Limit, Priority, Rule, seconds, whole
from oddswire.ratelimit.statistics import Statistics
from oddswire.scripts import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from oddswire.client import Client
    from oddswire.erasure import Erased
    from oddswire.events import Event

P = ParamSpec("P")
R = TypeVar("R")

_PENALIZE = load("ratelimit_penalize")


class RateLimiter:
    """Limits that hold over all processes that use the same rules on the same Redis.

    All rules of a request are decided in one script on the server's clock: all of them
    count it, or none does. Use it as ``async with``, or call `aclose`: it ends the task
    that serves those who wait.

    Args:
        client: Where the limits are kept.
        rules: The first rules; `add` adds more.
        prefix: What the keys begin with; None: as its settings say.
        deadline: Seconds a decision may take; then the rule's `on_error` decides.
        processes: How many processes share the limits: the divisor of a local share.
        remember: Seconds that a denial is believed without asking again, at most until
            its retry-after: for so long it goes unnoticed that another process raised
            the limit, refunded or reset. 0: every hit is asked.
        now: A clock that never goes back, seconds.

    Raises:
        RuleError: A rule is wrong, or a number is out of range.
    """

    def __init__(
        self,
        client: Client,
        rules: Iterable[Rule] = (),
        *,
        prefix: str | None = None,
        deadline: float = 0.05,
        processes: int = 1,
        remember: float = 1.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        whole("processes", processes)
        seconds("deadline", deadline, 0.001)
        seconds("remember", remember, 0.0)
        space = keyspace(client, prefix)
        self._client = client.bounded(deadline)
        self._now = now
        self._book = RuleBook(space, now)
        self._rules = self._book.rules
        self._deciding = Deciding(self._client, processes, remember, now)
        self._waiting = Waiting(self._deciding.decide, self._drop, now)
        self._waits = Histogram()
        # What was denied by data that is gone may be admitted now.
        self._unsubscribe = client.events.subscribe(self._reset, DataReset, Failover)
        self.add(*rules)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Send everybody who waits away with `ClosedError`; `hit` goes on working."""
        self._unsubscribe()
        await self._waiting.aclose()

    def add(self, *rules: Rule) -> None:
        """Add rules; the same rule again changes nothing.

        Raises:
            RuleError: Another rule of that name is there; `set_limit` changes a limit.
        """
        self._book.add(*rules)

    # --- asking

    async def hit(self, *rules: str, cost: int = 1, **subjects: int | str) -> Decision:
        """Decide whether to go on, and count it if so. Never raises on a limit.

        A denial counts for nothing. It does not queue: who waits in `acquire` may be
        overtaken by it.

        Args:
            *rules: Names of rules, all of which have to admit it.
            cost: What it costs each of them, times the rule's own cost.
            **subjects: What the rules count by, such as ``user=42``; those that no rule
                asks for are ignored.

        Raises:
            RuleError: A rule is unknown, its subject is missing, or the cost is above
                its limit.
            InvalidKey: A subject is too long or not valid Unicode.
            OddswireError: Redis refused for another reason than being away, such as
                missing rights.
        """
        # A flood has to cost nothing: the answer is known without asking anybody.
        request = None
        try:
            for name in rules:
                rule = self._rules[name]
                bucket = rule.buckets[subjects[rule.key] if rule.key else ""]
                if bucket.until and cost * rule.cost >= bucket.weight:
                    now = self._now()
                    if bucket.until > now:
                        rule.remembered += 1
                        # `bucket.denial(now)`: the call took a tenth of all.
                        return Decision(
                            False, name, bucket.limit, bucket.remaining,  # noqa: FBT003
                            bucket.reset_at - now, bucket.retry_at - now,
                            rule.window, "memory",
                        )  # fmt: skip
                if cost == len(rules) == 1:
                    request = bucket.usual
        except (KeyError, TypeError):
            pass  # asked for the first time, or a mistake, which is named below
        if request is None:
            request = self._book.request(rules, cost, subjects)
            decision = await self._deciding.decide(request)
        else:
            decision = await self._deciding.ask(request)
        self._book.count(request, decision)
        return decision

    async def peek(self, *rules: str, cost: int = 1, **subjects: int | str) -> Decision:
        """Return what `hit` would, and count nothing.

        Raises:
            OddswireError: As `hit`.
        """
        request = self._book.request(rules, cost, subjects)
        return await self._deciding.decide(request, "look")

    async def acquire(
        self,
        *rules: str,
        cost: int | dict[str, int] = 1,
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        **subjects: int | str,
    ) -> Decision:
        """Wait until all rules admit it.

        In this process, those with the same rules and subjects are admitted first in,
        first out; different subjects take turns, by what they cost; a higher priority
        goes first; `Priority.LOW` leaves the rules' `reserve` to the others. Processes
        are not fair to each other. Cancelled, it leaves the line; what was already
        asked for may stay used.

        Args:
            *rules: As `hit`.
            cost: As `hit`; or the cost for each rule by its name.
            timeout: Seconds; None waits for ever, 0 does not wait.
            priority: Who goes first.
            **subjects: As `hit`.

        Raises:
            RateLimited: It would not be admitted in time, or never.
            ClosedError: The limiter was closed.
            OddswireError: As `hit`.
        """
        if timeout is not None:
            seconds("timeout", timeout, 0.0)
        priority = Priority(priority)
        request = self._book.request(rules, cost, subjects, priority)
        started = self._now()
        decision: Decision | None = None
        if not any(part.contended() for part in request.parts):
            decision = await self._deciding.decide(request)
            if decision.allowed:
                self._book.count(request, decision)
                return decision
        wait = None if timeout is None else started + timeout - self._now()
        known = 0.0 if decision is None else request.least_wait(decision)
        if known == inf or (wait is not None and (wait <= 0.0 or known > wait)):
            raise self._book.limited(request, decision)
        for bucket, _, _ in request.parts:
            bucket.rule.waited += 1
        decision = await self._waiting.wait(request, priority, wait)
        if decision is None or not decision.allowed:
            raise self._book.limited(request, decision)
        waited = self._now() - started
        self._waits.observe(waited)
        self._book.count(request, decision)
        return msgspec.structs.replace(decision, waited=waited)

    @asynccontextmanager
    async def slot(
        self,
        *rules: str,
        cost: int = 1,
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        **subjects: int | str,
    ) -> AsyncIterator[Decision]:
        """Hold slots of `Concurrency` rules for a block, however long it takes.

        Entering is `acquire`. The leases are renewed each third of their time, and
        given back at the end; what other rules of the call counted stays counted. A
        process that dies, or a cancellation while they are given back, leaves them
        until their time is over.

        Raises:
            OddswireError: As `acquire`.
        """
        decision = await self.acquire(
            *rules, cost=cost, timeout=timeout, priority=priority, **subjects
        )
        held = decision.slots()
        renewing = spawn(self._deciding.keep(held), name="oddswire slot renewal")
        try:
            yield decision
        finally:
            renewing.cancel()
            await self._drop(held)
            await asyncio.wait([renewing])

    def limited(
        self,
        *rules: str,
        cost: int = 1,
        timeout: float | None = 0.0,
        priority: Priority = Priority.NORMAL,
        **subjects: Callable[..., int | str],
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
        """Return a decorator: `acquire` before each call of a coroutine function.

        Args:
            *rules: As `acquire`.
            cost: As `acquire`.
            timeout: As `acquire`; the default does not wait.
            priority: As `acquire`.
            **subjects: For each subject a function of the call's arguments, such as
                ``user=lambda message: message.from_user.id``.
        """

        def decorate(call: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
            @functools.wraps(call)
            async def limited(*args: P.args, **kwargs: P.kwargs) -> R:
                values = {key: of(*args, **kwargs) for key, of in subjects.items()}
                await self.acquire(
                    *rules, cost=cost, timeout=timeout, priority=priority, **values
                )
                return await call(*args, **kwargs)

            return limited

        return decorate

    # --- correcting

    async def refund(self, decision: Decision) -> int:
        """Give back what an admitted request took; return how much still counted.

        A window gets it back where it was counted: when that has passed there is
        nothing to give back. Only the first refund of a decision does something; it is
        never repeated, so one that fails leaves the limit too strict, never too lax.

        Raises:
            OddswireError: As any command; it may have been given back.
        """
        parts = () if decision.taken is None else decision.taken.parts
        given = await self._deciding.give_back(decision)
        for part in parts:
            self._waiting.kick(part.bucket)
        return given

    async def reset(self, *rules: str, **subjects: int | str) -> None:
        """Forget what the subjects used of these rules, and their penalties.

        Other processes notice within `remember` seconds. The window that ends now and
        the one that begins may together admit twice the limit.

        Raises:
            OddswireError: As any command; it may have run.
        """
        parts = self._book.request(rules, 1, subjects).parts
        try:
            await self._client.unlink(
                *(key for part in parts for key in part.bucket.keys[:2])
            )
        finally:
            for part in parts:
                self._deciding.forget(part.bucket)
                self._waiting.kick(part.bucket)

    async def erase(self, **subjects: int | str) -> Erased:
        """Forget ``user=42`` or the like in this limiter's rules that count by it.

        Raises:
            OddswireError: As any command; it may have run.
        """
        return await self._deciding.erase(self._book.buckets_of(subjects))

    async def penalize(
        self, rule: str, retry_after: float, **subjects: int | str
    ) -> None:
        """Deny everything of a rule and subject for some seconds, in every process.

        For an upstream's 429 with its retry-after. A longer penalty that is there
        stays. While Redis cannot be asked, it holds in the processes that have heard of
        it. One of a shadow rule is told of and denies nobody.

        Raises:
            RuleError: The seconds are not above 0 and at most 31 days.
            OddswireError: As any command; it may have run. This process keeps to it.
        """
        seconds("retry_after", retry_after, 0.000_001)
        request = self._book.request((rule,), 1, subjects)
        bucket = request.parts[0].bucket
        if not bucket.rule.shadow:
            # Known here from now on, whatever becomes of the call.
            now = self._now()
            bucket.weight = 0
            bucket.remaining = 0
            bucket.retry_at = bucket.until = max(bucket.until, now + retry_after)
            bucket.reset_at = max(bucket.reset_at, bucket.until)
        await self._deciding.run(_PENALIZE, bucket.keys[1:2], [ceil(retry_after * 1e6)])

    async def set_limit(
        self, rule: str, limit: Limit | None, *, ttl: float = 86_400.0
    ) -> None:
        """Change a rule's limit in every process, for some time.

        What is used already counts under the new limit. Local shares and reserves stay
        those of the declared limit.

        Args:
            rule: Its name.
            limit: Of the same kind; None: the declared one holds again.
            ttl: Seconds after which the declared one holds again, at most 31 days.

        Raises:
            RuleError: It is of another kind, or leases would change their time.
            OddswireError: As any command; it may have run.
        """
        state = self._book.state(rule)
        seconds("ttl", ttl, 0.001)
        if limit is None:
            await self._client.unlink(state.change)
        else:
            state.require_like(limit)
            value = f"{limit.most} {limit.width}"
            await self._client.set(state.change, value, px=ceil(ttl * 1e3))
        state.forget()
        self._waiting.kick_all()

    def statistics(self) -> Statistics:
        """Return what was counted since the limiter was made."""
        return Statistics(
            rules={name: state.counts() for name, state in self._book.rules.items()},
            asked=self._deciding.asked,
            failed=self._deciding.failed,
            away=self._deciding.away,
            waiting=self._waiting.count,
            waits=self._waits.snapshot(),
        )

    # --- inside

    async def _drop(self, decision: Decision) -> None:
        # What cannot be given back ends by itself, and nobody waits for it here.
        with suppress(OddswireError):
            await self.refund(decision)

    def _reset(self, event: Event) -> None:  # noqa: ARG002 - a handler of events
        for state in self._book.rules.values():
            state.forget()
