"""`Results`: tells each follower of a market how it ended, once.

A result has two ways here: the websocket has it at once, and Gamma, which is asked
again and again, has it in any case.

1. The followers that were not told are read from the database.
2. Their alerts are committed, under ids that are the same in every process. So a result
   that comes both ways, or to two processes, is one alert for each follower.
3. The alerts are handed on. What is lost from here on is found by the sweep.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from oddsbot.alerts import Resolved
from oddsbot.polymarket import PolymarketError
from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.errors import LockLost, OddswireError, RateLimited, SourceError
from oddswire.plain import plain

from .commit import Batch, Deposed
from .polls import resolution

if TYPE_CHECKING:
    from oddsbot.limits import Upstream
    from oddsbot.polymarket import Gamma, GammaMarket, MarketResolved
    from oddsbot.store import SqlFollowers
    from oddswire.clock import Clock
    from oddswire.locks import Locks

    from .commit import Rounds
    from .shard import Outgoing

_LOCK, _LOCK_SECONDS = "markets.polls", 10.0
_PAGE = 100
_AGAIN = 1.0
_MOST_HEARD = 1_000
# No rule has such a revision: a taker-over asks for none.
_NEWEST = 2**62

_log = logging.getLogger("oddsbot.watch")


class Results:
    """Tells followers how their markets ended; `run` it in a task.

    Args:
        rounds: Commits the alerts; of a name that no shard of rules has.
        followers: Who is told.
        gamma: Is asked, 100 markets a request.
        upstream: Keeps within Polymarket's limits.
        locks: Say which process asks; only economy rests on it.
        outgoing: Gets the alerts that are committed.
        clock: Tells when a result was seen, and sleeps.
        every: Seconds between two rounds of questions.

    Attributes:
        looks: Rounds of questions that were finished.
        failed: Rounds that ended with an error; the next one asks again.
    """

    def __init__(
        self,
        rounds: Rounds,
        followers: SqlFollowers,
        gamma: Gamma,
        upstream: Upstream,
        locks: Locks,
        outgoing: Outgoing,
        clock: Clock,
        *,
        every: float = 60.0,
    ) -> None:
        self.looks = 0
        self.failed = 0
        self._rounds = rounds
        self._followers = followers
        self._gamma = gamma
        self._upstream = upstream
        self._locks = locks
        self._outgoing = outgoing
        self._clock = clock
        self._every = every
        self._heard: asyncio.Queue[MarketResolved] = asyncio.Queue(_MOST_HEARD)

    def hear(self, event: MarketResolved) -> None:
        """Take a result that the websocket told; never waits.

        When too many wait already, Gamma is asked for this one.
        """
        if not self._heard.full():
            self._heard.put_nowait(event)

    async def run(self) -> NoReturn:
        """Tell results for ever; waits through outages.

        Cancelled, a result that was not committed is told after the next start.

        Raises:
            OddswireError: A refusal that waiting does not mend.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="results: listen")
            await self._ask()

    async def _listen(self) -> NoReturn:
        while True:
            event = await self._heard.get()
            try:
                await self.tell(event)
            except SourceError as error:
                # Gamma still has it when the database is back.
                _say("result_untold", error)

    async def _ask(self) -> NoReturn:
        while True:
            try:
                async with self._locks.lock(_LOCK, _LOCK_SECONDS):
                    # What an earlier process committed and did not hand on.
                    self._outgoing.resume(self._rounds.shard)
                    while True:
                        await self._look_through_outages()
                        await self._clock.sleep(self._every)
            except OddswireError as error:
                if not isinstance(error, (LockLost, *TRANSIENT_ERRORS)):
                    raise
                _say("polls_unlocked", error)
                await self._clock.sleep(_AGAIN)

    async def _look_through_outages(self) -> None:
        try:
            await self.look()
        except OddswireError as error:
            passing = SourceError, RateLimited, *TRANSIENT_ERRORS
            if not isinstance(error, passing):
                raise
            self._note(error)
        except PolymarketError as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        self.failed += 1
        _say("polls_failed", error)

    async def look(self) -> None:
        """Ask once about each market whose followers were not told its result.

        Raises:
            PolymarketError: Polymarket did not answer.
            OddswireError: There was no turn within the limits, or the database failed.
        """
        ids = await self._followers.markets()
        for at in range(0, len(ids), _PAGE):
            for market in (await self._found(ids[at : at + _PAGE])).values():
                event = resolution(market)
                if event is not None:
                    await self.tell(event)
        self.looks += 1

    async def _found(self, ids: list[str]) -> dict[str, GammaMarket]:
        return await self._upstream.call(
            "gamma", "markets", lambda: self._gamma.markets_by_condition(*ids)
        )

    async def tell(self, event: MarketResolved) -> None:
        """Have each follower told who was not yet; it may be repeated.

        Raises:
            SourceError: The database failed; the outcome says what that means.
        """
        seen_at = self._clock.now()
        at = event.timestamp
        for_all = [
            Resolved(
                id=f"{user_id}:{event.market}:resolved",
                user_id=user_id,
                market=event.market,
                asset_id=event.winning_asset_id,
                outcome=event.winning_outcome,
                at=int(seen_at * 1000) if at is None else at,
                seen_at=seen_at,
            )
            for user_id in await self._followers.of(event.market)
        ]
        while for_all:
            tenure = await self._rounds.take_over(_NEWEST, _NEWEST, lambda *_: True)
            assert tenure is not None  # noqa: S101 - it accepts whatever was seen
            batch = Batch(0)
            batch.alerts = [(alert, None) for alert in for_all]
            try:
                committed = await self._rounds.commit(
                    tenure, batch, self._outgoing.home
                )
            except Deposed:
                continue  # another process told a result in between
            self._outgoing.put(committed)
            return


def _say(name: str, error: BaseException) -> None:
    _log.warning("%s error=%s", name, plain(error), extra={"event": name})
