"""``make bench-watch``: what stands between a tick and the queue, with its database.

The recorded day of quotes through the transaction, compared with the naive loop; ticks
at 5,000 a second among 100,000 rules, from when each was seen to when its alerts are in
the queue; and how long nobody owns a shard when its owner is killed together with the
process that waits first in line.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import resource
import sys
import tempfile
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from time import time  # noqa: TID251 - processes are compared by the machine's clock

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [
    *(str(ROOT / each) for each in ("tests", "proofs/kills", "benchmarks")),
]

from bench_alerts import RECORDING, RULES, crowd, same  # noqa: E402
from run import Run, part  # noqa: E402
from sqlalchemy import func, select  # noqa: E402

from oddsbot.delivery import ALERTS, Home, Outbox  # noqa: E402
from oddsbot.polymarket import Connected, Quote, Tick  # noqa: E402
from oddsbot.settings import PREFIX  # noqa: E402
from oddsbot.store import AlertLog, SqlRules, open_database, upgrade  # noqa: E402
from oddsbot.store.tables import alerts  # noqa: E402
from oddsbot.store.tables import rules as rule_table  # noqa: E402
from oddsbot.watch import Rounds, Shard  # noqa: E402
from oddswire import Client, EmbeddedServer  # noqa: E402
from oddswire.clock import SystemClock  # noqa: E402
from oddswire.locks import Locks  # noqa: E402
from oddswire.queue import Queue  # noqa: E402
from support.one_rule import NaiveAlerts  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.recorded import (  # noqa: E402
    by_person,
    fill,
    people,
    recorded,
    watched,
)

KINDS = ["sqlite", "postgresql"]
PARTS = ["recording", "rate", "takeover", "young"]
TICKS_A_SECOND = 5_000
ASSETS = 5_000
SECONDS = 30.0
TAKEOVERS = 30
FOLLOWED = 3.0
_HEADS = ("what", "database", "floor", "goal", "measured", "load")
_PAGE = f"""# Alerts

Written by `make bench-watch`. *Load*: of the machine, which has two cores, over five
minutes.

| {" | ".join(_HEADS)} |
|{"---|" * len(_HEADS)}
"""


@asynccontextmanager
async def database(kind):
    """Hold an engine on a database of its own, with the bot's tables."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = None
        url = f"sqlite:///{folder}/bot.db"
        if kind == "postgresql":
            server = await asyncio.to_thread(Postgres)
            await asyncio.to_thread(server.start)
            url = server.url
        try:
            async with open_database(url) as engine:
                await upgrade(engine)
                yield engine
        finally:
            if server is not None:
                await asyncio.to_thread(server.stop)


@asynccontextmanager
async def redis():
    """Hold a client of a server of its own."""
    async with EmbeddedServer() as server, Client.from_url(server.url) as client:
        yield client


# --- the recording


