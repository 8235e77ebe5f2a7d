"""``make bench-bot``: how fast the bot answers, and what many people cost it.

Two figures of a bot in a process of its own, between the stand-ins of this machine,
over HTTP, with Redis at ``appendfsync everysec``:

1. Answers: 200 people ask for a cached price, 200 times a second. An answer's time is
   from when the update was there for Telegram's stand-in to when the message arrived at
   it: polling, the durable queue, the dispatcher, the caches and the sending are in it.
   The limits of Telegram and of one person are lifted, or nothing could be measured.
2. ``oddsbot run`` with 10,000 people and 50,000 rules, as it is installed: seconds
   from its start to the first answer and to following the prices, and its memory then.

Times are of the wall clock: what else the machine does is in them, so the load is said.
"""

# ruff: noqa: T201 - a command talks

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import tempfile
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from statistics import quantiles
from time import process_time
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert

from oddsbot.alerts import Direction, PriceRule
from oddsbot.app import App, leave_start_alone
from oddsbot.limits import SendRules
from oddsbot.loop import run
from oddsbot.settings import Settings
from oddsbot.standin.polymarket import Recording, Replay, sample
from oddsbot.standin.telegram import BotApi
from oddsbot.store import SqlSource, UserSession, open_database, upgrade
from oddsbot.store.rules import columns_of
from oddsbot.store.tables import rules
from oddswire import EmbeddedServer, connect
from oddswire.clock import SystemClock
from oddswire.ratelimit import Rule, SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Sequence

PEOPLE, RATE = 200, 200
USERS, RULES_EACH = 10_000, 5
FLOOR, GOAL = 20.0, 5.0
"""Milliseconds at p99."""

_FIRST = 5_000
_CLOCK = SystemClock()


