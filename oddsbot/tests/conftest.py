"""Databases, SQLite in a file and a PostgreSQL of the tests' own, and the command."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from sqlalchemy import text

from oddsbot.standin.polymarket import Recording, sample
from oddsbot.store import SqlSource, open_database, upgrade
from oddsbot.store.tables import VERSIONS, metadata
from oddswire.sessions import SourceRecord
from support.forked import Forking, Oddsbot
from support.postgres import Postgres

DATABASES = [
    "sqlite",
    pytest.param(
        "postgres", marks=pytest.mark.system("postgres", package="postgresql")
    ),
]


@pytest.fixture(scope="session")
def _sample():
    """Return the recording that comes with the bot; to read it takes 0.3 s."""
    return Recording.load(sample())


@pytest.fixture
def sampled(_sample):
    """Return the same with markets of the test's own, which may add some."""
    return msgspec.structs.replace(_sample, markets=dict(_sample.markets))


@pytest.fixture(scope="session")
def postgres():
    """Return a PostgreSQL; take it in tests marked `system` only."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.stop()


async def drop(engine):
    """Drop the bot's tables."""
    async with engine.begin() as connection:
        for name in (
            *reversed([each.name for each in metadata.sorted_tables]),
            VERSIONS,
        ):
            await connection.execute(text(f"DROP TABLE IF EXISTS {name}"))


@pytest.fixture
async def killable(postgres):
    """Return a PostgreSQL that the test may kill, and an engine with the tables."""
    async with open_database(postgres.url) as engine:
        await drop(engine)
        await upgrade(engine)
        try:
            yield postgres, engine
        finally:
            # The tests after a failed one need it.
            await asyncio.to_thread(postgres.start)


@pytest.fixture(params=DATABASES)
def database_url(request, tmp_path):
    """Return the URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bot.db"
    return request.getfixturevalue("postgres").url


@pytest.fixture
async def empty(database_url):
    """Return an engine on a database without the bot's tables."""
    async with open_database(database_url) as engine:
        await drop(engine)
        yield engine


@pytest.fixture
async def engine(empty):
    """Return an engine on a database with the bot's tables."""
    await upgrade(empty)
    return empty


@pytest.fixture
def known(engine):
    """Make people known to the database, by their ids."""

    async def save(*user_ids):
        source = SqlSource(engine)
        for user_id in user_ids:
            kept = SourceRecord(
                user_id=user_id, version=1, schema=1, created=1_790_000_000_000_000,
                active=1_790_000_000_000, on=True, data=b"x",
            )  # fmt: skip
            assert await source.save(kept, 0)

    return save


@pytest.fixture(scope="session")
def forking():
    """Hold the process that is forked."""
    held = Forking()
    yield held
    held.close()


@pytest.fixture
def oddsbot(forking, tmp_path):
    """Hold the command; call it, or its `start`."""
    return Oddsbot(forking, tmp_path)
