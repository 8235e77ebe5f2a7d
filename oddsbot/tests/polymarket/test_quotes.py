"""The top of a book out of each event."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.polymarket import (
    BestBidAsk,
    Book,
    LastTradePrice,
    Level,
    LevelChange,
    MarketResolved,
    NewMarket,
    PriceChange,
    Quote,
    TickSizeChange,
    quotes,
)

D = Decimal
prices = st.decimals(D("0.001"), D("0.999"), places=3)


def entry(asset: str, bid: Decimal | None, ask: Decimal | None) -> LevelChange:
    """Return a change of one asset with this top of book after it."""
    return LevelChange(asset, D("0.5"), D(1), "BUY", bid, ask)


@pytest.mark.basic
@given(bids=st.lists(prices, unique=True), asks=st.lists(prices, unique=True))
def test_the_best_of_a_book_is_found_in_any_order(bids, asks):
    """The highest bid and the lowest ask are the top, wherever they stand."""
    book = Book(
        "m",
        "a",
        5,
        tuple(Level(price, D(1)) for price in bids),
        tuple(Level(price, D(1)) for price in asks),
    )

    (quote,) = quotes(book)

    assert quote == Quote("m", "a", max(bids, default=None), min(asks, default=None), 5)


@pytest.mark.basic
def test_a_change_quotes_each_of_its_assets():
    """A change of both outcomes tells the top of both."""
    change = PriceChange(
        "m", 5, (entry("up", D("0.4"), D("0.5")), entry("down", D("0.5"), D("0.6")))
    )

    assert list(quotes(change)) == [
        Quote("m", "up", D("0.4"), D("0.5"), 5),
        Quote("m", "down", D("0.5"), D("0.6"), 5),
    ]


@pytest.mark.basic
def test_the_last_entry_of_an_asset_is_its_state():
    """Several entries of one asset in a frame give one quote: the last."""
    change = PriceChange(
        "m", 5, (entry("a", D("0.4"), D("0.5")), entry("a", D("0.3"), D("0.5")))
    )

    assert list(quotes(change)) == [Quote("m", "a", D("0.3"), D("0.5"), 5)]


@pytest.mark.basic
@pytest.mark.parametrize(
    ("bid", "ask", "expected"),
    [
        (D(0), D(1), (None, None)),
        (None, None, (None, None)),
        (D("0.000"), D("0.01"), (None, D("0.01"))),
        (D("0.99"), D("1.00"), (D("0.99"), None)),
        (D("0.001"), D("0.999"), (D("0.001"), D("0.999"))),
    ],
)
def test_an_empty_side_is_none_and_never_zero(bid, ask, expected):
    """However the wire writes an empty side, the quote has None there."""
    for event in (
        PriceChange("m", 5, (entry("a", bid, ask),)),
        BestBidAsk("m", "a", 5, bid, ask),
    ):
        (quote,) = quotes(event)

        assert (quote.bid, quote.ask) == expected


@pytest.mark.basic
@pytest.mark.parametrize(
    "event",
    [
        LastTradePrice("m", "a", 5, D("0.5")),
        TickSizeChange("m", "a", 5, D("0.001")),
        NewMarket("m", 5),
        MarketResolved("m", 5),
    ],
)
def test_other_events_tell_no_top(event):
    """A trade is not a quote, and neither is anything else."""
    assert list(quotes(event)) == []
