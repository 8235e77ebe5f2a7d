"""Evaluates requests: in Redis, and in this process alone while Redis is down."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from itertools import count
from math import ceil
from typing import TYPE_CHECKING

from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.erasure import Erased
from oddswire.errors import OddswireError
from oddswire.events import Degradation
from oddswire.ratelimit._local_quota import SlotQuota, TokenQuota, WindowQuota
from oddswire.ratelimit._state import HIT, Demand, Request, SubjectState
from oddswire.ratelimit.decision import NO_RETRY, Decision, Reservation
from oddswire.ratelimit.rules import SUB_WINDOWS, SlidingWindow, TokenBucket
from oddswire.scripts import load

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from oddswire.client import Client
    from oddswire.ratelimit._local_quota import LocalQuota
    from oddswire.ratelimit._scopes import Scopes

# Loaded with the module: reading a file would block a running loop.
_REFUND, _RENEW = map(load, ("ratelimit_refund", "ratelimit_renew"))

# Seconds between two attempts while Redis is down: one caller of all pays the deadline.
_RETRY = 0.2
_REPORTED_AT_ONCE = 50
# Seconds for each command of an erasure, which no decision waits for.
_ERASE_TIMEOUT = 5.0


class Evaluator:
    """Asks Redis, remembers denials, and decides locally by the rules' `on_error`.

    Args:
        client: With the deadline of a decision.
        scopes: Where the scope of a subject is noted before it is counted.
        processes: How many processes share the limits.
        remember: Seconds that a denial holds without another question.
        now: A clock that never goes back, seconds.

    Attributes:
        asked: Decisions that Redis gave.
        failed: Questions that Redis did not answer in time.
    """

    def __init__(
        self,
        client: Client,
        scopes: Scopes,
        processes: int,
        remember: float,
        now: Callable[[], float],
    ) -> None:
        self._client = client
        self._scopes = scopes
        self._processes = processes
        self._remember = remember
        self._now = now
        # A random beginning: two limiters never name the same lease.
        self._me = secrets.token_hex(6)
        self._lease_numbers = count()
        # When the next caller asks Redis again; None while Redis answers.
        self._retry_at: float | None = None
        self._degraded = Degradation(client.events, "limiter", "local", now)
        self._with_quota: set[SubjectState] = set()
        # Those of which a quota admitted what Redis has not counted.
        self._unreported: set[SubjectState] = set()
        self._reporting = False
        self.asked = self.failed = 0

    @property
    def redis_down(self) -> bool:
        """Whether Redis did not answer the last question."""
        return self._retry_at is not None

    # --- with Redis

    async def decide(self, request: Request, mode: str = "take") -> Decision:
        """Return the decision on a request: a remembered one, or a new one.

        Cancelled, the request may count in Redis.

        Raises:
            OddswireError: Redis refused, and waiting does not help.
        """
        now = self._now()
        denied = request.denied_by(now)
        if denied is not None:
            return denied.denial(now)
        return await self.evaluate(request, mode)

    async def evaluate(self, request: Request, mode: str = "take") -> Decision:
        """Return the decision on a request that no remembered denial covers.

        Raises:
            OddswireError: As `decide`.
        """
        # 1. While Redis is down, one caller in `_RETRY` seconds asks; the others decide
        #    locally. The caller moves the time before it awaits, or all would ask.
        if self._retry_at is not None:
            now = self._now()
            if now < self._retry_at or self._reporting:
                return self._decide_locally(request, now, mode)
            self._retry_at = now + _RETRY
            # The usage of the outage reaches Redis before the next question, or Redis
            # would admit it a second time. A report of many subjects takes longer than
            # `_RETRY`; a second one beside it would count the same usage again.
            self._reporting = True
            try:
                redis_is_back = await self._report_usage()
            finally:
                self._reporting = False
            if not redis_is_back:
                return self._decide_locally(request, self._now(), mode)
        # 2. Ask. If Redis goes down here, the reply may be lost after the request
        #    counted. Therefore a local quota that begins meanwhile counts `pending`.
        lease = self._new_lease() if request.has_slots else ""
        call = request.packed_fast_request if mode == "take" else None
        if call is None:
            call = request.call(mode, lease)
        demands = request.demands
        for state, cost, _ in demands:
            state.pending += cost
        try:
            if request.scoped:
                await self._scopes.note(request.scoped)
            reply = await HIT.run_packed(self._client, call)
        except TRANSIENT_ERRORS as error:
            self._degraded.begin(error)
            reply = None
        finally:
            for state, cost, _ in demands:
                state.pending -= cost
        now = self._now()
        if reply is None:
            self.failed += 1
            self._retry_at = now + _RETRY
            return self._decide_locally(request, now, mode)
        self.asked += 1
        if self._degraded.active:
            self._degraded.end()
        # 3. Read the reply. A short one is the usual case: one window admitted it in
        #    the sub-window of its last hit, so the rule says the rest.
        if len(reply) > 2:
            return self._read_reply(request, reply, lease, mode, now)
        at, remaining = reply
        state = demands[0].state
        rule = state.rule
        reset = (rule.width * SUB_WINDOWS - at % rule.width) / 1e6
        state.limit = limit = rule.most
        state.remaining = remaining
        state.reset_at = now + reset
        return Decision(
            True,  # noqa: FBT003 - fields by position: this answer has to be fast
            rule.name,
            limit,
            remaining,
            reset,
            0.0,
            rule.window,
            "redis",
            (),
            Reservation(at, "", demands),
        )

    def _read_reply(
        self, request: Request, reply: list[int], lease: str, mode: str, now: float
    ) -> Decision:
        taken: list[Demand] = []
        shadow: tuple[str, ...] = ()
        # The decision shows one rule: of those that admit, the one with least left (a
        # rank of at most 1); of those that deny, the longest wait (a rank above 1).
        shown, worst = request.demands[0].state, -1.0
        for number, demand in enumerate(request.demands):
            state, cost, headroom = demand
            at = 4 * number + 1
            state.limit, state.remaining, reset, retry = reply[at : at + 4]
            state.reset_at = now + reset / 1e6
            if not retry:
                taken.append(demand)
                rank = 1.0 - state.remaining / state.limit
            else:
                # One microsecond more: the float may be a little less.
                wait = NO_RETRY if retry < 0 else (retry + 1) / 1e6
                state.retry_at = now + wait
                if state.rule.shadow:
                    shadow += (state.rule.name,)
                    continue
                rank = 1.0 + wait
                # A slot may be released at any time, and a look denies nothing.
                if mode == "take" and not state.rule.is_slots:
                    state.denied_weight = cost + headroom
                    state.denied_until = now + min(wait, self._remember)
            if rank > worst:
                shown, worst = state, rank
        allowed = worst <= 1.0
        counted = allowed and mode == "take"
        if counted:
            self._add_leases(taken, lease, now)
        return Decision(
            allowed,
            shown.rule.name,
            shown.limit,
            shown.remaining,
            shown.reset_at - now,
            0.0 if allowed else shown.retry_at - now,
            shown.rule.window,
            "redis",
            shadow,
            Reservation(reply[0], lease, tuple(taken)) if counted else None,
        )

    def _new_lease(self) -> str:
        return f"{self._me}-{next(self._lease_numbers)}"

    def _add_leases(self, taken: Sequence[Demand], lease: str, now: float) -> None:
        for state, cost, _ in taken:
            if state.rule.is_slots:
                for expired in [one for one, end in state.leases.items() if end <= now]:
                    del state.leases[expired]
                ends = now + state.rule.window
                state.leases |= dict.fromkeys(_slots(lease, cost), ends)

    # --- without Redis

    def _decide_locally(self, request: Request, now: float, mode: str) -> Decision:
        shown, worst = request.demands[0].state, -1.0
        shadow: tuple[str, ...] = ()
        taken: list[Demand] = []
        for demand in request.demands:
            state, cost, headroom = demand
            policy = state.rule.rule.on_error
            wait = _RETRY if policy == "closed" else 0.0
            if policy == "local":
                if state.quota is None:
                    state.quota = self._new_quota(state, now)
                    self._with_quota.add(state)
                if state.quota.free(now) >= cost + headroom:
                    taken.append(demand)
                else:
                    # Where no quota is enough, Redis may answer by then.
                    wait = state.quota.retry(now, cost + headroom)
                    wait = _RETRY if wait == NO_RETRY else wait
            if wait and state.rule.shadow:
                shadow += (state.rule.name,)
            elif wait > worst:
                shown, worst = state, wait
        allowed = worst <= 0.0
        counted = allowed and mode == "take"
        lease = self._new_lease()
        if counted:
            for state, cost, _ in taken:
                if state.quota is not None:
                    state.quota.take(now, cost)
                    self._unreported.add(state)
            self._add_leases(taken, lease, now)
        return Decision(
            allowed,
            shown.rule.name,
            shown.limit,
            max(0, shown.quota.free(now)) if shown.quota is not None else 0,
            shown.rule.window,
            max(0.0, worst),
            shown.rule.window,
            "local",
            shadow,
            Reservation(now, lease, tuple(taken)) if counted else None,
        )

    def _new_quota(self, state: SubjectState, now: float) -> LocalQuota:
        """Return a quota that begins with the last reply of Redis."""
        processes, pending = self._processes, state.pending
        limit = state.rule.rule.limit
        # A pending request counts as admitted: its reply may still say so.
        if isinstance(limit, SlidingWindow):
            known = state.limit - state.remaining if state.reset_at > now else 0
            until = now + 1.06 * limit.per if pending else state.reset_at
            return WindowQuota(limit, processes, known + pending, until, now)
        if isinstance(limit, TokenBucket):
            full_at = max(state.reset_at, now) + pending * limit.width / 1e6
            return TokenQuota(limit, processes, full_at, now)
        most = max(1, limit.limit // processes) - pending
        return SlotQuota(most, state.leases, now)

    async def _report_usage(self) -> bool:
        """Count in Redis what the quotas admitted; False: Redis is still down."""
        renewed: set[tuple[SubjectState, str]] = set()
        while True:
            # 1. Read the usage again in each round: while Redis counts one round, other
            #    callers go on and decide locally.
            states = list(self._unreported)
            leases = self._local_leases(self._now()) - renewed
            if not states and not leases:
                break
            # 2. Count it, also above the limit.
            try:
                await self._scopes.note([*states, *(state for state, _ in leases)])
                for state, lease in leases:
                    await self._report_lease(state, lease)
                renewed |= leases
                for first in range(0, len(states), _REPORTED_AT_ONCE):
                    await self._report_some(states[first : first + _REPORTED_AT_ONCE])
            except TRANSIENT_ERRORS:
                return self._still_down()
        # 3. No await since the last look: nothing was admitted locally in between.
        for state in self._with_quota:
            state.quota = None
        self._with_quota.clear()
        self._retry_at = None
        return True

    async def _report_some(self, states: Sequence[SubjectState]) -> None:
        """Count the usage of some quotas; quotas that begin with the reply follow them.

        So a report that breaks off leaves nothing that the next one would count again.
        Until the end of the report nobody else may ask Redis for these subjects.
        """
        now = self._now()
        used = []
        for state in states:
            quota = state.quota
            if quota is not None and (cost := quota.used(now)) > 0:
                used.append((Demand(state, cost, 0), quota, quota.taken))
            else:
                self._unreported.discard(state)
        if not used:
            return
        some = Request(tuple([demand for demand, _, _ in used]))
        reply = await HIT.run(self._client, some.keys, [some.packed, "book"])
        now = self._now()
        for number, ((state, _, _), quota, taken) in enumerate(used):
            at = 4 * number + 1
            state.limit, state.remaining, reset = reply[at : at + 3]
            state.reset_at = now + reset / 1e6
            # Another quota is of a subject that was erased meanwhile.
            if state.quota is quota:
                state.quota = self._new_quota(state, now)
                if quota.taken > taken:
                    state.quota.take(now, quota.taken - taken)
                else:
                    self._unreported.discard(state)

    def _still_down(self) -> bool:
        self.failed += 1
        self._retry_at = self._now() + _RETRY
        return False

    def _local_leases(self, now: float) -> set[tuple[SubjectState, str]]:
        """Return the leases of slots that Redis may not have."""
        return {
            (state, slot.rpartition(":")[0])
            for state in self._with_quota
            if state.rule.is_slots
            for slot, end in state.leases.items()
            if end > now
        }

    async def _report_lease(self, state: SubjectState, lease: str) -> None:
        """Start a lease again in Redis, with all of its slots."""
        cost = sum(slot.rpartition(":")[0] == lease for slot in state.leases)
        if not cost:
            return
        slots = _slots(lease, cost)
        await self._renew(state, lease, cost)
        if slots[0] not in state.leases:
            # Released during the call, when `release` does not ask Redis.
            await self._client.zrem(state.keys[0], *slots)

    # --- afterwards

    async def release(self, decision: Decision) -> int:
        """Undo what an admitted request took; see `RateLimiter.refund`."""
        reservation = decision.reservation
        if reservation is None or not reservation.demands:
            return 0
        # Emptied before the first await: a second release finds nothing.
        demands, reservation.demands = reservation.demands, ()
        total = 0
        for state, cost, _ in demands:
            for slot in _slots(reservation.lease, cost):
                state.leases.pop(slot, None)
            quota = state.quota if decision.degraded else None
            if quota is not None and quota.since <= reservation.at:
                quota.release(reservation.at, cost)
                total += cost
        if decision.degraded:
            # A local slot is in Redis if it was renewed since. Redis counted all other
            # usage that is reported as a sum, which has no single request to undo.
            demands = tuple(each for each in demands if each.state.rule.is_slots)
            if not demands or self.redis_down:
                return total
        request = Request(demands)
        args = [request.packed, int(reservation.at), reservation.lease]
        return total + int(await _REFUND.run(self._client, request.keys, args))

    async def renew(self, decision: Decision) -> None:
        """Renew the slots of a decision each third of their ttl, until cancelled."""
        reservation = decision.reservation
        if reservation is None or not reservation.demands:
            return
        lease, demands = reservation.lease, reservation.demands
        while True:
            await asyncio.sleep(min(each.state.rule.window for each in demands) / 3)
            for state, cost, _ in demands:
                # The next renewal may succeed.
                with suppress(OddswireError):
                    await self._renew(state, lease, cost)

    async def _renew(self, state: SubjectState, lease: str, cost: int) -> None:
        ttl = state.rule.window
        state.leases |= dict.fromkeys(_slots(lease, cost), self._now() + ttl)
        args = [lease, cost, ceil(ttl * 1e6)]
        await _RENEW.run(self._client, state.keys[:1], args)

    async def erase(self, states: Collection[SubjectState]) -> Erased:
        """Delete subjects in Redis, forget them here, and look for what is left."""
        client = self._client.bounded(_ERASE_TIMEOUT)
        keys = [key for state in states for key in state.keys[:2]]
        try:
            removed = int(await client.unlink(*keys)) if keys else 0
        finally:
            for state in states:
                self.forget(state)
        # One question for all of them: usually the answer is none.
        left: tuple[str, ...] = ()
        if keys and await client.exists(*keys):
            left = tuple([key for key in keys if await client.exists(key)])
        return Erased("ratelimit", removed, left)

    def forget(self, state: SubjectState) -> None:
        """Forget the usage and the denial of a subject."""
        state.forget_denial()
        state.quota = None
        state.remaining, state.reset_at = state.limit, 0.0
        self._with_quota.discard(state)
        self._unreported.discard(state)


def _slots(lease: str, cost: int) -> list[str]:
    return [f"{lease}:{number}" for number in range(1, cost + 1)]
