"""`Markets` against the replay: what it answers, and how often it asks."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial

import pytest
from aiohttp import web

from oddsbot import limits
from oddsbot.markets import NAMESPACES, Ages, Markets
from oddsbot.polymarket import Clob, Gamma, Unreadable, UpstreamUnavailable
from oddsbot.standin.polymarket import Replay
from oddswire import Client, EmbeddedServer
from oddswire.cache import Cache
from oddswire.errors import OddswireError
from oddswire.ratelimit import RateLimiter
from support import eventually

INF = float("inf")


@pytest.fixture
def recording(sampled):
    """The recording that comes with the bot."""
    return sampled


def watching(watched, gamma):
    """Watch a Gamma, and keep what does."""
    watched.append(Watched(gamma))
    return watched[-1]


class Watched:
    """A Gamma whose answers about markets are held back, or fail.

    Attributes:
        answered: It has answered.
        go: The answer may be returned.
        failing: A request with this id fails.
        held: Answers that are held back.
    """

    def __init__(self, gamma):
        self.gamma = gamma
        self.answered = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.failing = None
        self.held = 0

    async def markets_by_condition(self, *ids):
        """Answer as Gamma."""
        if self.failing in ids:
            raise UpstreamUnavailable("by the test")
        found = await self.gamma.markets_by_condition(*ids)
        self.answered.set()
        self.held += 1
        await self.go.wait()
        self.held -= 1
        return found


@asynccontextmanager
async def apart(server, session, url="http://127.0.0.1:9"):
    """`Markets` with a cache on a server of their own."""
    async with (
        Client.from_url(server.url) as client,
        Cache(client, NAMESPACES, timeout=0.2) as cache,
        RateLimiter(client, limits.POLYMARKET, deadline=0.2) as limiter,
    ):
        upstream = limits.Upstream(limiter)
        yield Markets(cache, Gamma(session, url), Clob(session, url), upstream)


@pytest.fixture
async def second(server, prefix):
    """The cache of another process."""
    async with (
        Client.from_url(server.url) as client,
        Cache(client, NAMESPACES, prefix=prefix, timeout=2.0) as cache,
    ):
        yield cache


@pytest.fixture
async def replay(recording):
    """The recording, played to a moment at which both markets trade."""
    until = next(iter(recording.markets.values())).start_ts + 600_000
    async with Replay(recording, speed=INF, until=until) as replay:
        replay.start()
        await replay.finished()
        yield replay


@pytest.mark.requirement("K9")
@pytest.mark.integration
async def test_each_question_is_asked_once_and_answered_many_times(
    replay, recording, known, asked
):
    """Each kind of question costs its requests once, then none."""
    markets, _ = known(replay.gamma_url)
    market = next(iter(recording.markets.values()))
    token, other = market.tokens

    async def everything():
        return (
            await markets.market(market.market_id),
            await markets.by_slug(market.slug),
            await markets.busiest(),
            await markets.price(token),
            await markets.prices([token, other]),
            await markets.volume(market.market_id),
            await markets.liquidity(market.market_id),
            await markets.book(token),
            await markets.history(token),
        )

    first = await everything()
    after_one = dict(asked)
    again = [await everything() for _ in range(3)]

    one, by_slug, busiest, price, prices, volume, liquidity, book, history = first
    assert one == by_slug
    assert one in busiest
    assert (price.bid, price.ask) == (book.bid, book.ask)
    assert price.middle == (price.bid + price.ask) / 2
    assert set(prices) == {token, other}
    assert prices[token].bid + prices[other].ask == Decimal(1)
    assert (volume.total, liquidity.resting) == (None, None)  # no recording has them
    assert len(history) > 1
    assert all(each == first for each in again)
    # The market with its volume and liquidity is one request, the list another.
    assert after_one == {
        "/markets/keyset": 2,
        f"/markets/slug/{market.slug}": 1,
        "/books": 2,
        "/prices-history": 1,
    }
    assert dict(asked) == after_one


@pytest.mark.requirement("K9", "K3")
@pytest.mark.integration
async def test_a_crowd_becomes_one_request(replay, recording, known, asked):
    """200 people ask for both markets and all four prices at once: two requests."""
    markets, _ = known(replay.gamma_url)
    tokens = [token for each in recording.markets.values() for token in each.tokens]
    ids = list(recording.markets)

    found = await asyncio.gather(
        *(markets.market(ids[n % 2]) for n in range(100)),
        *(markets.price(tokens[n % 4]) for n in range(100)),
    )

    assert [each.condition_id for each in found[:2]] == ids
    assert all(found[:100])
    assert all(found[n] for n in range(100, 200) if n % 4 < 2)  # the other is later
    assert dict(asked) == {"/markets/keyset": 1, "/books": 1}


@pytest.mark.requirement("K9")
@pytest.mark.integration
async def test_what_is_not_there_is_remembered_too(replay, known, asked):
    """An unknown market, slug and token are None, and asked for once."""
    markets, _ = known(replay.gamma_url)
    for _ in range(3):
        assert await markets.market("0x" + "9" * 64) is None
        assert await markets.by_slug("no-such-market") is None
        assert await markets.price("77") is None
        assert await markets.prices(["77"]) == {}

    assert asked["/markets/keyset"] == 2  # among the open ones, and the closed ones
    assert asked["/markets/slug/no-such-market"] == 1
    assert asked["/books"] == 1


@pytest.mark.requirement("K9", "K1")
@pytest.mark.integration
async def test_a_part_that_ages_sooner_is_asked_for_again(
    replay, recording, known, asked, cache
):
    """Liquidity past its age is refreshed behind the caller; the old one serves."""
    market_id = next(iter(recording.markets))
    markets, _ = known(replay.gamma_url, ages=Ages(liquidity=0.01))
    await markets.market(market_id)

    async with asyncio.timeout(10):
        while asked["/markets/keyset"] < 2:
            assert await markets.liquidity(market_id) is not None

    assert await markets.volume(market_id) is not None


@pytest.mark.requirement("K9", "K3")
@pytest.mark.integration
async def test_parts_that_age_together_are_asked_for_once(
    replay, recording, known, asked, cache, client
):
    """Volume and liquidity, both too old, cost one request and void no load."""
    market_id = next(iter(recording.markets))
    markets, _ = known(replay.gamma_url, ages=Ages(volume=0.01, liquidity=0.01))
    await markets.market(market_id)
    key = f"market:{market_id}"
    async with asyncio.timeout(10):
        while (await cache.get_entry(key)).age <= 0.01:
            await client.ping()
        await asyncio.gather(markets.volume(market_id), markets.liquidity(market_id))
        while sum(cache.stats().load_time.counts) < 2:  # until the refresh is done
            await client.ping()

    assert asked["/markets/keyset"] == 2
    assert (cache.stats().loads, cache.stats().fenced) == (2, 0)


@pytest.mark.requirement("K9", "K5")
@pytest.mark.integration
async def test_the_busiest_are_there_before_somebody_asks(
    replay, recording, known, asked, second
):
    """Two requests warm them all, once for all processes; a look costs none then."""
    markets, _ = known(replay.gamma_url)
    other, _ = known(replay.gamma_url, cache=second)
    await asyncio.gather(markets.warm(), other.warm())
    assert dict(asked) == {"/markets/keyset": 2}

    for market_id, market in recording.markets.items():
        for each in (markets, other):
            assert (await each.market(market_id)).slug == market.slug
            await each.liquidity(market_id)
    await other.warm()

    assert dict(asked) == {"/markets/keyset": 2}


@pytest.mark.requirement("K9", "K4")
@pytest.mark.integration
async def test_warming_brings_back_nothing_that_was_decided(recording, known, cache):
    """A market that resolves while it is warmed is not kept as it was before."""
    market = next(iter(recording.markets.values()))
    async with Replay(recording, speed=INF) as replay:
        watched = []
        markets, _ = known(replay.gamma_url, watch=partial(watching, watched))
        (gamma,) = watched
        gamma.go.clear()
        await cache.set("busiest:500", (market.market_id,))
        warming = asyncio.get_running_loop().create_task(markets.warm())
        await gamma.answered.wait()
        replay.start()
        await replay.finished()
        await markets.resolved(market.market_id)
        gamma.go.set()
        await warming
        assert await cache.get(f"market:{market.market_id}") is None
        assert (await markets.market(market.market_id)).resolved


@pytest.mark.requirement("K9", "K5")
@pytest.mark.errors
async def test_a_request_that_fails_keeps_no_other_from_being_warmed(
    replay, recording, known, cache
):
    """Its error is raised at the end, and what the other requests brought is kept."""
    watched = []
    markets, _ = known(replay.gamma_url, watch=partial(watching, watched))
    (gamma,) = watched
    absent = tuple(f"0x{number:064x}" for number in range(100))
    gamma.failing = absent[0]
    real = tuple(recording.markets)
    await cache.set("busiest:500", absent + real)
    with pytest.raises(UpstreamUnavailable, match="by the test"):
        await markets.warm()
    found = await cache.get_many(f"market:{each}" for each in real)
    assert len(found) == len(real)


@pytest.mark.requirement("K9", "K8")
@pytest.mark.advanced
async def test_the_requests_of_warming_overlap(replay, known, cache):
    """Three pages take one answer's time: none waits for the answer before it."""
    watched = []
    markets, _ = known(replay.gamma_url, watch=partial(watching, watched))
    (gamma,) = watched
    gamma.go.clear()
    ids = tuple(f"0x{number:064x}" for number in range(300))
    await cache.set("busiest:500", ids)
    warming = asyncio.get_running_loop().create_task(markets.warm())
    await eventually(lambda: gamma.held == 3)
    gamma.go.set()
    await warming
    assert len(await cache.get_many(f"market:{each}" for each in ids)) == 300


