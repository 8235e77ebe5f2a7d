"""`Gamma` and `Clob` against a server that answers wrong, slowly or not at all."""

from __future__ import annotations

import asyncio
import json
import pickle
from decimal import Decimal

import pytest
from aiohttp import web

from oddsbot.polymarket import (
    BadAnswer,
    Clob,
    Gamma,
    NotFound,
    PolymarketError,
    RateLimitedUpstream,
    RequestRefused,
    UpstreamUnavailable,
)

MARKET = {"id": "1", "conditionId": "0x1", "slug": "a"}


@pytest.mark.errors
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (400, RequestRefused),
        (422, RequestRefused),
        (425, UpstreamUnavailable),
        (429, RateLimitedUpstream),
        (500, UpstreamUnavailable),
        (503, UpstreamUnavailable),
    ],
)
async def test_each_status_has_its_error(serve, session, status, kind):
    """What the status means is the type of the error, with the endpoint in one line."""

    async def answer(_request):
        return web.json_response({"error": "secret body"}, status=status)

    port = await serve(answer)
    with pytest.raises(kind, match="GET /markets/slug/a") as caught:
        await Gamma(session, f"http://127.0.0.1:{port}").market("a")

    assert isinstance(caught.value, PolymarketError)
    assert "secret body" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.errors
@pytest.mark.parametrize(
    ("header", "seconds"),
    [({"Retry-After": "7"}, 7.0), ({}, None), ({"Retry-After": "Mon, 1"}, None)],
)
async def test_a_429_says_how_long_to_wait(serve, session, header, seconds):
    """The answer's own waiting time is kept, and none is made up."""

    async def answer(_request):
        return web.Response(status=429, headers=header)

    port = await serve(answer)
    with pytest.raises(RateLimitedUpstream) as caught:
        await Clob(session, f"http://127.0.0.1:{port}").book("1")

    assert caught.value.retry_after == seconds


@pytest.mark.errors
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"7", b'{"id": 7}', b"[" * 100_000, b"\xff"]
)
async def test_an_answer_of_another_shape_is_bad(serve, session, body):
    """HTML, another type, half a market: one typed error, never the body."""

    async def answer(_request):
        return web.Response(body=body)

    port = await serve(answer)
    base = f"http://127.0.0.1:{port}/"
    for call in (
        Gamma(session, base).market("a"),
        Gamma(session, base).markets(),
        Clob(session, base).midpoint("1"),
        Clob(session, base).prices_history("1", interval="1h"),
    ):
        with pytest.raises(BadAnswer, match=r"^GET /"):
            await call


@pytest.mark.errors
async def test_a_server_that_never_answers_costs_one_timeout(serve, session):
    """The timeout is of the whole call."""
    release = asyncio.Event()

    async def answer(_request):
        await release.wait()
        return web.json_response(MARKET)

    port = await serve(answer)
    gamma = Gamma(session, f"http://127.0.0.1:{port}", timeout=0.05)
    with pytest.raises(UpstreamUnavailable, match=r"no answer in 0\.05 s"):
        await gamma.market("a")
    release.set()


@pytest.mark.errors
async def test_no_server_is_unavailable(session):
    """A refused connection is the same kind of error as a server that is down."""
    with pytest.raises(UpstreamUnavailable, match="GET /book: "):
        await Clob(session, "http://127.0.0.1:1").book("1")


@pytest.mark.errors
@pytest.mark.parametrize("slug", ["", ".", ".."])
async def test_what_cannot_be_a_slug_is_not_asked_for(session, slug):
    """A name that would change the path is not found, without a call."""
    with pytest.raises(NotFound):
        await Gamma(session, "http://127.0.0.1:1").market(slug)


