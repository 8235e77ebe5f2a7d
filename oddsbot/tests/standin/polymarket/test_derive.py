"""Derived frames against the snapshots they are derived from."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.polymarket import (
    BestBidAsk,
    Book,
    MarketResolved,
    NewMarket,
    PriceChange,
    TickSizeChange,
    parse_frame,
    quotes,
)
from oddsbot.standin.polymarket import (
    Group,
    RecordedMarket,
    Recording,
    Resolution,
    Snapshot,
)
from oddsbot.standin.polymarket._derive import number
from oddsbot.standin.polymarket._exchange import Exchange
from oddsbot.standin.polymarket.recording import token_id

D = Decimal
MARKET = RecordedMarket(
    market_id="0xaa",
    slug="up-or-down",
    question="Up or down?",
    start_ts=0,
    end_ts=900_000,
    outcome_up="Up",
    outcome_down="Down",
    payout_up=D(0),
    payout_down=D(1),
    category="crypto",
)
prices = st.integers(1, 999).map(lambda tick: D(tick) / 1000)
sizes = st.decimals(D("0.01"), 10**7, places=2)
ladders = st.dictionaries(prices, sizes, max_size=6)


def snapshot(ts, side, bids, asks) -> Snapshot:
    """Return a snapshot of two ladders, best level first."""
    return Snapshot(
        ts,
        "0xaa",
        side,
        tuple(sorted(bids.items(), reverse=True)),
        tuple(sorted(asks.items())),
    )


@st.composite
def groups(draw):
    """Draw a sequence of groups of one market: one side or both, a time each."""
    found = []
    for ts in range(draw(st.integers(1, 8))):
        sides = draw(st.sampled_from([("UP",), ("DOWN",), ("UP", "DOWN")]))
        books = [snapshot(ts, side, draw(ladders), draw(ladders)) for side in sides]
        found.append(Group(ts, "0xaa", tuple(books)))
    return found


class Client:
    """What somebody knows who started with a book and applied every change.

    Attributes:
        books: The bids and asks of each token, price to size.
        tops: The last top of book of each token, by any event.
    """

    def __init__(self) -> None:
        self.books = {}
        self.tops = {}

    def apply(self, text):
        """Apply one frame; return its events."""
        frame = parse_frame(text)
        assert frame.skipped == 0
        for event in frame.events:
            match event:
                case Book():
                    told = (
                        {level.price: level.size for level in event.bids},
                        {level.price: level.size for level in event.asks},
                    )
                    # A later one, after a new step, repeats what is known.
                    assert self.books.setdefault(event.asset_id, told) == told
                case PriceChange():
                    for entry in event.price_changes:
                        side = self.books[entry.asset_id][entry.side == "SELL"]
                        if entry.size == 0:
                            del side[entry.price]  # a removal of nothing is wrong
                        else:
                            assert side.get(entry.price) != entry.size
                            side[entry.price] = entry.size
            for quote in quotes(event):
                self.tops[quote.asset_id] = (quote.bid, quote.ask)
        return frame.events

    def top(self, token):
        """Return the top of the rebuilt book."""
        bids, asks = self.books[token]
        return max(bids, default=None), min(asks, default=None)


def replay(timeline, markets) -> None:
    """Play a timeline; after each group what a client knows is what was recorded."""
    exchange = Exchange(Recording(markets, tuple(timeline), 0, 0))
    client = Client()
    for item in timeline:
        for message in exchange.play(item):
            client.apply(message.text)
        if not isinstance(item, Group):
            continue
        for book in item.snapshots:
            token = token_id(book.market_id, book.side)
            assert client.books[token] == (dict(book.bids), dict(book.asks))
            assert client.tops[token] == client.top(token)


@pytest.mark.advanced
@given(timeline=groups())
def test_book_and_changes_rebuild_every_snapshot(timeline):
    """The first book with all changes after it is each later snapshot, exactly."""
    replay(timeline, {"0xaa": MARKET})


@pytest.mark.advanced
def test_book_and_changes_rebuild_the_sample(sampled):
    """The same over the recorded books that come with the bot."""
    replay(sampled.timeline, sampled.markets)


@pytest.mark.advanced
@given(timeline=groups())
def test_each_event_is_sent_for_a_reason(timeline):
    """One book a token, no empty change, a top only when it moved, times in order."""
    exchange = Exchange(Recording({"0xaa": MARKET}, tuple(timeline), 0, 0))
    client = Client()
    opened, stepped = set(), set()
    for group in timeline:
        before = dict(client.tops)
        for message in exchange.play(group):
            (event,) = client.apply(message.text)
            assert event.market == "0xaa"
            assert event.timestamp == (group.ts or None)
            match event:
                case NewMarket():
                    assert not opened
                    assert message.custom
                    assert message.tokens == frozenset()
                case TickSizeChange():
                    assert event.new_tick_size != event.old_tick_size
                    assert message.tokens == {event.asset_id}
                    stepped.add(event.asset_id)
                case Book():
                    assert event.asset_id not in opened - stepped
                    stepped.discard(event.asset_id)
                    assert message.tokens == {event.asset_id}
                    opened.add(event.asset_id)
                case PriceChange():
                    assert event.price_changes
                    assert message.tokens == set(MARKET.tokens)
                    assert not message.custom
                case BestBidAsk():
                    moved = (event.asset_id, client.tops[event.asset_id])
                    assert moved not in before.items()
                    assert message.custom


@pytest.mark.basic
def test_a_hash_is_of_the_book_after_the_change():
    """A change carries the hash that the whole book then has; other books, others."""
    first = snapshot(1, "UP", {D("0.4"): D(1)}, {})
    second = snapshot(2, "UP", {D("0.4"): D(2)}, {})
    timeline = (Group(1, "0xaa", (first,)), Group(2, "0xaa", (second,)))
    exchange = Exchange(Recording({"0xaa": MARKET}, timeline, 1, 2))

    _, opening = exchange.play(timeline[0])
    (change,) = exchange.play(timeline[1])
    (book,) = json.loads(exchange.dump(MARKET.tokens))

    (entry,) = json.loads(change.text)["price_changes"]
    assert entry["hash"] == book["hash"]
    assert json.loads(opening.text)["hash"] != book["hash"]
    assert len(book["hash"]) == 40


@pytest.mark.basic
def test_both_outcomes_share_a_frame():
    """A moment in which both books changed is one price_change with both."""
    books = [
        snapshot(ts, side, {D("0.4"): D(ts)}, {})
        for ts in (1, 2)
        for side in ("UP", "DOWN")
    ]
    timeline = (Group(1, "0xaa", tuple(books[:2])), Group(2, "0xaa", tuple(books[2:])))
    exchange = Exchange(Recording({"0xaa": MARKET}, timeline, 1, 2))
    exchange.play(timeline[0])

    (message,) = exchange.play(timeline[1])

    change = json.loads(message.text)
    assert [entry["asset_id"] for entry in change["price_changes"]] == list(
        MARKET.tokens
    )
    assert change["price_changes"][0] | {"hash": ""} == {
        "asset_id": MARKET.tokens[0],
        "price": "0.4",
        "size": "2",
        "side": "BUY",
        "hash": "",
        "best_bid": "0.4",
        "best_ask": "1",
    }


@pytest.mark.basic
@pytest.mark.parametrize(
    ("payouts", "winner"),
    [((D(1), D(0)), 0), ((D(0), D(1)), 1), ((D("0.5"), D("0.5")), None)],
)
def test_a_resolution_names_the_outcome_that_paid(payouts, winner):
    """The winner is who paid 1; a split names nobody."""
    up, down = payouts
    market = RecordedMarket(
        **{field: getattr(MARKET, field) for field in RecordedMarket.__struct_fields__}
        | {"payout_up": up, "payout_down": down}
    )
    exchange = Exchange(Recording({"0xaa": market}, (), 0, 0))

    (message,) = exchange.play(Resolution(900_000, "0xaa"))
    (event,) = parse_frame(message.text).events

    assert isinstance(event, MarketResolved)
    assert event.timestamp == 900_000
    assert event.winning_outcome == ("" if winner is None else market.outcomes[winner])
    assert event.winning_asset_id == ("" if winner is None else market.tokens[winner])
    assert message.tokens == set(market.tokens)


@pytest.mark.basic
@given(value=st.decimals(0, 10**12, allow_nan=False))
def test_numbers_are_written_plainly_and_exactly(value):
    """No exponent, no trailing zeros, and the same number when read again."""
    text = number(value)

    assert D(text) == value
    assert "E" not in text
    assert "." not in text or text[-1] not in "0."


@pytest.mark.basic
@pytest.mark.requirement("B10")
def test_a_finer_price_changes_the_step_and_a_book_follows():
    """The first price in thousandths is told as a new step, with the book behind it."""
    first = snapshot(1, "UP", {D("0.4"): D(1)}, {})
    second = snapshot(2, "UP", {D("0.401"): D(1)}, {})
    timeline = (Group(1, "0xaa", (first,)), Group(2, "0xaa", (second,)))
    exchange = Exchange(Recording({"0xaa": MARKET}, timeline, 1, 2))
    exchange.play(timeline[0])
    *_, step, book = (
        parse_frame(each.text).events[0] for each in exchange.play(timeline[1])
    )
    assert (step.old_tick_size, step.new_tick_size) == (D("0.01"), D("0.001"))
    assert (type(book), book.tick_size) == (Book, D("0.001"))
