from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.polymarket import Quote
from oddsbot.watch import PRICES, Prices, latest_prices
from oddswire import Client, EmbeddedServer
from oddswire.clock import ManualClock
from oddswire.codec import Codec
from oddswire.errors import Unavailable
from oddswire.pubsub import PubSub

MARKET = "0xmarket"


def quote(asset_id: str, bid: str, at: int = 0, market: str = MARKET) -> Quote:
    """Make a quote with a bid only."""
    return Quote(market, asset_id, Decimal(bid), None, at)


@pytest.fixture
async def pubsub(server, prefix):
    """The topics of this test, on a server that others use too."""
    async with (
        Client.from_url(server.url) as client,
        PubSub(client, prefix=prefix) as pubsub,
    ):
        yield pubsub


@asynccontextmanager
async def running(prices: Prices):
    """Run it in a task for the length of a block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(prices.run())
        yield
        task.cancel()


@pytest.mark.basic
async def test_what_was_put_is_read_back_by_anybody(pubsub):
    """The latest quote of each asset is in Redis, exact, empty sides included."""
    clock = ManualClock()
    prices = Prices(pubsub, clock)
    prices.put(quote("1", "0.503", at=7))
    prices.put(Quote(MARKET, "2", None, Decimal("0.999"), 8))
    prices.put(quote("3", "0.1", market="0xother"))
    prices.put(quote("4", "0.1", market="0xunasked"))
    async with running(prices):
        await clock.wait_sleeping()
        found = await latest_prices(pubsub, [MARKET, "0xother", "0xnone"])

    assert found == {
        "1": quote("1", "0.503", at=7),
        "2": Quote(MARKET, "2", None, Decimal("0.999"), 8),
        "3": quote("3", "0.1", market="0xother"),
    }


@pytest.mark.integration
@pytest.mark.requirement("P4")
async def test_prices_arrive_at_subscribers(pubsub):
    """A subscriber of one token gets its newest quote, then each newer one."""
    clock = ManualClock()
    prices = Prices(pubsub, clock)
    async with running(prices), pubsub.subscribe(PRICES["1"]) as sub:
        for bid in ("0.5", "0.6"):
            prices.put(quote("1", bid))
            prices.put(quote("2", bid))
            await clock.wait_sleeping()
            async with asyncio.timeout(5):
                assert (await anext(sub)).value == quote("1", bid)
            await clock.advance(0.1)


@pytest.mark.errors
async def test_a_quote_that_cannot_be_published_holds_up_no_other(pubsub):
    """A token whose text is no key is counted, and the others are published."""
    clock = ManualClock()
    prices = Prices(pubsub, clock)
    prices.put(quote("a b", "0.5"))
    prices.put(quote("1", "0.5"))
    async with running(prices):
        await clock.wait_sleeping()
        assert set(await latest_prices(pubsub, [MARKET])) == {"1"}
    assert (prices.refused, prices.writes) == (1, 1)


@pytest.mark.advanced
async def test_a_thousand_ticks_are_one_write(pubsub):
    """Ticks between two rounds are conflated: one round, the newest of each asset."""
    clock = ManualClock()
    prices = Prices(pubsub, clock)
    async with running(prices):
        for n in range(1_000):
            prices.put(quote(str(n % 4), f"0.{n:03}", at=n))
        await clock.wait_sleeping()
        assert prices.writes == 1
        for n in range(1_000, 1_010):
            prices.put(quote("0", "0.5", at=n))
        assert prices.writes == 1
        await clock.advance(0.1)
        await clock.wait_sleeping()

        assert prices.writes == 2
        found = await latest_prices(pubsub, [MARKET])
    assert {asset: each.at for asset, each in found.items()} == {
        "0": 1_009,
        "1": 997,
        "2": 998,
        "3": 999,
    }
    assert pubsub.stats().topics["prices"].published == 5


@pytest.mark.errors
@pytest.mark.requirement("P4")
async def test_an_older_quote_replaces_no_newer_one(pubsub):
    """By the market's time, whether the newer one waits or was written before."""
    clock = ManualClock(now=1e9)
    prices = Prices(pubsub, clock)
    async with running(prices):
        prices.put(quote("1", "0.5", at=7))
        prices.put(quote("1", "0.4", at=6))
        await clock.wait_sleeping()
        prices.put(quote("1", "0.3", at=5))
        prices.put(quote("2", "0.3", at=5))
        await clock.advance(0.1)
        await clock.wait_sleeping()
        found = await latest_prices(pubsub, [MARKET])

    assert {asset: each.at for asset, each in found.items()} == {"1": 7, "2": 5}
    assert prices.outdated == 2


@pytest.mark.integration
async def test_the_newest_price_survives_an_outage():
    """Prices put while the server is down are there later, the newest only."""
    clock = ManualClock()
    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url, command_timeout=0.2) as client,
        Client.from_url(server.url) as reader,
        PubSub(client) as pubsub,
        PubSub(reader) as other,
    ):
        prices = Prices(pubsub, clock)
        async with running(prices):
            server.kill()
            await server.wait_exit()
            prices.put(quote("1", "0.5", at=1))
            prices.put(quote("2", "0.5", at=2))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not prices._changed  # the round is on its way
            prices.put(quote("1", "0.6", at=3))
            await clock.wait_sleeping()
            assert prices.writes == 0
            await server.restart()
            await reader.ping()
            while prices.writes == 0:
                await clock.advance(0.5)
                await clock.wait_sleeping()
            found = await latest_prices(other, [MARKET])

        assert {asset: each.at for asset, each in found.items()} == {"1": 3, "2": 2}


@pytest.mark.errors
async def test_who_is_stopped_when_the_server_goes_ends_all_the_same(
    pubsub, monkeypatch
):
    """Cancelled in the moment in which its publishes fail, the publisher ends."""
    begun, gone = asyncio.Semaphore(0), asyncio.Event()

    async def publish(*_: object) -> None:
        begun.release()
        await gone.wait()
        raise Unavailable("the server has gone")

    monkeypatch.setattr(pubsub, "publish", publish)
    prices = Prices(pubsub, ManualClock())
    for asset in ("1", "2"):
        prices.put(quote(asset, "0.5"))
    task = asyncio.get_running_loop().create_task(prices.run())
    for _ in range(2):
        await begun.acquire()
    gone.set()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=10)

    assert done
    assert task.cancelled()


PRICE = st.none() | st.decimals(0, 1, places=4)


@pytest.mark.advanced
@given(st.builds(Quote, st.text(), st.text(), PRICE, PRICE, st.integers(0, 2**53)))
def test_a_stored_quote_is_the_same_quote(original):
    """What is written for a quote reads back equal, to the last digit."""
    codec = Codec(Quote)

    assert codec.decode(codec.encode(original)) == original