@pytest.mark.basic
@pytest.mark.parametrize("slug", ["a/b", "a?b=c#d", "ü %2F", "a b"])
async def test_a_slug_stays_one_segment(serve, session, slug):
    """Whatever a user pastes arrives as the slug, and nothing else is asked."""
    seen = []

    async def answer(request):
        seen.append(request.path)
        return web.json_response(MARKET)

    port = await serve(answer)
    await Gamma(session, f"http://127.0.0.1:{port}").market(slug)

    assert seen == [f"/markets/slug/{slug}"]


@pytest.mark.basic
async def test_paging_sends_the_cursor_under_the_name_that_works(serve, session):
    """The next page is asked for with `after_cursor`, and flags in lower case."""
    queries = []

    async def answer(request):
        queries.append(dict(request.query))
        more = "after_cursor" not in request.query
        return web.json_response(
            {"markets": [MARKET]} | ({"next_cursor": "abc=="} if more else {})
        )

    port = await serve(answer)
    gamma = Gamma(session, f"http://127.0.0.1:{port}")
    first = await gamma.markets(closed=False, order="volumeNum", limit=1)
    last = await gamma.markets(after_cursor=first.next_cursor, limit=1)

    assert (first.next_cursor, last.next_cursor) == ("abc==", None)
    assert queries == [
        {"limit": "1", "closed": "false", "order": "volumeNum"},
        {"limit": "1", "after_cursor": "abc=="},
    ]


@pytest.mark.errors
async def test_a_bad_market_costs_no_other_of_its_page(serve, session):
    """A page with one unreadable market gives the rest and counts it."""

    async def answer(_request):
        bad = MARKET | {"outcomes": "[broken"}
        return web.json_response({"markets": [MARKET, bad, 7, MARKET]})

    port = await serve(answer)
    page = await Gamma(session, f"http://127.0.0.1:{port}").markets()

    assert [market.id for market in page.markets] == ["1", "1"]
    assert page.skipped == 2


@pytest.mark.basic
async def test_many_conditions_make_calls_of_a_hundred(serve, session):
    """Polymarket takes at most 100 condition ids a call; more are split."""
    calls = []

    async def answer(request):
        asked = request.query.getall("condition_ids")
        calls.append(len(asked))
        return web.json_response(
            {"markets": [MARKET | {"conditionId": each} for each in asked]}
        )

    port = await serve(answer)
    wanted = [f"0x{number}" for number in range(250)]
    gamma = Gamma(session, f"http://127.0.0.1:{port}")
    found = await gamma.markets_by_condition(*wanted)

    assert calls == [100, 100, 50]
    assert list(found) == wanted


@pytest.mark.basic
@pytest.mark.parametrize(
    ("side", "body", "price"),
    [
        ("BUY", '{"price": "0.45"}', "0.45"),
        ("BUY", '{"price": 0.45}', "0.45"),
        ("BUY", '{"price": "0"}', None),
        ("SELL", '{"price": "1"}', None),
    ],
)
async def test_a_price_is_exact_and_an_empty_side_none(
    serve, session, side, body, price
):
    """A price comes as text or number; 0 and 1 are what the CLOB writes for none."""

    async def answer(_request):
        return web.Response(body=body)

    port = await serve(answer)
    found = await Clob(session, f"http://127.0.0.1:{port}").price("1", side)

    assert found == (None if price is None else Decimal(price))


@pytest.mark.basic
async def test_books_are_asked_for_in_one_call(serve, session):
    """Many books cost one POST with all token ids."""
    bodies = []

    async def answer(request):
        bodies.append(json.loads(await request.read()))
        return web.json_response([{"market": "0x1", "asset_id": "2", "timestamp": "1"}])

    port = await serve(answer)
    books = await Clob(session, f"http://127.0.0.1:{port}").books("1", "2")

    assert bodies == [[{"token_id": "1"}, {"token_id": "2"}]]
    assert list(books) == ["2"]


