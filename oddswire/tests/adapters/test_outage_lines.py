"""What an operator reads of the adapters while Redis is away."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
from aiogram.fsm.storage.base import StorageKey

from oddswire import Client
from oddswire.adapters.aiogram import Deduplicate, EventIsolation
from oddswire.adapters.ptb import Persistence
from oddswire.errors import OddswireError
from support import eventually

MODES = {("updates", "unchecked"), ("updates", "unnoted"), ("turns", "local"),
         ("bot_data", "unsaved")}  # fmt: skip


@pytest.mark.errors
@pytest.mark.requirement("G4")
async def test_each_adapter_says_once_what_it_does_without_redis(
    own, caplog, bot_of, update_of
):
    """However many updates come: one line when it begins, one when it is over."""
    async with Client.from_url(
        own.url, command_timeout=0.5, reconnect_delay=0.01, reconnect_cap=0.05
    ) as client:
        once = Deduplicate(client, deadline=0.5)
        isolation = EventIsolation(client, on_error="local")
        persistence = Persistence(client)
        persistence.bot = SimpleNamespace(id=1)
        numbers = iter(range(1, 10_000))

        async def handle(event, data):
            async with isolation.lock(StorageKey(bot_id=42, chat_id=1, user_id=1)):
                with contextlib.suppress(OddswireError):
                    await persistence.update_user_data(7, {"n": event.update_id})
                    await persistence.flush()

        async def use():
            number = next(numbers)
            await once(handle, update_of(number), {"bot": bot_of(42)})

        def told(event):
            return sorted(
                (record.part, record.mode)
                for record in caplog.records
                if getattr(record, "event", "") == event and hasattr(record, "mode")
            )

        await client.ping()
        await use()
        assert told("degraded") == []
        own.kill()
        await own.wait_exit()
        for _ in range(5):
            await use()
        assert told("degraded") == sorted(MODES)
        await own.restart()

        async def restored():
            await use()
            return told("restored") == sorted(MODES)

        await eventually(restored)
        assert told("degraded") == sorted(MODES)
    # Nothing of the adapters is logged beside these lines.
    assert not [each for each in caplog.records if not hasattr(each, "event")]
