"""Users and rules in SQL: on SQLite, and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, inspect, text
from typer.testing import CliRunner

from oddsbot.cli import app
from oddsbot.store import (
    SqlRules,
    SqlSource,
    TrackedWallet,
    UserSession,
    open_database,
    upgrade,
)
from oddsbot.store.source import _kept, _row
from oddsbot.store.tables import VERSIONS, metadata
from oddswire import Client
from oddswire.codec import Keyring
from oddswire.errors import (
    Outcome,
    SettingsError,
    SourceError,
    SourceUnavailable,
)
from oddswire.sessions import SealedSource, Sessions, SourceRecord
from support import eventually
from support.hooks import advance_server_clock

WALLET = "0x" + "ab" * 20


def kept(user_id=1, version=1, data=b"x", **more):
    """Return a record."""
    return SourceRecord(
        user_id=user_id, version=version, schema=1, created=1_790_000_000_000_000,
        active=1_790_000_000_000, on=True, data=data, **more,
    )  # fmt: skip


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_a_record_is_written_only_over_the_version_it_names(engine):
    """An older write never replaces a newer one; a refused one changes nothing."""
    source = SqlSource(engine)
    assert await source.load([1]) == []
    assert not await source.save(kept(), 5)
    assert await source.save(kept(version=7), 0)
    assert not await source.save(kept(version=8), 0)
    assert not await source.save(kept(version=8), 6)
    assert await source.save(kept(version=9, data=b"\0\xff"), 7)
    assert await source.load([1, 2]) == [kept(version=9, data=b"\0\xff")]
    assert not await source.delete(1, 7)
    assert await source.delete(1, 9)
    assert not await source.delete(1, 9)
    assert await source.load([1]) == []


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_a_record_moves_whole_or_not_at_all(engine):
    """`move` is one transaction: a taken id or another version changes nothing."""
    source = SqlSource(engine)
    await source.save(kept(1), 0)
    await source.save(kept(2), 0)
    assert not await source.move(1, 1, kept(2, version=2))
    assert not await source.move(1, 9, kept(-3, version=2))
    assert await source.load([1, 2, -3]) in (
        [kept(1), kept(2)],
        [kept(2), kept(1)],
    )
    assert await source.move(1, 1, kept(-3, version=2))
    assert await source.load([1, -3]) == [kept(-3, version=2)]


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_pages_have_everybody_once_in_order(engine):
    """A scan by pages is every record by user id, negative ones first."""
    source = SqlSource(engine)
    users = [-(2**62), -100, 0, 5, 7, 2**62]
    for user in reversed(users):
        assert await source.save(kept(user), 0)
    found, after = [], None
    while page := await source.scan(after, 4):
        found += [each.user_id for each in page]
        after = page[-1].user_id
    assert found == users
    many = await source.load(range(1200))
    assert sorted(each.user_id for each in many) == [0, 5, 7]


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_of_two_at_once_the_database_lets_one_win(engine):
    """Two writes over one version, at the same time: one True, one False."""
    source = SqlSource(engine)
    for round_ in range(5):
        first = [source.save(kept(round_, version=n), 0) for n in (1, 2)]
        assert sorted(await asyncio.gather(*first)) == [False, True]
        (now,) = await source.load([round_])
        then = [source.save(kept(round_, version=n), now.version) for n in (8, 9)]
        assert sorted(await asyncio.gather(*then)) == [False, True]


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_the_migrations_make_own_tables_only_and_what_the_code_expects(empty):
    """Upgrading twice, and in two processes at once, gives the tables of the code."""
    async with empty.begin() as connection:
        await connection.execute(text("DROP TABLE IF EXISTS theirs"))
        await connection.execute(text("CREATE TABLE theirs (id INTEGER)"))
    await asyncio.gather(upgrade(empty), upgrade(empty))
    assert await upgrade(empty) == await upgrade(empty) == "0007"

    def look(connection):
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSIONS,
                "include_name": lambda name, kind, _: (
                    kind != "table" or name != "theirs"
                ),
            },
        )
        names = set(inspect(connection).get_table_names())
        return names, compare_metadata(context, metadata)

    async with empty.connect() as connection:
        names, differences = await connection.run_sync(look)
    assert names == {*metadata.tables, "oddsbot_schema", "theirs"}
    assert differences == []


@pytest.mark.errors
@pytest.mark.requirement("S8")
async def test_migrations_that_break_off_leave_nothing(empty):
    """Ended in the middle, and done again: a table that was made is not in the way."""

    def breaks(_connection, _cursor, statement, *_):
        if "CREATE TABLE oddsbot_alerts" in statement:
            raise OSError("as if it were killed here")

    event.listen(empty.sync_engine, "before_cursor_execute", breaks)
    with pytest.raises(SourceUnavailable):
        await upgrade(empty)
    event.remove(empty.sync_engine, "before_cursor_execute", breaks)
    async with empty.connect() as connection:
        names = await connection.run_sync(lambda c: inspect(c).get_table_names())
    assert not set(names) & {*metadata.tables, VERSIONS}
    assert await upgrade(empty) == "0007"


@pytest.mark.errors
@pytest.mark.requirement("S8")
async def test_a_new_file_that_another_process_writes_to_is_waited_for(tmp_path):
    """SQLite refuses to change such a file's log at once; the bot begins after it."""
    file = tmp_path / "bot.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with (
            open_database(f"sqlite:///{file}") as engine,
            asyncio.TaskGroup() as tasks,
        ):
            upgrading = tasks.create_task(upgrade(engine))
            await asyncio.wait([upgrading], timeout=0.5)
            other.execute("COMMIT")
    assert upgrading.result() == "0007"


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_a_user_of_the_bot_is_kept_and_comes_back(engine, server, prefix):
    """The typed user session, sealed at the source, survives an emptied Redis."""
    keyring = Keyring.from_text(Keyring.new_line(1))
    source = SealedSource(SqlSource(engine), keyring)
    async with Client.from_url(server.url) as client:
        sessions = Sessions(
            client, UserSession, prefix=prefix, keyring=keyring, source=source
        )

        def begin(user):
            user.wallets[WALLET] = TrackedWallet("whale")
            user.thresholds.price_change = 0.1
            user.conversation.step = "asked"

        await sessions.update(7, begin, create=True)
        (row,) = await SqlSource(engine).scan(None, 10)
        assert b"whale" not in row.data
        await client.unlink(*[key async for key in client.scan_iter(f"{prefix}*")])
        assert await sessions.users_for("wallet", WALLET) == {7}
        user = await sessions.get(7)
        assert user.wallets == {WALLET: TrackedWallet("whale")}
        assert user.thresholds.price_change == 0.1
        assert user.conversation.step == ""


