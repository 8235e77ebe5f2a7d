"""The models against what Polymarket really sent."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest

from oddsbot.polymarket import GammaEvent, GammaMarket, parse_frame, quotes
from oddsbot.polymarket.clob import read_books, read_market
from oddsbot.polymarket.gamma import read

pytestmark = [pytest.mark.shared, pytest.mark.basic, pytest.mark.requirement("G6")]


@pytest.fixture
def rest(shared_data):
    """Read one recorded answer, numbers exact."""
    decoder = msgspec.json.Decoder(float_hook=Decimal)
    return lambda name: decoder.decode((shared_data / "rest" / name).read_bytes())


def test_recorded_book_frames_parse_to_the_last_digit(shared_data):
    """Each recorded frame is one book whose levels are those of the text."""
    lines = (shared_data / "ws" / "market-book.ssmd.jsonl").read_bytes().splitlines()

    assert len(lines) == 10
    for line in lines:
        sent = json.loads(line)
        frame = parse_frame(line)
        (book,) = frame.events
        (quote,) = quotes(book)

        assert frame.skipped == 0
        for side in ("bids", "asks"):
            assert [
                {"price": str(level.price), "size": str(level.size)}
                for level in getattr(book, side)
            ] == sent[side]
        assert quote.bid == max((level.price for level in book.bids), default=None)
        assert quote.ask == min((level.price for level in book.asks), default=None)


def test_the_recorded_event_parses(rest):
    """The event and its five markets are read, with both tokens of each."""
    event = read(rest("gamma-event.fed-decision-june-2026.json"), GammaEvent)

    assert len(event.markets) == 5
    assert event.neg_risk
    for market in event.markets:
        assert [token.outcome for token in market.tokens] == ["Yes", "No"]
        assert sum(market.outcome_prices) == 1
        assert market.best_bid < market.outcome_prices[0] < market.best_ask


def test_the_recorded_markets_parse(rest):
    """Each recorded market is read with its tokens and the event it belongs to."""
    answer = rest("gamma-markets.before-gta-vi.json")
    markets = [read(each, GammaMarket) for each in answer]

    assert len(markets) == 5
    for sent, market in zip(answer, markets, strict=True):
        assert market.slug == sent["slug"]
        assert str(market.volume) == sent["volume"]
        assert list(market.clob_token_ids) == json.loads(sent["clobTokenIds"])
        assert market.events[0].slug == "what-will-happen-before-gta-vi"


def test_the_recorded_books_parse(rest):
    """Each of the ten books is read whole, its best level last."""
    answer = rest("clob-books.fed-decision-june-2026.json")
    books = read_books(answer)

    assert len(books) == 10
    for sent, book in zip(answer, books, strict=True):
        assert (len(book.bids), len(book.asks)) == (
            len(sent["bids"]),
            len(sent["asks"]),
        )
        assert book.bid == max(level.price for level in book.bids)
        assert book.ask == min(level.price for level in book.asks)
        assert str(book.min_order_size) == sent["min_order_size"]


def test_the_tokens_of_event_and_books_agree(rest):
    """Gamma's token ids are the asset ids of the CLOB's books."""
    event = read(rest("gamma-event.fed-decision-june-2026.json"), GammaEvent)
    books = read_books(rest("clob-books.fed-decision-june-2026.json"))

    assert {token.token_id for market in event.markets for token in market.tokens} == {
        book.asset_id for book in books
    }


def test_the_recorded_clob_markets_parse(rest):
    """The answers with one-letter keys are read, and name the event's tokens."""
    event = read(rest("gamma-event.fed-decision-june-2026.json"), GammaEvent)
    markets = [
        read_market(each) for each in rest("clob-markets.fed-decision-june-2026.json")
    ]

    assert {
        (market.condition_id, token.token_id, token.outcome)
        for market in event.markets
        for token in market.tokens
    } == {
        (market.condition_id, token.token_id, token.outcome)
        for market in markets
        for token in market.tokens
    }
    assert {(market.min_order_size, market.tick_size) for market in markets} == {
        (5, Decimal("0.001"))
    }
