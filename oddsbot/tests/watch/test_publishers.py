"""Everything that the bot publishes, from where it comes to a subscriber."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from contextlib import asynccontextmanager
from decimal import Decimal

import aiohttp
import pytest
from aiohttp import web

from oddsbot import limits
from oddsbot.markets import Liquidity, Volume
from oddsbot.polymarket import Clob, Gamma, NewMarket, StreamPool
from oddsbot.standin.polymarket import Recording, Replay, sample
from oddsbot.store import SqlRules
from oddsbot.watch import (
    ERRORS,
    HEALTH,
    LIQUIDITY,
    METRICS,
    NEW_MARKETS,
    PRICES,
    RESOLUTIONS,
    TOPICS,
    VOLUMES,
    ErrorHandler,
    MarketPolls,
    NewMarkets,
    Prices,
    Resolutions,
    Rounds,
    Shard,
    ShardHooks,
    SystemReports,
)
from oddswire import Client, EmbeddedServer
from oddswire.clock import ManualClock, SystemClock
from oddswire.errors import OddswireError
from oddswire.health import Health
from oddswire.locks import Locks
from oddswire.pubsub import PubSub
from oddswire.ratelimit import RateLimiter
from support import eventually
from support.shards import Outgoing

SECONDS = 20.0


@pytest.fixture(scope="module")
def recording():
    """The recording that comes with the bot."""
    return Recording.load(sample())


@pytest.fixture
async def client(server):
    """A client of the server that the tests share."""
    async with Client.from_url(server.url) as client:
        yield client


@pytest.fixture
async def pubsub(client, prefix):
    """The topics of this test."""
    async with PubSub(client, prefix=prefix) as pubsub:
        yield pubsub


@asynccontextmanager
async def running(*works):
    """Run each in a task for the length of a block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        yield
        for task in tasks:
            task.cancel()


class FakeGamma:
    """A Gamma with markets that a test changes; answers as the real one does."""

    def __init__(self) -> None:
        self.markets = {}
        self.status = 200
        self.asked = 0

    def put(self, condition_id, **fields):
        """Have a market, or change it."""
        self.markets[condition_id] = {
            "id": condition_id,
            "conditionId": condition_id,
            "outcomes": '["Yes", "No"]',
            "clobTokenIds": f'["{condition_id}1", "{condition_id}2"]',
            "outcomePrices": '["0.5", "0.5"]',
            "closed": False,
        } | fields

    async def serve(self, request):
        """Answer one request of the list."""
        self.asked += 1
        if self.status != 200:
            return web.Response(status=self.status)
        closed = request.query.get("closed") == "true"
        wanted = request.query.getall("condition_ids")
        found = [self.markets[each] for each in wanted if each in self.markets]
        return web.json_response(
            {"markets": [each for each in found if each["closed"] == closed]}
        )


