"""A pytest plugin: aiogram's own tests get our storage and isolation for theirs."""

# ruff: noqa: D103 - fixtures

from __future__ import annotations

import uuid

import aiogram.fsm.storage.memory
import pytest
from aiogram.fsm.storage.base import StorageKey

from oddswire import Client
from oddswire.adapters.aiogram import EventIsolation, Storage


def pytest_addoption(parser):
    parser.addoption("--url", help="of a Redis")


@pytest.fixture
async def client(request):
    async with Client.from_url(request.config.getoption("--url")) as client:
        yield client


@pytest.fixture
def storage(request, client):
    # The tests ask for a storage by name; only aiogram's Redis is replaced.
    assert request.param == "redis_storage"
    return Storage(client, prefix=f"{uuid.uuid4().hex}:")


@pytest.fixture
def isolation(request, client):
    assert request.param == "redis_isolation"
    return EventIsolation(client, prefix=f"{uuid.uuid4().hex}:")


@pytest.fixture
def bot():
    from tests.mocked_bot import MockedBot

    return MockedBot()


@pytest.fixture
def storage_key(bot):
    return StorageKey(chat_id=-42, user_id=42, bot_id=bot.id)


@pytest.fixture(autouse=True)
def ours_for_simple(request, client, monkeypatch):
    # The test of issue 1317 makes its own isolation.
    module = request.module
    if hasattr(module, "SimpleEventIsolation"):
        monkeypatch.setattr(
            module,
            aiogram.fsm.storage.memory.SimpleEventIsolation.__name__,
            lambda: EventIsolation(client, prefix=f"{uuid.uuid4().hex}:"),
        )
