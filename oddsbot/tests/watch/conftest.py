"""Processes that watch a shard, in one loop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import select

from oddsbot.store import SqlRules, open_database
from oddsbot.store.tables import alerts
from oddsbot.watch import Rounds, Shard
from oddswire import Client
from oddswire.clock import SystemClock
from oddswire.locks import Locks
from support import eventually
from support.shards import Feed, Outgoing


class Process:
    """A process that runs a shard."""

    def __init__(self, shard, feed, outgoing, rounds, locks):
        self.shard = shard
        self.feed = feed
        self.outgoing = outgoing
        self.rounds = rounds
        self.locks = locks
        self.task = None

    async def judging(self):
        """Wait until it is the owner, and has judged all that came."""
        async with asyncio.timeout(30):
            await self.shard.judging.wait()

    def in_line(self):
        """Whether it follows, and waits for the shard's lock."""
        return self.feed.assets and self.locks.stats().waiting

    async def kill(self):
        """End it without a word; its lock is given back, and nothing is committed."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def processes(database_url, engine, server, prefix):
    """Start processes on one database and one Redis, each with its own connections."""
    async with asyncio.TaskGroup() as tasks:
        started = []

        @asynccontextmanager
        async def connections(url, reconnect_delay):
            async with (
                open_database(database_url) as own,
                Client.from_url(url, reconnect_delay=reconnect_delay) as client,
            ):
                yield own, client

        async def start(url=server.url, reconnect_delay=0.01, **options):
            ready = asyncio.get_running_loop().create_future()

            async def run():
                async with connections(url, reconnect_delay) as (own, client):
                    clock, stored = SystemClock(), SqlRules(own)
                    rounds = Rounds(own, "0", stored, clock)
                    feed, outgoing = Feed(), Outgoing()
                    locks = Locks(client, prefix=prefix)
                    shard = Shard(
                        rounds, stored, feed, locks, outgoing, clock, **options
                    )
                    ready.set_result((shard, feed, outgoing, rounds, locks))
                    await shard.run()

            task = tasks.create_task(run())
            process = Process(*await ready)
            process.task = task
            started.append(process)
            return process

        yield start
        for each in started:
            await each.kill()


@pytest.fixture
def due(engine):
    """Return what is in the database, in order: user, id, epoch, fate."""

    async def read():
        order = alerts.c.n, alerts.c.place
        columns = alerts.c.user_id, alerts.c.id, alerts.c.epoch, alerts.c.fate
        async with engine.connect() as connection:
            rows = await connection.execute(select(*columns).order_by(*order))
            return [tuple(row) for row in rows]

    async def until(count):
        return await eventually(read, holds=lambda rows: len(rows) >= count)

    read.until = until
    return read