@pytest.mark.errors
@pytest.mark.requirement("S8")
@pytest.mark.system("postgres", package="postgresql")
async def test_postgresql_killed_in_the_middle_of_writes(killable, server, prefix):
    """Each change that was acknowledged is in both; each other is whole or absent."""
    postgres, engine = killable
    acknowledged, failed = {}, []
    async with Client.from_url(server.url) as client:
        options = {"prefix": prefix, "source": SqlSource(engine)}
        sessions = Sessions(client, UserSession, **options)
        enough, go_on = asyncio.Event(), True

        async def work(user):
            count = 0
            while go_on:
                count += 1

                def fn(session, count=count):
                    session.profile.username = str(count)
                    session.profile.chat_id = count

                try:
                    await sessions.update(user, fn, create=True)
                except SourceError as error:
                    failed.append(error)
                    # Its mark may be left: it is old now.
                    advance_server_clock(sessions, 3)
                else:
                    acknowledged[user] = count
                    if len(acknowledged) == 4 and count > 10:
                        enough.set()

        async with asyncio.TaskGroup() as tasks:
            for user in range(4):
                tasks.create_task(work(user))
            await enough.wait()
            await asyncio.to_thread(postgres.kill)
            await eventually(lambda: len(failed) >= 8)
            for user in range(4):
                assert await sessions.get(user) is not None
            await asyncio.to_thread(postgres.start)
            before = dict(acknowledged)
            await eventually(
                lambda: all(acknowledged[user] > before[user] for user in range(4))
            )
            go_on = False
        assert {Outcome.NOT_SENT} <= {error.outcome for error in failed}
        assert all(isinstance(error, SourceError) for error in failed)
        advance_server_clock(sessions, 3)
        rows = {row.user_id: row for row in await options["source"].scan(None, 10)}
        for user, count in acknowledged.items():
            session = await sessions.get(user, fresh=True)
            assert session.profile.chat_id >= count
            assert session.profile.username == str(session.profile.chat_id)
            assert session.profile.username.encode() in rows[user].data


