"""Processes that reach a new primary at different times: SQL and Redis agree."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import redis.asyncio as aredis

from oddswire import Client, connect
from oddswire.testing import FaultProxy
from support import eventually
from support.hooks import advance_server_clock, built_in, mend, rebuilds

from .test_source import lives_in, type_of

pytestmark = [pytest.mark.requirement("S8", "C12"), pytest.mark.errors]


@pytest.fixture
async def unbounded(pair):
    """A primary that goes on acknowledging when it was deposed, and its replica."""
    for server in (pair.primary, pair.replica):
        async with Client.from_url(server.url) as admin:
            await admin.config_set("min-replicas-to-write", 0)
    return pair


@asynccontextmanager
async def _process(link, source):
    """One process: its own link to the server, on the same source."""
    async with connect(url=link.url, session=type_of(), source=source) as wire:
        yield wire.sessions


async def _promote(pair, link, sessions):
    """Promote the replica, and have one process reach it and build its indexes."""
    await _in_step(pair)
    async with Client.from_url(pair.replica.url) as admin:
        await admin.replicaof("NO", "ONE")
    link.redirect(pair.replica.host, pair.replica.port)
    link.cut()
    async with aredis.Redis.from_url(pair.replica.url) as admin:
        run_id = (await admin.info("server"))["run_id"]
        await eventually(
            lambda: built_in(sessions), holds=lambda process: process == run_id
        )


async def _in_step(pair):
    async with (
        aredis.Redis.from_url(pair.primary.url) as old,
        aredis.Redis.from_url(pair.replica.url) as new,
    ):
        # What was acknowledged is there; so nothing is missing but by the test.
        await old.set("last", 1)
        await eventually(lambda: new.exists("last"))


async def _moved_late(sessions):
    """What another process finds of a user whose change only the old primary has."""
    return (
        await sessions.users_for("city", "Rome", fresh=True),
        (await sessions.get(1, fresh=True)).city,
    )


async def test_a_process_that_moves_late_brings_its_changes(unbounded, source):
    """What the old primary acknowledged to it is in Redis soon after it has moved."""
    pair = unbounded
    async with (
        FaultProxy(pair.primary.url) as first,
        FaultProxy(pair.primary.url) as late,
        _process(first, source) as a,
        _process(late, source) as b,
    ):
        for user in (1, 2, 3):
            await a.update(user, lives_in("Oslo"), create=True)
        await _promote(pair, first, a)
        await b.update(1, lives_in("Rome"))
        late.redirect(pair.replica.host, pair.replica.port)
        late.cut()
        await eventually(lambda: _moved_late(a), holds=lambda it: it == ({1}, "Rome"))
        assert await _moved_late(b) == ({1}, "Rome")


async def test_a_process_that_dies_on_the_old_primary_is_brought_by_others(
    unbounded, source
):
    """Killed before it has moved: another one compares when the old primary is gone."""
    pair = unbounded
    async with FaultProxy(pair.primary.url) as first, _process(first, source) as a:
        async with (
            FaultProxy(pair.primary.url) as late,
            _process(late, source) as b,
        ):
            for user in (1, 2, 3):
                await a.update(user, lives_in("Oslo"), create=True)
            await _promote(pair, first, a)
            await b.update(1, lives_in("Rome"))
            await b.delete(2)
        assert await _moved_late(a) == (frozenset(), "Oslo")
        advance_server_clock(a, 61)  # nothing bounds the old one: in 60 s
        await eventually(lambda: _moved_late(a), holds=lambda it: it == ({1}, "Rome"))
        assert await a.users_for("city", "Oslo", fresh=True) == {3}


async def test_one_process_compares_each_hour(people, source):
    """What the source got by other ways is found within the hour, by one of them."""
    async with people() as a, people() as b:
        await a.update(1, lives_in("Oslo"), create=True)
        built = rebuilds(a, b)
        # The first comparison, another a minute later, then each hour.
        for count, seconds in enumerate((61, 61, 3601, 3601), start=1):
            for sessions in (a, b):
                advance_server_clock(sessions, seconds)
            await eventually(
                lambda: rebuilds(a, b) - built,
                holds=lambda found, count=count: found == count,
            )
        advance_server_clock(a, 3000)
        advance_server_clock(b, 3000)
        await mend(a)
        await mend(b)
        assert rebuilds(a, b) == built + 4
