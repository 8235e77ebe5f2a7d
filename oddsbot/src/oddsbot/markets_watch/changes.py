"""What can be found out about a market by asking again: pure, no input or output."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from oddsbot.markets import Liquidity, Volume
from oddsbot.polymarket import GammaEvent, GammaMarket, MarketResolved, Resolution
from oddsbot.store import Listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MOST_LISTED = 1_000
_MOST_SEEN = 300
_PROPOSED = frozenset({"proposed", "reproposed"})
_DISPUTED = frozenset({"challenged", "disputed"})


class VolumeChanged(Struct, frozen=True, tag="volume"):
    """What was traded in a market is another sum."""

    market: str
    volume: Volume


class LiquidityChanged(Struct, frozen=True, tag="liquidity"):
    """What rests in the books of a market is another sum."""

    market: str
    liquidity: Liquidity


class Proposed(Struct, frozen=True, kw_only=True, tag="proposed"):
    """Somebody told the oracle how a market ended; it can be disputed.

    Attributes:
        id: The same in every process: of the market and of this proposal.
        market: The condition id.
        outcome: The name of the outcome that is said to have won; empty where it is
            shared, or unknown.
        at: When, Unix seconds; None where nothing says.
        final_at: The earliest time at which it is final, Unix seconds, an estimate.
        first: It was there when the market was looked at for the first time.
    """

    id: str
    market: str
    outcome: str
    at: int | None
    final_at: int | None
    first: bool


class Disputed(Struct, frozen=True, kw_only=True, tag="disputed"):
    """A proposal is disputed: a vote follows, or another proposal. As `Proposed`."""

    id: str
    market: str
    outcome: str
    at: int | None
    first: bool


class Decided(Struct, frozen=True, kw_only=True, tag="decided"):
    """A market was decided.

    Attributes:
        id: ``{condition id}:resolved``.
        market: The condition id.
        asset_id: The token id of the outcome that won; empty where none did alone.
        outcome: Its name.
        event: The result as the websocket would have told it.
        first: As of `Proposed`.
    """

    id: str
    market: str
    asset_id: str
    outcome: str
    event: MarketResolved
    first: bool


class Listed(Struct, frozen=True, tag="listed"):
    """A market is new."""

    market: GammaMarket


class Choice(Struct, frozen=True):
    """A market of an event: Gamma's id, the condition id, and what it is called."""

    id: str
    market: str
    name: str


class ListedEvent(Struct, frozen=True):
    """The part of an event that an alert needs; the whole may have 300 markets.

    Attributes:
        id: Gamma's.
        title: Its title; where it has none, its slug.
        start_date: When it began, as Gamma says.
        market: The condition id of its first market.
        markets: How many it has.
        choices: Those of them that are open.
    """

    id: str
    title: str
    start_date: str
    market: str
    markets: int
    choices: tuple[Choice, ...] = ()

    @classmethod
    def of(cls, event: GammaEvent) -> ListedEvent:
        """Return this of an event with a market."""
        return cls(
            event.id,
            event.title or event.slug,
            event.start_date,
            event.markets[0].condition_id,
            len(event.markets),
            # A place that is kept for a later choice is there, and not active.
            tuple(
                Choice(
                    each.id, each.condition_id, each.group_item_title or each.question
                )
                for each in event.markets
                if each.active and not each.closed
            ),
        )


class TagListed(Struct, frozen=True, tag="tag_listed"):
    """What is listed under a tag.

    Attributes:
        tag: Its slug.
        events: The newest open events, at least back to what was known.
        more: Whether there are older ones.
    """

    tag: str
    events: tuple[ListedEvent, ...]
    more: bool


Change: TypeAlias = (
    VolumeChanged
    | LiquidityChanged
    | Proposed
    | Disputed
    | Decided
    | Listed
    | TagListed
)


def began(start: str) -> int | None:
    """Return an ISO time in Unix ms; None for what is none."""
    try:
        at = datetime.fromisoformat(start)
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return None


def times(
    rows: Mapping[str, GammaMarket] | Mapping[str, ListedEvent],
) -> dict[str, int]:
    """Return when each began, Unix ms, by its id; without those of unknown times."""
    found = ((each, began(row.start_date)) for each, row in rows.items())
    return {each: at for each, at in found if at is not None}


