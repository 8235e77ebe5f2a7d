"""`MarketNews`: tells what becomes of markets: results, and volumes that are reached.

A proposal, a dispute and a result are found by asking again and again. The websocket
may have a result sooner, and nothing depends on that.

1. The followers that were not told the result are read from the database.
2. Their alerts are committed, under ids that are the same in every process. So what is
   found twice, both ways or by two processes, is one alert for each follower.
3. The alerts are handed on. What is lost from here on is found by the sweep.

A volume is judged by the rules of its market as the database has them. If one changes,
the market is taken over, and its rules are read and judged once more: the round writes
where they stand together with what is due, unless somebody else wrote in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, NoReturn

from oddsbot.alerts import (
    Disputed,
    Proposed,
    Resolved,
    RuleState,
    VolumeReached,
    VolumeRule,
    armed_by,
    reaching,
)
from oddsbot.markets_watch import Decided, MarketPolls, changes
from oddsbot.polymarket import NewMarket
from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.errors import LockLost, OddswireError, SourceError
from oddswire.plain import plain

from .commit import Batch, Deposed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oddsbot.alerts import Alert
    from oddsbot.limits import Upstream
    from oddsbot.markets import Volume
    from oddsbot.markets_watch import Change
    from oddsbot.polymarket import Data, Gamma, MarketResolved
    from oddsbot.store import SqlFollowers, SqlRules
    from oddswire.clock import Clock
    from oddswire.locks import Locks

    from .commit import Rounds
    from .shard import Outgoing

_LOCK, _LOCK_SECONDS = "markets.polls", 10.0
_AGAIN = 1.0
_MOST_HEARD = 1_000
_MOST_KNOWN = 10_000
# No rule has such a revision: a taker-over asks for none.
_NEWEST = 2**62

_log = logging.getLogger("oddsbot.watch")


class MarketNews:
    """Tells followers what became of their markets; `run` it in a task.

    Args:
        rounds: Commits the alerts; of a name that no shard of rules has.
        followers: Who is told.
        rules: Their volume rules are judged.
        gamma: Is asked about markets.
        data: Is asked about the oracle.
        upstream: Keeps within Polymarket's limits.
        locks: Say which process asks; only economy rests on it.
        outgoing: Gets the alerts that are committed.
        clock: Tells when something was seen, and sleeps.
        on_change: Called with each change that was found, new markets, volume and
            liquidity included; it may not block.
        every: Seconds between two rounds of questions about markets.

    Attributes:
        polls: Asks, while this process has the lock.
    """

    def __init__(
        self,
        rounds: Rounds,
        followers: SqlFollowers,
        rules: SqlRules,
        gamma: Gamma,
        data: Data,
        upstream: Upstream,
        locks: Locks,
        outgoing: Outgoing,
        clock: Clock,
        *,
        on_change: Callable[[Change], object] = lambda _: None,
        every: float = 60.0,
    ) -> None:
        self.polls = MarketPolls(
            gamma,
            data,
            upstream,
            clock,
            followed=self._followed,
            tell=self._tell,
            markets_every=every,
        )
        self._rounds = rounds
        self._followers = followers
        self._rules = rules
        self._volumes: dict[str, Volume] = {}
        self._locks = locks
        self._outgoing = outgoing
        self._clock = clock
        self._on_change = on_change
        self._results: dict[str, MarketResolved] = {}
        self._heard: asyncio.Queue[MarketResolved] = asyncio.Queue(_MOST_HEARD)

    def hear(self, event: MarketResolved | NewMarket) -> None:
        """Take what the websocket told; never waits.

        When too many results wait already, Gamma is asked for this one.
        """
        if isinstance(event, NewMarket):
            self.polls.hint()
            return
        self.polls.hint(event.market)
        if not self._heard.full():
            self._heard.put_nowait(event)

    async def run(self) -> NoReturn:
        """Tell for ever; waits through outages.

        Cancelled, what was not committed is told after the next start.

        Raises:
            OddswireError: A refusal that waiting does not mend.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="news: listen")
            await self._ask()

    async def _listen(self) -> NoReturn:
        while True:
            event = await self._heard.get()
            try:
                await self._tell_result(event)
            except SourceError as error:
                # Gamma still has it when the database is back.
                _say("result_untold", error)

    async def _ask(self) -> NoReturn:
        while True:
            try:
                async with self._locks.lock(_LOCK, _LOCK_SECONDS):
                    # What an earlier process committed and did not hand on.
                    self._outgoing.resume(self._rounds.shard)
                    await self.polls.run()
            except OddswireError as error:
                if not isinstance(error, (LockLost, *TRANSIENT_ERRORS)):
                    raise
                _say("polls_unlocked", error)
                await self._clock.sleep(_AGAIN)

    async def _followed(self) -> Iterable[str]:
        """Return the markets that somebody waits for a result or a volume of."""
        ids = await self._followers.markets()
        by_market = defaultdict(list)
        for stored in await self._rules.volumes():
            by_market[stored.rule.market].append(stored)
        for market, rules in by_market.items():
            # A volume that does not change is told only once, and a rule may be new.
            if market in self._volumes and any(each.round is None for each in rules):
                await self._judge_volume(market)
        self._volumes = {
            each: volume for each, volume in self._volumes.items() if each in by_market
        }
        for each in ids:
            # Somebody began to follow when the others had been told.
            if each in self._results:
                await self._tell_result(self._results[each])
        return {*ids, *by_market}

    async def _tell(self, change: Change) -> None:
        match change:
            case Decided():
                await self._tell_result(change.event)
            case changes.Proposed():
                await self._tell_all(
                    change.market,
                    lambda user_id, now: Proposed(
                        id=f"{user_id}:{change.id}",
                        user_id=user_id,
                        market=change.market,
                        outcome=change.outcome,
                        final_at=change.final_at,
                        at=_milliseconds(change.at, now),
                        seen_at=now,
                    ),
                )
            case changes.Disputed():
                await self._tell_all(
                    change.market,
                    lambda user_id, now: Disputed(
                        id=f"{user_id}:{change.id}",
                        user_id=user_id,
                        market=change.market,
                        outcome=change.outcome,
                        at=_milliseconds(change.at, now),
                        seen_at=now,
                    ),
                )
            case changes.VolumeChanged():
                self._volumes[change.market] = change.volume
                await self._judge_volume(change.market)
            case _:
                pass
        self._on_change(change)

    async def _judge_volume(self, market: str) -> None:
        """Commit what the volume of a market fires.

        Raises:
            SourceError: The database failed; the outcome says what that means.
        """
        while await self._judged(market):
            tenure = await self._rounds.take_over(_NEWEST, _NEWEST, lambda *_: True)
            assert tenure is not None  # noqa: S101 - it accepts whatever was seen
            # Read again: another process may have judged in between.
            batch = await self._judged(market)
            if not batch:
                return
            try:
                committed = await self._rounds.commit(
                    tenure, batch, self._outgoing.home
                )
            except Deposed:
                continue
            self._outgoing.put(committed)
            return

    async def _judged(self, market: str) -> Batch:
        """Return what the volume of a market changes in its rules, and what is due."""
        batch, now = Batch(0), self._clock.now()
        volume = self._volumes[market]
        for stored in await self._rules.volumes(market):
            rule, state = stored.rule, stored.state
            if not isinstance(rule, VolumeRule) or rule.paused:
                continue
            traded = volume.day if rule.daily else volume.total
            if traded is None:
                continue
            armed = state.armed if stored.round is not None else armed_by(rule)
            fires, after = reaching(rule, traded, armed=armed)
            if not fires and stored.round is not None and after == state.armed:
                continue
            n = state.n + fires
            batch.states[rule.id] = (
                rule,
                stored.revision,
                RuleState(n=n, armed=after, ended=fires and not rule.daily),
            )
            if fires:
                alert = VolumeReached(
                    id=f"{rule.id}:{n}",
                    user_id=rule.user_id,
                    rule_id=rule.id,
                    market=market,
                    level=rule.level,
                    daily=rule.daily,
                    volume=traded,
                    at=int(now * 1000),
                    seen_at=now,
                )
                batch.alerts.append((alert, stored.revision))
        return batch

    async def _tell_result(self, event: MarketResolved) -> None:
        self._results[event.market] = event
        while len(self._results) > _MOST_KNOWN:
            del self._results[next(iter(self._results))]
        at = event.timestamp
        await self._tell_all(
            event.market,
            lambda user_id, now: Resolved(
                id=f"{user_id}:{event.market}:resolved",
                user_id=user_id,
                market=event.market,
                asset_id=event.winning_asset_id,
                outcome=event.winning_outcome,
                at=int(now * 1000) if at is None else at,
                seen_at=now,
            ),
        )

    async def _tell_all(
        self, market: str, alert: Callable[[int, float], Alert]
    ) -> None:
        """Commit an alert for each follower who was not told the result.

        Raises:
            SourceError: The database failed; the outcome says what that means.
        """
        now = self._clock.now()
        batch = Batch(0)
        for user_id in await self._followers.of(market):
            batch.alerts.append((alert(user_id, now), None))
        while batch.alerts:
            tenure = await self._rounds.take_over(_NEWEST, _NEWEST, lambda *_: True)
            assert tenure is not None  # noqa: S101 - it accepts whatever was seen
            try:
                committed = await self._rounds.commit(
                    tenure, batch, self._outgoing.home
                )
            except Deposed:
                continue  # another process told something in between
            self._outgoing.put(committed)
            return


def _milliseconds(seconds: int | None, now: float) -> int:
    return int(now * 1000) if seconds is None else seconds * 1000


def _say(name: str, error: BaseException) -> None:
    _log.warning("%s error=%s", name, plain(error), extra={"event": name})
