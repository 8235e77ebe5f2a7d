"""``make failovers``: SQL and Redis after failovers of processes that are moved apart.

Three processes change sessions with a source of record while the primary is deposed,
by command, killed, frozen or cut off. Each time some of them hear no sentinel and reach
the new primary late; every other time one of these is killed before that. At the end
every user is compared: what was acknowledged, what SQL has, what Redis has and what its
index finds. Exit status 1: they differ.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "oddswire" / "tests" / "source")]

from desk import Desk, Person  # noqa: E402 - beside the tests of the source

from oddswire import connect  # noqa: E402
from oddswire.errors import OddswireError  # noqa: E402
from oddswire.testing import FaultProxy  # noqa: E402
from support.topple import HOWS, Toppled  # noqa: E402

PROCESSES = 3
USERS = 20
# A deposed primary needs its replicas to acknowledge, so all is compared after 15 s.
SETTLED = 40.0


def opened(url, sentinels, password, source):
    """Return the wire of one process."""
    return connect(
        url=url,
        sentinels=sentinels,
        sentinel_password=password,
        session=Person,
        source=source,
        reconnect_delay=0.02,
        command_timeout=1.0,
    )


async def work(url, sentinels, password, path, log, first):
    """Change sessions, and write down what was acknowledged; until it is killed."""
    with Desk(path) as source, open(log, "a", buffering=1, encoding="utf-8") as lines:  # noqa: ASYNC230, PTH123 - before the work
        while True:
            # It does not open while the primary refuses writes.
            with suppress(OddswireError):
                async with opened(url, sentinels, password, source) as wire:
                    while True:
                        await change(wire.sessions, lines, int(first))
            await asyncio.sleep(0.5)


async def change(sessions, lines, first):
    """Change one session of this process's users."""
    user = first + random.randrange(USERS)
    value = f"{user}-{monotonic()}"

    def fn(person):
        person.city = value

    lines.write(json.dumps(["began", user, value]) + "\n")
    with suppress(OddswireError, TimeoutError):
        async with asyncio.timeout(5):
            await sessions.update(user, fn, create=True)
        lines.write(json.dumps(["done", user, value]) + "\n")
    await asyncio.sleep(0.02)


class Proof:
    """The processes, and the servers below them."""

    def __init__(self, folder, seed):
        self._folder = Path(folder)
        self._rng = random.Random(seed)
        self._workers = []
        self.killed = 0

    async def run(self, failovers):
        """Depose the primary so often, and compare; return the figures."""
        async with AsyncExitStack() as stack:
            self._group = await stack.enter_async_context(Toppled())
            self._links = [
                [
                    await stack.enter_async_context(FaultProxy(each.url))
                    for each in self._group.sentinels
                ]
                for _ in range(PROCESSES)
            ]
            source = stack.enter_context(Desk(self._folder / "source.db"))
            hosts = ",".join(f"{s.host}:{s.port}" for s in self._group.sentinels)
            wire = await stack.enter_async_context(
                opened(self._group.url, hosts, self._group.password, source)
            )
            self._workers = [await self._start(at) for at in range(PROCESSES)]
            try:
                for number in range(failovers):
                    await asyncio.sleep(1.0)
                    await self._fail_over(number)
            finally:
                for worker in self._workers:
                    with suppress(ProcessLookupError):
                        worker.kill()
                    await worker.wait()
            return await self._compare(wire.sessions, source)

    async def _start(self, at):
        hosts = ",".join(
            f"127.0.0.1:{urlsplit(link.url).port}" for link in self._links[at]
        )
        return await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "worker", self._group.url, hosts),
            *(self._group.password, str(self._folder / "source.db")),
            *(str(self._folder / f"{at}.jsonl"), str(1 + at * USERS)),
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def _fail_over(self, number):
        how = HOWS[number % len(HOWS)]
        late = self._rng.sample(range(PROCESSES), self._rng.randint(1, PROCESSES - 1))
        for at in late:
            for link in self._links[at]:
                link.blackhole()
        old = await self._group.depose(how)
        await asyncio.sleep(self._rng.random() * 4)
        if number % 2:
            with suppress(ProcessLookupError):
                self._workers[late[0]].kill()
            await self._workers[late[0]].wait()
            self.killed += 1
        for at in late:
            for link in self._links[at]:
                link.heal()
                link.reset()
        await self._group.restore(old, how)
        if number % 2:
            self._workers[late[0]] = await self._start(late[0])
        print(f"{number + 1}: {how}, {len(late)} late", file=sys.stderr)

    async def _compare(self, sessions, source):
        lines = [
            json.loads(line)
            for file in sorted(self._folder.glob("*.jsonl"))
            for line in file.read_text(encoding="utf-8").splitlines()
            if line.endswith("]")
        ]
        began, done = {}, {}
        for position, (what, user, value) in enumerate(lines):
            (done if what == "done" else began).setdefault(user, []).append(
                (position, value)
            )
        end = monotonic() + SETTLED
        while True:
            found = await self._differences(sessions, source, began, done)
            if not any(found.values()) or monotonic() > end:
                break
            await asyncio.sleep(1)
        return {
            "acknowledged": sum(map(len, done.values())),
            "users": len(done),
            "killed": self.killed,
            "settled_after": round(monotonic() + SETTLED - end, 1),
            **found,
        }

    async def _differences(self, sessions, source, began, done):
        rows = source.rows()
        lost = redis = index = 0
        for user, changes in done.items():
            session = await sessions.get(user, fresh=True)
            city = session.city if session else None
            # The last one that was acknowledged, or one that was begun after it.
            position, _ = changes[-1]
            allowed = {changes[-1][1]}
            allowed |= {value for at, value in began[user] if at > position}
            lost += city not in allowed
            redis += city is None or city.encode() not in rows[user].data
            index += await sessions.users_for("city", str(city), fresh=True) != {user}
            for _, value in changes[-3:]:
                if value != city:
                    index += bool(await sessions.users_for("city", value, fresh=True))
        return {"lost": lost, "not_as_sql": redis, "wrong_in_index": index}


def main():
    """Run it; 1 if SQL and Redis differ or anything acknowledged is lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--failovers", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="failovers-") as folder:
        found = asyncio.run(Proof(folder, options.seed).run(options.failovers))
    print(json.dumps({"failovers": options.failovers, **found}))
    return int(bool(found["lost"] or found["not_as_sql"] or found["wrong_in_index"]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        asyncio.run(work(*sys.argv[2:]))
    sys.exit(main())