def compared(
    before: Listing | None, found: Mapping[str, int], *, more: bool
) -> tuple[Listing, list[str]]:
    """Return what is listed now, and the ids of what is new, the oldest first.

    An id that was not there is not enough: where newer ones close, an old one comes up
    from behind the last page. So what began by the floor is never new.

    Args:
        before: What was listed; None: nobody looked yet, and nothing is new.
        found: When the newest ones began, Unix ms, by id.
        more: Whether the list goes on behind them.
    """
    floor = 0 if before is None else before.floor
    known = {} if before is None else before.known
    new = [] if before is None else [each for each in found if each not in known]
    new = sorted((each for each in new if found[each] > floor), key=found.__getitem__)
    if more and found:
        floor = max(floor, min(found.values()))
    # What closed stays known: it may be opened again.
    newest = sorted({**known, **found}.items(), key=lambda each: (-each[1], each[0]))
    if len(newest) > _MOST_LISTED:
        floor = max(floor, newest[_MOST_LISTED][1])
    kept = {each: at for each, at in newest[:_MOST_LISTED] if at > floor}
    return Listing(floor, kept), new


def joined(
    before: Mapping[str, list[str]], events: Iterable[ListedEvent]
) -> tuple[dict[str, list[str]], dict[str, list[Choice]]]:
    """Return which open markets events were seen with, and those that joined one.

    An event that was not seen with an open market before has none that joined it.

    Args:
        before: The ids of the markets that each event was seen with, by its id.
        events: As they are listed now.
    """
    seen, new = {}, {}
    for event in events:
        known = before.get(event.id, [])
        others = [each for each in event.choices if each.id not in known]
        seen[event.id] = known + [each.id for each in others]
        if known and others:
            new[event.id] = others
    older = {each: ids for each, ids in before.items() if each not in seen}
    # The newest are listed first.
    kept = [*older.items(), *reversed(seen.items())][-_MOST_SEEN:]
    return dict(kept), new


def amounts(market: GammaMarket) -> tuple[Volume, Liquidity]:
    """Return what was traded and what rests."""
    return Volume(market.volume, market.volume24hr), Liquidity(market.liquidity)


def oracle_change(
    found: Resolution, market: GammaMarket | None, *, first: bool
) -> Proposed | Disputed | None:
    """Return what the oracle's state says; None: nothing that anybody is told.

    Args:
        found: The oracle's row.
        market: The market, for the names of its outcomes; None: unknown.
        first: Whether it was not asked about before.
    """
    # Proposed, disputed, proposed again is the normal course, and each is told: so an
    # id is of one proposal, by its transaction or its time.
    mark = found.transaction_hash or str(found.last_update_timestamp or found.status)
    # Foreign text of any length: an id is short and plain.
    mark = hashlib.sha256(mark.encode(errors="replace")).hexdigest()[:16]
    outcome = _outcome(found, market)
    if found.status in _PROPOSED:
        return Proposed(
            id=f"{found.condition_id}:proposed:{mark}",
            market=found.condition_id,
            outcome=outcome,
            at=found.last_update_timestamp,
            final_at=found.expected_settlement_time,
            first=first,
        )
    if found.status in _DISPUTED:
        return Disputed(
            id=f"{found.condition_id}:disputed:{mark}",
            market=found.condition_id,
            outcome=outcome,
            at=found.last_update_timestamp,
            first=first,
        )
    return None


def _outcome(found: Resolution, market: GammaMarket | None) -> str:
    if market is None or len(market.outcomes) != 2:
        return ""
    winner = {Decimal(1): 0, Decimal(0): 1}.get(_share(found.proposal))
    return "" if winner is None else market.outcomes[winner]


def _share(price: Decimal | None) -> Decimal:
    # None pays neither outcome: it is nobody's.
    return Decimal(-1) if price is None else price


def decision(market: GammaMarket, *, first: bool = False) -> Decided | None:
    """Return how a market was decided; None while it is open.

    None too while Gamma says that it is decided and still has prices in place of
    payouts: who won is not known then.
    """
    prices = market.outcome_prices
    shared = bool(prices) and all(each == prices[0] for each in prices)
    paid = market.payouts is not None or (shared and sum(prices) == Decimal(1))
    if not (market.resolved and paid):
        return None
    winner = next((token for token in market.tokens if token.price == 1), None)
    event = MarketResolved(
        market=market.condition_id,
        timestamp=None,
        winning_asset_id="" if winner is None else winner.token_id,
        winning_outcome=market.winner or "",
        assets_ids=market.clob_token_ids,
        outcomes=market.outcomes,
        id=market.id,
        question=market.question,
        slug=market.slug,
    )
    return Decided(
        id=f"{event.market}:resolved",
        market=event.market,
        asset_id=event.winning_asset_id,
        outcome=event.winning_outcome,
        event=event,
        first=first,
    )
