"""`MarketNews`: tells results of markets, volumes that are reached, and new events.

A proposal, a dispute and a result are found by asking again and again. The websocket
may have a result sooner, and nothing depends on that.

1. The followers that were not told the result are read from the database.
2. Their alerts are committed, under ids that are the same in every process. So what is
   found twice, both ways or by two processes, is one alert for each follower.
3. The alerts are handed on. What is lost from here on is found by the sweep.

Whatever is due is read from the database and written in one round with what says that
it was told: where a volume rule stands, or what is listed under a tag. If another
process wrote in between, nothing is written, and what is due is read again.

A volume that was asked for before another process wrote may be older than what that one
knew: a rule that has fired would be back on by it. So a look at volumes begins with
taking over, and its answers count while nobody else has.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, NoReturn

from msgspec import structs

from oddsbot.alerts import (
    Disputed,
    Opened,
    Proposed,
    Resolved,
    RuleState,
    VolumeReached,
    VolumeRule,
    armed_by,
    reaching,
)
from oddsbot.markets_watch import Decided, MarketPolls, changes, compared, joined
from oddsbot.polymarket import NewMarket
from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.errors import LockLost, OddswireError, SourceError
from oddswire.plain import plain

from .commit import Batch, Deposed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from oddsbot.alerts import Alert
    from oddsbot.limits import Upstream
    from oddsbot.markets import Volume
    from oddsbot.markets_watch import Change
    from oddsbot.polymarket import Data, Gamma, MarketResolved
    from oddsbot.store import SqlFollowers, SqlRules, SqlTags
    from oddswire.clock import Clock
    from oddswire.locks import Locks

    from .commit import Rounds, Tenure
    from .shard import Outgoing

_LOCK, _LOCK_SECONDS = "markets.polls", 10.0
_AGAIN = 1.0
_MOST_HEARD = 1_000
_MOST_KNOWN = 10_000
# Events of a round: each is a row for each follower.
_MOST_OPENED = 100
# No rule has such a revision: a taker-over asks for none.
_NEWEST = 2**62

_log = logging.getLogger("oddsbot.watch")


class MarketNews:
    """Tells followers what became of their markets; `run` it in a task.

    Args:
        rounds: Commits the alerts; of a name that no shard of rules has.
        followers: Who is told of results.
        tags: The followers of each tag.
        rules: Their volume rules are judged.
        gamma: Is asked about markets.
        data: Is asked about the oracle.
        upstream: Keeps within Polymarket's limits.
        locks: Say which process asks; only economy rests on it.
        outgoing: Gets the alerts that are committed.
        clock: Tells when something was seen, and sleeps.
        on_change: Called with each change that was found, new markets, volume and
            liquidity included; it may not block.
        every: Seconds between two rounds of questions about markets, and new ones.

    Attributes:
        polls: Asks, while this process has the lock.
    """

    def __init__(
        self,
        rounds: Rounds,
        followers: SqlFollowers,
        tags: SqlTags,
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
            tags=tags.listings,
            markets_every=every,
            new_every=every,
        )
        self._rounds = rounds
        self._followers = followers
        self._tags = tags
        self._rules = rules
        self._writing = asyncio.Lock()
        self._tenure: Tenure | None = None  # None: another process may have written
        self._look: Tenure | None = None  # the one that volumes were asked for in
        self._unjudged: set[str] = set()
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
        if by_market:
            # Not while a round is on its way: its end would bring its tenure back.
            async with self._writing:
                self._look = self._tenure = await self._take_over()
        for market, rules in by_market.items():
            # A volume that did not change is told all the same: a rule is new, or the
            # last answer did not count.
            if market in self._unjudged or any(each.round is None for each in rules):
                self.polls.tell_again(market)
        self._unjudged.clear()
        for each in ids:
            # Somebody began to follow when the others had been told.
            if each in self._results:
                await self._tell_result(self._results[each])
        return {*ids, *by_market}

    async def _tell(self, change: Change) -> None:
        match change:
            case Decided():
                await self._tell_result(change.event)
                await self._commit(lambda: self._ended(change.market))
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
                await self._commit(lambda: self._reached(change.market, change.volume))
            case changes.TagListed():
                while await self._commit(lambda: self._opened(change)):
                    pass  # the next part of what is new
            case _:
                pass
        self._on_change(change)

    async def _reached(self, market: str, volume: Volume) -> Batch:
        """Return what a volume changes in the rules of its market, and what is due."""
        batch, now = Batch(0), self._clock.now()
        stored_rules = await self._rules.volumes(market)
        if stored_rules and self._tenure is not self._look:
            self._unjudged.add(market)
            return batch
        for stored in stored_rules:
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

    async def _ended(self, market: str) -> Batch:
        """Return the end of a market's volume rules: nothing more is traded there."""
        batch = Batch(0)
        for stored in await self._rules.volumes(market):
            state = structs.replace(stored.state, ended=True)
            batch.states[stored.rule.id] = (stored.rule, stored.revision, state)
        return batch

    async def _opened(self, listed: changes.TagListed) -> Batch:
        """Return the batch that notes a tag's list and tells followers of new events.

        Of very many the oldest: whoever looks again finds the others.
        """
        batch, now = Batch(0), self._clock.now()
        before = await self._tags.listing(listed.tag)
        events = {each.id: each for each in listed.events}
        at = changes.times(events)
        others: dict[str, list[changes.Choice]] = {}
        after, new = compared(before, at, more=listed.more)
        if before is not None and len(new) > _MOST_OPENED:
            new = new[:_MOST_OPENED]
            told = {each: at[each] for each in new}
            after = structs.replace(before, known=before.known | told)
        else:
            seen = {} if before is None else before.choices
            seen, others = joined(seen, listed.events)
            after = structs.replace(after, choices=seen)
        if after == before:
            return batch
        batch.also.append(self._tags.note(listed.tag, after))
        followers = await self._tags.followers(listed.tag) if new or others else []
        for user_id in followers:
            for each in new:
                alert = Opened(
                    id=f"{user_id}:{each}:opened",
                    user_id=user_id,
                    tag=listed.tag,
                    event=each,
                    title=events[each].title,
                    market=events[each].market,
                    markets=events[each].markets,
                    at=at[each],
                    seen_at=now,
                )
                batch.alerts.append((alert, None))
            for each, choices in others.items():
                first = min(choices, key=lambda choice: (len(choice.id), choice.id))
                alert = Opened(
                    id=f"{user_id}:{each}:joined:{first.id}",
                    user_id=user_id,
                    tag=listed.tag,
                    event=each,
                    title=events[each].title,
                    market=first.market,
                    markets=events[each].markets,
                    at=int(now * 1000),
                    seen_at=now,
                    choice=first.name or first.id,
                    joined=len(choices),
                )
                batch.alerts.append((alert, None))
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

        async def due() -> Batch:
            batch, now = Batch(0), self._clock.now()
            for user_id in await self._followers.of(market):
                batch.alerts.append((alert(user_id, now), None))
            return batch

        await self._commit(due)

    async def _commit(self, due: Callable[[], Awaitable[Batch]]) -> bool:
        """Commit what is due, unless nothing is; return whether something was.

        1. What is due is read. 2. If another process may have written since this one
        took over, it takes over, and what is due is read again. 3. The round is
        committed, unless another process took over since.

        Raises:
            SourceError: The database failed; the outcome says what that means.
        """
        async with self._writing:
            while batch := await due():
                if self._tenure is None:
                    self._tenure = await self._take_over()
                    continue
                tenure, self._tenure = self._tenure, None
                try:
                    committed = await self._rounds.commit(
                        tenure, batch, self._outgoing.home
                    )
                except Deposed:
                    continue
                self._tenure = tenure
                self._outgoing.put(committed)
                return True
        return False

    async def _take_over(self) -> Tenure:
        tenure = await self._rounds.take_over(_NEWEST, _NEWEST, lambda *_: True)
        assert tenure is not None  # noqa: S101 - it accepts whatever was seen
        return tenure


def _milliseconds(seconds: int | None, now: float) -> int:
    return int(now * 1000) if seconds is None else seconds * 1000


def _say(name: str, error: BaseException) -> None:
    _log.warning("%s error=%s", name, plain(error), extra={"event": name})
