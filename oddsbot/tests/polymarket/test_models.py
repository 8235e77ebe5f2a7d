"""Gamma's and the CLOB's answers as models."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.polymarket import BadAnswer, GammaEvent, GammaMarket, OrderBook, Token
from oddsbot.polymarket._reading import decoder
from oddsbot.polymarket.clob import read_books, read_market
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
        ("clobTokenIds", '["1", {}]'),
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


PAID = {"closed": True, "outcomePrices": '["0", "1"]'}
ENDED = {"closedTime": "2026-11-30 12:00:00+00"}


@pytest.mark.basic
@pytest.mark.requirement("B1")
@pytest.mark.parametrize(
    "sign",
    [
        {"umaResolutionStatus": "resolved"},
        {"umaResolutionStatus": "Settled"},
        {"umaResolutionStatus": "resolved", "closed": False},
        {"umaResolutionStatus": "resolved", "umaResolutionStatuses": '["disputed"]'},
        {"umaResolutionStatuses": '["proposed", "resolved"]'},
        {"umaResolutionStatuses": ["proposed", "disputed", "settled"]},
        {"resolutionStatus": "resolved"},
        {"resolutionStatus": "RESOLVED", "closed": False},
        {"automaticallyResolved": True},
        ENDED,
    ],
    ids=str,
)
def test_a_market_is_resolved_whichever_sign_says_so(sign):
    """The state of either protocol, or an end with its payouts: it is decided."""
    market = read(MARKET | PAID | sign, GammaMarket)

    assert market.resolved
    assert market.winner == "No"


@pytest.mark.basic
@pytest.mark.requirement("B1")
@pytest.mark.parametrize(
    "sign",
    [
        {},
        ENDED | {"outcomePrices": '["0.0005", "0.9995"]'},
        ENDED | {"outcomePrices": '["0", "0"]'},
        ENDED | {"closed": False},
        ENDED | {"umaResolutionStatus": "proposed"},
        ENDED | {"umaResolutionStatus": "Disputed"},
        ENDED | {"umaResolutionStatuses": '["proposed"]'},
        ENDED | {"umaResolutionStatuses": '["proposed", "disputed", "proposed"]'},
        ENDED | {"resolutionStatus": "resolved", "umaResolutionStatus": "disputed"},
        {"automaticallyResolved": True, "umaResolutionStatus": "disputed"},
    ],
    ids=str,
)
def test_what_is_proposed_disputed_or_only_likely_is_not_resolved(sign):
    """A price near 1, the end of trading, a proposal, a dispute: nothing is decided."""
    market = read(MARKET | PAID | sign, GammaMarket)

    assert not market.resolved
    assert market.winner is None


@pytest.mark.basic
def test_a_split_has_no_winner():
    """A market that is resolved half and half is resolved, and nobody won."""
    split = {"outcomePrices": '["0.5", "0.5"]', "umaResolutionStatus": "resolved"}
    market = read(MARKET | PAID | split, GammaMarket)

    assert (market.resolved, market.winner) == (True, None)


@pytest.mark.basic
@pytest.mark.requirement("G6")
def test_ids_written_as_numbers_are_ids():
    """An id of 77 digits and one of six, written as JSON numbers, keep every digit."""
    token = 98022490269692409998053831553061883006530098022490269692409998053831553
    text = json.dumps(
        MARKET
        | {"id": 902661, "clobTokenIds": f"[{token}, 2]", "events": [{"id": 902661}]}
    )
    market = read(decoder.decode(text), GammaMarket)

    assert market.id == market.events[0].id == "902661"
    assert market.clob_token_ids == (str(token), "2")


@pytest.mark.basic
@pytest.mark.requirement("G6")
def test_a_token_without_an_id_is_none():
    """Before a market has an order book its token ids are empty: nothing to follow."""
    assert read(MARKET | {"clobTokenIds": '["", null]'}, GammaMarket).tokens == ()
    half = read(MARKET | {"clobTokenIds": '["", "2"]'}, GammaMarket)
    assert half.tokens == (Token("No", "2", D("0.485")),)
    market = read_market({"c": "0x1", "t": [{"t": "", "o": ""}, {"t": 7, "o": "Yes"}]})
    assert [token.token_id for token in market.tokens] == ["7"]


@pytest.mark.errors
@pytest.mark.requirement("B1")
@pytest.mark.parametrize(
    "odd",
    [
        None,
        MARKET | {"conditionId": ""},
        MARKET | {"outcomes": '["A", "B", "C"]'},
        MARKET | {"outcomes": "[Yes, No]"},
        MARKET | {"volume": "NaN"},
    ],
    ids=["null", "no id", "does not pair", "broken text", "no number"],
)
def test_a_market_of_an_event_costs_no_other(odd):
    """A market that cannot be read is named; the event has its other markets."""
    left_out = []
    event = read({"id": "1", "markets": [odd, MARKET]}, GammaEvent, left_out)

    assert [market.id for market in event.markets] == [MARKET["id"]]
    assert len(left_out) == 1


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
@pytest.mark.parametrize("answer", [{}, "x", None])
def test_a_wrong_answer_is_a_typed_error(answer):
    """An answer of another shape names its endpoint, in one line."""
    with pytest.raises(BadAnswer, match=r"^POST /books: ") as caught:
        read_books(answer)

    assert "\n" not in str(caught.value)


@pytest.mark.basic
@pytest.mark.requirement("B1")
@given(
    bids=st.dictionaries(st.decimals(0, 1, places=2), st.integers(0, 2)),
    asks=st.dictionaries(st.decimals(0, 1, places=2), st.integers(0, 2)),
    data=st.data(),
)
def test_the_top_of_a_book_is_computed(bids, asks, data):
    """In any order, with empty levels in between: the best that can be traded at."""

    def side(levels):
        shuffled = data.draw(st.permutations(list(levels.items())))
        return [{"price": str(price), "size": str(size)} for price, size in shuffled]

    (book,) = read_books([BOOK | {"bids": side(bids), "asks": side(asks)}])
    resting = {
        name: [price for price, size in levels.items() if size and 0 < price < 1]
        for name, levels in (("bids", bids), ("asks", asks))
    }

    assert book.bid == max(resting["bids"], default=None)
    assert book.ask == min(resting["asks"], default=None)


@pytest.mark.errors
@pytest.mark.requirement("B1")
def test_a_book_that_cannot_be_read_costs_no_other():
    """Of a batch of books the unreadable ones are named, and the rest is there."""
    left_out = []
    bad = [1, {}, BOOK | {"bids": [{"price": "NaN", "size": "1"}]}]
    books = read_books([*bad, BOOK], left_out)

    assert [book.asset_id for book in books] == ["7"]
    assert len(left_out) == 3


@pytest.mark.basic
def test_quoted_tops_come_from_the_book():
    """An order book tells its own best bid and ask."""
    book = OrderBook(market="m", asset_id="a", timestamp=1)

    assert (book.bid, book.ask) == (None, None)
