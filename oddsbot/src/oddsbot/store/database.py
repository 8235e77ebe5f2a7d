"""The database: its engine, and the migrations of the bot's tables."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import asynccontextmanager, suppress
from functools import wraps
from pathlib import Path
from sqlite3 import OperationalError
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import column, event, inspect, select, table
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from oddsbot.store.tables import VERSIONS, metadata
from oddswire.errors import SettingsError, SourceError, SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, Select

P = ParamSpec("P")
T = TypeVar("T")

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}


# So often a process tries to change a new file of SQLite.
_TURNS = 4

# A process that vanished in a transaction holds up nobody for longer than this.
_POSTGRESQL = {
    "timeout": 5,
    "command_timeout": 10,
    "server_settings": {
        "idle_in_transaction_session_timeout": "5000",
        "tcp_user_timeout": "5000",
    },
}


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[AsyncEngine]:
    """Hold an engine for ``sqlite:///file`` or ``postgresql://...``; connects on use.

    Raises:
        SettingsError: The URL is none of these, or its driver is not installed.
    """
    # SQLite's dialect looks for its file.
    engine = await asyncio.to_thread(_engine, url)
    try:
        yield engine
    finally:
        await engine.dispose()


def _engine(url: str) -> AsyncEngine:
    scheme, separator, rest = url.partition("://")
    driver = _DRIVERS.get(scheme, scheme)
    try:
        engine = create_async_engine(
            f"{driver}{separator}{rest}",
            connect_args=_POSTGRESQL if "asyncpg" in driver else {},
            # A file does not hang up, and each question to it costs a thread a turn.
            pool_pre_ping="sqlite" not in driver,
            # As many as handlers at the same time: SQLite has a thread for each
            # connection, which is not to be made for one question.
            pool_size=16,
            # They are users, wallets and rules, and errors are logged.
            hide_parameters=True,
        )
    except (ArgumentError, SQLAlchemyError, ImportError):
        # Not repeated: an URL may hold a password.
        raise SettingsError(
            "the database URL cannot be used: give one like sqlite:///bot.db or "
            "postgresql://user@host/name (pip install oddsbot[postgresql])"
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _pragmas)
        _make_private(engine.url.database)
    return engine


def _make_private(file: str | None) -> None:
    """Make the database's file its owner's alone, before SQLite makes it for everybody.

    The log and the index that SQLite puts beside it have the mode of the file.
    """
    if not file or file == ":memory:" or file.startswith("file:"):
        return
    # Where it cannot be made, SQLite says so when it connects.
    with suppress(OSError):
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        for each in (file, f"{file}-wal", f"{file}-shm"):
            with suppress(FileNotFoundError):
                path = Path(each)
                mode = stat.S_IMODE(path.stat().st_mode)
                if mode & 0o077:
                    path.chmod(mode & 0o700)


def _pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 5000")
    # Readers and one writer at once; a write is on the disk when it is acknowledged.
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    # Off by default: with a person go her rules and alerts.
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Have a file's writes logged ahead; of several processes one changes a new file.

    SQLite refuses the change at once while another process makes it or writes. So the
    end of that is waited for as a writer, which SQLite keeps waiting.
    """
    for left in reversed(range(_TURNS)):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except OperationalError:
            if not left:
                raise
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("ROLLBACK")
        else:
            return


def to_its_end(
    work: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a function whose transaction is never left half done.

    Cancelled, it waits until the database has answered, and ends then. A connection of
    SQLite that is dropped in the middle keeps the file locked until it is collected,
    and every other process waits for it.
    """

    @wraps(work)
    async def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.get_running_loop().create_task(work(*args, **kwargs))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # the caller does not wait for it any more
            raise

    return whole


@to_its_end
async def upgrade(engine: AsyncEngine) -> str:
    """Bring the bot's tables to the newest form; return its revision.

    All of it is one transaction. Two processes may do it at once: a lock makes the
    second one wait and find it done.

    Raises:
        SourceError: The database refused.
    """
    script = await asyncio.to_thread(_script)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade, script)
    except (SQLAlchemyError, OSError) as error:
        raise failure(error) from None
    head = script.get_current_head()
    assert head is not None  # noqa: S101 - the package has migrations
    return head


async def revision_of(engine: AsyncEngine) -> tuple[str, str]:
    """Return the revision of the bot's tables, empty without any, and the newest one.

    Raises:
        SourceUnavailable: The database cannot be read.
    """
    script = await asyncio.to_thread(_script)
    newest = script.get_current_head() or ""
    try:
        async with engine.connect() as connection:
            found = await connection.run_sync(_revision)
    except (SQLAlchemyError, OSError) as error:
        raise SourceUnavailable(*failure(error).args) from None
    return found, newest


def _revision(connection: Connection) -> str:
    if not inspect(connection).has_table(VERSIONS):
        return ""
    query: Select[Any] = select(column("version_num")).select_from(table(VERSIONS))
    return str(connection.execute(query).scalar() or "")


def _script() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", "oddsbot:store/migrations")
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    # The files are read here, in a thread, and not in the middle of a transaction.
    script.get_heads()
    return script


def _upgrade(connection: Connection, script: ScriptDirectory) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7246110)")
    else:
        # Python begins one before rows are written, and not before tables are made.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def steps(revision: Any, _: MigrationContext) -> Sequence[Any]:
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - as alembic does

    context = EnvironmentContext(Config(), script, fn=steps)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSIONS,
        transaction_per_migration=False,
    )
    context.run_migrations()


def failure(error: Exception) -> SourceError:
    """Return what a failure of the database is to its caller, without its values.

    Raise it ``from None``: the database's own error has the statement, and what it says
    of it may have a row.
    """
    cause = getattr(error, "orig", None) or error
    text = f"the database: {type(cause).__name__}"
    refused = isinstance(error, DBAPIError) and not error.connection_invalidated
    if isinstance(error, OSError) or (refused and not _broken(cause)):
        return SourceUnavailable(text)
    return SourceError(text)


def _broken(cause: BaseException) -> bool:
    """Whether the connection ended, so that a commit may have gone through."""
    names = {each.__name__ for each in type(cause).__mro__}
    return bool(
        names
        & {
            "ConnectionDoesNotExistError",
            "ConnectionFailureError",
            "InterfaceError",
            "InternalClientError",
            "PostgresConnectionError",
            "AdminShutdownError",
            "CrashShutdownError",
        }
    ) or any(
        _broken(each)
        for each in (cause.__cause__, cause.__context__)
        if each is not None
    )
