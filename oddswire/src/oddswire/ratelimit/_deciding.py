"""Decides requests: by Redis, and by this process alone while Redis cannot be asked."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from itertools import count
from math import ceil, inf
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from oddswire.connection.outage import TRANSIENT_ERRORS
from oddswire.erasure import Erased
from oddswire.errors import OddswireError
from oddswire.events import Degradation
from oddswire.ratelimit._bucket import HIT, Bucket, Part, Request
from oddswire.ratelimit._shares import BucketShare, SlotsShare, WindowShare
from oddswire.ratelimit.decision import Decision, Taken
from oddswire.ratelimit.rules import SlidingWindow, TokenBucket
from oddswire.scripts import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oddswire.client import Client
    from oddswire.ratelimit._shares import Share
    from oddswire.scripts import Script

# With the module: reading a file in a running loop would hold it up.
_REFUND, _RENEW = map(load, ("ratelimit_refund", "ratelimit_renew"))

# Seconds between two questions while it cannot: one caller of all pays the deadline.
_PAUSE = 0.2
_BOOKED_AT_ONCE = 50
# Seconds for each command of an erasure: nobody waits for a decision meanwhile.
_ERASING = 5.0


class Deciding:
    """Asks Redis, remembers denials, and decides alone by the rules' `on_error`.

    Args:
        client: With the deadline of a decision.
        processes: How many share the limits.
        remember: Seconds that a denial is believed without asking again.
        now: A clock that does not go back, seconds.

    Attributes:
        asked: Decisions that Redis gave.
        failed: Those that it did not give in time.
    """

    def __init__(
        self,
        client: Client,
        processes: int,
        remember: float,
        now: Callable[[], float],
    ) -> None:
        self._client = client
        self._processes = processes
        self._remember = remember
        self._now = now
        # A random beginning: two limiters never name the same lease.
        self._me = secrets.token_hex(6)
        self._leases = count()
        self._away_until: float | None = None
        self._degraded = Degradation(client.events, "limiter", "local", now)
        self._shares: set[Bucket] = set()
        self.asked = self.failed = 0

    @property
    def away(self) -> bool:
        """Whether Redis could not be asked when it was last tried."""
        return self._away_until is not None

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Any]
    ) -> Any:
        """Run a script whose keys are in one slot by their making."""
        try:
            return await self._client.execute_command(
                "EVALSHA", script.sha, len(keys), *keys, *args
            )
        except NoScriptError:
            return await script(self._client, keys, args)

    # --- with Redis

    async def decide(self, request: Request, mode: str = "take") -> Decision:
        """Return the decision on a request, whoever can give it.

        Cancelled, what it asked for may be taken.

        Raises:
            OddswireError: Redis refused for a reason that waiting does not cure.
        """
        now = self._now()
        denying = request.denied_by(now)
        if denying is not None:
            return denying.denial(now)
        return await self.ask(request, mode)

    async def ask(self, request: Request, mode: str = "take") -> Decision:
        """Return the decision on a request that no remembered denial answers.

        Raises:
            OddswireError: As `decide`.
        """
        if self._away_until is not None:
            now = self._now()
            if now < self._away_until:
                return self._alone(request, now, mode)
            # This caller tries; the others go on alone until it knows.
            self._away_until = now + _PAUSE
            if not await self._book():
                return self._alone(request, self._now(), mode)
        lease = f"{self._me}-{next(self._leases)}" if request.has_slots else ""
        usual = mode == "take" and not lease
        packed, command = request.usual if usual else request.call(mode, lease)
        parts = request.parts
        for bucket, cost, _ in parts:
            bucket.pending += cost
        try:
            try:
                reply = await self._client.execute_packed(packed, command)
            except NoScriptError:
                args = (request.packed, mode, lease)
                reply = await HIT(self._client, request.keys, args)
        except TRANSIENT_ERRORS as error:
            self._degraded.begin(error)
            reply = None
        finally:
            for bucket, cost, _ in parts:
                bucket.pending -= cost
        now = self._now()
        if reply is None:
            self.failed += 1
            self._away_until = now + _PAUSE
            return self._alone(request, now, mode)
        self.asked += 1
        if len(reply) > 2:
            return self._judged(request, reply, lease, mode, now)
        # By far the most: one window, admitted in the sub-window of the last time.
        at, remaining = reply
        bucket = parts[0].bucket
        rule = bucket.rule
        reset = (rule.width * 21 - at % rule.width) / 1e6
        bucket.limit = limit = rule.most
        bucket.remaining = remaining
        bucket.reset_at = now + reset
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
            Taken(at, "", parts),
        )

    def _judged(
        self, request: Request, reply: list[int], lease: str, mode: str, now: float
    ) -> Decision:
        taken = parts = request.parts
        shadow: tuple[str, ...] = ()
        # The rule to speak of: when admitted, the one with least left, which is a rank
        # of at most 1; when denied, the one to wait for longest, which is above 1.
        spoken, worst = parts[0].bucket, -1.0
        at = 1
        for part in parts:
            bucket, cost, hold = part
            bucket.limit = limit = reply[at]
            bucket.remaining = remaining = reply[at + 1]
            bucket.reset_at = now + reply[at + 2] / 1e6
            retry = reply[at + 3]
            at += 4
            if not retry:
                rank = 1.0 - remaining / limit
            else:
                taken = tuple(each for each in taken if each is not part)
                # One more: as a float it may be a little less.
                wait = inf if retry < 0 else (retry + 1) / 1e6
                bucket.retry_at = now + wait
                if bucket.rule.shadow:
                    shadow += (bucket.rule.name,)
                    continue
                rank = 1.0 + wait
                # Slots come back at any time, and looking is no denial.
                if mode == "take" and not bucket.rule.is_slots:
                    bucket.weight = cost + hold
                    bucket.until = now + min(wait, self._remember)
            if rank > worst:
                spoken, worst = bucket, rank
        allowed = worst <= 1.0
        counted = allowed and mode == "take"
        if counted and request.has_slots:
            for bucket, cost, _ in taken:
                if bucket.rule.is_slots:
                    self._hold(bucket, lease, cost, now)
        rule = spoken.rule
        return Decision(
            allowed,
            rule.name,
            spoken.limit,
            spoken.remaining,
            spoken.reset_at - now,
            0.0 if allowed else spoken.retry_at - now,
            rule.window,
            "redis",
            shadow,
            Taken(reply[0], lease, taken) if counted else None,
        )

    def _hold(self, bucket: Bucket, lease: str, cost: int, now: float) -> None:
        """Note slots of this process, without those whose time is over."""
        for one in [one for one, end in bucket.leases.items() if end <= now]:
            del bucket.leases[one]
        self._note(bucket, lease, cost, now)

    def _note(self, bucket: Bucket, lease: str, cost: int, now: float) -> None:
        end = now + bucket.rule.window
        for number in range(1, cost + 1):
            bucket.leases[f"{lease}:{number}"] = end

    # --- without it

    def _alone(self, request: Request, now: float, mode: str) -> Decision:
        parts = request.parts
        denying, wait = parts[0].bucket, -1.0
        shadow: tuple[str, ...] = ()
        taken: list[Part] = []
        for part in parts:
            bucket, cost, hold = part
            policy = bucket.rule.rule.on_error
            retry = 0.0
            if policy == "closed":
                retry = _PAUSE
            elif policy == "local":
                if bucket.share is None:
                    bucket.share = self._share(bucket, now)
                    self._shares.add(bucket)
                if bucket.share.free(now) < cost + hold:
                    # Where no share is enough, Redis may be back by then.
                    retry = bucket.share.retry(now, cost + hold)
                    retry = _PAUSE if retry == inf else retry
                else:
                    taken.append(part)
            if retry and bucket.rule.shadow:
                shadow += (bucket.rule.name,)
            elif retry > wait:
                denying, wait = bucket, retry
        allowed = wait <= 0.0
        lease = f"{self._me}-{next(self._leases)}"
        counted = allowed and mode == "take"
        if counted:
            for bucket, cost, _ in taken:
                if bucket.share is not None:
                    bucket.share.take(now, cost)
                if bucket.rule.is_slots:
                    self._hold(bucket, lease, cost, now)
        share = denying.share
        return Decision(
            allowed,
            denying.rule.name,
            denying.limit,
            max(0, share.free(now)) if share is not None else 0,
            denying.rule.window,
            max(0.0, wait),
            denying.rule.window,
            "local",
            shadow,
            Taken(now, lease, tuple(taken)) if counted else None,
        )

    async def _book(self) -> bool:
        """Tell Redis what was used without it; False: it still cannot be told.

        What is used meanwhile is booked too, before anybody asks Redis again.
        """
        booked: dict[Bucket, int] = {}
        begun: set[tuple[Bucket, str]] = set()
        while True:
            now = self._now()
            slots = self._slots(now) - begun
            parts = []
            for bucket in list(self._shares):
                # Read again each time: decisions go on meanwhile.
                used = 0 if bucket.share is None else bucket.share.used(now)
                if used > booked.get(bucket, 0):
                    parts.append(Part(bucket, used - booked.get(bucket, 0), 0))
                    booked[bucket] = used
            if not parts and not slots:
                break
            try:
                for bucket, lease in slots:
                    await self._begin(bucket, lease)
            except TRANSIENT_ERRORS:
                return self._still_away()
            begun |= slots
            for first in range(0, len(parts), _BOOKED_AT_ONCE):
                some = Request(tuple(parts[first : first + _BOOKED_AT_ONCE]))
                try:
                    reply = await self.run(HIT, some.keys, [some.packed, "book"])
                except TRANSIENT_ERRORS:
                    return self._still_away()
                # With this the share of the next outage begins. Nobody else may have
                # asked Redis for these subjects by then.
                now = self._now()
                for at, (bucket, _, _) in enumerate(some.parts):
                    bucket.limit, bucket.remaining = reply[4 * at + 1 : 4 * at + 3]
                    bucket.reset_at = now + reply[4 * at + 3] / 1e6
        for bucket in self._shares:
            bucket.share = None
        self._shares.clear()
        self._away_until = None
        self._degraded.end()
        return True

    def _still_away(self) -> bool:
        self.failed += 1
        self._away_until = self._now() + _PAUSE
        return False

    def _slots(self, now: float) -> set[tuple[Bucket, str]]:
        """Return the leases of slots that Redis may not know of."""
        return {
            (bucket, name.rpartition(":")[0])
            for bucket in self._shares
            if bucket.rule.is_slots
            for name, end in bucket.leases.items()
            if end > now
        }

    async def _begin(self, bucket: Bucket, lease: str) -> None:
        """Begin a lease that was given without Redis, or may be lost there."""
        cost = sum(name.rpartition(":")[0] == lease for name in bucket.leases)
        if not cost:
            return
        self._note(bucket, lease, cost, self._now())
        await self._renew(bucket, lease, cost)
        if f"{lease}:1" not in bucket.leases:
            # Given back meanwhile, when Redis was not asked.
            names = [f"{lease}:{number}" for number in range(1, cost + 1)]
            await self._client.zrem(bucket.keys[0], *names)

    def _share(self, bucket: Bucket, now: float) -> Share:
        """Return what this process may use, beginning with what Redis said last."""
        rule, processes = bucket.rule, self._processes
        limit, pending = rule.rule.limit, bucket.pending
        # Answers that are still on their way may say "admitted".
        if isinstance(limit, SlidingWindow):
            known = bucket.limit - bucket.remaining if bucket.reset_at > now else 0
            until = now + 1.06 * limit.per if pending else bucket.reset_at
            return WindowShare(limit, processes, known + pending, until)
        if isinstance(limit, TokenBucket):
            full_at = max(bucket.reset_at, now) + pending * limit.width / 1e6
            return BucketShare(limit, processes, full_at, now)
        return SlotsShare(max(1, limit.limit // processes) - pending, bucket.leases)

    # --- afterwards

    async def give_back(self, decision: Decision) -> int:
        """Undo what an admitted request took; see `RateLimiter.refund`."""
        taken = decision.taken
        if taken is None or not taken.parts:
            return 0
        # At once: a second refund of the same decision finds nothing.
        parts, taken.parts = taken.parts, ()
        total = 0
        for bucket, cost, _ in parts:
            for number in range(1, cost + 1):
                bucket.leases.pop(f"{taken.lease}:{number}", None)
            if decision.degraded and bucket.share is not None:
                bucket.share.give_back(taken.at, cost)
                total += cost
        if decision.degraded:
            # A slot that was renewed since is in Redis; anything else was booked.
            parts = tuple(part for part in parts if part.bucket.rule.is_slots)
            if not parts or self.away:
                return total
        given = Request(parts)
        args = [given.packed, int(taken.at), taken.lease]
        back = await self.run(_REFUND, given.keys, args)
        return total + int(back)

    async def keep(self, decision: Decision) -> None:
        """Renew the slots of a decision for ever, each third of their time."""
        taken = decision.taken
        if taken is None or not taken.parts:
            return
        while True:
            await asyncio.sleep(min(p.bucket.rule.window for p in taken.parts) / 3)
            for bucket, cost, _ in taken.parts:
                self._note(bucket, taken.lease, cost, self._now())
                # The next renewal may succeed.
                with suppress(OddswireError):
                    await self._renew(bucket, taken.lease, cost)

    async def _renew(self, bucket: Bucket, lease: str, cost: int) -> None:
        args = [lease, cost, ceil(bucket.rule.window * 1e6)]
        await self.run(_RENEW, bucket.keys[:1], args)

    async def erase(self, buckets: Sequence[Bucket]) -> Erased:
        """Drop what is kept of buckets, here and in Redis, and look again."""
        client = self._client.bounded(_ERASING)
        keys = [key for bucket in buckets for key in bucket.keys[:2]]
        try:
            removed = int(await client.unlink(*keys)) if keys else 0
        finally:
            for bucket in buckets:
                self.forget(bucket)
        there = [await client.exists(key) for key in keys]
        left = tuple(key for key, one in zip(keys, there, strict=True) if one)
        return Erased("ratelimit", removed, left)

    def forget(self, bucket: Bucket) -> None:
        """Drop what a bucket used without Redis."""
        bucket.forget()
        bucket.share = None
        bucket.remaining, bucket.reset_at = bucket.limit, 0.0
        self._shares.discard(bucket)
