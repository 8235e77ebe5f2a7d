"""A cache in front of something slow: one decorator.

``python examples/minimal_cache.py`` starts a server of its own; with REDIS_URL it uses
yours, and all processes that run it share what they load.
"""

from __future__ import annotations

import asyncio

import oddswire

LOADED: list[str] = []


async def main() -> None:
    """Ask for one market a thousand times, then say that it changed."""
    async with oddswire.connect(oddswire.Settings.from_env()) as wire:

        @wire.cache.cached(key="market:{market_id}", tags=("event:7",), ttl=30)
        async def market(market_id: str) -> dict[str, str]:
            LOADED.append(market_id)
            await asyncio.sleep(0.1)  # Polymarket answers
            return {"id": market_id, "yes": "0.61"}

        await asyncio.gather(*(market("0x1") for _ in range(1_000)))
        print(f"asked 1000 times, loaded {len(LOADED)} time")  # noqa: T201

        await wire.cache.invalidate_tags("event:7")
        await market("0x1")
        print(f"after the invalidation, loaded {len(LOADED)} times")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
