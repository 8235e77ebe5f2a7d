"""The events of the market channel, as Polymarket's websocket sends them.

Prices and sizes are `Decimal`, exact as written on the wire; a price is a
probability, 0 to 1; a size is in shares. ``timestamp`` is Unix time in milliseconds.
Unknown fields are ignored; a field of the wrong type, or a number outside its range,
refuses the event.

A price of None is an empty side of the book or a value nobody has yet (the wire
writes ``""``); it is never zero.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

Timestamp = Annotated[int, Meta(ge=0)]
Side = Literal["BUY", "SELL"]


_ZERO = Decimal(0)
_ONE = Decimal(1)


def check_price(price: Decimal | None) -> None:
    """Refuse what no probability can be.

    Raises:
        ValueError: The price is not a finite number from 0 to 1.
    """
    # is_finite first: to compare with a NaN raises another error than ValueError.
    if price is not None and not (price.is_finite() and _ZERO <= price <= _ONE):
        raise ValueError(f"a price must be from 0 to 1, not {price}")


def check_size(size: Decimal | None) -> None:
    """Refuse what no amount of shares can be.

    Raises:
        ValueError: The size is negative or not a finite number.
    """
    if size is not None and not (size.is_finite() and size >= _ZERO):
        raise ValueError(f"a size must be 0 or more, not {size}")


def check_levels(levels: Iterable[Level]) -> None:
    """Refuse a side of a book that holds an impossible price or size.

    Raises:
        ValueError: As of `check_price` and `check_size`.
    """
    # The same conditions inline: two calls a level would double the cost of a book.
    for level in levels:
        price, size = level.price, level.size
        if not (
            price.is_finite()
            and _ZERO <= price <= _ONE
            and size.is_finite()
            and size >= _ZERO
        ):
            check_price(price)
            check_size(size)


class Level(Struct, frozen=True):
    """What rests at one price of a book: the total, not a change."""

    price: Decimal
    size: Decimal


class Book(Struct, frozen=True, tag_field="event_type", tag="book"):
    """The whole book of one token: the first event after each (re)subscription.

    ``bids`` ascend and ``asks`` descend: the best level of a side is its last.
    """

    market: str
    asset_id: str
    timestamp: Timestamp
    bids: tuple[Level, ...] = ()
    asks: tuple[Level, ...] = ()
    hash: str = ""
    tick_size: Decimal | None = None
    last_trade_price: Decimal | None = None

    def __post_init__(self) -> None:
        check_levels(self.bids)
        check_levels(self.asks)
        check_price(self.tick_size)
        check_price(self.last_trade_price)


class LevelChange(Struct, frozen=True):
    """The new total at one price of one token; ``size`` 0 removes the level."""

    asset_id: str
    price: Decimal
    size: Decimal
    side: Side
    best_bid: Decimal | None
    best_ask: Decimal | None
    hash: str = ""

    def __post_init__(self) -> None:
        check_price(self.price)
        check_size(self.size)
        check_price(self.best_bid)
        check_price(self.best_ask)


class PriceChange(Struct, frozen=True, tag_field="event_type", tag="price_change"):
    """Levels that changed in one market, usually of both its tokens."""

    market: str
    timestamp: Timestamp
    price_changes: tuple[LevelChange, ...]


class TickSizeChange(
    Struct, frozen=True, tag_field="event_type", tag="tick_size_change"
):
    """The price step of a token changed; a fresh `Book` follows."""

    market: str
    asset_id: str
    timestamp: Timestamp
    new_tick_size: Decimal
    old_tick_size: Decimal | None = None

    def __post_init__(self) -> None:
        check_price(self.new_tick_size)
        check_price(self.old_tick_size)


class LastTradePrice(
    Struct, frozen=True, tag_field="event_type", tag="last_trade_price"
):
    """One trade; ``side`` is the taker's."""

    market: str
    asset_id: str
    timestamp: Timestamp
    price: Decimal
    size: Decimal | None = None
    side: str = ""
    fee_rate_bps: Decimal | None = None
    transaction_hash: str = ""

    def __post_init__(self) -> None:
        check_price(self.price)
        check_size(self.size)


class BestBidAsk(Struct, frozen=True, tag_field="event_type", tag="best_bid_ask"):
    """The top of one token's book changed."""

    market: str
    asset_id: str
    timestamp: Timestamp
    best_bid: Decimal | None
    best_ask: Decimal | None
    spread: Decimal | None = None

    def __post_init__(self) -> None:
        check_price(self.best_bid)
        check_price(self.best_ask)


class NewMarket(Struct, frozen=True, tag_field="event_type", tag="new_market"):
    """A market was created; sent for every market, whatever is subscribed."""

    market: str
    timestamp: Timestamp
    id: str = ""
    question: str = ""
    slug: str = ""
    description: str = ""
    assets_ids: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    group_item_title: str = ""
    order_price_min_tick_size: Decimal | None = None


class MarketResolved(
    Struct, frozen=True, tag_field="event_type", tag="market_resolved"
):
    """A market was decided.

    ``winning_asset_id`` and ``winning_outcome`` are empty when no single outcome won.
    """

    market: str
    timestamp: Timestamp
    winning_asset_id: str = ""
    winning_outcome: str = ""
    assets_ids: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    id: str = ""
    question: str = ""
    slug: str = ""
    tags: tuple[str, ...] = ()


MarketEvent = (
    Book
    | PriceChange
    | TickSizeChange
    | LastTradePrice
    | BestBidAsk
    | NewMarket
    | MarketResolved
)