@pytest.mark.requirement("K9", "K3")
@pytest.mark.errors
async def test_without_redis_nothing_is_warmed(session, asked):
    """What is asked for could not be kept, so Polymarket is not asked."""
    async with EmbeddedServer() as server, apart(server, session) as markets:
        server.kill()
        await server.wait_exit()
        for _ in range(2):
            with pytest.raises(OddswireError):
                await markets.warm()
    assert not asked


@pytest.mark.requirement("B1", "K9")
@pytest.mark.integration
async def test_a_resolution_that_the_stream_missed_is_found(recording, known):
    """Once decided a market is no longer in Gamma's list, and is found all the same."""
    async with Replay(recording, speed=INF) as replay:
        markets, _ = known(replay.gamma_url)
        replay.start()
        await replay.finished()
        first, second = recording.markets
        found = await asyncio.gather(markets.market(first), markets.market(second))

    assert [(each.resolved, each.winner) for each in found] == [
        (True, market.outcomes[market.winner]) for market in recording.markets.values()
    ]


class Odd:
    """A Polymarket one of whose markets, and one of whose books, cannot be read.

    Attributes:
        mended: Everything can be read.
    """

    def __init__(self) -> None:
        self.mended = False

    async def serve(self, request):
        """Answer one request."""
        odd = None if self.mended else "?"
        if request.path == "/books":
            tokens = [each["token_id"] for each in await request.json()]
            book = {"market": "0x1", "timestamp": 1_770_921_570_954, "asks": []}
            return web.json_response(
                [
                    book
                    | {"asset_id": each, "bids": [{"price": "0.4", "size": "1"}]}
                    | ({"tick_size": odd} if each == "2" else {})
                    for each in tokens
                    if each != "3"
                ]
            )
        ids = request.query.getall("condition_ids")
        closed = request.query.get("closed") == "true"
        return web.json_response(
            {
                "markets": [
                    {"id": each, "conditionId": each}
                    | ({"volume": odd} if each == "2" else {})
                    for each in ids
                    if each != "3" and not closed
                ]
            }
        )


