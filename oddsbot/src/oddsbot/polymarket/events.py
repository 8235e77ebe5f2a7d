"""The events of the market channel, as Polymarket's websocket sends them.

Prices and sizes are `Decimal`, exact as written on the wire; a price is a
probability, 0 to 1; a size is in shares. ``timestamp`` is Unix time in milliseconds,
None where the event says none. Unknown fields are ignored; a field of the wrong type,
or a number outside its range, refuses the event.

A price of None is an empty side of the book or a value nobody has yet (the wire
writes ``""``); it is never zero.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import UNSET, Struct, UnsetType

from ._reading import EACH, SHOWN, Id, Milliseconds, Shown, check_milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterable

Side = Literal["BUY", "SELL"]
MaybeSide = Literal["BUY", "SELL", ""]

_ZERO = Decimal(0)
_ONE = Decimal(1)
# Smaller ones are not prices but a way to make a text of a million digits.
_LEAST = Decimal("1e-100")
_LARGEST = Decimal(10) ** 21


def check_price(price: Decimal | UnsetType | None) -> None:
    """Refuse what no probability can be.

    Raises:
        ValueError: The price is not a finite number from 0 to 1.
    """
    if price is None or price is UNSET:
        return
    # is_finite first: to compare with a NaN raises another error than ValueError.
    if not (price.is_finite() and (_LEAST <= price <= _ONE or not price)):
        raise ValueError(f"a price must be from 0 to 1, not {price}")


def check_amount(amount: Decimal | None) -> None:
    """Refuse what is not finite, or too large for a text.

    Raises:
        ValueError: It is.
    """
    if amount is not None and not (
        amount.is_finite() and -_LARGEST < amount < _LARGEST
    ):
        raise ValueError(f"{amount} is out of range")


def check_size(size: Decimal | None) -> None:
    """Refuse what no amount of shares can be.

    Raises:
        ValueError: The size is negative or not a finite number.
    """
    if size is not None and not (size.is_finite() and _ZERO <= size < _LARGEST):
        raise ValueError(f"a size must be 0 or more, not {size}")


def best_bid(levels: Iterable[Level]) -> Decimal | None:
    """Return the highest price at which something rests; None where nothing does.

    No order of the levels is promised. A level of size 0 is none, and no order can rest
    at 0 or 1.
    """
    return max(_prices(levels), default=None)


def best_ask(levels: Iterable[Level]) -> Decimal | None:
    """Return the lowest price at which something rests; None where nothing does."""
    return min(_prices(levels), default=None)


def _prices(levels: Iterable[Level]) -> list[Decimal]:
    return [each.price for each in levels if each.size and _ZERO < each.price < _ONE]


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
            and (_LEAST <= price <= _ONE or not price)
            and size.is_finite()
            and _ZERO <= size < _LARGEST
        ):
            check_price(price)
            check_size(size)


# gc=False: no level can be part of a cycle. A large book has thousands of them, and
# each would be work for every collection.
class Level(Struct, frozen=True, gc=False):
    """What rests at one price of a book: the total, not a change."""

    price: Decimal
    size: Decimal


class Book(Struct, frozen=True, tag_field="event_type", tag="book"):
    """The whole book of one token: the first event after each (re)subscription.

    ``bids`` mostly ascend and ``asks`` descend; `quotes` does not rely on it.
    """

    market: Id
    asset_id: Id
    timestamp: Milliseconds | None
    bids: tuple[Level, ...] = ()
    asks: tuple[Level, ...] = ()
    hash: Shown = ""
    tick_size: Decimal | None = None
    last_trade_price: Decimal | None = None

    def __post_init__(self) -> None:
        check_milliseconds(self.timestamp)
        check_levels(self.bids)
        check_levels(self.asks)
        check_price(self.tick_size)
        check_price(self.last_trade_price)


class LevelChange(Struct, frozen=True, gc=False):
    """The new total at one price of one token; ``size`` 0 removes the level.

    A best price of None is an empty side; one that is unset was not told of.
    """

    asset_id: Id
    price: Decimal
    size: Decimal
    side: MaybeSide = ""
    best_bid: Decimal | UnsetType | None = UNSET
    best_ask: Decimal | UnsetType | None = UNSET
    hash: Shown = ""

    def __post_init__(self) -> None:
        check_price(self.price)
        check_size(self.size)
        check_price(self.best_bid)
        check_price(self.best_ask)


class PriceChange(Struct, frozen=True, tag_field="event_type", tag="price_change"):
    """Levels that changed in one market, usually of both its tokens.

    An entry that cannot be read is left out; each tells of its own token.
    """

    market: Id
    timestamp: Milliseconds | None
    price_changes: Annotated[tuple[LevelChange, ...], EACH]

    def __post_init__(self) -> None:
        check_milliseconds(self.timestamp)


class TickSizeChange(
    Struct, frozen=True, tag_field="event_type", tag="tick_size_change"
):
    """The price step of a token changed; a fresh `Book` follows."""

    market: Id
    asset_id: Id
    timestamp: Milliseconds | None
    new_tick_size: Decimal
    old_tick_size: Decimal | None = None

    def __post_init__(self) -> None:
        check_milliseconds(self.timestamp)
        check_price(self.new_tick_size)
        check_price(self.old_tick_size)


class LastTradePrice(
    Struct, frozen=True, tag_field="event_type", tag="last_trade_price"
):
    """One trade; ``side`` is the taker's."""

    market: Id
    asset_id: Id
    timestamp: Milliseconds | None
    price: Decimal
    size: Decimal | None = None
    side: MaybeSide = ""
    fee_rate_bps: Decimal | None = None
    transaction_hash: Shown = ""

    def __post_init__(self) -> None:
        check_milliseconds(self.timestamp)
        check_price(self.price)
        check_size(self.size)
        check_amount(self.fee_rate_bps)


