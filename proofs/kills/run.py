"""``make kills``: processes killed one after the other, and every alert accounted for.

Three watchers and two couriers, as the bot runs them, on a database and a Redis of
their own. One of them is killed (SIGKILL) each 1 to 3 s and started again. At the end a
checker that shares no code with them works out which alerts had to come.

``FAULT=empty``: Redis is emptied five times. ``older``: it comes back with the data of
some time before. ``failover``: its primary is killed, and sentinels promote a replica.
``feed``: connections and single assets of the market are cut and frozen.
``sql``: the database is away. Exit status 1: something was lost, wrong, out of order,
or repeated without a cause.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
from contextlib import AsyncExitStack, ExitStack, suppress
from decimal import Decimal
from math import inf
from pathlib import Path
from time import time  # noqa: TID251 - processes are compared by the machine's clock

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests"), str(Path(__file__).parent)]

import explain  # noqa: E402
from checker import Kill, Owned, Played, Wish, judge, takeovers  # noqa: E402
from checker import gaps as missed  # noqa: E402
from market import Stage, asset_of, market_of  # noqa: E402
from sqlalchemy import func, insert, select, update  # noqa: E402

from oddsbot.alerts import Base, Direction, PriceRule  # noqa: E402
from oddsbot.store import AlertLog, open_database, upgrade  # noqa: E402
from oddsbot.store.rules import columns_of  # noqa: E402
from oddsbot.store.tables import revisions  # noqa: E402
from oddsbot.store.tables import rules as rule_table  # noqa: E402
from oddsbot.store.tables import users as user_table  # noqa: E402
from oddswire import Client, EmbeddedServer  # noqa: E402
from oddswire.errors import SourceError  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.topple import Toppled  # noqa: E402

WATCHERS, COURIERS = 3, 2
ASSETS, USERS, RULES, RATE = 60, 500, 3_000, 600.0
FAULTS = ("none", "empty", "older", "failover", "sql", "feed")
# With FAULT=feed silence is asked about sooner than the bot does, so that faults are
# found while a process lives; and processes live for longer.
SILENCE = {
    "quiet_after": 5.0, "again": [5.0], "settle": 2.0, "first_book": 10.0,
    "sample_every": 10.0,
}  # fmt: skip
_FOUND_WITHIN = 30.0
_SETTLED = 60.0
_RESTART = 0.5
_QUIET = 10
_ALWAYS = ("--appendfsync", "always", "--save", "")


class Workers:
    """The processes; one that ends by itself is started again. ``async with``.

    Args:
        options: What each is given.
        folder: Gets what they write to stderr.

    Attributes:
        events: What they printed.
        kills: Which were killed, in order.
        ready: The role of each that works, by pid.
        refused: How many ended before they were ready: what they need was away.
        crashed: How many ended after that, which is a fault of the program.
    """

    def __init__(self, options, folder):
        self.events, self.kills = [], []
        self.ready = {}
        self.refused = self.crashed = 0
        self._options = json.dumps(options)
        self._errors = Path(folder) / "workers.log"
        self._roles = {}
        self._ended = {}

    async def __aenter__(self):
        with self._errors.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, str(Path(__file__).with_name("worker.py")),
                self._options, stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=errors, limit=2**20,
            )  # fmt: skip
        self._reading = asyncio.create_task(self._read())  # noqa: TID251
        return self

    async def __aexit__(self, *_):
        # It starts none from now on, and ends when nobody has its output open.
        self._process.stdin.close()
        while not self._reading.done():
            for pid in list(self._roles):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.wait([self._reading], timeout=_RESTART)
        await self._process.wait()

    def start(self, role):
        """Have a process started."""
        if not self._process.stdin.is_closing():
            self._process.stdin.write(f"{role}\n".encode())

    def end(self, pid):
        """Kill one."""
        role = self._roles.pop(pid)
        self.ready.pop(pid, None)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.kills.append(Kill(time(), role, pid))

    async def kill(self, pid):
        """Kill one, and have another one of its role started."""
        self.end(pid)
        await self._ended[pid].wait()
        self.start(self.kills[-1].role)

    async def _read(self):
        async for line in self._process.stdout:
            # A killed process may leave half a line.
            with suppress(json.JSONDecodeError):
                self._take(json.loads(line))

    def _take(self, event):
        if event["event"] == "started":
            self._roles[event["pid"]] = event["role"]
            self._ended[event["pid"]] = asyncio.Event()
        elif event["event"] == "ready":
            # What was killed meanwhile may have said it all the same.
            if event["pid"] in self._roles:
                self.ready[event["pid"]] = self._roles[event["pid"]]
        elif event["event"] == "ended":
            pid = event["child"]
            self._ended.setdefault(pid, asyncio.Event()).set()
            role = self._roles.pop(pid, None)
            if role is not None:
                was_ready = self.ready.pop(pid, None) is not None
                self.crashed += was_ready
                self.refused += not was_ready
                # As whatever supervises it does.
                asyncio.get_running_loop().call_later(_RESTART, self.start, role)
        self.events.append(event)


class Run:
    """One run on one database."""

    roles = *["watch"] * WATCHERS, *["deliver"] * COURIERS

    def __init__(self, options, database, folder):
        self._options = options
        self._database = database
        self._folder = Path(folder)
        self._rng = random.Random(options.seed)
        self._faults = []
        self._wishes = []
        self._sqlite = None

    async def report(self):
        """Run it, and return the figures."""
        options = self._options
        async with AsyncExitStack() as stack:
            self._stage = stage = await stack.enter_async_context(
                Stage(ASSETS, options.rate, options.seed)
            )
            url = await self._open_database(stack)
            redis = await self._open_redis(stack)
            worker = {
                "database": url, "market": stage.market_url, "books": stage.books_url,
                "chat": stage.chat_url, **redis,
            }  # fmt: skip
            if self._options.fault == "feed":
                worker["silence"] = SILENCE
            self._engine = await stack.enter_async_context(open_database(url))
            await self._fill()
            async with Workers(worker, self._folder) as workers:
                for role in self.roles:
                    workers.start(role)
                await self._play(workers)
            return await self._figures(workers)

    # --- what is there

    async def _open_database(self, stack):
        if self._database == "sqlite":
            self._sqlite = self._folder / "bot.db"
            return f"sqlite:///{self._sqlite}"
        self._postgres = Postgres()
        stack.callback(self._postgres.stop)
        await asyncio.to_thread(self._postgres.start)
        return self._postgres.url

    async def _open_redis(self, stack):
        if self._options.fault == "failover":
            self._group = await stack.enter_async_context(Toppled())
            hosts = ",".join(f"{s.host}:{s.port}" for s in self._group.sentinels)
            return {
                "redis": self._group.url, "sentinels": hosts,
                "sentinel_password": self._group.password,
            }  # fmt: skip
        self._server = await stack.enter_async_context(
            EmbeddedServer(data_dir=self._folder / "redis", aof=True, args=_ALWAYS)
        )
        return {"redis": self._server.url}

    async def _fill(self):
        await upgrade(self._engine)
        await explain.note_rounds(self._engine)
        people = [
            {"user_id": user, "version": 1, "schema": 1, "created": 1, "active": 1,
             "enabled": True, "data": b""}
            for user in range(1, USERS + 1)
        ]  # fmt: skip
        async with self._engine.begin() as connection:
            await connection.execute(insert(user_table), people)
        taken = set()
        while len(self._wishes) < RULES:
            user, asset = self._rng.randint(1, USERS), self._rng.randrange(ASSETS)
            sign = self._rng.choice((1, -1))
            away = self._rng.randint(-6, 12) * 10
            level = min(max(self._stage.first[asset] + sign * away, 60), 940)
            if (user, asset, sign, level) in taken:
                continue
            taken.add((user, asset, sign, level))
            name = f"r{len(self._wishes)}"
            back = self._rng.choice((0, 20, 40, 80))
            self._wishes.append(Wish(user, name, asset, sign, level, back))
        # As `SqlRules.save` does it, all at once.
        rows = [
            {**columns_of(self._rule(wish)), "revision": number, "n": 0, "ended": False}
            for number, wish in enumerate(self._wishes, 2)
        ]
        async with self._engine.begin() as connection:
            await connection.execute(insert(rule_table), rows)
            await connection.execute(update(revisions).values(newest=len(rows) + 1))

    def _rule(self, wish):
        bid = self._stage.first[wish.asset]
        return PriceRule(
            id=wish.name, user_id=wish.user, market=market_of(wish.asset),
            asset_id=asset_of(wish.asset),
            direction=Direction.ABOVE if wish.sign > 0 else Direction.BELOW,
            level=Decimal(wish.level) / 1000, hysteresis=Decimal(wish.back) / 1000,
            base=Base(Decimal(bid) / 1000, Decimal(bid + 10) / 1000),
        )  # fmt: skip

    # --- what happens

    async def _play(self, workers):
        async def all_ready():
            return len(workers.ready) == len(self.roles)

        await self._until(all_ready)
        # Before the first tick every rule has begun at the price it was set at.
        await self._until(self._all_begun)
        trading = asyncio.create_task(self._stage.trade(self._options.seconds))  # noqa: TID251
        killing = asyncio.create_task(self._kill(workers))  # noqa: TID251
        breaking = asyncio.create_task(self._break())  # noqa: TID251
        try:
            await trading
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
            await breaking
            await self._settle()
        finally:
            for each in (trading, killing, breaking):
                each.cancel()

    async def _until(self, condition):
        deadline = time() + _SETTLED
        while not await condition():
            if time() > deadline:
                return
            await asyncio.sleep(0.2)

    async def _all_begun(self):
        query = select(func.count()).where(rule_table.c.round.is_(None))
        async with self._engine.connect() as connection:
            return (await connection.execute(query)).scalar_one() == 0

    async def _settle(self):
        """Wait until nothing is due for a while: a round may be on its way.

        What is due is in the database; as long as it becomes less, it is waited for.
        """
        least, deadline, quiet = inf, time() + _SETTLED, 0
        while quiet < _QUIET and time() < deadline:
            await asyncio.sleep(0.3)
            try:
                due = (await AlertLog(self._engine).fates()).get(None, 0)
            except SourceError:
                continue  # a connection from before the database was killed
            quiet = 0 if due else quiet + 1
            if due < least:
                least, deadline = due, time() + _SETTLED

    async def _kill(self, workers):
        low, high = self._options.every
        if self._options.fault == "feed":
            low, high = 6 * low, 6 * high
        while True:
            await asyncio.sleep(self._rng.uniform(low, high))
            # One that has not begun to work loses nothing.
            if workers.ready:
                pid = self._rng.choice(sorted(workers.ready))
                await workers.kill(pid)

    async def _break(self):
        seconds, fault = self._options.seconds, self._options.fault
        if fault == "none":
            return
        if fault == "feed":
            await self._break_feed(time() + seconds - _FOUND_WITHIN)
            return
        times = 1 if fault == "sql" else 5
        for _ in range(times):
            await asyncio.sleep(seconds / (times + 1))
            began = time()
            await getattr(self, f"_break_{fault}")()
            # Until the next look at which Redis it is, and one round of the couriers.
            self._faults.append((began, time() + 3.0))

    async def _break_feed(self, until):
        while time() < until:
            await asyncio.sleep(self._rng.uniform(2, 5))
            self._stage.break_feed(self._rng)

    async def _break_empty(self):
        async with Client.from_url(self._server.url) as client:
            await client.flushall()

    async def _break_older(self):
        data, copy = self._folder / "redis", self._folder / "older"
        await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)
        await asyncio.to_thread(shutil.copytree, data, copy)
        await asyncio.sleep(min(60.0, self._options.seconds / 12))
        self._server.kill()
        await self._server.wait_exit()
        await asyncio.to_thread(shutil.rmtree, data)
        await asyncio.to_thread(shutil.copytree, copy, data)
        await self._server.restart()

    async def _break_failover(self):
        old = await self._group.depose("kill")
        await self._group.restore(old, "kill")

    async def _break_sql(self):
        away = min(30.0, self._options.seconds / 4)
        if self._sqlite is None:
            await asyncio.to_thread(self._postgres.kill)
            await asyncio.sleep(away)
            await asyncio.to_thread(self._postgres.start)
            return
        # Somebody else has the file and does not give it back.
        with ExitStack() as stack:
            connection = sqlite3.connect(self._sqlite, isolation_level=None, timeout=30)
            stack.callback(connection.close)
            connection.execute("BEGIN EXCLUSIVE")
            await asyncio.sleep(away)
            connection.execute("ROLLBACK")

    # --- what came of it

    async def _figures(self, workers):
        stage = self._stage
        said = sorted(
            workers.events,
            key=lambda event: event["at"],
        )
        lines = [json.dumps(each) for each in (*said, *workers.kills, *self._faults)]
        await asyncio.to_thread(
            (self._folder / "events.jsonl").write_text, "\n".join(lines)
        )
        noted = await explain.rounds(self._engine)
        owned = owners(said, noted)
        settled = await explain.settled(self._engine)
        played = Played(
            stage.ticks, stage.first, stage.links, owned, settled, stage.withheld
        )
        verdict = await asyncio.to_thread(
            judge, played, self._wishes, stage.told, workers.kills, self._faults
        )
        broken = [*verdict.lost, *verdict.wrong, *verdict.out_of_order]
        await self._explain(played, workers, noted, broken, verdict.untraced)
        left_open, gaps_wrong = missed(
            stage.made,
            [
                event["pid"]
                for event in said
                if event["event"] == "feed_gap"
                and "reason=takeover" not in event["text"]
            ],
            {kill.pid: kill.when for kill in workers.kills},
            _FOUND_WITHIN,
        )
        gaps = takeovers(workers.kills, owned)
        latencies = sorted(each.latency for each in stage.told if not each.again)
        fates = await AlertLog(self._engine).fates()
        events = [event["event"] for event in said]
        killed = [kill.role for kill in workers.kills]
        return {
            "database": self._database, "fault": self._options.fault,
            "load": os.getloadavg()[1],
            "seconds": self._options.seconds, "ticks": len(stage.ticks),
            "killed_watchers": killed.count("watch"),
            "killed_couriers": killed.count("deliver"),
            "faults": len(self._faults),
            "due": verdict.due, "delivered": verdict.delivered,
            "lost": verdict.lost, "unseen": verdict.unseen, "wrong": verdict.wrong,
            "out_of_order": verdict.out_of_order, "repeated": verdict.repeated,
            "of_killed_couriers": verdict.by_courier, "of_faults": verdict.by_fault,
            "untraced": verdict.untraced, "unmarked": verdict.unmarked,
            "first_copies_marked": verdict.quiet,
            "without_fate": fates.get(None, 0), "sent": fates.get("sent", 0),
            "takeovers": len(gaps), "takeover_p50": part(gaps, 0.5),
            "takeover_max": gaps[-1] if gaps else None,
            "latency_p50": part(latencies, 0.5), "latency_p99": part(latencies, 0.99),
            "deposed": events.count("shard_lost"),
            "failed": events.count("round_failed"), "gaps": events.count("feed_gap"),
            "gaps_made": len(stage.made), "gaps_of_killed": left_open,
            "gaps_wrong": gaps_wrong,
            "crashed": workers.crashed, "refused": workers.refused,
        }  # fmt: skip

    async def _explain(self, played, workers, noted, broken, untraced):
        """Write down what happened around alerts that are missing, wrong, repeated."""
        for alert in broken[: self._options.explain]:
            due = await explain.due_of(self._engine, alert[0])
            lines = explain.story(
                alert, played, workers.kills, workers.events, noted, due
            )
            print(*lines, sep="\n", file=sys.stderr)
        for alert in untraced[: self._options.explain]:
            lines = explain.copies(
                alert, self._stage.told, played.settled, workers.kills, self._faults,
                workers.events,
            )  # fmt: skip
            print(*lines, sep="\n", file=sys.stderr)


def owners(said, noted):
    """Return who took the shard over when, and how far the database says it judged.

    A process that was killed before it could say that it is the owner has no pid.
    """
    pids = {
        int(event["text"].rpartition("epoch=")[2]): event["pid"]
        for event in said
        if event["event"] == "shard_owned"
    }
    began, judged = {}, {}
    for each in noted:
        began.setdefault(each.epoch, each.at)
        judged[each.epoch] = each.judged or 0
    return [Owned(began[each], pids.get(each, 0), judged[each]) for each in began]


def part(numbers, share):
    """Return the number below which a share of them lies."""
    return (
        numbers[min(len(numbers) - 1, int(len(numbers) * share))] if numbers else None
    )


def good(figures):
    """Whether nothing was lost, wrong, out of order or repeated without a cause."""
    return not any(
        figures[each]
        for each in (
            "lost", "wrong", "out_of_order", "untraced", "unmarked", "without_fate",
            "crashed", "gaps_wrong",
        )
    ) and figures["due"] > 0  # fmt: skip


def text(figures):
    """Return the figures as lines."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, list):
            shown = f"{len(value)}" + (f"  such as {value[:3]}" if value else "")
        else:
            shown = f"{value:.3f}" if isinstance(value, float) else f"{value}"
        lines.append(f"  {name:<20} {shown}")
    return "\n".join(lines)


