"""Row S8: Redis is emptied, nobody types, and her alert comes all the same."""

from __future__ import annotations

import asyncio
import gzip
import json
from decimal import Decimal

import aiohttp
import pytest

from oddsbot.alerts import Alerts, Direction, PriceRule
from oddsbot.delivery import Courier, Outbox, alert_queue
from oddsbot.polymarket import MarketStream
from oddsbot.replay import Recording, Replay, token_id
from oddsbot.store import SqlRules, SqlSource, TrackedWallet, UserSession
from oddsbot.watch import Watcher
from oddswire import EmbeddedServer, connect
from oddswire.clock import SystemClock

MARKET = "0xmarket"
START = 1_790_000_000_000
WALLET = "0x" + "cd" * 20
UP = token_id(MARKET, "UP")


@pytest.fixture
def recording(tmp_path):
    """Return a recording in which one bid goes over 0.60."""
    market = {
        "market_id": MARKET, "slug": "made", "question": "Made?", "start_ts": START,
        "end_ts": START + 1000, "outcome_up": "Up", "outcome_down": "Down",
        "payout_up": 1.0, "payout_down": 0.0,
    }  # fmt: skip
    (tmp_path / "made.markets.json").write_text(json.dumps([market]))
    lines = [
        json.dumps({
            "ts": START + at, "market_id": MARKET, "side": "UP",
            "bids": [[bid, 10.0]], "asks": [],
        })
        for at, bid in enumerate((0.5, 0.7))
    ]  # fmt: skip
    path = tmp_path / "made.books.jsonl.gz"
    path.write_bytes(gzip.compress("".join(f"{each}\n" for each in lines).encode()))
    return Recording.load(path)


async def ask(wire, rules):
    """Be the user, a week ago: she tracks a wallet and wants one alert."""

    def track(user):
        user.profile.chat_id = 4242
        user.wallets[WALLET] = TrackedWallet("whale")

    await wire.sessions.update(42, track, create=True)
    rule = PriceRule(
        id="hers", user_id=42, market=MARKET, asset_id=UP, direction=Direction.ABOVE,
        level=Decimal("0.60"),
    )  # fmt: skip
    await rules.save(rule)


async def watch(wire, rules, recording):
    """Be the bot, after a start: return what was delivered to which chat."""
    clock, told = SystemClock(), []
    queue = alert_queue(wire.client, "test:")
    outbox = Outbox(queue, clock)
    delivered = asyncio.Event()

    async def deliver(alert):
        user = await wire.sessions.get(alert.user_id)
        told.append((user.profile.chat_id, alert.rule_id, alert.price))
        delivered.set()

    alerts = Alerts([rule async for rule in rules.all()])
    async with (
        Replay(recording, speed=float("inf")) as replay,
        aiohttp.ClientSession() as http,
        MarketStream(http, replay.ws_url, [UP]) as stream,
        asyncio.TaskGroup() as tasks,
    ):
        watcher = Watcher(stream, alerts, outbox.put, clock)
        courier = Courier(queue, deliver, clock)
        running = [tasks.create_task(watcher.run()), tasks.create_task(courier.run())]
        await replay.wait_subscribed(UP)
        replay.start()
        async with asyncio.timeout(15):
            await delivered.wait()
        for task in running:
            task.cancel()
    return told


@pytest.mark.integration
@pytest.mark.requirement("S8")
@pytest.mark.parametrize("how", ["flushed", "killed", "between runs"])
async def test_redis_emptied_and_the_silent_user_still_gets_her_alert(
    engine, recording, how
):
    """Redis lost everything, nobody typed: she is found, and her alert is delivered."""
    rules = SqlRules(engine, PriceRule, "price")
    source = SqlSource(engine)
    async with EmbeddedServer() as own:
        options = {"url": own.url, "session": UserSession, "source": source}
        async with connect(**options) as wire:
            await ask(wire, rules)
            if how == "flushed":
                await wire.client.flushall()
            elif how == "killed":
                own.kill()
                await own.wait_exit()
                await own.restart()
            if how != "between runs":
                found = await wire.sessions.users_for("wallet", WALLET, fresh=True)
                assert found == {42}
                told = await watch(wire, rules, recording)
        if how == "between runs":
            own.kill()
            await own.wait_exit()
            await own.restart()
            async with connect(**options) as wire:
                found = await wire.sessions.users_for("wallet", WALLET, fresh=True)
                assert found == {42}
                told = await watch(wire, rules, recording)
    assert told == [(4242, "hers", Decimal("0.7"))]
