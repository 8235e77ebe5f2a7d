"""What a shard is tested with: a rule, quotes, and a feed that says what it is told."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from time import monotonic

from oddsbot.alerts import Base, Direction, PriceRule
from oddsbot.polymarket import BestBidAsk, Connected, Disconnected, Tick, quotes

MARKET = "0xmarket"
UP = "1" * 20
START = 1_790_000_000_000


def top(at, bid, ask=None, asset=UP):
    """Return the event of a new top of a book; prices are cents."""
    bids, asks = (None if each is None else Decimal(each) / 100 for each in (bid, ask))
    return BestBidAsk(
        market=MARKET,
        asset_id=asset,
        timestamp=START + at,
        best_bid=bids,
        best_ask=asks,
    )


def rule(name="rule", level=60, user_id=1, **more):
    """Return a rule above some cents, set when the price was 50."""
    fields = {
        "id": name, "user_id": user_id, "market": MARKET, "asset_id": UP,
        "direction": Direction.ABOVE, "level": Decimal(level) / 100,
        "base": Base(Decimal("0.5"), Decimal("0.51")),
    }  # fmt: skip
    return PriceRule(**{**fields, **more})


class Feed:
    """A feed that says what it is told, until it is closed."""

    def __init__(self):
        self._queue = asyncio.Queue()
        self._down_since = None
        self.assets = set()
        self.connect()

    @property
    def down_for(self):
        """For how long its connection has been away."""
        return 0.0 if self._down_since is None else monotonic() - self._down_since

    def say(self, *events):
        """Have these events come next: quotes as ticks."""
        for event in events:
            for each in [Tick(quote) for quote in quotes(event)] or [event]:
                self._queue.put_nowait(each)

    def connect(self):
        """Have its connection made."""
        self._down_since = None
        self.say(Connected(1))

    def cut(self):
        """Have its connection end."""
        self._down_since = monotonic()
        self.say(Disconnected("cut"))

    def close(self):
        """End after what was said."""
        self._queue.put_nowait(None)

    async def subscribe(self, *assets):
        """Follow assets."""
        self.assets |= set(assets)

    async def unsubscribe(self, *assets):
        """Follow them no more."""
        self.assets -= set(assets)

    async def __aiter__(self):
        while (event := await self._queue.get()) is not None:
            yield event


class Outgoing:
    """Keeps what a shard hands on."""

    def __init__(self):
        self.home = "home"
        self.resumed = 0
        self.put_in = []

    def put(self, committed):
        """Keep alerts."""
        self.put_in += committed

    def resume(self, _shard):
        """Count."""
        self.resumed += 1
