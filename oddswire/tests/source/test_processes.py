"""Processes that are killed between any two steps, and several that change one user."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from support.hooks import advance_server_clock, mend, noted, session_keys

WORKER = Path(__file__).with_name("worker.py")


async def start(url, *lists):
    """Start a worker."""
    return await asyncio.create_subprocess_exec(
        sys.executable, WORKER, url, *map(str, lists),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def agree(client, sessions, source):
    """Assert that Redis, its indexes and the source say the same; return the person."""
    person = await sessions.get(1, fresh=True)
    kept = source.rows().get(1)
    assert (person is None) == (kept is None)
    for city in ("Oslo", "Rome"):
        found = await sessions.users_for("city", city, fresh=True)
        lives = person is not None and person.is_active and person.city == city
        assert found == ({1} if lives else frozenset())
    if kept is not None:
        assert person.is_active == kept.on
        assert person.city.encode() in kept.data
        assert await noted(sessions, [1]) == {1: kept.version}
    if person is None:
        # A read finds her in neither, and leaves what is left to the mender.
        await mend(sessions)
    assert not await client.exists(session_keys(sessions).marks)
    return person


DEATHS = [
    ("update", "before.intent"),
    ("update", "after.intent"),
    ("update", "before.save"),
    ("update", "after.save"),
    ("update", "before.store"),
    ("update", "after.store"),
    ("off", "after.intent"),
    ("off", "after.save"),
    ("off", "before.restore"),
    ("off", "after.restore"),
    ("delete", "after.intent"),
    ("delete", "before.delete"),
    ("delete", "after.delete"),
    ("delete", "after.restore"),
]


@pytest.mark.errors
@pytest.mark.requirement("S3", "S8")
@pytest.mark.parametrize("there", [True, False], ids=["there", "new"])
async def test_killed_between_any_two_steps_both_say_the_same(
    client, server, prefix, people, source, tmp_path, there
):
    """After kill -9 at each step, Redis and the source agree with the first read."""
    deaths = [each for each in DEATHS if there or each[0] == "update"]
    lists, all_of_them = [], []
    for number, (what, where) in enumerate(deaths):
        path = tmp_path / f"{number}.db"
        desk = type(source)(path)
        sessions = people(prefix=f"{prefix[:-1]}-{number}:", source=desk)
        if there:
            await sessions.update(1, lambda p: setattr(p, "city", "Oslo"), create=True)
        lists += [f"{prefix[:-1]}-{number}:", path, what, where]
        all_of_them.append((sessions, desk))
    process = await start(server.url, *lists)
    said, complaint = await process.communicate()
    assert complaint == b""
    assert said.split() == [b"%d" % -signal.SIGKILL] * len(deaths)
    for (what, where), (sessions, desk) in zip(deaths, all_of_them, strict=True):
        with desk:
            advance_server_clock(sessions, 3)
            person = await agree(client, sessions, desk)
            committed = where.startswith("after") and where != "after.intent"
            done = committed or where in ("before.store", "before.restore")
            match what:
                case "update" if done:
                    assert person.city == "Rome"
                case "off":
                    assert person.is_active is not done
                case "delete":
                    assert (person is None) is done
                case _:
                    assert person.city == "Oslo" if there else person is None
            # It is not stuck.
            person = await sessions.update(
                1, lambda p: setattr(p, "city", "Rome"), create=True
            )
            assert person.city == "Rome"
            await agree(client, sessions, desk)


@pytest.mark.integration
@pytest.mark.requirement("S3", "S8")
async def test_processes_that_change_one_user_lose_nothing(
    client, server, prefix, people, source, tmp_path
):
    """Counts of two processes, one killed and replaced: none acknowledged is lost."""
    path = tmp_path / "source.db"
    workers = [
        await start(server.url, prefix, path, "count", "never") for _ in range(2)
    ]
    seen = [[] for _ in range(3)]

    async def read(number, process, most):
        async for line in process.stdout:
            seen[number].append(int(line))
            if len(seen[number]) >= most:
                return

    await asyncio.gather(*(read(n, w, 8) for n, w in enumerate(workers)))
    workers[0].kill()
    workers.append(await start(server.url, prefix, path, "count", "never"))
    await asyncio.gather(read(2, workers[2], 6), read(1, workers[1], 16))
    for process in workers[1:]:
        process.kill()
    for number, process in enumerate(workers):
        await read(number, process, 1_000_000)
        assert await process.stderr.read() == b""
        await process.wait()
    sessions = people()
    advance_server_clock(sessions, 3)
    person = await agree(client, sessions, source)
    acknowledged = sorted(count for counts in seen for count in counts)
    assert len(set(acknowledged)) == len(acknowledged), "one update lost another"
    # Each of three deaths may have left one that nobody was told of.
    assert 0 <= person.count - len(acknowledged) <= 3