@pytest.fixture
async def gamma():
    """A local Gamma; `.url` is its address."""
    gamma = FakeGamma()
    app = web.Application()
    app.router.add_get("/markets/keyset", gamma.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gamma.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield gamma
    await runner.cleanup()


@pytest.fixture
async def polls(gamma, client, pubsub, prefix):
    """Make polls of some markets; `.told` has what was resolved."""
    async with (
        aiohttp.ClientSession() as session,
        RateLimiter(client, limits.POLYMARKET, prefix=prefix, deadline=2.0) as limiter,
    ):

        def make(*followed, clock=None, on_resolved=None):
            told = []

            async def tell(event):
                told.append(event)

            polls = MarketPolls(
                Gamma(session, gamma.url),
                limits.Upstream(limiter),
                pubsub,
                clock or SystemClock(),
                followed=lambda: followed,
                on_resolved=on_resolved or tell,
            )
            polls.told = told
            return polls

        yield make


@pytest.mark.integration
@pytest.mark.requirement("P4", "B1")
async def test_prices_new_markets_and_resolutions_reach_a_subscriber(
    pubsub, recording, engine, client, prefix
):
    """From the websocket of a recording to the topics: each market, once, in order."""
    clock = SystemClock()
    prices, resolved, new = (
        each(pubsub, clock) for each in (Prices, Resolutions, NewMarkets)
    )
    tokens = [token for each in recording.markets.values() for token in each.tokens]
    async with (
        asyncio.timeout(SECONDS),
        aiohttp.ClientSession() as session,
        Replay(recording, speed=float("inf")) as replay,
        StreamPool(
            session,
            replay.ws_url,
            lambda ids: Clob(session, replay.clob_url).books(*ids),
            tokens,
        ) as feed,
        pubsub.subscribe(NEW_MARKETS, RESOLUTIONS, PRICES) as sub,
    ):
        stored = SqlRules(engine)
        shard = Shard(
            Rounds(engine, "0", stored, clock),
            stored,
            feed,
            Locks(client, prefix=prefix),
            Outgoing(),
            clock,
            hooks=ShardHooks(prices.put, resolved.put, new.put),
        )
        async with running(shard.run(), prices.run(), resolved.run(), new.run()):
            await shard.judging.wait()
            await replay.wait_subscribed(*tokens)
            replay.start()
            seen = {"new_markets": [], "resolutions": [], "prices": []}
            while len(seen["resolutions"]) < 2 or not seen["prices"]:
                message = await anext(sub)
                seen[message.topic].append(message.key)

    assert seen["new_markets"] == list(recording.markets)
    assert seen["resolutions"] == list(recording.markets)
    assert set(seen["prices"]) <= set(tokens)


@pytest.mark.integration
@pytest.mark.requirement("P4")
async def test_volume_and_liquidity_reach_a_subscriber(pubsub, gamma, polls):
    """What Gamma says of a followed market is published, and again when it changes."""
    gamma.put("0xa", volume="10", volume24hr=1.5, liquidity="7")
    gamma.put("0xb")  # Gamma says nothing of it
    polling = polls("0xa", "0xb", "0xunknown")
    async with (
        asyncio.timeout(SECONDS),
        pubsub.subscribe(VOLUMES, LIQUIDITY) as sub,
        running(polling.volumes.run(), polling.liquidity.run()),
    ):
        await polling.look()
        first = [await anext(sub), await anext(sub)]
        gamma.put("0xa", volume="11", volume24hr=1.5, liquidity="7")
        await polling.look()
        third = await anext(sub)

    assert {(each.key, each.value) for each in first} == {
        ("0xa", Volume(Decimal(10), Decimal("1.5"))),
        ("0xa", Liquidity(Decimal(7))),
    }
    assert third.value == Volume(Decimal(11), Decimal("1.5"))


@pytest.mark.integration
@pytest.mark.requirement("B1", "P4")
async def test_what_the_stream_missed_is_told_by_a_poll(pubsub, gamma, polls):
    """A market is told of once, when it is final and its payouts are there."""
    gamma.put("0xa")
    resolutions = Resolutions(pubsub, SystemClock())

    async def tell(event):
        resolutions.put(event)

    polling = polls("0xa", on_resolved=tell)
    closed = {"closed": True, "outcomePrices": '["0", "1"]'}
    final = closed | {"umaResolutionStatus": "resolved"}
    steps = (
        closed | {"umaResolutionStatus": "proposed"},
        closed | {"umaResolutionStatus": "disputed"},
        final | {"outcomePrices": '["0.1", "0.9"]'},
    )
    async with (
        asyncio.timeout(SECONDS),
        pubsub.subscribe(RESOLUTIONS) as sub,
        running(resolutions.run()),
    ):
        await polling.look()
        for step in steps:
            gamma.put("0xa", **step)
            await polling.look()
        assert resolutions.published == 0
        gamma.put("0xa", **final)
        for _ in range(3):
            await polling.look()
        message = await anext(sub)
        await resolutions.wait_published()

    assert (message.value.winning_outcome, message.value.winning_asset_id) == (
        "No",
        "0xa2",
    )
    assert resolutions.published == 1


@pytest.mark.basic
@pytest.mark.requirement("B1")
@pytest.mark.parametrize(
    ("prices", "winner"),
    [
        ('["1", "0"]', "Yes"),
        ('["0.5", "0.5"]', ""),
        ('["0.9995", "0.0005"]', None),
        ('["0", "0"]', None),
        (None, None),
    ],
)
async def test_a_resolution_needs_its_payouts(gamma, polls, prices, winner):
    """A split has no winner; a market that still has prices is not told at all."""
    gamma.put("0xa", closed=True, umaResolutionStatus="resolved", outcomePrices=prices)
    polling = polls("0xa")
    await polling.look()

    assert [each.winning_outcome for each in polling.told] == (
        [] if winner is None else [winner]
    )


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_a_poll_that_fails_is_tried_again(gamma, polls):
    """Polymarket away, and a resolution that cannot be told: the next round does it."""
    clock = ManualClock()
    tries = []

    async def tell(event):
        tries.append(event.market)
        if len(tries) == 1:
            raise OddswireError("by the test")

    gamma.put(
        "0xa", closed=True, umaResolutionStatus="resolved", outcomePrices='["1","0"]'
    )
    polling = polls("0xa", clock=clock, on_resolved=tell)
    gamma.status = 503
    async with asyncio.timeout(SECONDS), running(polling.run()):
        for _ in range(4):
            await clock.wait_sleeping()
            gamma.status = 200
            await clock.advance(60.0)
        await clock.wait_sleeping()

    assert polling.failed == 2
    assert tries == ["0xa", "0xa"]


@pytest.mark.integration
@pytest.mark.requirement("P4", "P6")
async def test_health_numbers_and_errors_reach_a_subscriber(client, pubsub):
    """Of a process: its last report, its last numbers, and each error it logged."""
    reports = SystemReports(
        pubsub,
        SystemClock(),
        "bot-1",
        check=Health(client).check,
        numbers=lambda: {"ticks": 7},
    )
    logger = logging.getLogger("oddsbot.test_publishers")
    logger.propagate = False
    handler = ErrorHandler(reports, "bot-1", asyncio.get_running_loop())
    logger.addHandler(handler)
    try:
        async with (
            asyncio.timeout(SECONDS),
            pubsub.subscribe(HEALTH, METRICS, ERRORS) as sub,
            running(reports.run()),
        ):
            logger.warning("no error")
            logger.error("twice\nthe same")
            thread = threading.Thread(target=lambda: logger.error("twice\nthe same"))
            thread.start()
            try:
                raise LookupError("x")  # noqa: TRY301 - to be logged
            except LookupError:
                logger.exception("with its type")
            seen = Counter()
            texts = []
            while seen["system.errors"] < 3 or len(seen) < 3:
                message = await anext(sub)
                seen[message.topic] += 1
                assert message.key == "bot-1"
                if message.topic == "system.errors":
                    texts.append((message.value.text, message.value.error))
                elif message.topic == "system.metrics":
                    assert message.value.values == {"ticks": 7.0}
                else:
                    assert message.value.status in {"pass", "warn"}
            thread.join()
    finally:
        logger.removeHandler(handler)

    assert sorted(texts) == [
        ("twice the same", ""),
        ("twice the same", ""),
        ("with its type", "LookupError"),
    ]


@pytest.mark.errors
@pytest.mark.requirement("P4")
async def test_new_markets_wait_for_redis_and_at_most_ten_thousand():
    """While Redis is away the newest wait, and are published in order afterwards."""
    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url, command_timeout=0.3) as client,
        PubSub(client) as pubsub,
    ):
        new = NewMarkets(pubsub, SystemClock())
        server.kill()
        await server.wait_exit()
        for n in range(10_003):
            new.put(NewMarket(f"0x{n}", None))
        assert new.dropped == 3
        async with asyncio.timeout(60), running(new.run()):
            await server.restart()
            await eventually(lambda: new.published > 10)
        kept = await pubsub.history(NEW_MARKETS)

    assert [each.key for each in kept[:3]] == ["0x3", "0x4", "0x5"]


