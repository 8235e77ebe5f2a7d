"""The top of a book, told the same way whichever event told it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec import Struct

from .events import BestBidAsk, Book, PriceChange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .events import Level, MarketEvent

_ZERO = Decimal(0)
_ONE = Decimal(1)


class Quote(Struct, frozen=True):
    """The best prices of one token.

    Attributes:
        market: The condition id.
        asset_id: The token id.
        bid: The highest price somebody pays, None when nobody does.
        ask: The lowest price somebody sells at, None when nobody does.
        at: When, in the market's time: Unix milliseconds.
    """

    market: str
    asset_id: str
    bid: Decimal | None
    ask: Decimal | None
    at: int


def quotes(event: MarketEvent) -> Iterable[Quote]:
    """Return the top of book of each token that `event` tells of.

    Events that carry no top of book (a trade, a resolution) give none. One quote a
    token: where a `PriceChange` has several entries of a token, the last one is its
    state after the event.
    """
    match event:
        case PriceChange():
            last = {entry.asset_id: entry for entry in event.price_changes}
            return [
                _quote(event.market, asset_id, entry.best_bid, entry.best_ask, event)
                for asset_id, entry in last.items()
            ]
        case BestBidAsk():
            bid, ask = event.best_bid, event.best_ask
            return (_quote(event.market, event.asset_id, bid, ask, event),)
        case Book():
            bid, ask = _best(event.bids), _best(event.asks)
            return (_quote(event.market, event.asset_id, bid, ask, event),)
        case _:
            return ()


def _best(levels: tuple[Level, ...]) -> Decimal | None:
    return levels[-1].price if levels else None


def _quote(
    market: str,
    asset_id: str,
    bid: Decimal | None,
    ask: Decimal | None,
    event: PriceChange | BestBidAsk | Book,
) -> Quote:
    # No order can rest at 0 or 1: the wire writes these for an empty side.
    if bid is not None and bid <= _ZERO:
        bid = None
    if ask is not None and ask >= _ONE:
        ask = None
    return Quote(market, asset_id, bid, ask, event.timestamp)