class BestBidAsk(Struct, frozen=True, tag_field="event_type", tag="best_bid_ask"):
    """The top of one token's book changed.

    A best price of None is an empty side; one that is unset was not told of.
    """

    market: Id
    asset_id: Id
    timestamp: Milliseconds | None
    best_bid: Decimal | UnsetType | None = UNSET
    best_ask: Decimal | UnsetType | None = UNSET
    spread: Decimal | None = None

    def __post_init__(self) -> None:
        check_milliseconds(self.timestamp)
        check_price(self.best_bid)
        check_price(self.best_ask)
        check_amount(self.spread)


class NewMarket(Struct, frozen=True, tag_field="event_type", tag="new_market"):
    """A market was created; sent for every market, whatever is subscribed."""

    market: Id
    timestamp: Milliseconds | None
    id: Shown = ""
    question: Shown = ""
    slug: Shown = ""
    description: Shown = ""
    assets_ids: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    tags: Annotated[tuple[str, ...], SHOWN] = ()
    group_item_title: Shown = ""
    order_price_min_tick_size: Decimal | None = None

    def __post_init__(self) -> None:
        check_milliseconds(self.timestamp)
        check_price(self.order_price_min_tick_size)


class MarketResolved(
    Struct, frozen=True, tag_field="event_type", tag="market_resolved"
):
    """A market was decided.

    ``winning_asset_id`` and ``winning_outcome`` are empty when no single outcome won.
    """

    market: Id
    timestamp: Milliseconds | None
    winning_asset_id: str = ""
    winning_outcome: str = ""
    assets_ids: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    id: Shown = ""
    question: Shown = ""
    slug: Shown = ""
    tags: Annotated[tuple[str, ...], SHOWN] = ()

    def __post_init__(self) -> None:
        check_milliseconds(self.timestamp)


MarketEvent = (
    Book
    | PriceChange
    | TickSizeChange
    | LastTradePrice
    | BestBidAsk
    | NewMarket
    | MarketResolved
)
