"""`Replay` over HTTP, asked by `Gamma` and `Clob`."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from oddsbot.polymarket import (
    Clob,
    Gamma,
    NotFound,
    RequestRefused,
)
from oddsbot.standin.polymarket import Replay

from .conftest import DOWN, INF, UP


@pytest.mark.integration
async def test_gamma_tells_the_market_as_it_stands(small, session):
    """Prices are mids of the current books; after the end, payouts and a winner."""
    async with Replay(small, speed=INF, until=1_000_000) as replay:
        gamma = Gamma(session, replay.gamma_url)
        fresh = await gamma.market("up-or-down")
        replay.start()
        await replay.finished()
        live = await gamma.market("up-or-down")
        by_id = await gamma.market_by_id(live.id)
    async with Replay(small, speed=INF) as replay:
        replay.start()
        await replay.finished()
        settled = await Gamma(session, replay.gamma_url).market("up-or-down")

    assert fresh.outcome_prices == ()
    assert [token.token_id for token in fresh.tokens] == [UP, DOWN]
    assert live.outcome_prices == (Decimal("0.45"), Decimal("0.55"))
    assert (live.best_bid, live.best_ask) == (Decimal("0.4"), Decimal("0.5"))
    assert (live.closed, live.accepting_orders, live.resolved) == (False, True, False)
    assert by_id == live
    assert (settled.closed, settled.winner) == (True, "Up")
    assert settled.outcome_prices == (Decimal(1), Decimal(0))
    assert settled.closed_time == "1970-01-01 00:31:40+00"


@pytest.mark.integration
async def test_gamma_has_the_shapes_of_the_live_service(small, session):
    """Lists are JSON text inside strings, prices numbers, what is null is left out."""
    async with Replay(small, speed=INF, until=1_000_000) as replay:
        replay.start()
        await replay.finished()
        async with session.get(f"{replay.gamma_url}/markets/keyset") as response:
            market, other = (await response.json())["markets"]

    assert market["outcomes"] == '["Up","Down"]'
    assert json.loads(market["clobTokenIds"]) == [UP, DOWN]
    assert json.loads(market["outcomePrices"]) == ["0.45", "0.55"]
    assert market["bestBid"] == 0.4
    assert "volume" not in market
    assert "outcomePrices" not in other


@pytest.mark.integration
async def test_gamma_lists_pages_and_filters(small, session):
    """The keyset list pages with its cursor and filters by id and by state."""
    async with Replay(small, speed=INF) as replay:
        gamma = Gamma(session, replay.gamma_url)
        first = await gamma.markets(limit=1)
        last = await gamma.markets(limit=1, after_cursor=first.next_cursor)
        known = await gamma.markets_by_condition("0xbb", "0xff")
        none_closed = await gamma.markets(closed=True)
        replay.start()
        await replay.finished()
        all_closed = await gamma.markets(closed=True)
        unasked = await gamma.markets()
        found = await gamma.markets_by_condition("0xbb", "0xff")

    assert [market.slug for market in first.markets] == ["up-or-down"]
    assert [market.slug for market in last.markets] == ["other"]
    assert last.next_cursor is None
    assert list(known) == ["0xbb"]
    assert none_closed.markets == ()
    assert len(all_closed.markets) == 2
    assert unasked.markets == ()  # as Gamma does it
    assert list(found) == ["0xbb"]


@pytest.mark.integration
async def test_the_clob_answers_from_the_current_books(small, session):
    """Book, books, price and midpoint agree with the last snapshot."""
    async with Replay(small, speed=INF, until=1_060_000) as replay:
        replay.start()
        await replay.finished()
        clob = Clob(session, replay.clob_url)
        book = await clob.book(UP)
        books = await clob.books(DOWN, UP, "unknown")
        bid = await clob.price(UP, "BUY")
        ask = await clob.price(UP, "SELL")
        mid = await clob.midpoint(UP)

    assert (book.bid, book.ask) == (bid, ask) == (Decimal("0.45"), Decimal("0.5"))
    assert mid == Decimal("0.475")
    assert [level.price for level in book.bids] == [Decimal("0.4"), Decimal("0.45")]
    assert (book.min_order_size, book.last_trade_price) == (5, None)
    assert books.keys() == {DOWN, UP}
    assert books[UP] == book


@pytest.mark.integration
async def test_an_empty_side_has_no_price(small, session):
    """Nobody asking is None, not a price of 1."""
    async with Replay(small, speed=INF) as replay:
        replay.start()
        await replay.finished()
        clob = Clob(session, replay.clob_url)

        assert await clob.price(UP, "SELL") is None
        assert await clob.price(UP, "BUY") == Decimal("0.999")
        assert (await clob.book(UP)).tick_size == Decimal("0.001")


@pytest.mark.integration
async def test_the_history_is_what_was_played(small, session):
    """Points are the mids so far, one a step, oldest first, within the time asked."""
    async with Replay(small, speed=INF, until=1_180_000) as replay:
        replay.start()
        await replay.finished()
        clob = Clob(session, replay.clob_url)
        whole = await clob.prices_history(UP, interval="max")
        coarse = await clob.prices_history(UP, interval="max", fidelity=60)
        part = await clob.prices_history(UP, start=1_001, end=1_100)
        nothing = await clob.prices_history("unknown", interval="1h")

    assert [(point.t, point.p) for point in whole] == [
        (1_000, Decimal("0.45")),
        (1_060, Decimal("0.475")),
        (1_180, Decimal("0.9995")),
    ]
    assert [point.t for point in coarse] == [1_180]
    assert [point.t for point in part] == [1_060]
    assert nothing == ()


@pytest.mark.errors
async def test_errors_have_polymarkets_shapes(small, session):
    """Gamma says type and error, the CLOB error only, each with its status."""
    base = ("type", "error")
    async with Replay(small) as replay:
        wanted = [
            ("GET", "/markets/slug/none", 404, base),
            ("GET", "/markets/7", 404, base),
            ("GET", "/markets/keyset?offset=1", 422, base),
            ("GET", "/markets/keyset?limit=x", 422, base),
            ("GET", "/markets/keyset?after_cursor=%25", 422, base),
            ("GET", f"/book?token_id={UP}", 404, ("error",)),
            ("GET", "/book", 404, ("error",)),
            ("GET", "/midpoint?token_id=1", 404, ("error",)),
            ("GET", "/price?token_id=1&side=BUY", 404, ("error",)),
            ("GET", f"/price?token_id={UP}&side=HOLD", 400, ("error",)),
            ("GET", "/prices-history?market=1", 400, ("error",)),
            ("GET", "/prices-history?interval=1h", 400, ("error",)),
            ("GET", "/prices-history?market=1&interval=1y", 400, ("error",)),
            ("POST", "/books", 400, ("error",)),
        ]
        for method, path, status, keys in wanted:
            async with session.request(method, replay.gamma_url + path) as response:
                assert (path, response.status) == (path, status)
                assert tuple(await response.json()) == keys

        with pytest.raises(NotFound):
            await Gamma(session, replay.gamma_url).market("none")
        with pytest.raises(NotFound):
            await Clob(session, replay.clob_url).book(UP)
        with pytest.raises(RequestRefused):
            await Clob(session, replay.clob_url).prices_history(UP)