async def worker(asked: dict[str, Any]) -> None:
    """Run a bot without limits until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    free = SlidingWindow(1_000_000, 60.0)
    sending = SendRules(
        Rule("telegram", free, key="bot", reserve=0.2),
        Rule("telegram.chat", free, key="chat"),
        Rule("telegram.group", free, key="chat"),
    )
    async with App(
        Settings.from_env(asked["environ"], dotenv=None),
        asked["token"],
        clock=_CLOCK,
        api_url=asked["environ"]["TELEGRAM_API_URL"],
        commands=[Rule("commands", free, key="user")],
        sending=sending,
    ) as app:
        leave_start_alone()
        await app.run(stop)


class Bench:
    """The stand-ins, a server, a database; and the environment of a bot there."""

    def __init__(
        self, replay: Replay, api: BotApi, server: EmbeddedServer, folder: Path
    ) -> None:
        self.replay = replay
        self.api = api
        market = next(iter(replay.recording.markets.values()))
        self.market, self.link = market, f"https://polymarket.com/event/{market.slug}"
        self.environ = {
            "ODDSWIRE_PROFILE": "test",
            "REDIS_URL": server.url,
            "TELEGRAM_BOT_TOKEN": api.token,
            "TELEGRAM_API_URL": api.url,
            "POLYMARKET_GAMMA_URL": replay.gamma_url,
            "POLYMARKET_CLOB_URL": replay.clob_url,
            "POLYMARKET_DATA_URL": replay.data_url,
            "POLYMARKET_WS_URL": replay.ws_url,
            "DATABASE_URL": f"sqlite:///{folder / 'bot.db'}",
        }

    def answers(self) -> dict[int, list[float]]:
        """Return when messages arrived at whom, in order."""
        found = defaultdict(list)
        for each in self.api.world.sent:
            found[each.chat].append(each.at)
        return found

    async def answered(self, people: Sequence[int], count: int) -> None:
        """Wait until each of some people has so many messages."""
        async with asyncio.timeout(120):
            while True:
                found = self.answers()
                if all(len(found[each]) >= count for each in people):
                    return
                await _CLOCK.sleep(0.02)

    async def answer_times(self, seconds: float) -> list[float]:
        """Ask `RATE` times a second; return how long each answer took, in ms."""
        world = self.api.world
        people = range(_FIRST, _FIRST + PEOPLE)
        for each in people:
            world.join(each, f"P{each}")
            # As whoever opens a bot's chat does, by its only button.
            world.say(each, "/start")
            world.say(each, f"/price {self.link}")
        await self.answered(people, 2)
        asked: dict[int, list[float]] = defaultdict(list)
        began = _CLOCK.monotonic()
        for number in range(int(seconds * RATE)):
            await _CLOCK.sleep(max(0.0, began + number / RATE - _CLOCK.monotonic()))
            person = people[number % PEOPLE]
            asked[person].append(_CLOCK.now())
            world.say(person, "/price")
        count = int(seconds * RATE) // PEOPLE
        await self.answered(people, 2 + count)
        found = self.answers()
        return [
            (there - then) * 1000
            for person in people
            for then, there in zip(
                asked[person], found[person][2 : 2 + count], strict=True
            )
        ]

    async def fill(self) -> None:
        """Put people and rules into the database."""
        settings = Settings.from_env(self.environ, dotenv=None)
        async with open_database(settings.database_url) as engine:
            await upgrade(engine)
            async with connect(
                settings.redis, session=UserSession, source=SqlSource(engine)
            ) as wire:
                for at in range(0, USERS, 100):
                    await asyncio.gather(
                        *(
                            wire.sessions.update(1 + user, lambda _: None, create=True)
                            for user in range(at, at + 100)
                        )
                    )
            rows = [
                {
                    **columns_of(self._rule(user, place)),
                    "revision": 1, "n": 0, "ended": False,
                }
                for user in range(1, USERS + 1)
                for place in range(RULES_EACH)
            ]  # fmt: skip
            async with engine.begin() as connection:
                for at in range(0, len(rows), 1_000):
                    await connection.execute(insert(rules), rows[at : at + 1_000])

    def _rule(self, user: int, place: int) -> PriceRule:
        return PriceRule(
            id=f"{user * RULES_EACH + place:016x}",
            user_id=user,
            market=self.market.market_id,
            asset_id=self.market.tokens[place % 2],
            direction=Direction.ABOVE,
            level=Decimal(60 + place * 7 + user % 5) / 100,
        )


async def _memory(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    text = await asyncio.to_thread(Path(f"/proc/{pid}/status").read_text)
    line = next(each for each in text.splitlines() if each.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


async def _processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    text = await asyncio.to_thread(Path(f"/proc/{pid}/stat").read_text)
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _answers(bench: Bench, seconds: float) -> bool:
    asked = json.dumps({"environ": bench.environ, "token": bench.api.token})
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--worker", asked
    )
    try:
        times = await bench.answer_times(seconds)
        spent = await _processor_seconds(process.pid)
    finally:
        process.terminate()
        await process.wait()
    cut = quantiles(times, n=100)
    print(
        f"{len(times):,} cached commands at {RATE}/s over HTTP: p50 {cut[49]:.1f} ms, "
        f"p99 {cut[98]:.1f} ms, max {max(times):.1f} ms "
        f"(floor p99 {FLOOR:.0f} ms, goal {GOAL:.0f})"
    )
    asked = len(times) + 2 * PEOPLE
    print(
        f"processor time for each answer: {spent * 1000 / asked:.1f} ms in the bot "
        f"(its start included), {process_time() * 1000 / asked:.1f} ms in the stand-ins"
    )
    return cut[98] <= FLOOR


async def _start(bench: Bench) -> None:
    await bench.fill()
    person = next(iter(bench.api.world.people))
    bench.api.world.say(person, "/help")
    began = _CLOCK.monotonic()
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("oddsbot"),
        "run",
        env=bench.environ,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await bench.answered([person], 1)
        answer = _CLOCK.monotonic() - began
        await bench.replay.wait_subscribed(*bench.market.tokens)
        following = _CLOCK.monotonic() - began
        memory = await _memory(process.pid)
    finally:
        process.terminate()
        await process.wait()
    print(
        f"oddsbot run with {USERS:,} people and {USERS * RULES_EACH:,} rules: first "
        f"answer after {answer:.1f} s, prices followed after {following:.1f} s, "
        f"{memory:.0f} MiB"
    )


async def main(seconds: float) -> bool:
    """Measure both; return whether the floor is met."""
    recording = await asyncio.to_thread(Recording.load, sample())
    until = recording.start + 300_000
    print(f"load before: {os.getloadavg()[0]:.1f}, cores: {os.cpu_count()}")
    fast = False
    for measured in (_answers, _start):
        async with (
            Replay(recording, speed=math.inf, until=until) as replay,
            BotApi(_CLOCK.now, limits=None) as api,
            EmbeddedServer(aof=True, args=("--appendfsync", "everysec")) as server,
        ):
            replay.start()
            await replay.finished()
            with tempfile.TemporaryDirectory() as folder:
                bench = Bench(replay, api, server, Path(folder))
                if measured is _answers:
                    fast = await _answers(bench, seconds)
                else:
                    await _start(bench)
    print(f"load after: {os.getloadavg()[0]:.1f}")
    return fast


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run(worker(json.loads(options.worker)))
    else:
        sys.exit(not asyncio.run(main(options.seconds)))
