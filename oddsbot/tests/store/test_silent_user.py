"""Row S8: Redis is emptied, nobody types, and her alert comes all the same."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import asynccontextmanager
from decimal import Decimal

import aiohttp
import pytest

from oddsbot.alerts import Direction, PriceRule
from oddsbot.delivery import ALERTS, Courier, Decision, Home, Outbox
from oddsbot.polymarket import Clob, StreamPool
from oddsbot.standin.polymarket import Recording, Replay, token_id
from oddsbot.store import (
    AlertLog,
    Fate,
    SqlRules,
    SqlSource,
    TrackedWallet,
    UserSession,
    upgrade,
)
from oddsbot.watch import Rounds, Shard
from oddswire import Client, EmbeddedServer, Settings, connect
from oddswire.clock import SystemClock
from oddswire.errors import SourceError
from support import eventually

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


@asynccontextmanager
async def bot(settings, engine):
    """Hold what a process of the bot has: sessions that the database keeps."""
    await upgrade(engine)
    source = SqlSource(engine)
    async with connect(
        settings, session=UserSession, source=source, queues=[ALERTS]
    ) as wire:
        yield wire


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


async def watch(wire, engine, recording):
    """Be the bot, after its start: return what was delivered to which chat."""
    clock, told, stored = SystemClock(), [], SqlRules(engine)
    log, home, queue = AlertLog(engine), Home(wire.client, "test:"), wire.queues[ALERTS]
    delivered = asyncio.Event()

    async def deliver(alert, *, again):
        user = await wire.sessions.get(alert.user_id)
        told.append((user.profile.chat_id, alert.rule_id, alert.price, again))
        delivered.set()
        return Decision(Fate.SENT)

    async with (
        Replay(recording, speed=float("inf")) as replay,
        aiohttp.ClientSession() as http,
        StreamPool(
            http, replay.ws_url, lambda ids: Clob(http, replay.clob_url).books(*ids)
        ) as feed,
        asyncio.TaskGroup() as tasks,
    ):
        outbox = Outbox(queue, log, home, clock)
        courier = Courier(queue, log, home, deliver, clock)
        rounds = Rounds(engine, "0", stored, clock)
        shard = Shard(rounds, stored, feed, wire.locks, outbox, clock)
        running = [tasks.create_task(each.run()) for each in (shard, outbox, courier)]
        await shard.judging.wait()
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
        async with bot(settings, empty) as wire:
            await ask(wire, empty)
        if how == "between runs":
            await emptied(own)
        async with bot(settings, empty) as wire:
            if how == "flushed":
                await wire.client.flushall()
            elif how == "killed":
                await emptied(own)
            found = await wire.sessions.users_for("wallet", WALLET, fresh=True)
            assert found == {42}
            told = await watch(wire, empty, recording)
    assert told == [(4242, "hers", Decimal("0.7"), False)]


@pytest.mark.errors
@pytest.mark.requirement("S8")
@pytest.mark.system("postgres", package="postgresql")
async def test_without_its_database_the_bot_does_not_begin(killable):
    """No watching with nobody to tell: a typed error, and the wire is closed again."""
    database, engine = killable
    async with EmbeddedServer() as own, Client.from_url(own.url) as client:
        settings = Settings(url=own.url)
        async with bot(settings, engine) as wire:
            await ask(wire, engine)
        await asyncio.to_thread(database.kill)
        with pytest.raises(SourceError):
            async with bot(settings, engine):
                pass

        async def connections():
            return len(await client.client_list())

        # The server lists a connection until it has read that it ended.
        await eventually(connections, holds=lambda count: count == 1)
