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

from oddsbot.markets import Liquidity, Volume
from oddsbot.markets_watch import (
    LiquidityChanged,
    Listed,
    Proposed,
    VolumeChanged,
    decision,
)
from oddsbot.polymarket import Clob, GammaMarket, NewMarket, StreamPool
from oddsbot.standin.polymarket import Replay
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
    MarketTopics,
    NewMarkets,
    Prices,
    Resolutions,
    Rounds,
    Shard,
    ShardHooks,
    SystemReports,
)
from oddswire import Client, EmbeddedServer
from oddswire.clock import SystemClock
from oddswire.health import Health
from oddswire.locks import Locks
from oddswire.pubsub import PubSub
from support import eventually
from support.shards import Outgoing

SECONDS = 20.0


@pytest.fixture
def recording(sampled):
    """The recording that comes with the bot."""
    return sampled


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
            # Each topic has a publisher of its own: none is the last.
            while not (
                len(seen["new_markets"]) >= len(recording.markets)
                and len(seen["resolutions"]) >= len(recording.markets)
                and seen["prices"]
            ):
                message = await anext(sub)
                seen[message.topic].append(message.key)

    assert seen["new_markets"] == list(recording.markets)
    assert seen["resolutions"] == list(recording.markets)
    assert set(seen["prices"]) <= set(tokens)


@pytest.mark.integration
@pytest.mark.requirement("P4")
async def test_what_polls_find_reaches_a_subscriber(pubsub, recording):
    """Volume, liquidity, a result once, a new market; the oracle's steps do not."""
    topics = MarketTopics(pubsub, SystemClock())
    market = GammaMarket(
        id="1", condition_id="0xa", question="?", slug="s", outcomes=("Yes", "No"),
        clob_token_ids=("0xa1", "0xa2"), outcome_prices=(Decimal(0), Decimal(1)),
        closed=True, uma_resolution_status="resolved", volume=Decimal(10),
    )  # fmt: skip
    proposed = Proposed(
        id="p", market="0xa", outcome="No", at=None, final_at=None, first=False
    )
    async with (
        asyncio.timeout(SECONDS),
        pubsub.subscribe(VOLUMES, LIQUIDITY, RESOLUTIONS, NEW_MARKETS) as sub,
        running(topics.run()),
    ):
        topics.put(proposed)
        topics.put(VolumeChanged("0xa", Volume(Decimal(10), Decimal("1.5"))))
        topics.put(LiquidityChanged("0xa", Liquidity(Decimal(7))))
        for _ in range(3):
            topics.put(decision(market))
        topics.put(Listed(market))
        found = [await anext(sub) for _ in range(4)]
        await topics.resolutions.wait_published()

    told = {each.topic: (each.key, each.value) for each in found}
    assert told["volumes"] == ("0xa", Volume(Decimal(10), Decimal("1.5")))
    assert told["liquidity"] == ("0xa", Liquidity(Decimal(7)))
    key, result = told["resolutions"]
    assert (key, result.winning_outcome, result.winning_asset_id) == (
        "0xa",
        "No",
        "0xa2",
    )
    assert told["new_markets"][1].assets_ids == ("0xa1", "0xa2")
    assert topics.resolutions.published == 1


@pytest.mark.basic
@pytest.mark.requirement("B1")
@pytest.mark.parametrize(
    ("prices", "winner"),
    [
        (("1", "0"), "Yes"),
        (("0.5", "0.5"), ""),
        (("0.9995", "0.0005"), None),
        (("0", "0"), None),
        ((), None),
    ],
)
def test_a_resolution_needs_its_payouts(prices, winner):
    """A split has no winner; a market that still has prices is not told at all."""
    market = GammaMarket(
        id="1", condition_id="0xa", outcomes=("Yes", "No"),
        clob_token_ids=("0xa1", "0xa2"), outcome_prices=tuple(map(Decimal, prices)),
        closed=True, uma_resolution_status="resolved",
    )  # fmt: skip
    found = decision(market)
    assert (None if found is None else found.outcome) == winner


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
        Client.from_url(server.url) as reader,
        PubSub(client) as pubsub,
        PubSub(reader) as other,
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
        kept = await other.history(NEW_MARKETS)

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