@pytest.mark.basic
async def test_a_clob_market_is_asked_for_by_condition(serve, session):
    """The answer's short keys become names, and numbers stay exact."""

    async def answer(request):
        assert request.path == "/clob-markets/0x1"
        return web.Response(
            body=b'{"c":"0x1","t":[{"t":"7","o":"Yes"}],"mts":0.001,"nr":true,"z":1}'
        )

    port = await serve(answer)
    market = await Clob(session, f"http://127.0.0.1:{port}").market("0x1")

    assert market.condition_id == "0x1"
    assert [(token.token_id, token.outcome) for token in market.tokens] == [
        ("7", "Yes")
    ]
    assert (market.tick_size, market.neg_risk) == (Decimal("0.001"), True)


@pytest.mark.errors
@pytest.mark.parametrize(
    "error",
    [
        RequestRefused("no", status=422),
        RateLimitedUpstream("slower", retry_after=2.0),
        NotFound("gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickle(error):
    """What a process of a pool raises arrives with its attributes."""
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is type(error)
    assert (str(there), vars(there)) == (str(error), vars(error))


@pytest.mark.basic
@pytest.mark.requirement("G6")
async def test_a_list_that_is_null_is_empty(serve, session):
    """No markets, no points: some answers write null for an empty list."""

    async def answer(_request):
        return web.json_response({"markets": None, "history": None})

    base = f"http://127.0.0.1:{await serve(answer)}"
    page = await Gamma(session, base).markets()

    assert (page.markets, page.skipped) == ((), 0)
    assert await Clob(session, base).prices_history("1", interval="1h") == ()


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_no_order_of_points_or_books_is_relied_on(serve, session):
    """A history is sorted; of two books the newer counts, of another token none."""

    async def answer(request):
        if request.path == "/prices-history":
            points = [{"t": 3, "p": 0.3}, {"t": 1, "p": 0.1}, {"t": 2, "p": 0.2}]
            return web.json_response({"history": points})
        book = {"market": "m", "asset_id": "1", "timestamp": "1770921570954"}
        older = book | {"timestamp": "1770921570000", "hash": "older"}
        return web.json_response([book, older, book | {"asset_id": "77"}])

    clob = Clob(session, f"http://127.0.0.1:{await serve(answer)}")
    history = await clob.prices_history("1", interval="1h")
    books = await clob.books("1", "2")

    assert [point.t for point in history] == [1, 2, 3]
    assert {key: book.hash for key, book in books.items()} == {"1": ""}


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_a_point_that_cannot_be_read_costs_itself(serve, session, caplog):
    """A history without its odd points; named once, counted each time."""
    points = [{"t": 1, "p": 0.5}, {"t": 2, "p": 1.01}, {"t": "x", "p": 0.5}, None]

    async def answer(_request):
        return web.json_response({"history": points})

    clob = Clob(session, f"http://127.0.0.1:{await serve(answer)}")
    for _ in range(3):
        history = await clob.prices_history("1", interval="1h")

    assert [point.t for point in history] == [1]
    assert clob.left_out.counts == {"GET /prices-history": 9}
    assert len(caplog.records) == 1
    points[:] = points[1:]
    with pytest.raises(BadAnswer, match="GET /prices-history"):
        await clob.prices_history("1", interval="1h")


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_a_market_of_an_event_is_counted_and_named_once(serve, session, caplog):
    """An event says how many of its markets are missing; a log line says which."""

    async def answer(_request):
        odd = MARKET | {"conditionId": "0x2", "outcomes": '["A"', "slug": "b"}
        return web.json_response({"id": "9", "markets": [MARKET, odd, None]})

    gamma = Gamma(session, f"http://127.0.0.1:{await serve(answer)}")
    for _ in range(3):
        event = await gamma.event("e")

    assert ([market.id for market in event.markets], event.skipped) == (["1"], 2)
    assert gamma.left_out.counts == {"GET /events/slug/e": 6}
    (line,) = [record.message for record in caplog.records]
    assert "conditionId '0x2': `outcomes`" in line
