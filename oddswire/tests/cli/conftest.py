"""What the tests of the command share: running it, on a server or without."""

from __future__ import annotations

import asyncio

import pytest
from typer.testing import CliRunner

from oddswire.cli._app import app


@pytest.fixture(name="run")
def _run(monkeypatch, tmp_path):
    """`run(*words, url, **variables)`: the command in this process; its result."""
    monkeypatch.chdir(tmp_path)  # no .env of somebody
    for name in ("REDIS_URL", "REDIS_PASSWORD", "ODDSWIRE_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    def run(*words, url=None, **variables):
        env = variables if url is None else {"REDIS_URL": url, **variables}
        return CliRunner().invoke(app, words, env=env, catch_exceptions=False)

    return run


@pytest.fixture(name="beside")
def _beside(run):
    """The same from a test that has a loop of its own."""

    async def beside(*words, **variables):
        return await asyncio.to_thread(run, *words, **variables)

    return beside


@pytest.fixture
def server(own):
    """Each test has a server of its own."""
    return own
