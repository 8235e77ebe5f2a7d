from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest

from oddsbot.alerts import Alerts, Direction, PriceRule
from oddsbot.polymarket import (
    BestBidAsk,
    Connected,
    Disconnected,
    LastTradePrice,
    MarketResolved,
)
from oddsbot.watch import Watcher
from oddswire.clock import ManualClock

MARKET = "0xmarket"
UP = "1" * 77


def top(at: int | None, bid: str | None, ask: str | None = None) -> BestBidAsk:
    """Make the event of a new top of the book."""
    bids, asks = (None if price is None else Decimal(price) for price in (bid, ask))
    return BestBidAsk(
        market=MARKET, asset_id=UP, timestamp=at, best_bid=bids, best_ask=asks
    )


def alerts() -> Alerts:
    """Make an engine with one rule, above 0.60, and one follower."""
    rule = PriceRule(
        id="rule",
        user_id=1,
        market=MARKET,
        asset_id=UP,
        direction=Direction.ABOVE,
        level=Decimal("0.60"),
    )
    return Alerts([rule], [(1, MARKET)])


def zigzag(crossings: int) -> list[BestBidAsk]:
    """Make events whose bid crosses 0.60 upwards so many times."""
    prices = ["0.50", *["0.60", "0.50"] * crossings]
    return [top(at, price) for at, price in enumerate(prices)]


class Feed:
    """A feed that is told what to yield, and that stays open until it is closed."""

    def __init__(self, *events) -> None:
        self._queue: asyncio.Queue = asyncio.Queue()
        self.taken = 0
        self.say(*events)

    def say(self, *events) -> None:
        """Have these events come next."""
        for event in events:
            self._queue.put_nowait(event)

    def close(self) -> None:
        """End after what was said."""
        self._queue.put_nowait(None)

    async def __aiter__(self):
        while (event := await self._queue.get()) is not None:
            self.taken += 1
            yield event


class Outbox:
    """An `emit` that works only while it is up."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.up = asyncio.Event()
        self.up.set()

    async def put(self, alert) -> None:
        """Take an alert as soon as this is up."""
        await self.up.wait()
        self.told.append(alert.id)


@asynccontextmanager
async def running(watcher: Watcher):
    """Run a watcher in a task for the length of a block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watcher.run())
        yield task
        task.cancel()


@pytest.mark.basic
@pytest.mark.requirement("B3")
async def test_an_alert_in_its_cooldown_is_counted_and_not_emitted():
    """What a cooldown holds back reaches nobody, and shows in a number."""
    feed, outbox = Feed(*zigzag(3)), Outbox()
    feed.close()
    rule = PriceRule(
        id="rule", user_id=1, market=MARKET, asset_id=UP, direction=Direction.ABOVE,
        level=Decimal("0.60"), cooldown=60,
    )  # fmt: skip
    watcher = Watcher(feed, Alerts([rule]), outbox.put, ManualClock())
    await watcher.run()

    assert outbox.told == ["rule:1"]
    assert (watcher.alerted, watcher.cooled) == (1, 2)


@pytest.mark.basic
async def test_only_a_changed_top_is_a_tick():
    """The feed tells of most changes twice; the second telling is no tick."""
    seen = []
    feed = Feed(
        Connected(1),
        top(1, "0.50", "0.52"),
        top(2, "0.50", "0.52"),
        top(3, "0.50", "0.53"),
        Disconnected("gone"),
        Connected(1),
        top(3, "0.50", "0.53"),
        top(4, None, "0.53"),
    )
    feed.close()
    outbox = Outbox()
    watcher = Watcher(feed, alerts(), outbox.put, ManualClock(), on_tick=seen.append)
    await watcher.run()

    assert watcher.ticks == 3
    assert [(quote.at, quote.bid) for quote in seen] == [
        (1, Decimal("0.50")),
        (3, Decimal("0.50")),
        (4, None),
    ]
    assert watcher.seen_until == 4
    assert outbox.told == []


@pytest.mark.errors
@pytest.mark.requirement("B1", "G6")
async def test_an_older_quote_is_no_tick():
    """A book from before the fall neither fires nor takes the place of a newer one."""
    seen = []
    feed = Feed(
        top(1_000, "0.70"),
        top(5_000, "0.40"),
        Disconnected("gone"),
        Connected(1),
        top(2_000, "0.70"),
        top(5_000, "0.41"),  # of the same moment: the later one to arrive
    )
    feed.close()
    outbox = Outbox()
    watcher = Watcher(
        feed, alerts(), outbox.put, ManualClock(now=1e9), on_tick=seen.append
    )
    await watcher.run()

    assert [quote.at for quote in seen] == [1_000, 5_000, 5_000]
    assert (watcher.outdated, outbox.told) == (1, [])


