"""SIGTERM in a program with a `Wire`: what every part had in flight is counted."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import msgspec
import pytest
import redis.asyncio as aredis

from oddswire import EmbeddedServer, connect
from oddswire.testing import FaultProxy

TASKS = 4
PROGRAM = Path(__file__).with_name("serving.py")


class Note(msgspec.Struct):
    """A message of the queue, as the program has it."""

    n: int


@pytest.mark.requirement("C13")
@pytest.mark.integration
async def test_sigterm_loses_nothing_of_any_part():
    """Each part's acknowledged work is in the server, and the rest was told."""
    async with EmbeddedServer() as server, FaultProxy(server.url) as proxy:
        proxy.down.latency = 0.02  # a call of each task is under way at any moment
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), proxy.url, stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(50):
                assert await process.stdout.readline() == b"working\n"
                process.send_signal(signal.SIGTERM)
                printed, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        assert process.returncode == 0
        found = json.loads(printed)
        assert found["left"] == []
        acknowledged, errors = found["acknowledged"], found["errors"]
        # Each task ended by being told so.
        assert set(errors) == set(acknowledged)

        def between(part, numbers, there):
            names = [f"{part}:{number}" for number in numbers]
            done = sum(acknowledged[name] for name in names)
            told = sum(sum(errors[name].values()) for name in names)
            assert done <= there <= done + told, (part, done, there, errors)

        async with (
            aredis.Redis.from_url(server.url) as admin,
            connect(url=server.url, queue=Note) as wire,
        ):
            for number in range(TASKS):
                one = (number,)
                between("client", one, int(await admin.get(f"n:{number}")))
                between("lock", one, int(await admin.get(f"locked:{number}")))
                between("limiter", one, int(await admin.get(f"limited:{number}")))
                session = await wire.sessions.get(number)
                between("sessions", one, session.preferences["n"])
            (log,) = [
                key async for key in admin.scan_iter(_type="stream", match="*{log:*")
            ]
            between("pubsub", range(TASKS), await admin.xlen(log))
            queue = await wire.queue.stats()
            between("queue", range(TASKS), queue.enqueued)
            # What was in hand was finished, and settled once.
            handled = [int(await admin.get(f"handled:{n}") or 0) for n in range(TASKS)]
            assert sum(handled) == found["handled"] == queue.delivered
            assert queue.leased == 0
