"""`MarketPolls`: asks about followed markets, and tells what changed."""

from __future__ import annotations

import logging
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, NoReturn, TypeVar

from oddsbot.polymarket import BadAnswer, PolymarketError
from oddswire.errors import OddswireError
from oddswire.logs import log_line

from .changes import (
    LiquidityChanged,
    Listed,
    ListedEvent,
    TagListed,
    VolumeChanged,
    amounts,
    began,
    compared,
    decision,
    oracle_change,
    times,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from oddsbot.limits import Upstream
    from oddsbot.markets import Liquidity, Volume
    from oddsbot.polymarket import (
        Data,
        Found,
        Gamma,
        GammaMarket,
        Resolution,
    )
    from oddsbot.store import Listing
    from oddswire.clock import Clock

    from .changes import Change

_PAGE = 100
_MOST_PAGES = 100
_LOOK_EVERY = 5.0
_HOUR = 3_600.0
Row = TypeVar("Row", "GammaMarket", "ListedEvent")

_log = logging.getLogger("oddsbot.markets_watch")


class _Market:
    """What is known of one followed market."""

    def __init__(self) -> None:
        self.found: GammaMarket | None = None
        self.amounts: tuple[Volume, Liquidity] | None = None
        self.oracle_at = 0.0  # when the oracle is asked next
        self.oracle_told: str | None = None  # the id of what was told last
        self.asked = False  # whether the oracle was asked before
        self.ends_at = float("inf")


class MarketPolls:
    """Finds what changes without a tick, by asking again; `run` it in a task.

    Volumes, liquidity and resolutions each `markets_every`; proposals and disputes each
    `oracle_every`, and each `soon_every` from an hour before a market's end until it is
    decided; new markets, and events under tags, each `new_every`. Nothing depends on
    the websocket: `hint` brings a look forward.

    A change is told until `tell` returned once. So `tell` may be called again with the
    same `id`, also by another process: who keeps what was told compares ids.

    Args:
        gamma: Has the markets, 100 a request.
        data: Has the oracle's states, 20 a request.
        upstream: Keeps within Polymarket's limits.
        clock: Tells the time and sleeps.
        followed: Returns the condition ids of the markets to ask about.
        tell: Called with each change; with what is listed under a tag at each look.
        tags: Returns the tags to look at, each with what was listed; None: nobody
            looked yet.
        tell_new: Whether new markets are looked for.
        markets_every: Seconds.
        oracle_every: Seconds.
        soon_every: Seconds.
        new_every: Seconds.

    Attributes:
        rounds: Looks at markets that were finished.
        failed: Looks that ended with an error of Polymarket's or Redis's; the next
            one asks again.
    """

    def __init__(
        self,
        gamma: Gamma,
        data: Data,
        upstream: Upstream,
        clock: Clock,
        *,
        followed: Callable[[], Awaitable[Iterable[str]]],
        tell: Callable[[Change], Awaitable[object]],
        tags: Callable[[], Awaitable[Mapping[str, Listing | None]]] | None = None,
        tell_new: bool = True,
        markets_every: float = 60.0,
        oracle_every: float = 300.0,
        soon_every: float = 30.0,
        new_every: float = 60.0,
    ) -> None:
        self.rounds = 0
        self.failed = 0
        self._gamma = gamma
        self._data = data
        self._upstream = upstream
        self._clock = clock
        self._followed = followed
        self._tell = tell
        self._tags = tags
        self._tell_new = tell_new
        self._markets_every = markets_every
        self._oracle_every = oracle_every
        self._soon_every = soon_every
        self._new_every = new_every
        self._known: dict[str, _Market] = {}
        self._decided: set[str] = set()
        self._listed: Listing | None = None  # None: nobody looked yet
        self._markets_at = self._new_at = 0.0
        self._look_every = min(_LOOK_EVERY, markets_every, soon_every, new_every)
        self._down = False

    async def run(self) -> NoReturn:
        """Ask for ever. Cancelled, what was not told is told by the next `run`."""
        while True:
            now = self._clock.monotonic()
            if now >= self._markets_at:
                self._markets_at = now + self._markets_every
                await self._guarded(self.look_at_markets())
            await self._guarded(self.look_at_oracle())
            if now >= self._new_at:
                self._new_at = now + self._new_every
                if self._tell_new:
                    await self._guarded(self.look_for_new())
                await self._guarded(self.look_at_tags())
            await self._clock.sleep(self._look_every)

    def hint(self, condition_id: str | None = None) -> None:
        """Bring a look forward: the websocket told of something.

        Args:
            condition_id: Of a market that was decided; None: a market is new.
        """
        if condition_id is None:
            self._new_at = 0.0
        else:
            self._markets_at = 0.0
            if condition_id in self._known:
                self._known[condition_id].oracle_at = 0.0

    def tell_again(self, condition_id: str) -> None:
        """Have the amounts of a market told at the next look, changed or not."""
        if condition_id in self._known:
            self._known[condition_id].amounts = None

    async def _guarded(self, look: Awaitable[None]) -> None:
        try:
            await look
        except (PolymarketError, OddswireError) as error:
            self.failed += 1
            if not self._down:  # one line for an outage, however long
                self._down = True
                name = type(error).__name__
                log_line(_log, logging.WARNING, "polls_failed", error=name)
        else:
            self._down = False

    # --- markets

    async def look_at_markets(self) -> None:
        """Ask once about all followed markets.

        Raises:
            PolymarketError: Polymarket did not answer.
            OddswireError: There was no turn within the limits, or `tell` failed.
        """
        ids = list(dict.fromkeys(await self._followed()))
        # A market that is followed again later is told of again.
        self._decided.intersection_update(ids)
        self._known = {
            each: self._known.get(each) or _Market()
            for each in ids
            if each not in self._decided
        }
        wanted = list(self._known)
        for at in range(0, len(wanted), _PAGE):
            found = await self._markets(wanted[at : at + _PAGE])
            for condition_id, market in found.items():
                await self._compare(condition_id, market)
        self.rounds += 1

    async def _markets(self, ids: list[str]) -> Found[GammaMarket]:
        return await self._upstream.call(
            "gamma", "markets", lambda: self._gamma.markets_by_condition(*ids)
        )

    async def _compare(self, condition_id: str, market: GammaMarket) -> None:
        known = self._known[condition_id]
        before, first = known.found, known.found is None
        new = amounts(market)
        volume, liquidity = known.amounts or (None, None)
        if new[0] != volume and new[0].total is not None:
            await self._tell(VolumeChanged(condition_id, new[0]))
        if new[1] != liquidity and new[1].resting is not None:
            await self._tell(LiquidityChanged(condition_id, new[1]))
        decided = decision(market, first=first)
        if decided is not None:
            await self._tell(decided)
            self._decided.add(condition_id)
            del self._known[condition_id]
            return
        # Gamma says that something is proposed or disputed: the oracle knows what.
        if before is None or before.uma_resolution_status != (
            market.uma_resolution_status
        ):
            known.oracle_at = 0.0
        # Last: what was not told is a change the next time, too.
        known.amounts, known.found = new, market
        known.ends_at = _seconds(market.end_date)

    # --- the oracle

    async def look_at_oracle(self) -> None:
        """Ask the oracle about the markets that are due.

        Raises:
            PolymarketError: As `look_at_markets`.
            OddswireError: As `look_at_markets`.
        """
        now = self._clock.monotonic()
        due = [each for each, known in self._known.items() if now >= known.oracle_at]
        for at in range(0, len(due), 20):
            part = due[at : at + 20]
            found = await self._resolutions(part)
            for each in part:
                known = self._known.get(each)
                if known is None:
                    continue
                if each in found:
                    await self._ask(known, found[each])
                soon = self._clock.now() >= known.ends_at - _HOUR
                known.oracle_at = now + (
                    self._soon_every if soon else self._oracle_every
                )

    async def _resolutions(self, ids: list[str]) -> Found[Resolution]:
        return await self._upstream.call(
            "data", "", lambda: self._data.resolutions(*ids)
        )

    async def _ask(self, known: _Market, found: Resolution) -> None:
        change = oracle_change(found, known.found, first=not known.asked)
        if change is not None and change.id != known.oracle_told:
            await self._tell(change)
            known.oracle_told = change.id
        known.asked = True
        if found.status == "resolved":
            self._markets_at = 0.0  # Gamma says who won

    # --- what is new

    async def look_for_new(self) -> None:
        """Ask for the newest markets; the first time nobody is told.

        Raises:
            PolymarketError: As `look_at_markets`.
            OddswireError: As `look_at_markets`.
        """
        found, more = await self._newest(self._listed, self._new_markets, _MOST_PAGES)
        at = times(found)
        after, new = compared(self._listed, at, more=more)
        for each in new:
            await self._tell(Listed(found[each]))
            # A change that was sent is not sent again when a later one fails.
            assert self._listed is not None  # noqa: S101 - else nothing is new
            self._listed.known[each] = at[each]
        self._listed = after

    async def look_at_tags(self) -> None:
        """Ask for the newest events under each tag, and tell what is listed.

        Raises:
            PolymarketError: As `look_at_markets`.
            OddswireError: As `look_at_markets`.
        """
        failure = None
        for tag, before in (await self._tags() if self._tags else {}).items():
            try:
                found, more = await self._newest(before, partial(self._new_events, tag))
                await self._tell(TagListed(tag, tuple(found.values()), more))
            except PolymarketError as error:  # a tag costs no other
                failure = error
        if failure is not None:
            raise failure

    async def _newest(
        self,
        before: Listing | None,
        ask: Callable[[str | None], Awaitable[tuple[dict[str, Row], str | None]]],
        most: int | None = None,
    ) -> tuple[dict[str, Row], bool]:
        """Return the newest by id, back to what is known, and whether there are more.

        Args:
            before: What is known.
            ask: Returns a page, and the next one's cursor.
            most: Pages at most; None: however many there are.

        Raises:
            PolymarketError: As `look_at_markets`; also for the same page again.
        """
        found: dict[str, Row] = {}
        cursor = None
        for number in count(1):
            page, cursor = await ask(cursor)
            if page and page.keys() <= found.keys():
                raise BadAnswer("a list goes on with what it had already")
            found |= page
            at = times(page)
            if before is None or cursor is None or not at:
                break
            oldest = min(at, key=at.__getitem__)
            if oldest in before.known or at[oldest] <= before.floor:
                break
            if number == most:
                log_line(_log, logging.WARNING, "new_markets_skipped", told=len(found))
                break
        return found, cursor is not None

    async def _new_markets(
        self, cursor: str | None
    ) -> tuple[dict[str, GammaMarket], str | None]:
        page = await self._upstream.call(
            "gamma",
            "markets",
            lambda: self._gamma.markets(
                after_cursor=cursor,
                limit=_PAGE,
                closed=False,
                order="startDate",
                ascending=False,
            ),
        )
        return {each.condition_id: each for each in page.markets}, page.next_cursor

    async def _new_events(
        self, tag: str, cursor: str | None
    ) -> tuple[dict[str, ListedEvent], str | None]:
        page = await self._upstream.call(
            "gamma",
            "events",
            lambda: self._gamma.events(
                after_cursor=cursor, limit=_PAGE, order="startDate", tag=tag
            ),
        )
        # One that has no market yet is new when it has.
        found = {e.id: ListedEvent.of(e) for e in page.events if e.markets}
        return found, page.next_cursor


def _seconds(text: str) -> float:
    """Return an ISO time in Unix seconds; infinite for none that can be read."""
    at = began(text)
    return float("inf") if at is None else at / 1000
