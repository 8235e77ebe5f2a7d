from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import signal
import sys
from pathlib import Path
from time import monotonic

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.codec import Keyring
from oddswire.sessions import Sessions
from oddswire.testing import Call, not_linearizable
from support.hooks import session_keys

WORKER = Path(__file__).with_name("worker.py")
_spec = importlib.util.spec_from_file_location("session_worker", WORKER)
worker = importlib.util.module_from_spec(_spec)
sys.modules["session_worker"] = worker
_spec.loader.exec_module(worker)


class Workers:
    """Processes of `worker.py`, and what they said."""

    def __init__(self, url, prefix, key):
        self._args = (url, prefix)
        self._key = key
        self._all = []
        self.running = []
        self.ended = 0
        self.lines = []

    async def start(self, count):
        """Start so many; each has begun its first call when this returns.

        One that is still opening its sessions when the server dies ends with an error.
        """
        await asyncio.gather(*(self._start(f"p{number}") for number in range(count)))
        self.ended = 0

    async def _start(self, name):
        process = await asyncio.create_subprocess_exec(
            sys.executable, WORKER, *self._args, name, self._key,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        begun = asyncio.Event()
        reading = asyncio.get_running_loop().create_task(self._read(process, begun))
        self._all.append((process, reading))
        self.running.append(process)
        await begun.wait()

    async def _read(self, process, begun):
        async for line in process.stdout:
            begun.set()
            if line.endswith(b"\n"):
                said = json.loads(line)
                self.lines.append(said)
                self.ended += said["at"] == "end"

    async def kill(self, process):
        """Kill one, whatever it is doing."""
        assert process.returncode is None, (await process.stderr.read()).decode()
        self.running.remove(process)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def stop(self):
        """Kill all, and return every call."""
        for process in list(self.running):
            await self.kill(process)
        for process, reading in self._all:
            await reading
            assert await process.stderr.read() == b""
        return self.calls()

    def calls(self):
        """Return the calls; one that was cut off is unknown."""
        begun, calls = {}, []
        for line in self.lines:
            if line["at"] == "begin":
                begun[line["tag"]] = line
                continue
            calls.append(self._call(begun.pop(line["tag"]), line))
        cut = {"outcome": "unknown", "value": None, "time": monotonic()}
        return calls + [self._call(line, cut) for line in begun.values()]

    def _call(self, begin, end):
        return Call(
            op=begin["op"],
            key=str(begin["user"]),
            began=begin["time"],
            ended=end["time"],
            outcome=end["outcome"],
            sent=begin["tag"],
            value=end["value"],
        )


async def judge(calls, sessions):
    """Return what is wrong with what is stored after these calls."""
    wrong = not_linearizable(
        [call for call in calls if int(call.key) in worker.REGISTERS], start=""
    )
    for user in range(worker.USERS):
        session = await sessions.get(user, fresh=True)
        tried = [call for call in calls if call.key == str(user)]
        for op, found in (("done", session.done), ("wallet", session.wallets)):
            mine = [call for call in tried if call.op == op]
            sure = {call.sent for call in mine if call.outcome == "ok"}
            wrong += [f"lost: {tag}" for tag in sorted(sure - found.keys())]
            possible = sure | {c.sent for c in mine if c.outcome == "unknown"}
            wrong += [f"made up: {tag}" for tag in sorted(found.keys() - possible)]
        sample = sorted(session.wallets)[::25]
        for tag in sample:
            if await sessions.users_for("wallet", tag, fresh=True) != {user}:
                wrong.append(f"not in its index: {tag}")
    return wrong


@pytest.mark.integration
@pytest.mark.requirement("S3")
async def test_eight_processes_with_random_kills_lose_nothing(server, client, prefix):
    """What was acknowledged is there, whoever was killed; registers linearize."""
    key = Keyring.new_line(1)
    chance = random.Random(5)
    workers = Workers(server.url, prefix, key)
    await workers.start(8)
    async with asyncio.timeout(25):
        for target in (200, 500, 800):
            while workers.ended < target:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            for _ in range(2):
                await workers.kill(chance.choice(workers.running))
        while workers.ended < 1200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        calls = await workers.stop()
    sessions = Sessions(
        client, worker.Shared, prefix=prefix, keyring=Keyring.from_text(key)
    )
    assert await judge(calls, sessions) == []
    # A call may also have been refused: others were first 16 times.
    assert sum(call.outcome == "ok" for call in calls) >= 1000


@pytest.mark.integration
@pytest.mark.requirement("S3")
async def test_a_killed_server_with_aof_loses_nothing_acknowledged(tmp_path, prefix):
    """With every write fsynced, kill -9 of the server costs no acknowledged change."""
    key = Keyring.new_line(1)
    always = ("--appendfsync", "always")
    async with EmbeddedServer(aof=True, args=always, data_dir=tmp_path) as server:
        workers = Workers(server.url, prefix, key)
        await workers.start(3)
        async with asyncio.timeout(25):
            for target in (100, 250):
                while workers.ended < target:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                server.kill(signal.SIGKILL)
                await server.restart()
            while workers.ended < 400:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            calls = await workers.stop()
        async with Client.from_url(server.url) as client:
            sessions = Sessions(
                client, worker.Shared, prefix=prefix, keyring=Keyring.from_text(key)
            )
            assert await judge(calls, sessions) == []
            total = (await sessions.stats()).total
            assert total == await client.zcard(session_keys(sessions).activity)
