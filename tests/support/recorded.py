"""A recorded day of quotes, generated people with rules for it, and a shard over it.

The recording is of Polymarket US: it names markets by slugs, which stand for the ids.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import random
import sys
from collections import defaultdict
from decimal import Decimal
from time import perf_counter
from typing import NamedTuple

import msgspec
from sqlalchemy import insert, select, update

from oddsbot.alerts import Alert, Base, Direction, MoveRule, PriceRule, Unit
from oddsbot.polymarket import Connected, Quote, Tick
from oddsbot.store import Place, SqlRules
from oddsbot.store.rules import columns_of
from oddsbot.store.tables import alerts as alert_table
from oddsbot.store.tables import revisions
from oddsbot.store.tables import rules as rule_table
from oddsbot.store.tables import users as user_table
from oddsbot.watch import Rounds, Shard
from oddswire.clock import SystemClock

# Quotes that are read before other tasks run.
_BURST = 10

_decoder = msgspec.json.Decoder(Alert)


def recorded(path):
    """Read the recording as quotes."""
    with gzip.open(path, "rt") as lines:
        return [
            Quote(
                sys.intern(row["slug"]),
                sys.intern(row["slug"]),
                Decimal(row["bid"]) if row["bid"] else None,
                Decimal(row["ask"]) if row["ask"] else None,
                int(row["ts"]) * 1000,
            )
            for row in csv.DictReader(lines)
        ]


def people(quotes, size, rules):
    """Yield the rules of generated users, on markets as often as they change.

    Each sets a rule while looking at a quote of the market: a level up to ten cents
    away, or a move. Nobody has two rules for one level.
    """
    chance = random.Random(2026)
    seen = [
        quote for quote in quotes if quote.bid is not None and quote.ask is not None
    ]
    taken, n = set(), 0
    while n < rules:
        quote = chance.choice(seen)
        common = {
            # The database gives rules in the order of their ids.
            "id": f"r{n:06}",
            "user_id": n % size + 1,
            "market": quote.market,
            "asset_id": quote.asset_id,
            "base": Base(quote.bid, quote.ask),
            "cooldown": chance.choice((0, 0, 600)),
            "until": chance.choice((None, None, None, quote.at)),
            "once": chance.random() < 0.1,
        }
        if chance.random() < 0.3:
            unit = chance.choice(tuple(Unit))
            by = chance.choice((1, 2, 5, 10) if unit is Unit.CENTS else (5, 10, 20))
            n += 1
            yield MoveRule(by=Decimal(by), unit=unit, **common)
            continue
        above = chance.random() < 0.5
        away = Decimal(chance.randrange(0, 11)) / 100
        level = quote.bid + away if above else quote.ask - away
        level = min(max(level, Decimal("0.01")), Decimal("0.99"))
        key = common["user_id"], quote.asset_id, above, level
        if key not in taken:
            taken.add(key)
            n += 1
            yield PriceRule(
                direction=Direction.ABOVE if above else Direction.BELOW,
                level=level,
                hysteresis=Decimal(chance.choice((0, 1, 1, 2))) / 100,
                **common,
            )


def by_person(fired):
    """Return what the naive loop told, in order, by person."""
    found = defaultdict(list)
    for each in fired:
        found[each.user_id].append(each)
    return found


async def fill(engine, rules):
    """Store people and rules, as `SqlRules.save` does, all at once."""
    people = [
        {"user_id": each, "version": 1, "schema": 1, "created": 1, "active": 1,
         "enabled": True, "data": b""}
        for each in sorted({rule.user_id for rule in rules})
    ]  # fmt: skip
    rows = [
        {**columns_of(rule), "revision": revision, "n": 0, "ended": False}
        for revision, rule in enumerate(rules, 2)
    ]
    async with engine.begin() as connection:
        await connection.execute(insert(user_table), people)
        await connection.execute(insert(rule_table), rows)
        await connection.execute(update(revisions).values(newest=len(rows) + 1))


class _Feed:
    """Says quotes once it may."""

    down_for = 0.0

    def __init__(self, quotes):
        self.may = asyncio.Event()
        self._quotes = quotes

    async def subscribe(self, *_):
        """Say all of them in any case."""

    async def unsubscribe(self, *_):
        """Likewise."""

    async def __aiter__(self):
        yield Connected(1)
        await self.may.wait()
        for n, quote in enumerate(self._quotes):
            if n % _BURST == 0:
                await asyncio.sleep(0)
            yield Tick(quote)


class _Outgoing:
    """Notes when what was committed."""

    home = "home"

    def __init__(self):
        self.at = {}

    def put(self, committed):
        """Note the time."""
        now = SystemClock().now()
        self.at.update(((each.user_id, each.where), now) for each in committed)

    def resume(self, _shard):
        """Nothing is queued."""


class Watched(NamedTuple):
    """What came of a recording.

    Attributes:
        alerts: Of each person, in order.
        seconds: From the first quote to the last commit.
        rounds: Transactions.
        delays: Seconds from when a quote was seen to its alert's commit, sorted.
    """

    alerts: dict
    seconds: float
    rounds: int
    delays: list


async def watched(engine, locks, quotes):
    """Have a shard judge quotes as fast as it can, each round a transaction.

    The rules are in the database: `fill`.
    """
    clock, stored = SystemClock(), SqlRules(engine)
    feed, outgoing = _Feed(quotes), _Outgoing()
    rounds = Rounds(engine, "0", stored, clock)
    shard = Shard(rounds, stored, feed, locks, outgoing, clock)
    running = asyncio.create_task(shard.run())  # noqa: TID251 - it is awaited below
    await shard.judging.wait()
    began = perf_counter()
    feed.may.set()
    await running
    seconds = perf_counter() - began
    found, delays = defaultdict(list), []
    order = alert_table.c.n, alert_table.c.place
    async with engine.connect() as connection:
        rows = await connection.stream(select(alert_table).order_by(*order))
        async for row in rows:
            alert = _decoder.decode(row.data)
            found[row.user_id].append(alert)
            committed_at = outgoing.at.get((row.user_id, Place("0", row.n, row.place)))
            if committed_at is not None:
                delays.append(committed_at - alert.seen_at)
    return Watched(found, seconds, shard.rounds, sorted(delays))
