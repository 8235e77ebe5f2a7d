"""What the tests share: a source in a file, and sessions on it."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from time import monotonic

import pytest

from oddswire import Client

_spec = importlib.util.spec_from_file_location(
    "source_desk", Path(__file__).with_name("desk.py")
)
desk = importlib.util.module_from_spec(_spec)
sys.modules["source_desk"] = desk
_spec.loader.exec_module(desk)


@pytest.fixture
async def client(server):
    """Return a client of the shared server."""
    async with Client.from_url(server.url) as client:
        yield client


@pytest.fixture
def source(tmp_path):
    """Return a source in a file of its own."""
    with desk.Desk(tmp_path / "source.db") as source:
        yield source


@pytest.fixture
def people(client, source, prefix):
    """Return what makes the sessions of one process, on the same source."""

    def make(**options):
        options = {"client": client, "source": source, "prefix": prefix, **options}
        return desk.Sessions(type=desk.Person, **options)

    return make


@pytest.fixture
def until():
    """Return what waits until something holds, and fails when it never does."""

    async def wait(holds, seconds=10.0):
        deadline = monotonic() + seconds
        while True:
            result = holds()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            assert monotonic() < deadline, "it never came to hold"
            await asyncio.sleep(0.01)

    return wait
