"""The latest price of each asset, in Redis, for whoever wants to show it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NoReturn

from oddsbot.polymarket import Quote
from oddswire.codec import Codec
from oddswire.errors import OddswireError
from oddswire.keys import Family, KeySpace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddswire import Client
    from oddswire.clock import Clock

# A hash for each market, by condition id: token id -> quote.
PRICES = Family("prices", str, tag=1)

_WRITE_EVERY = 0.1
_RETRY_EVERY = 0.5
_TTL = 3_600

_log = logging.getLogger("oddsbot.watch")


class Prices:
    """Writes each asset's latest quote to Redis; `run` it in a task.

    Conflated: at most ten writes a second, each with what changed since the last one
    and only its newest state. While Redis is away the newest state waits, of bounded
    size, and is written when it is back.

    Args:
        client: Where to write.
        keys: Names the hashes.
        clock: Sleeps.

    Attributes:
        writes: Writes done.
    """

    def __init__(self, client: Client, keys: KeySpace, clock: Clock) -> None:
        self.writes = 0
        self._client = client
        self._keys = keys
        self._clock = clock
        self._codec = Codec(Quote)
        self._changed: dict[str, Quote] = {}
        self._work = asyncio.Event()

    def put(self, quote: Quote) -> None:
        """Have a quote written soon; never waits."""
        self._changed[quote.asset_id] = quote
        self._work.set()

    async def run(self) -> NoReturn:
        """Write for ever. Cancelled, what changed last may not be written."""
        away = False
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._changed = self._changed, {}
            try:
                await self._write(batch.values())
            except OddswireError as error:
                if not away:
                    _log.warning("prices: cannot write, trying on: %s", error)
                away = True
                # What came meanwhile is newer than what failed.
                self._changed = batch | self._changed
                self._work.set()
            else:
                self.writes += 1
                away = False
            await self._clock.sleep(_RETRY_EVERY if away else _WRITE_EVERY)

    async def _write(self, quotes: Iterable[Quote]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        hashes: dict[str, dict[Any, Any]] = {}
        for quote in quotes:
            key = self._keys.key(PRICES, quote.market)
            hashes.setdefault(key, {})[quote.asset_id] = self._codec.encode(quote)
        for key, fields in hashes.items():
            pipeline.hset(key, mapping=fields)
            pipeline.expire(key, _TTL)
        await pipeline.execute()


async def latest_prices(
    client: Client, keys: KeySpace, markets: Iterable[str]
) -> dict[str, Quote]:
    """Read the latest quotes of some markets, by token id.

    A market that nobody writes the prices of is absent.

    Raises:
        CodecError: What is there was not written by `Prices`.
        OddswireError: Redis cannot be asked.
    """
    codec = Codec(Quote)
    pipeline = client.pipeline(transaction=False)
    for market in markets:
        pipeline.hgetall(keys.key(PRICES, market))
    found = await pipeline.execute()
    return {
        asset_id.decode(): codec.decode(data)
        for quotes in found
        for asset_id, data in quotes.items()
    }
