"""What the database holds is in no traceback, and its file is its owner's alone."""

from __future__ import annotations

import asyncio
import os
import stat
import traceback

import pytest

from oddsbot.store import SqlSource, open_database, upgrade
from oddswire.errors import SettingsError, SourceError
from oddswire.sessions import SourceRecord


def _kept():
    return SourceRecord(
        user_id=7000123, version=1, schema=1, created=1, active=1, on=True,
        data=b"CANARY wallet",
    )  # fmt: skip


@pytest.mark.errors
@pytest.mark.requirement("X3")
async def test_a_refused_statement_shows_no_value(tmp_path):
    """Neither the error nor its traceback has a user, a wallet or the statement."""
    async with open_database(f"sqlite:///{tmp_path}/bot.db") as engine:
        await upgrade(engine)
        async with engine.begin() as connection:
            await connection.exec_driver_sql("DROP TABLE oddsbot_users")
        source = SqlSource(engine)
        for call in (source.save(_kept(), 0), source.load([7000123])):
            with pytest.raises(SourceError) as caught:
                await call
            text = "".join(traceback.format_exception(caught.value))
            assert "OperationalError" in str(caught.value)
            assert "7000123" not in text
            assert "CANARY" not in text
            assert caught.value.__suppress_context__
        # Where it is logged elsewhere, its values are hidden all the same.
        assert engine.sync_engine.hide_parameters


@pytest.mark.errors
@pytest.mark.requirement("X3")
def test_a_wrong_database_url_is_not_repeated():
    """A URL that cannot be used may hold a password."""
    secret = "".join(reversed("YRANAC"))
    url = f"mysql://me:{secret}@h/db"

    async def use():
        async with open_database(url):
            pass

    with pytest.raises(SettingsError) as caught:
        asyncio.run(use())
    assert secret not in "".join(traceback.format_exception(caught.value))


@pytest.mark.integration
@pytest.mark.requirement("X2")
@pytest.mark.parametrize("there", [False, True], ids=["new", "made by an older one"])
async def test_the_file_is_its_owners_alone(tmp_path, there):
    """Database, log and index have 0600, whatever the umask, also if it was there."""
    file = tmp_path / "bot.db"
    if there:
        file.touch(0o644)
        file.chmod(0o644)
    before = os.umask(0o022)
    try:
        async with open_database(f"sqlite:///{file}") as engine:
            await upgrade(engine)
            modes = {each.name: each.stat().st_mode for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert set(modes) == {"bot.db", "bot.db-wal", "bot.db-shm"}
    assert {stat.S_IMODE(mode) for mode in modes.values()} == {0o600}
