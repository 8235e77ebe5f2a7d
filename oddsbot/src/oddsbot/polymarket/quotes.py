"""The top of a book, told the same way whichever event told it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct, UnsetType

from .events import BestBidAsk, Book, PriceChange, best_ask, best_bid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .events import MarketEvent

_ZERO = Decimal(0)
_ONE = Decimal(1)


class Quote(Struct, frozen=True):
    """The best prices of one token.

    Attributes:
        market: The condition id.
        asset_id: The token id.
        bid: The highest price somebody pays, None when nobody does.
        ask: The lowest price somebody sells at, None when nobody does.
        at: When, in the market's time: Unix milliseconds; None where nothing says.
    """

    market: str
    asset_id: str
    bid: Decimal | None
    ask: Decimal | None
    at: int | None


def quotes(event: MarketEvent) -> Iterable[Quote]:
    """Return the top of book of each token that `event` tells of.

    Events that carry no top of book (a trade, a resolution) give none, and neither does
    one that leaves a side out. One quote a token: where a `PriceChange` has several
    entries of a token, the last one is its state after the event.
    """
    match event:
        case PriceChange():
            last = {entry.asset_id: entry for entry in event.price_changes}
            return [
                quote
                for asset_id, entry in last.items()
                for quote in _quote(event, asset_id, entry.best_bid, entry.best_ask)
            ]
        case BestBidAsk():
            return _quote(event, event.asset_id, event.best_bid, event.best_ask)
        case Book():
            bid, ask = best_bid(event.bids), best_ask(event.asks)
            return _quote(event, event.asset_id, bid, ask)
        case _:
            return ()


def _quote(
    event: PriceChange | BestBidAsk | Book,
    asset_id: str,
    bid: Decimal | UnsetType | None,
    ask: Decimal | UnsetType | None,
) -> tuple[Quote, ...]:
    if bid is UNSET or ask is UNSET:
        return ()
    # No order can rest at 0 or 1: the wire writes these for an empty side.
    if bid is not None and not _ZERO < bid < _ONE:
        bid = None
    if ask is not None and not _ZERO < ask < _ONE:
        ask = None
    return (Quote(event.market, asset_id, bid, ask, event.timestamp),)