_HEADS = (
    "database", "fault", "load", "s", "kills", "due", "lost", "wrong", "out of order",
    "unseen", "repeated", "takeover",
)  # fmt: skip
_PAGE = f"""# Kills

Written by `make kills`. Three watchers and two couriers, as the bot runs them, follow a
made market; one process is killed with SIGKILL each 1 to 3 s and started again. A
checker that shares no code with them works out which alerts had to come. `FAULT=empty`
empties Redis five times, `FAULT=older` brings it back with older data,
`FAULT=failover` kills its primary under sentinels, `FAULT=sql` takes the database away.
`FAULT=feed` cuts and freezes connections and single assets every 2 to 5 s; then
processes live six times as long, and silence is asked about after 5 s.

*Unseen*: an owner went past the price without it, and every process that had it was
killed before that owner took over; found from the times of the kills and from how far
the database says each owner judged. *Repeated*: all copies beyond the first,
then those that a killed courier had in its hands, and those around a fault; each says
that it may be a repeat. *Takeover*: from the kill of an owner to the next owner, p50
and the longest. *Gaps*: faults of the feed, each of which a watcher that lived counted
as one. *Load*: of the machine, which has two cores, over five minutes.

| {" | ".join(_HEADS)} |
|{"---|" * len(_HEADS)}
"""


