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
from oddswire.keys import KeySpace

MARKET = "0xmarket"


def quote(asset_id: str, bid: str, at: int = 0, market: str = MARKET) -> Quote:
    """Make a quote with a bid only."""
    return Quote(market, asset_id, Decimal(bid), None, at)


@pytest.fixture
def keys(prefix):
    """The keys of this test, on a server that others use too."""
    return KeySpace(prefix)


@asynccontextmanager
async def running(prices: Prices):
    """Run it in a task for the length of a block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(prices.run())
        yield
        task.cancel()


@pytest.mark.basic
async def test_what_was_put_is_read_back_by_anybody(server, keys):
    """The latest quote of each asset is in Redis, exact, empty sides included."""
    clock = ManualClock()
    async with Client.from_url(server.url) as client:
        prices = Prices(client, keys, clock)
        prices.put(quote("1", "0.503", at=7))
        prices.put(Quote(MARKET, "2", None, Decimal("0.999"), 8))
        prices.put(quote("3", "0.1", market="0xother"))
        async with running(prices):
            await clock.wait_sleeping()
            found = await latest_prices(client, keys, [MARKET, "0xother", "0xnone"])

        assert found == {
            "1": quote("1", "0.503", at=7),
            "2": Quote(MARKET, "2", None, Decimal("0.999"), 8),
            "3": quote("3", "0.1", market="0xother"),
        }
        assert 0 < await client.ttl(keys.key(PRICES, MARKET)) <= 3_600


@pytest.mark.advanced
async def test_a_thousand_ticks_are_one_write(server, keys):
    """Ticks between two writes are conflated: one write, the newest of each asset."""
    clock = ManualClock()
    async with Client.from_url(server.url) as client:
        prices = Prices(client, keys, clock)
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
            found = await latest_prices(client, keys, [MARKET])
        assert {asset: each.at for asset, each in found.items()} == {
            "0": 1_009,
            "1": 997,
            "2": 998,
            "3": 999,
        }


@pytest.mark.integration
async def test_the_newest_price_survives_an_outage(prefix):
    """Prices put while the server is down are there later, the newest only."""
    keys, clock = KeySpace(prefix), ManualClock()
    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url, command_timeout=0.2) as client,
        Client.from_url(server.url) as reader,
    ):
        prices = Prices(client, keys, clock)
        async with running(prices):
            server.kill()
            await server.wait_exit()
            prices.put(quote("1", "0.5", at=1))
            prices.put(quote("2", "0.5", at=2))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not prices._changed  # the write is on its way
            prices.put(quote("1", "0.6", at=3))
            await clock.wait_sleeping()
            assert prices.writes == 0
            await server.restart()
            await reader.ping()
            while prices.writes == 0:
                await clock.advance(0.5)
                await clock.wait_sleeping()
            found = await latest_prices(reader, keys, [MARKET])

        assert {asset: each.at for asset, each in found.items()} == {"1": 3, "2": 2}


PRICE = st.none() | st.decimals(0, 1, places=4)


@pytest.mark.advanced
@given(st.builds(Quote, st.text(), st.text(), PRICE, PRICE, st.integers(0, 2**53)))
def test_a_stored_quote_is_the_same_quote(original):
    """What is written for a quote reads back equal, to the last digit."""
    codec = Codec(Quote)

    assert codec.decode(codec.encode(original)) == original
