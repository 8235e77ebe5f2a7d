"""Row S8: Redis is emptied, nobody types, and her alert comes all the same."""

from __future__ import annotations

import asyncio
import gzip
import json
from decimal import Decimal

import aiohttp
import pytest
from sqlalchemy import text

from oddsbot.alerts import Direction, PriceRule
from oddsbot.delivery import Courier, Outbox, alert_queue
from oddsbot.polymarket import MarketStream
from oddsbot.standin.polymarket import Recording, Replay, token_id
from oddsbot.store import SqlRules, TrackedWallet
from oddsbot.watch import Watcher
from oddsbot.watch.remembering import remembered
from oddswire import Client, EmbeddedServer, Settings
from oddswire.clock import SystemClock
from oddswire.errors import CodecError, SourceError

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


async def ask(wire, engine):
    """Be the user, a week ago: she tracks a wallet and wants one alert."""

    def track(user):
        user.profile.chat_id = 4242
        user.wallets[WALLET] = TrackedWallet("whale")

    await wire.sessions.update(42, track, create=True)
    rule = PriceRule(
        id="hers", user_id=42, market=MARKET, asset_id=UP, direction=Direction.ABOVE,
        level=Decimal("0.60"),
    )  # fmt: skip
    await SqlRules(engine).save(rule)


async def watch(wire, alerts, recording):
    """Be the bot, after its start: return what was delivered to which chat."""
    clock, told = SystemClock(), []
    queue = alert_queue(wire.client, "test:")
    outbox = Outbox(queue)
    delivered = asyncio.Event()

    async def deliver(alert):
        user = await wire.sessions.get(alert.user_id)
        told.append((user.profile.chat_id, alert.rule_id, alert.price))
        delivered.set()

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
        async with asyncio.timeout(60):
            await delivered.wait()
        for task in running:
            task.cancel()
    return told


async def emptied(own):
    """Kill the server, and have it come back with nothing."""
    own.kill()
    await own.wait_exit()
    await own.restart()


@pytest.mark.integration
@pytest.mark.requirement("S8")
@pytest.mark.parametrize("how", ["flushed", "killed", "between runs"])
async def test_redis_emptied_and_the_silent_user_still_gets_her_alert(
    empty, recording, how
):
    """Redis lost everything, nobody typed: she is found, and her alert is delivered."""
    async with EmbeddedServer() as own:
        settings = Settings(url=own.url)
        async with remembered(settings, empty) as (wire, _):
            await ask(wire, empty)
        if how == "between runs":
            await emptied(own)
        async with remembered(settings, empty) as (wire, alerts):
            if how == "flushed":
                await wire.client.flushall()
            elif how == "killed":
                await emptied(own)
            found = await wire.sessions.users_for("wallet", WALLET, fresh=True)
            assert found == {42}
            told = await watch(wire, alerts, recording)
    assert told == [(4242, "hers", Decimal("0.7"))]


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_nothing_is_watched_before_everything_is_there(empty):
    """When the alerts can be had, Redis has the indexes: asking calls for neither."""
    async with EmbeddedServer() as own, Client.from_url(own.url) as client:
        settings = Settings(url=own.url)
        async with remembered(settings, empty) as (wire, alerts):
            await ask(wire, empty)
            assert not alerts.remove(42, "hers")  # they are as they were at the start
        before = {each async for each in client.scan_iter()}
        await client.flushall()
        async with remembered(settings, empty) as (_, alerts):
            assert {each async for each in client.scan_iter()} >= {
                each for each in before if b"wallet" in each
            }
            assert alerts.remove(42, "hers")


@pytest.mark.errors
@pytest.mark.requirement("S8")
@pytest.mark.system("postgres", package="postgresql")
async def test_without_its_database_the_bot_does_not_begin(killable):
    """No watching with nobody to tell: a typed error, and the wire is closed again."""
    database, engine = killable
    async with EmbeddedServer() as own, Client.from_url(own.url) as client:
        settings = Settings(url=own.url)
        async with remembered(settings, engine) as (wire, _):
            await ask(wire, engine)
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE oddsbot_rules SET schema = 7"))
        with pytest.raises(CodecError, match="schema 7"):
            async with remembered(settings, engine):
                pass
        await asyncio.to_thread(database.kill)
        with pytest.raises(SourceError):
            async with remembered(settings, engine):
                pass
        assert len(await client.client_list()) == 1