async def pump(reader, writer):
    """Hand on what comes from one side."""
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def before(postgres, clients):
    """Stand before a PostgreSQL; return the URL, and add who connects to `clients`."""
    socket, folder = ".s.PGSQL.5432", postgres.folder / "before"
    folder.mkdir()

    async def serve(reader, writer):
        clients.append(writer)
        there, back = await asyncio.open_unix_connection(postgres.folder / socket)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    async with await asyncio.start_unix_server(serve, folder / socket):
        yield f"postgresql://bot@/postgres?host={folder}"


@pytest.mark.errors
@pytest.mark.requirement("S8")
@pytest.mark.system("postgres", package="postgresql")
async def test_a_server_that_says_goodbye_between_two_statements_is_typed(killable):
    """The driver is told before its connection ends, and is out of step: a SourceError.

    So it is when a transaction is idle for too long, or the server is shut down, on a
    busy machine. asyncpg raises its InternalClientError then.
    """
    postgres, _ = killable
    fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
    goodbye = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    clients = []

    async def say_goodbye(_):
        clients[-1].write(goodbye)
        await asyncio.sleep(0.1)

    async with (
        before(postgres, clients) as url,
        open_database(url) as engine,
    ):
        source = SqlSource(engine)
        assert await source.save(kept(1), 0)
        with pytest.raises(SourceError, match="InternalClientError"):
            await source.save(kept(2), 0, also=say_goodbye)
        clients[-1].close()
        assert [row.user_id for row in await source.load([1, 2])] == [1]
        assert await source.save(kept(2), 0)


@pytest.mark.errors
@pytest.mark.requirement("S8")
async def test_a_database_that_is_not_there_is_typed(tmp_path):
    """Nothing was sent, and the error says so; no value of the user is in it."""
    for url in (
        f"postgresql://bot:secret@/x?host={tmp_path}",
        f"sqlite:///{tmp_path}/no/folder/bot.db",
    ):
        async with open_database(url) as engine:
            source = SqlSource(engine)
            for call in (source.load([1]), source.save(kept(data=b"hush"), 0)):
                with pytest.raises(SourceUnavailable) as caught:
                    await call
                assert caught.value.outcome is Outcome.NOT_SENT
                assert "hush" not in str(caught.value)
                assert "secret" not in str(caught.value)
            with pytest.raises(SourceUnavailable):
                await upgrade(engine)


@pytest.mark.errors
@pytest.mark.requirement("S8")
async def test_tables_that_were_not_made_are_typed(empty):
    """Without the migrations, each call fails and none is an empty answer."""
    with pytest.raises(SourceUnavailable):
        await SqlSource(empty).load([1])
    with pytest.raises(SourceUnavailable):
        await SqlSource(empty).save(kept(), 0)
    with pytest.raises(SourceUnavailable):
        _ = [each async for each in SqlRules(empty).all()]


@pytest.mark.errors
@pytest.mark.parametrize("url", ["", "bot.db", "redis://x", "nosuch://secret@x/y"])
async def test_an_url_that_is_none_names_what_to_give(url):
    """A wrong database URL is a settings error that does not repeat it."""
    with pytest.raises(SettingsError, match=r"sqlite:///bot\.db") as caught:
        await open_database(url).__aenter__()
    assert "secret" not in str(caught.value)


@pytest.mark.advanced
@given(
    st.builds(
        SourceRecord,
        user_id=st.integers(-(2**63), 2**63 - 1),
        version=st.integers(0, 2**53),
        schema=st.integers(0, 2**31 - 1),
        created=st.integers(0, 2**53),
        active=st.integers(0, 2**53),
        on=st.booleans(),
        data=st.binary(),
    )
)
def test_a_row_is_a_record_and_back(record):
    """What is written to the columns is what is read from them."""
    assert _kept(SimpleNamespace(**_row(record))) == record


@pytest.mark.integration
@pytest.mark.requirement("S8")
def test_the_command_makes_the_tables(tmp_path):
    """`oddsbot db upgrade` says what it did, and is an error where it could not."""
    url = f"sqlite:///{tmp_path}/bot.db"
    for _ in range(2):
        result = CliRunner().invoke(app, ["db", "upgrade", "--database", url])
        assert result.exit_code == 0
        assert "0007" in result.output
    wrong = CliRunner().invoke(app, ["db", "upgrade", "--database", "nosuch://x"])
    assert wrong.exit_code == 2
    assert "sqlite:///bot.db" in wrong.stderr