def write_page(path, found):
    """Put figures into the page; a row of the same database and fault is replaced."""
    rows = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) > 2 and cells[1] in FAULTS:
                rows[cells[0], cells[1]] = line
    for each in found:
        rows[each["database"], each["fault"]] = _row(each)
    path.write_text(_PAGE + "\n".join(rows.values()) + "\n", encoding="utf-8")


def _row(each):
    repeated = (
        f"{each['repeated']}: {each['of_killed_couriers']} in hand, "
        f"{each['of_faults']} around faults"
    )
    takeover = "none"
    if each["takeovers"]:
        takeover = f"{each['takeover_p50']:.2f} s, {each['takeover_max']:.2f} s"
    cells = (
        each["database"], each["fault"], f"{each['load']:.1f}", f"{each['seconds']:g}",
        each["killed_watchers"] + each["killed_couriers"], f"{each['due']:,}",
        len(each["lost"]), len(each["wrong"]), len(each["out_of_order"]),
        len(each["unseen"]), repeated, takeover,
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


async def play(options):
    """Run on each database; return the figures of each."""
    found = []
    for database in options.database:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            figures = await Run(options, database, folder).report()
            found.append(figures)
            if not options.json:
                print(
                    f"{'as promised' if good(figures) else 'BROKEN'}\n{text(figures)}"
                )
            if options.keep:
                shutil.copytree(folder, options.keep, dirs_exist_ok=True)
    return found


def main():
    """Run it; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--fault", choices=FAULTS, default="none")
    parser.add_argument(
        "--database", nargs="+", default=["postgresql", "sqlite"],
        choices=["postgresql", "sqlite"],
    )  # fmt: skip
    parser.add_argument("--every", type=float, nargs=2, default=(1.0, 3.0))
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--explain", type=int, default=3, help="how many alerts to explain"
    )
    parser.add_argument("--keep", help="a folder for the logs of the processes")
    parser.add_argument("--page", type=Path, help="a page that gets the figures")
    options = parser.parse_args()
    found = asyncio.run(play(options))
    if options.page is not None:
        write_page(options.page, found)
    if options.json:
        print(json.dumps(found))
    return 0 if all(map(good, found)) else 1


if __name__ == "__main__":
    sys.exit(main())