@pytest.fixture
async def odd():
    """A local Polymarket with things that cannot be read; `.url` is its address."""
    odd = Odd()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", odd.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    odd.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield odd
    await runner.cleanup()


@pytest.mark.requirement("B1", "K3")
@pytest.mark.errors
@pytest.mark.parametrize("what", ["market", "book"])
async def test_what_cannot_be_read_is_not_remembered_as_absent(odd, known, what):
    """Of three asked for at once: one is there, one is not, one nobody can read."""
    markets, _ = known(odd.url)
    ask = getattr(markets, what)
    there, unreadable, absent = await asyncio.gather(
        ask("1"), ask("2"), ask("3"), return_exceptions=True
    )

    assert there is not None
    assert isinstance(unreadable, Unreadable)
    assert absent is None
    odd.mended = True
    assert await ask("2") is not None
    assert await ask("3") is None


@pytest.mark.requirement("K5")
@pytest.mark.errors
async def test_one_unreadable_market_keeps_no_other_from_being_warmed(
    odd, known, cache
):
    """The busiest are warmed although one of them cannot be read, and once."""
    markets, _ = known(odd.url)
    await cache.set("busiest:500", ("1", "2", "4"))
    await markets.warm()

    assert set(await cache.get_many(["market:1", "market:2", "market:4"])) == {
        "market:1",
        "market:4",
    }
    assert await cache.get("warm:500") is not None


@pytest.mark.requirement("K9", "K1")
@pytest.mark.integration
async def test_a_resolution_makes_the_market_go(recording, known):
    """Once it is said that a market was decided, the next look shows the winner."""
    market = next(iter(recording.markets.values()))
    async with Replay(recording, speed=INF) as replay:
        markets, _ = known(replay.gamma_url)
        before = await markets.market(market.market_id)
        replay.start()
        await replay.finished()
        kept = await markets.market(market.market_id)
        await markets.resolved(market.market_id)
        after = await markets.market(market.market_id)

    assert (before.resolved, kept.resolved) == (False, False)
    assert (after.resolved, after.winner) == (True, "Up")


@pytest.mark.requirement("K3")
@pytest.mark.errors
async def test_polymarket_away_what_is_known_is_served(replay, recording, known, cache):
    """With no answer from Polymarket a stale market serves; an unknown one raises."""
    market = next(iter(recording.markets.values()))
    markets, _ = known(replay.gamma_url)
    before = await markets.market(market.market_id)
    await cache.expire(f"market:{market.market_id}")
    away, _ = known("http://127.0.0.1:9")

    assert await away.market(market.market_id) == before
    with pytest.raises(UpstreamUnavailable):
        await away.market("0x" + "8" * 64)


@pytest.mark.requirement("K3")
@pytest.mark.errors
async def test_redis_away_every_part_of_a_market_is_loaded(replay, recording, session):
    """With no answer from Redis each question goes to Polymarket, and is answered."""
    market = next(iter(recording.markets.values()))
    async with (
        EmbeddedServer() as server,
        apart(server, session, replay.gamma_url) as markets,
    ):
        server.kill()
        await server.wait_exit()
        assert await markets.volume(market.market_id) is not None
        assert await markets.liquidity(market.market_id) is not None
        assert await markets.book(market.tokens[0]) is not None