@pytest.mark.errors
@pytest.mark.requirement("B1")
@pytest.mark.parametrize("odd", [None, 9 * 10**13])
async def test_a_quote_with_no_believable_time_silences_nothing(odd):
    """Without a time, or with one far ahead, it counts as it arrives; others go on."""
    emitted = []

    async def emit(alert) -> None:
        emitted.append(alert)

    feed = Feed(
        top(1_000, "0.50"), top(odd, "0.60"), top(2_000, "0.50"), top(3_000, "0.6")
    )
    feed.close()
    watcher = Watcher(feed, alerts(), emit, ManualClock(now=1e9))
    await watcher.run()

    assert [alert.id for alert in emitted] == ["rule:1", "rule:2"]
    assert emitted[0].at == (odd or 10**12)
    assert watcher.outdated == 0


@pytest.mark.basic
async def test_alerts_are_emitted_in_order_with_the_time_they_were_seen():
    """Crossings and the resolution are emitted as they came, stamped by the clock."""
    emitted = []

    async def emit(alert) -> None:
        emitted.append(alert)

    resolved = MarketResolved(
        market=MARKET, timestamp=9, winning_asset_id=UP, winning_outcome="Up"
    )
    feed = Feed(*zigzag(2), resolved, resolved)
    feed.close()
    watcher = Watcher(feed, alerts(), emit, ManualClock(now=77.0))
    await watcher.run()

    assert [alert.id for alert in emitted] == [
        "rule:1",
        "rule:2",
        f"1:{MARKET}:resolved",
    ]
    assert {alert.seen_at for alert in emitted} == {77.0}
    assert watcher.alerted == 3


@pytest.mark.errors
async def test_an_outbox_that_waits_does_not_stop_the_reading():
    """While the outbox waits for Redis, every event of the feed is still read."""
    feed, outbox = Feed(*zigzag(50)), Outbox()
    outbox.up.clear()
    watcher = Watcher(feed, alerts(), outbox.put, ManualClock())
    async with running(watcher):
        await watcher.wait_seen(100)

        assert (watcher.ticks, watcher.alerted, outbox.told) == (101, 50, [])
        outbox.up.set()
        feed.close()
        watcher.stop()
    assert outbox.told == [f"rule:{n}" for n in range(1, 51)]


@pytest.mark.errors
async def test_a_full_queue_holds_the_feed_and_drops_nothing():
    """With the queue full the reading waits; when it moves, every alert comes."""
    feed, outbox = Feed(*zigzag(50)), Outbox()
    outbox.up.clear()
    watcher = Watcher(feed, alerts(), outbox.put, ManualClock(), queue_size=3)
    async with running(watcher) as task:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await watcher.wait_seen(100)

        # Three in the queue, one with the outbox, one that waits for room.
        assert (watcher.alerted, feed.taken) == (4, 10)
        outbox.up.set()
        await watcher.wait_seen(100)
        feed.close()
        await asyncio.wait([task])
    assert outbox.told == [f"rule:{n}" for n in range(1, 51)]


@pytest.mark.basic
async def test_stopping_emits_what_was_found_and_reads_no_more():
    """After `stop`, `run` ends once the waiting alerts are out."""
    feed, outbox = Feed(*zigzag(2)), Outbox()
    outbox.up.clear()
    watcher = Watcher(feed, alerts(), outbox.put, ManualClock())
    async with running(watcher) as task:
        await watcher.wait_seen(4)
        watcher.stop()
        feed.say(*[top(at, price) for at, price in ((10, "0.60"), (11, "0.50"))])
        outbox.up.set()
        async with asyncio.timeout(5):
            await asyncio.wait([task])

    assert outbox.told == ["rule:1", "rule:2"]
    assert watcher.seen_until == 4


@pytest.mark.basic
async def test_stopping_before_it_runs():
    """A watcher that was stopped before it ran ends at once."""
    feed, outbox = Feed(*zigzag(1)), Outbox()
    watcher = Watcher(feed, alerts(), outbox.put, ManualClock())
    watcher.stop()
    async with asyncio.timeout(5):
        await watcher.run()

    assert outbox.told == []


@pytest.mark.errors
async def test_an_error_of_the_outbox_ends_the_watcher():
    """What the outbox cannot wait out comes out of `run`."""

    async def refuse(_alert) -> None:
        raise OSError("another producer")

    with pytest.raises(ExceptionGroup) as raised:
        await Watcher(Feed(*zigzag(1)), alerts(), refuse, ManualClock()).run()
    assert raised.group_contains(OSError, match="another producer")


@pytest.mark.basic
async def test_events_without_a_price_still_tell_the_time():
    """`wait_seen` is about every event, also one that is no quote."""
    trade = LastTradePrice(
        market=MARKET, asset_id=UP, timestamp=50, price=Decimal("0.5")
    )
    watcher = Watcher(Feed(trade), alerts(), Outbox().put, ManualClock())
    async with asyncio.timeout(5), running(watcher):
        await watcher.wait_seen(50)

    assert watcher.ticks == 0
