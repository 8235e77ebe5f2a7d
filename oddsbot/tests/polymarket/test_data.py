"""The Data API's rows, and `Data` against a local server. All rows are generated."""

from __future__ import annotations

from decimal import Decimal

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.polymarket import BadAnswer, Clob, Data, Gamma, NotFound
from oddsbot.polymarket.data import Activity, reading_page
from oddsbot.polymarket.slices import at_once

D = Decimal
WALLET = "0x56687bf447db6ffa42ffe2204a05edaa20f55839"
TRADE = {
    "proxy_wallet": WALLET,
    "timestamp": 1_790_597_521,
    "type": "TRADE",
    "condition_id": "0x1f",
    "token_id": "7",
    "side": "BUY",
    "size": 20.5,
    "usdc_size": 10.455,
    "price": 0.51,
    "outcome": "Up",
    "outcome_index": 0,
    "title": "Up or down?",
    "transaction_hash": "0xab",
}
REDEEM = {
    "proxy_wallet": WALLET,
    "timestamp": 1_790_597_530,
    "type": "REDEEM",
    "condition_id": "",
    "side": "",
    "size": "3",
    "price": None,
    "outcome_index": 999,
}
POSITION = {
    "condition_id": "0x1f",
    "token_id": "7",
    "current_size": "12.25",
    "avg_price": "0.4",
    "current_value": 6.1,
    "unrealized_pnl": "-1.5",
    "status": "OPEN",
    "outcome_index": 1,
    "end_date": "",
}


def answering(body, asked=None):
    """Return a handler that gives this JSON and notes what was asked."""

    async def answer(request):
        if asked is not None:
            asked.append((request.path, dict(request.query)))
        return web.json_response(body)

    return answer


@pytest.mark.basic
@pytest.mark.requirement("G6")
async def test_activity_is_read_with_the_words_for_nothing_taken_away(serve, session):
    """Numbers keep their digits; "", null and outcome 999 are absent, not values."""
    port = await serve(answering({"data": [TRADE, REDEEM], "pagination": {}}))
    page = await Data(session, f"http://127.0.0.1:{port}").activity(WALLET)

    trade, redeem = page.rows
    assert (trade.size, trade.usdc_size, trade.price) == (
        D("20.5"),
        D("10.455"),
        D("0.51"),
    )
    assert (trade.outcome_index, trade.side) == (0, "BUY")
    assert (redeem.outcome_index, redeem.price, redeem.side) == (None, None, "")
    assert (page.next_cursor, page.skipped) == (None, 0)


@pytest.mark.basic
async def test_a_page_names_the_next_and_filters_are_sent(serve, session):
    """The cursor of a page asks for the next one, with the same filters."""
    asked = []
    body = {"data": [POSITION], "pagination": {"next_cursor": "c2", "has_more": True}}
    port = await serve(answering(body, asked))
    data = Data(session, f"http://127.0.0.1:{port}")
    page = await data.positions(WALLET, limit=5_000)
    await data.activity(
        WALLET, start=5, types=("TRADE", "REDEEM"), oldest_first=True, cursor="c2"
    )

    assert page.next_cursor == "c2"
    assert page.rows[0].unrealized_pnl == D("-1.5")
    assert asked == [
        ("/v2/positions", {"user": WALLET, "limit": "1000", "status": "OPEN"}),
        (
            "/v2/activity",
            {"user": WALLET, "limit": "100", "start": "5", "type": "TRADE,REDEEM",
             "sort_direction": "ASC", "cursor": "c2"},
        ),
    ]  # fmt: skip


@pytest.mark.errors
@pytest.mark.parametrize("body", [[], {}, {"data": 3}, {"data": {}}, "no"])
async def test_an_answer_of_another_shape_is_an_error(serve, session, body):
    """What is no list of rows is never taken for an empty one."""
    port = await serve(answering(body))
    data = Data(session, f"http://127.0.0.1:{port}")
    with pytest.raises(BadAnswer, match="GET /v2/activity"):
        await data.activity(WALLET)


@pytest.mark.errors
async def test_a_row_that_cannot_be_read_costs_no_other(serve, session):
    """A price above 1, a missing wallet, a number for a row: skipped and counted."""
    bad = [TRADE | {"price": 1.5}, {"type": "TRADE"}, 7, TRADE | {"size": "-1"}]
    port = await serve(answering({"data": [*bad, TRADE], "pagination": None}))
    page = await Data(session, f"http://127.0.0.1:{port}").activity(WALLET)

    assert len(page.rows) == 1
    assert page.skipped == 4


@pytest.mark.basic
async def test_a_profile_may_be_all_but_empty(serve, session):
    """A wallet with no name is a profile; one nobody knows is `NotFound`."""

    async def answer(request):
        if request.query["address"] != WALLET:
            return web.json_response({"error": "profile not found"}, status=404)
        return web.json_response({"proxyWallet": WALLET, "name": None, "bio": ""})

    gamma = Gamma(session, f"http://127.0.0.1:{await serve(answer)}")
    profile = await gamma.profile(WALLET)

    assert (profile.proxy_wallet, profile.name) == (WALLET, "")
    with pytest.raises(NotFound):
        await gamma.profile("0x0")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(sorted(TRADE)) | st.text(max_size=3), inner, max_size=6
        )
    ),
    max_leaves=12,
)


@pytest.mark.errors
@given(rows=st.lists(_JSON, max_size=5))
def test_hostile_rows_are_read_or_counted_and_never_raise(rows):
    """Whatever JSON stands in the list, each row is a model or a skip."""
    left_out = []
    page = at_once(reading_page("GET /v2/activity", {"data": rows}, Activity, left_out))

    assert len(page.rows) + page.skipped == len(rows)
    assert page.skipped == len(left_out)


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_of_two_rows_of_a_market_the_newer_one_counts(serve, session):
    """An older state behind a newer one, and a foreign one, change nothing."""
    row = {"condition_id": "0x1f", "status": "resolved", "last_update_timestamp": 20}
    older = row | {"status": "proposed", "last_update_timestamp": 10}
    foreign = row | {"condition_id": "0x2f"}
    port = await serve(answering({"data": [older, row, older, foreign]}))
    found = await Data(session, f"http://127.0.0.1:{port}").resolutions("0x1f")
    assert {key: each.status for key, each in found.items()} == {"0x1f": "resolved"}


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_a_page_that_comes_again_and_again_ends(serve, session):
    """The same cursor for ever, with markets nobody asked for: a few requests."""
    asked = []
    body = {
        "markets": [{"id": "9", "conditionId": "0x9f", "slug": "s", "question": "?"}],
        "next_cursor": "again",
    }
    port = await serve(answering(body, asked))
    gamma = Gamma(session, f"http://127.0.0.1:{port}")
    assert await gamma.markets_by_condition("0x1f", "0x2f") == {}
    assert 2 <= len(asked) <= 4
    body["markets"] *= 1_000
    assert await gamma.markets_by_condition("0x9f", "0x1f")


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_a_list_that_is_null_is_empty(serve, session):
    """Also that of `/books`, which is the whole answer."""
    port = await serve(answering(None))
    assert await Clob(session, f"http://127.0.0.1:{port}").books("1") == {}
