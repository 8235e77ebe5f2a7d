"""Gamma's and the CLOB's answers as models."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.polymarket import BadAnswer, GammaEvent, GammaMarket, OrderBook, Token
from oddsbot.polymarket.clob import read_books
from oddsbot.polymarket.gamma import read

D = Decimal
MARKET = {
    "id": "540817",
    "question": "Yes or no?",
    "conditionId": "0x1f",
    "slug": "yes-or-no",
    "outcomes": '["Yes", "No"]',
    "outcomePrices": '["0.515", "0.485"]',
    "clobTokenIds": '["98022490269692409998", "53831553061883006530"]',
    "umaResolutionStatuses": "[]",
    "volume": "1234.5",
    "liquidity": 99.25,
    "active": True,
    "closed": False,
    "negRiskMarketID": "0xa8",
    "volume24hr": 7,
}
BOOK = {
    "market": "0x1f",
    "asset_id": "7",
    "timestamp": "1778997825875",
    "hash": "17",
    "bids": [{"price": "0.001", "size": "5579792.8"}],
    "asks": [],
    "min_order_size": "5",
    "tick_size": "0.001",
    "neg_risk": True,
    "last_trade_price": "",
}


@pytest.mark.basic
@pytest.mark.requirement("G6")
def test_json_text_inside_strings_is_opened_once():
    """Outcomes, prices, token ids and statuses come out as tuples."""
    market = read(MARKET, GammaMarket)

    assert market.outcomes == ("Yes", "No")
    assert market.outcome_prices == (D("0.515"), D("0.485"))
    assert market.uma_resolution_statuses == ()
    assert market.neg_risk_market_id == "0xa8"
    assert (market.volume, market.liquidity) == (D("1234.5"), D("99.25"))
    assert market.volume24hr == 7


@pytest.mark.basic
def test_token_i_pairs_outcome_i():
    """Outcome, token id and price of one index belong together."""
    assert read(MARKET, GammaMarket).tokens == (
        Token("Yes", "98022490269692409998", D("0.515")),
        Token("No", "53831553061883006530", D("0.485")),
    )


@pytest.mark.basic
@pytest.mark.requirement("G6")
@pytest.mark.parametrize("empty", [None, ""])
def test_null_and_empty_are_absent(empty):
    """A key that is null or "" reads as a key that is not there."""
    optional = set(MARKET) - {"id", "conditionId"}
    without = {key: MARKET[key] for key in ("id", "conditionId")}

    market = read(without | dict.fromkeys(optional, empty), GammaMarket)

    assert market == read(without, GammaMarket)
    assert market.tokens == ()
    assert market.volume is None


@pytest.mark.basic
@pytest.mark.requirement("G6")
@given(
    prices=st.lists(st.decimals(0, 1, places=18), min_size=2, max_size=2),
    volume=st.none() | st.decimals(0, 10**12, places=9),
    closed=st.booleans(),
)
def test_a_market_survives_a_round_trip(prices, volume, closed):
    """A model written as JSON and read again is the same model, to the last digit."""
    market = msgspec.structs.replace(
        read(MARKET, GammaMarket),
        outcome_prices=tuple(prices),
        volume=volume,
        closed=closed,
    )

    assert read(msgspec.json.decode(msgspec.json.encode(market)), GammaMarket) == market


@pytest.mark.errors
@pytest.mark.requirement("G6")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", None),
        ("conditionId", ""),
        ("outcomes", '["Yes"'),
        ("outcomes", '["Yes"]'),
        ("outcomes", "[" * 100_000),
        ("clobTokenIds", '["1", "2", "3"]'),
        ("clobTokenIds", '["1", 2]'),
        ("outcomePrices", '["0.5", "NaN"]'),
        ("outcomePrices", '["0.5", "7"]'),
        ("volume", "much"),
        ("closed", "maybe"),
        ("events", {}),
    ],
)
def test_a_market_with_a_wrong_field_is_refused(key, value):
    """A wrong type, a broken text inside, or lists that do not pair are an error."""
    with pytest.raises(ValueError, match=r".") as caught:
        read(MARKET | {key: value}, GammaMarket)

    assert "\n" not in str(caught.value)


@pytest.mark.basic
def test_an_event_holds_its_markets():
    """An event's own numbers and its markets' strings are both read."""
    event = read({"id": "1", "volume": 1.5, "markets": [MARKET]}, GammaEvent)

    assert event.volume == D("1.5")
    assert event.markets == (read(MARKET, GammaMarket),)


@pytest.mark.basic
@pytest.mark.parametrize(
    ("change", "winner"),
    [
        ({}, None),
        ({"outcomePrices": '["1", "0"]'}, None),
        ({"closed": True, "outcomePrices": '["1", "0"]'}, None),
        (
            {
                "closed": True,
                "umaResolutionStatus": "resolved",
                "outcomePrices": '["0", "1"]',
            },
            "No",
        ),
        (
            {
                "closed": True,
                "umaResolutionStatus": "resolved",
                "outcomePrices": '["0.5", "0.5"]',
            },
            None,
        ),
    ],
)
def test_only_a_resolved_market_has_a_winner(change, winner):
    """A price of 1 is no resolution, and a split has no winner."""
    assert read(MARKET | change, GammaMarket).winner == winner


@pytest.mark.basic
@pytest.mark.requirement("G6")
def test_a_book_has_its_best_level_last():
    """A book is read with its empty side and its missing last trade as None."""
    (book,) = read_books([BOOK])

    assert (book.bid, book.ask) == (D("0.001"), None)
    assert book.last_trade_price is None
    assert book.timestamp == 1778997825875


@pytest.mark.basic
@pytest.mark.requirement("G6")
def test_a_book_survives_a_round_trip():
    """A book written as JSON and read again is the same book."""
    (book,) = read_books([BOOK])

    assert read_books([json.loads(msgspec.json.encode(book))]) == (book,)


@pytest.mark.errors
@pytest.mark.requirement("G6")
@pytest.mark.parametrize(
    "answer",
    [{}, "x", None, [1], [BOOK | {"bids": [{"price": "NaN", "size": "1"}]}], [{}]],
)
def test_a_wrong_answer_is_a_typed_error(answer):
    """An answer of another shape names its endpoint, in one line."""
    with pytest.raises(BadAnswer, match=r"^POST /books: ") as caught:
        read_books(answer)

    assert "\n" not in str(caught.value)


@pytest.mark.basic
def test_quoted_tops_come_from_the_book():
    """An order book tells its own best bid and ask."""
    book = OrderBook(market="m", asset_id="a", timestamp=1)

    assert (book.bid, book.ask) == (None, None)
