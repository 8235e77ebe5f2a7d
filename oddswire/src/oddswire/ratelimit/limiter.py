"""`RateLimiter`: ask before you act."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import asynccontextmanager, suppress
from math import ceil
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import msgspec

from oddswire._numbers import check_duration, check_int, shown
from oddswire._tasks import check_function, spawn
from oddswire.client import keyspace
from oddswire.counters import Histogram
from oddswire.erasure import Erased
from oddswire.errors import (
    LockHeld,
    NoPermission,
    OddswireError,
    RateLimited,
    RuleError,
)
from oddswire.events import DataReset, Failover
from oddswire.ratelimit._evaluator import Evaluator
from oddswire.ratelimit._scopes import Scopes
from oddswire.ratelimit._state import Demand, Request, RuleState, SubjectState
from oddswire.ratelimit._wait_queue import WaitQueue
from oddswire.ratelimit.decision import NO_RETRY, Decision
from oddswire.ratelimit.rules import LONGEST, MOST, Limit, Priority, Rule
from oddswire.ratelimit.statistics import LimiterStats
from oddswire.scripts import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from oddswire.client import Client
    from oddswire.events import Event

P = ParamSpec("P")
R = TypeVar("R")

_PENALIZE = load("ratelimit_penalize")
_MAX_RULES = 32  # of one request
_NOT_SEARCHED = "subjects such as <bot>:<user>: SCAN is not allowed"


class RateLimiter:
    """Limits that hold over all processes that use the same rules on the same Redis.

    One script decides all rules of a request, on the server's clock: all of them count
    it, or none does. Use it as ``async with``, or call `aclose`, which ends the task
    that serves the waiters.

    Args:
        client: Where the limits are kept.
        rules: The first rules; `add` adds more.
        prefix: The beginning of the keys; None: the prefix of the client's settings.
        deadline: Seconds a decision may take; then the rule's `on_error` decides.
        processes: How many processes share the limits: the divisor of a local quota.
        remember: Seconds that a denial holds without another question to Redis, at most
            until its retry-after. During this time the limiter does not notice that
            another process raised the limit, refunded or reset. 0: every hit asks.
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
        check_int("processes", processes, 1, MOST, RuleError)
        check_duration("deadline", deadline, 0.001, LONGEST, RuleError)
        check_duration("remember", remember, 0.0, LONGEST, RuleError)
        check_function("now", now, RuleError)
        if not isinstance(rules, Iterable):
            raise RuleError(
                f"rules must be a list, as in [Rule(...)], not {shown(rules)}"
            )
        self._space = keyspace(client, prefix)
        self._client = client.bounded(deadline)
        self._now = now
        self._rules: dict[str, RuleState] = {}
        self._scopes = Scopes(self._client, self._space, now)
        self._evaluator = Evaluator(
            self._client, self._scopes, processes, remember, now
        )
        self._queue = WaitQueue(self._evaluator.decide, self._release_quietly, now)
        self._waits = Histogram()
        # Of `slot`: how many of a subject's a task has.
        self._slots: Counter[tuple[SubjectState, asyncio.Task[Any] | None]] = Counter()
        # The data that caused a denial may be gone.
        self._unsubscribe = client.events.subscribe(self._reset, DataReset, Failover)
        self.add(*rules)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End each waiting call with `ClosedError`; `hit` still works."""
        self._unsubscribe()
        await self._queue.aclose()

    # --- rules

    def add(self, *rules: Rule) -> None:
        """Add rules, all or none; the same rule again changes nothing.

        Raises:
            RuleError: There is another rule of that name; `set_limit` changes a limit.
        """
        added: dict[str, RuleState] = {}
        for rule in rules:
            if not isinstance(rule, Rule):
                raise RuleError(f"{shown(rule)} is no Rule")
            known = self._rules.get(rule.name) or added.get(rule.name)
            if known is None:
                added[rule.name] = RuleState(rule, self._space)
            elif known.rule != rule:
                raise RuleError(
                    f"there is another rule {rule.name!r}; give this one its own name, "
                    "or change the limit by set_limit"
                )
        self._rules |= added

    def _rule(self, name: str) -> RuleState:
        try:
            return self._rules[name]
        except (KeyError, TypeError):
            known = ", ".join(sorted(self._rules)) or "none"
            raise RuleError(f"no rule {name!r}; there are: {known}") from None

    def _request(
        self,
        rules: tuple[str, ...],
        cost: int | dict[str, int],
        subjects: dict[str, int | str],
        priority: Priority = Priority.NORMAL,
    ) -> Request:
        if type(cost) is not int or cost < 1:
            for each in cost.values() if isinstance(cost, dict) else (cost,):
                check_int("cost", each, 1, MOST, RuleError)
        now, low = self._now(), priority is Priority.LOW
        if len(rules) == cost == 1 and not low:
            # The usual request of a subject is made once.
            state = self._rule(rules[0]).subject(subjects, now)
            if state.fast_request is None:
                state.fast_request = Request((Demand(state, state.rule.cost, 0),))
            return state.fast_request
        found = [self._rule(name) for name in rules]
        if not 1 <= len(rules) <= _MAX_RULES or len(set(rules)) < len(rules):
            raise RuleError(
                f"name 1 to {_MAX_RULES} different rules, not {list(rules)}"
            )
        costs = cost if isinstance(cost, dict) else dict.fromkeys(rules, cost)
        if costs.keys() != set(rules):
            raise RuleError(
                f"the costs are of {sorted(costs)}: name one for each of {list(rules)}"
            )
        demands = [
            rule.demand(subjects, costs[rule.name], now, low=low) for rule in found
        ]
        return Request(tuple(demands))

    # --- asking

    async def hit(self, *rules: str, cost: int = 1, **subjects: int | str) -> Decision:
        """Decide whether to go on, and count it if so. Never raises on a limit.

        A denial counts for nothing. A hit does not queue: it may overtake the calls
        that wait in `acquire`.

        Args:
            *rules: Names of rules. All of them have to admit it.
            cost: The cost for each of them, times the rule's own cost.
            **subjects: What the rules count by, such as ``user=42``; subjects that no
                rule counts by are ignored.

        Raises:
            RuleError: A rule is unknown, its subject is missing, or the cost is above
                its limit.
            InvalidKey: A subject is too long or not valid Unicode.
            OddswireError: Redis refused, and waiting does not help: missing rights, for
                example.
        """
        # A flood must cost next to nothing: a remembered denial asks nobody.
        request = None
        try:
            for name in rules:
                rule = self._rules[name]
                state = rule.subjects[subjects[rule.key] if rule.key else ""]
                if state.denied_until and cost * rule.cost >= state.denied_weight:
                    now = self._now()
                    if state.denied_until > now:
                        rule.remembered += 1
                        # Not `state.denial(now)`: that call takes a tenth of all.
                        return Decision(
                            False, name, state.limit, state.remaining,  # noqa: FBT003
                            state.reset_at - now, state.retry_at - now,
                            rule.window, "memory",
                        )  # fmt: skip
                if cost == len(rules) == 1:
                    request = state.fast_request
        except (KeyError, TypeError):
            pass  # the first hit of a subject, or a mistake that `_request` names
        if request is None:
            request = self._request(rules, cost, subjects)
            decision = await self._evaluator.decide(request)
        else:
            decision = await self._evaluator.evaluate(request)
        self._count(request, decision)
        return decision

    async def peek(self, *rules: str, cost: int = 1, **subjects: int | str) -> Decision:
        """Return the decision of `hit`, and count nothing.

        Raises:
            OddswireError: As `hit`.
        """
        request = self._request(rules, cost, subjects)
        return await self._evaluator.decide(request, "look")

    async def acquire(
        self,
        *rules: str,
        cost: int | dict[str, int] = 1,
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        **subjects: int | str,
    ) -> Decision:
        """Wait until all rules admit it.

        In this process, calls with the same rules and subjects are admitted first in,
        first out. Different subjects take turns, by their cost. A higher priority goes
        first. `Priority.LOW` leaves the rules' `reserve` to the others. Processes are
        not fair to each other. A cancelled call leaves the queue; its request counts if
        Redis had it already.

        Args:
            *rules: As `hit`.
            cost: As `hit`; or the cost for each rule by its name.
            timeout: Seconds; None waits for ever, 0 does not wait.
            priority: Its place among the calls that wait.
            **subjects: As `hit`.

        Raises:
            RateLimited: No waiting within `timeout` admits it.
            ClosedError: The limiter was closed.
            OddswireError: As `hit`.
        """
        if timeout is not None:
            check_duration("timeout", timeout, 0.0, LONGEST, RuleError)
        try:
            priority = Priority(priority)
        except ValueError:
            raise RuleError(
                f"priority {shown(priority)}: accepted are HIGH, NORMAL and LOW"
            ) from None
        request = self._request(rules, cost, subjects, priority)
        started = self._now()
        decision: Decision | None = None
        # 1. Ask at once if nobody comes first: this call must not overtake a waiter.
        if not any(demand.is_contended() for demand in request.demands):
            decision = await self._evaluator.decide(request)
            if decision.allowed:
                self._count(request, decision)
                return decision
        # 2. Give up where the wait is known to be too long: nobody queues in vain.
        left = None if timeout is None else started + timeout - self._now()
        least = 0.0 if decision is None else request.least_wait(decision)
        if least == NO_RETRY or (left is not None and (left <= 0.0 or least > left)):
            raise self._denied(request, decision)
        # 3. Queue.
        for state, _, _ in request.demands:
            state.rule.waited += 1
        decision = await self._queue.wait(request, priority, left)
        if decision is None or not decision.allowed:
            raise self._denied(request, decision)
        waited = self._now() - started
        self._waits.observe(waited)
        self._count(request, decision)
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

        Entering is `acquire`. The leases are renewed each third of their ttl, and
        released at the end of the block; the other rules of the call stay counted. If
        the process dies, or is cancelled while it releases them, the leases end with
        their ttl.

        Raises:
            LockHeld: Without a `timeout`, this task has so many of the slots itself
                that it would wait for itself for ever.
            OddswireError: As `acquire`.
        """
        task = asyncio.current_task()
        if timeout is None and self._slots:
            self._refuse_holder(self._request(rules, cost, subjects), task)
        decision = await self.acquire(
            *rules, cost=cost, timeout=timeout, priority=priority, **subjects
        )
        held = decision.slots()
        taken = Counter[tuple[SubjectState, asyncio.Task[Any] | None]]()
        if held.reservation is not None:
            for demand in held.reservation.demands:
                taken[demand.state, task] += demand.cost
        self._slots += taken
        renewal = spawn(self._evaluator.renew(held), name="oddswire slot renewal")
        try:
            yield decision
        finally:
            self._slots -= taken
            renewal.cancel()
            await self._release_quietly(held)
            await asyncio.wait([renewal])

    def _refuse_holder(self, request: Request, task: asyncio.Task[Any] | None) -> None:
        for state, cost, _ in request.demands:
            has, most = self._slots[state, task], max(state.rule.most, state.limit)
            if has + cost > most and not state.rule.shadow:
                raise LockHeld(
                    f"rule {state.rule.name!r}: this task has {has} of its {most} "
                    "slots and would wait for itself for ever"
                )

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

        Raises:
            RuleError: A subject is no function; or what is decorated is none, or a
                generator.
        """
        for name, of in subjects.items():
            if not callable(of):
                raise RuleError(
                    f"{name}={shown(of)}: a subject of limited is a function of the "
                    f"call's arguments, as in {name}=lambda message: message.chat.id"
                )

        def decorate(call: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
            check_function("what is limited", call, RuleError)

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
        """Release what an admitted request took; return how much still counted.

        A window gets it back in the sub-window that counted it; when that has passed,
        nothing is left to refund. Only the first refund of a decision does something. A
        refund that fails is not retried, so it leaves the limit too strict, never too
        lax.

        Raises:
            RuleError: It is no decision.
            OddswireError: As any command; the refund may have run.
        """
        if not isinstance(decision, Decision):
            raise RuleError(
                f"a refund is of the Decision of a hit, not of {shown(decision)}"
            )
        took = decision.reservation
        demands = () if took is None else took.demands
        released = await self._evaluator.release(decision)
        for demand in demands:
            self._queue.wake(demand.state)
        return released

    async def reset(self, *rules: str, **subjects: int | str) -> None:
        """Forget the usage and the penalties of the subjects under these rules.

        Other processes notice within `remember` seconds. The window that ends now and
        the one that begins may together admit twice the limit.

        Raises:
            OddswireError: As any command; it may have run.
        """
        states = [each.state for each in self._request(rules, 1, subjects).demands]
        keys = [key for state in states for key in state.keys[:2]]
        try:
            await self._client.unlink(*keys)
        finally:
            for state in states:
                self._evaluator.forget(state)
                self._queue.wake(state)

    async def erase(self, **subjects: int | str) -> Erased:
        """Forget ``user=42`` or the like in this limiter's rules that count by it.

        In each form: ``42``, and what ends in ``:42``, as the adapters count a user of
        a bot. The first erasure under a rule reads the names of all keys; later ones
        compute the keys, but for a rule that counts by more than 64 bots. Where SCAN is
        not allowed, the first may miss a bot, and `left` says so.

        Raises:
            OddswireError: As any command; it may have run.
        """
        now = self._now()
        rules = [rule for rule in self._rules.values() if rule.key in subjects]
        states = {rule.subject(subjects, now) for rule in rules}
        for rule in rules:
            states |= rule.states_of(subjects)
        unsearched: tuple[str, ...] = ()
        try:
            states |= await self._scopes.find(rules, subjects)
        except NoPermission:
            unsearched = (_NOT_SEARCHED,)
        erased = await self._evaluator.erase(states)
        return Erased(erased.part, erased.removed, (*erased.left, *unsearched))

    async def penalize(
        self, rule: str, retry_after: float, **subjects: int | str
    ) -> None:
        """Deny everything of a rule and subject for some seconds, in every process.

        For an upstream's 429 with its retry-after. A longer penalty stays. While Redis
        is down, the penalty holds in the processes that know it. A shadow rule shows
        its penalty and denies nothing.

        Raises:
            RuleError: The seconds are not above 0 and at most 31 days.
            OddswireError: As any command; it may have run. This process keeps to it.
        """
        check_duration("retry_after", retry_after, 0.000_001, LONGEST, RuleError)
        state = self._request((rule,), 1, subjects).demands[0].state
        if not state.rule.shadow:
            # First here: this process keeps to the penalty if the call fails.
            state.deny(self._now() + retry_after)
        await self._scopes.note([state])
        await _PENALIZE.run(self._client, state.keys[1:2], [ceil(retry_after * 1e6)])

    async def set_limit(
        self, rule: str, limit: Limit | None, *, ttl: float = 86_400.0
    ) -> None:
        """Change a rule's limit in every process, for some time.

        The usage until now counts under the new limit. Local quotas and reserves stay
        those of the declared limit.

        Args:
            rule: Its name.
            limit: Of the same kind; None: the declared one holds again.
            ttl: Seconds after which the declared one holds again, at most 31 days.

        Raises:
            RuleError: It is of another kind, or the leases get another ttl.
            OddswireError: As any command; it may have run.
        """
        state = self._rule(rule)
        check_duration("ttl", ttl, 0.001, LONGEST, RuleError)
        if limit is None:
            await self._client.unlink(state.change_key)
        else:
            state.check_replacement(limit)
            value = f"{limit.most} {limit.width}"
            await self._client.set(state.change_key, value, px=ceil(ttl * 1e3))
        state.forget_denials()
        self._queue.wake_all()

    # --- counting

    def stats(self) -> LimiterStats:
        """Return what was counted since the limiter was made."""
        return LimiterStats(
            rules={name: rule.counts() for name, rule in self._rules.items()},
            asked=self._evaluator.asked,
            failed=self._evaluator.failed,
            redis_down=self._evaluator.redis_down,
            waiting=self._queue.count,
            waits=self._waits.snapshot(),
        )

    def _count(self, request: Request, decision: Decision) -> None:
        source = decision.source
        if decision.allowed:
            for state, _, _ in request.demands:
                state.rule.admitted += 1
        elif source == "memory":
            self._rules[decision.rule].remembered += 1
        else:
            self._rules[decision.rule].denied += 1
        if source == "local":
            for state, _, _ in request.demands:
                state.rule.degraded += 1
        for name in decision.shadow:
            self._rules[name].would_deny += 1

    def _denied(self, request: Request, decision: Decision | None) -> RateLimited:
        """Count a denial, and return its error; None: nobody asked in time."""
        if decision is None:
            states = [demand.state for demand in request.demands]
            longest = max(states, key=lambda state: state.retry_at)
            name, wait = longest.rule.name, max(0.0, longest.retry_at - self._now())
            longest.rule.denied += 1
        else:
            name, wait = decision.rule, decision.retry_after
            self._count(request, decision)
        when = (
            "its limit was lowered below the cost, so it is never admitted"
            if wait == NO_RETRY
            else f"the next try may succeed in {wait:.3f} s"
        )
        return RateLimited(f"rule {name!r}: {when}", retry_after=wait)

    async def _release_quietly(self, decision: Decision) -> None:
        # What cannot be released ends by itself, and no caller waits for it here.
        with suppress(OddswireError):
            await self.refund(decision)

    def _reset(self, event: Event) -> None:  # noqa: ARG002 - a handler
        for rule in self._rules.values():
            rule.forget_denials()
            rule.noted_scopes.clear()