@pytest.mark.errors
@pytest.mark.requirement("G4")
async def test_a_publisher_says_once_that_it_waits_for_redis(caplog):
    """However long Redis is away: one line when it begins, one when it is over."""

    def told():
        return [
            each.event
            for each in caplog.records
            if getattr(each, "part", "") == f"topic:{NEW_MARKETS.name}"
        ]

    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url, command_timeout=0.2) as client,
        PubSub(client) as pubsub,
    ):
        new = NewMarkets(pubsub, SystemClock())
        server.kill()
        await server.wait_exit()
        new.put(NewMarket("0x1", None))
        async with asyncio.timeout(60), running(new.run()):
            await eventually(lambda: told() == ["degraded"])
            failed = sum(client.stats().failures.values())
            # Two more attempts.
            await eventually(lambda: sum(client.stats().failures.values()) > failed + 1)
            await server.restart()
            await eventually(lambda: told() == ["degraded", "restored"])


@pytest.mark.basic
def test_every_topic_has_its_own_name():
    """No two publishers share a topic."""
    assert len({topic.name for topic in TOPICS}) == len(TOPICS) == 9


@pytest.mark.integration
@pytest.mark.requirement("P6")
async def test_the_numbers_of_topics_are_the_counted_truth(pubsub):
    """Published, delivered, conflated, duplicates, gaps and lag are as counted."""
    async with (
        asyncio.timeout(SECONDS),
        pubsub.subscribe(VOLUMES) as latest,
        pubsub.subscribe(NEW_MARKETS, queue=4) as log,
    ):
        for n in range(10):
            await pubsub.publish(VOLUMES["0xa"], Volume(Decimal(n), None))
        for n in range(10):
            for _ in range(2):
                await pubsub.publish(
                    NEW_MARKETS[f"0x{n}"], NewMarket(f"0x{n}", None), dedup_id=f"{n}"
                )
        value = await anext(latest)
        while value.value.total != 9:
            value = await anext(latest)
        got = [await anext(log) for _ in range(10)]
        numbers = pubsub.stats().topics

    assert [each.key for each in got] == [f"0x{n}" for n in range(10)]
    volumes, markets = numbers["volumes"], numbers["new_markets"]
    assert volumes.published == 10
    assert volumes.delivered + volumes.conflated == 10
    assert (markets.published, markets.duplicates, markets.delivered) == (10, 10, 10)
    assert sum(markets.gaps.values()) == sum(volumes.gaps.values()) == 0
    assert sum(markets.lag.counts) == 10
    assert (volumes.subscriptions, markets.subscriptions) == (1, 1)


@pytest.mark.integration
@pytest.mark.requirement("P6")
async def test_a_subscriber_that_is_too_slow_counts_what_it_dropped(pubsub):
    """Of a log a full queue drops, reads it again and loses none; the count says so."""
    async with (
        asyncio.timeout(SECONDS),
        pubsub.subscribe(NEW_MARKETS, queue=4) as log,
    ):
        for n in range(50):
            await pubsub.publish(NEW_MARKETS[f"0x{n}"], NewMarket(f"0x{n}", None))
        dropped = lambda: pubsub.stats().topics["new_markets"].dropped  # noqa: E731 - polled
        await eventually(lambda: dropped() > 0)
        got = [(await anext(log)).key for _ in range(50)]

    assert got == [f"0x{n}" for n in range(50)]