async def whole_recording(kind, path):
    """Print what the recorded day costs; return its row, and whether it is right."""
    quotes = await asyncio.to_thread(recorded, path)
    rules = list(people(quotes, 10_000, 50_000))
    slow = NaiveAlerts(rules)
    wanted = by_person(
        each for quote in quotes for each in slow.on_quote(quote, quote.at / 1000)
    )
    async with database(kind) as engine, redis() as client:
        await fill(engine, rules)
        found = await watched(engine, Locks(client), quotes)
    count = sum(map(len, found.alerts.values()))
    persons = wanted.keys() | found.alerts.keys()
    right = all(
        len(found.alerts[each]) == len(wanted[each])
        and all(map(same, found.alerts[each], wanted[each]))
        for each in persons
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    measured = (
        f"{'equal to' if right else 'NOT'} the naive loop's {count:,}; "
        f"{found.seconds:.1f} s, {found.rounds:,} transactions; to the commit p50 "
        f"{part(found.delays, 0.5) * 1e3:.0f} ms, p99 "
        f"{part(found.delays, 0.99) * 1e3:.0f} ms; {peak:,.0f} MiB"
    )
    what = f"alerts of {len(quotes):,} recorded quotes, {len(rules):,} rules"
    return (what, kind, "equal", "equal", measured), right


# --- ticks at a rate


def walking(chance, ticks):
    """Yield quotes of prices that go up or down by half a cent."""
    bids = [500] * ASSETS
    for at in range(ticks):
        n = chance.randrange(ASSETS)
        bids[n] = min(980, max(20, bids[n] + chance.choice((-5, 5))))
        prices = Decimal(bids[n]) / 1000, Decimal(bids[n] + 10) / 1000
        yield Quote("m", f"a{n}", *prices, at)


class Market:
    """Says ticks at a rate, for some seconds, once it may."""

    down_for = 0.0

    def __init__(self, quotes, rate):
        self.may = asyncio.Event()
        self.late = 0.0
        self._quotes = quotes
        self._rate = rate

    async def subscribe(self, *_):
        """Say all of them in any case."""

    async def unsubscribe(self, *_):
        """Likewise."""

    async def __aiter__(self):
        yield Connected(1)
        await self.may.wait()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for n, quote in enumerate(self._quotes):
            behind = loop.time() - began - n / self._rate
            self.late = max(self.late, behind)
            if behind < 0:
                await asyncio.sleep(0.001)
            elif n % 20 == 0:
                await asyncio.sleep(0)
            prices = quote.bid, quote.ask
            yield Tick(Quote("m", quote.asset_id, *prices, int(time() * 1000)))


class Noting:
    """A queue that notes when something was in it."""

    def __init__(self, queue):
        self.at = {}
        self.client = queue.client
        self._queue = queue

    async def enqueue_many(self, values, **options):
        """Put in, and note the time."""
        found = await self._queue.enqueue_many(values, **options)
        now = time()
        for user, entry in values.items():
            self.at[user, entry.n, entry.place] = now
        return found


async def all_begun(engine):
    """Whether an owner has begun to judge each rule, and committed that."""
    query = select(func.count()).where(rule_table.c.round.is_(None))
    async with engine.connect() as connection:
        return (await connection.execute(query)).scalar_one() == 0


async def tick_to_queue(kind, seconds):
    """Return the row of ticks at 5,000 a second among 100,000 rules."""
    chance = random.Random(1)
    rules = list(crowd(ASSETS, chance))
    quotes = list(walking(chance, int(TICKS_A_SECOND * seconds)))
    async with database(kind) as engine, redis() as client:
        await fill(engine, rules)
        clock, stored = SystemClock(), SqlRules(engine)
        market = Market(quotes, TICKS_A_SECOND)
        queue = Noting(Queue(client, ALERTS.name, ALERTS.type))
        outbox = Outbox(queue, AlertLog(engine), Home(client, PREFIX), clock)
        rounds = Rounds(engine, "0", stored, clock)
        shard = Shard(rounds, stored, market, Locks(client), outbox, clock)
        del rules
        gc.collect()
        gc.freeze()
        sending = asyncio.create_task(outbox.run())  # noqa: TID251
        running = asyncio.create_task(shard.run())  # noqa: TID251
        await shard.judging.wait()
        # Each rule's beginning is committed: that is the start of a bot, once.
        began = time()
        while not await all_begun(engine):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        began, before = time() - began, shard.rounds
        market.may.set()
        await running
        await outbox.wait_queued()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        async with engine.connect() as connection:
            columns = alerts.c.user_id, alerts.c.n, alerts.c.place, alerts.c.seen_at
            # What was in its cooldown is not queued.
            query = select(*columns).where(alerts.c.fate.is_(None))
            rows = (await connection.execute(query)).all()
    gc.unfreeze()
    took = sorted(
        queue.at[row.user_id, row.n, row.place] - row.seen_at / 1000 for row in rows
    )
    measured = (
        f"p50 {part(took, 0.5) * 1e3:.1f} ms, p99 {part(took, 0.99) * 1e3:.1f} ms of "
        f"{len(took):,} alerts; {shard.rounds - before:,} transactions; the feed at "
        f"most {market.late * 1e3:.0f} ms late; {began:.1f} s until all rules had begun"
    )
    what = f"tick to queue, {TICKS_A_SECOND:,} ticks/s, {RULES:,} rules"
    return what, kind, "p99 50 ms", "p99 15 ms", measured


# --- takeovers


class Takeovers(Run):
    """Kills the owner together with the process that waits first in line."""

    roles = ()

    def __init__(self, options, kind, folder, followed):
        super().__init__(options, kind, folder)
        self.took = []
        self._followed = followed

    async def _play(self, workers):
        trading = asyncio.create_task(self._stage.trade(10_000))  # noqa: TID251
        line = []
        try:
            while len(self.took) < TAKEOVERS:
                while len(line) < 3:
                    line.append(await self._join(workers, len(line)))
                await asyncio.sleep(self._followed)
                owner, following, last = line
                killed = time()
                workers.end(following)
                workers.end(owner)
                self.took.append(await self._owned(workers, last) - killed)
                line = [last]
        finally:
            trading.cancel()

    async def _join(self, workers, before):
        """Start a watcher, and wait until it is the owner, or in line behind others."""
        known = set(workers.ready)
        workers.start("watch")
        while not (new := workers.ready.keys() - known):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        (pid,) = new
        if before:
            async with Client.from_url(self._server.url) as client:
                line = Locks(client, prefix=PREFIX).keys("watch.0", 1)[1]
                while await client.zcard(line) < before:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        else:
            await self._owned(workers, pid)
        return pid

    async def _owned(self, workers, pid):
        while True:
            for event in workers.events:
                if event["event"] == "shard_owned" and event["pid"] == pid:
                    return event["at"]
            await asyncio.sleep(0.01)

    async def _figures(self, _):
        return self.took


async def takeovers(kind, followed):
    """Return the row of takeovers with the next in line dead.

    Args:
        kind: Of the database.
        followed: Seconds that the process that remains has followed at least. One that
            has just begun gives way to those that were killed, until they are silent.
    """
    options = argparse.Namespace(rate=200.0, seed=1, fault="none")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        took = sorted(await Takeovers(options, kind, folder, followed).report())
    measured = (
        f"p50 {part(took, 0.5):.2f} s, p99 {part(took, 0.99):.2f} s of {len(took)}"
    )
    what = (
        "owner and the next in line killed, to the next owner, which had followed "
        f"for {followed:g} s"
    )
    return what, kind, "p99 1.5 s", "p99 0.8 s", measured


def write_page(path, rows):
    """Put rows into the page; one of the same thing and database is replaced."""
    lines = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) == len(_HEADS) and cells[1] in KINDS:
                lines[cells[0], cells[1]] = line
    for row in rows:
        lines[row[0], row[1]] = "| " + " | ".join(row) + " |"
    path.write_text(_PAGE + "\n".join(lines.values()) + "\n", encoding="utf-8")


async def measure(options):
    """Run what was asked for; return the rows, and whether all is right."""
    rows, good = [], True
    for kind in options.database:
        for part_ in options.parts:
            if part_ == "recording":
                if not options.recording.exists():
                    print(f"there is no recording at {options.recording}")
                    continue
                row, right = await whole_recording(kind, options.recording)
                good &= right
            elif part_ == "rate":
                row = await tick_to_queue(kind, options.seconds)
            else:
                row = await takeovers(kind, FOLLOWED if part_ == "takeover" else 0)
            row = (*row, f"{os.getloadavg()[1]:.1f}")
            print(" | ".join(row), flush=True)
            rows.append(row)
    return rows, good


def main():
    """Run it; 1 when the recording's alerts are not those of the naive loop."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--recording", type=Path, default=RECORDING)
    parser.add_argument("--page", type=Path, help="a page that gets the rows")
    options = parser.parse_args()
    rows, good = asyncio.run(measure(options))
    if options.page is not None:
        write_page(options.page, rows)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
