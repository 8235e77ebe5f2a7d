"""Every deadline of the library: what arrived while the loop stood still counts."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest
import uvloop

import oddswire
from oddswire import Client
from oddswire.cache import Cache
from oddswire.connection.deadline import Alarm, Deadline

pytestmark = pytest.mark.requirement("C4")

LOOPS = pytest.mark.parametrize(
    "new_loop",
    [asyncio.new_event_loop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)

LIMIT, STALL = 0.5, 1.0


def _stall(seconds=STALL):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


async def _first_call(client):
    return await client.echo("x")


async def _own(client):
    async with client.pipeline() as pipe:
        for _ in range(1_100):  # too many for the command connection
            pipe.echo("x")
        return (await pipe.execute())[-1]


CALLS = {
    "the first call": (_first_call, {}),
    "one connection per call": (_first_call, {"transport": "pool"}),
    "a large batch": (_own, {}),
}


@LOOPS
@pytest.mark.errors
@pytest.mark.parametrize("what", CALLS)
def test_a_stall_makes_no_timeout(server, new_loop, what):
    """A call under which the loop stands still past its deadline has its answer."""
    call, options = CALLS[what]

    async def main():
        found = []
        for turns in (1, 6):
            async with Client.from_url(
                server.url, command_timeout=LIMIT, **options
            ) as client:

                async def hold(turns=turns):
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    _stall()

                if what != "the first call":
                    await call(client)  # connected
                value, _ = await asyncio.gather(call(client), hold())
                found.append(value)
        return found

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert set(runner.run(main())) == {b"x"}


@LOOPS
@pytest.mark.errors
def test_a_stall_under_a_load_makes_no_timeout(server, prefix, new_loop):
    """`hard_timeout` passed while the loop stood still, and the value is there."""

    async def main():
        found = []
        loop = asyncio.get_running_loop()
        async with (
            Client.from_url(server.url) as client,
            Cache(client, prefix=prefix, timeout=5.0) as cache,
        ):
            await cache.get_or_set("m:0", lambda: b"x", ttl=60)
            for number in (1, 4):

                def load(number=number):
                    loop.call_later(number * 0.0005, _stall)
                    return b"x"

                found.append(
                    await cache.get_or_set(
                        f"m:{number}", load, ttl=60, hard_timeout=LIMIT
                    )
                )
        return found

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert set(runner.run(main())) == {b"x"}


@LOOPS
@pytest.mark.advanced
def test_a_deadline_ends_on_time(new_loop):
    """Without a stall it ends when it is due, and is what expired."""

    async def main():
        began = time.monotonic()
        deadline = Deadline(0.1)
        with pytest.raises(TimeoutError):
            async with deadline:
                await asyncio.sleep(30)
        assert deadline.expired()
        assert time.monotonic() - began >= 0.099
        async with Deadline(None), Deadline(30) as unused:
            await asyncio.sleep(0)
        assert not unused.expired()
        with pytest.raises(TimeoutError):
            async with Deadline(-1):
                await asyncio.sleep(30)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@LOOPS
@pytest.mark.errors
def test_a_loop_that_is_always_late_has_deadlines_too(new_loop):
    """A deadline is put off by as much again at most."""

    async def main():
        loop = asyncio.get_running_loop()
        rung = loop.create_future()
        began = time.monotonic()
        Alarm(loop, 0.1, lambda: rung.set_result(time.monotonic() - began))
        while not rung.done():
            _stall(0.03)
            await asyncio.sleep(0)
        assert await rung < 1.0

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.advanced
async def test_a_cancellation_from_outside_stays_one():
    """Cancelled by somebody else, the block ends with the cancellation."""

    async def work():
        async with Deadline(30):
            await asyncio.sleep(30)

    task = asyncio.create_task(work())  # noqa: TID251 - awaited below
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.basic
def test_every_other_timeout_says_why():
    """Where asyncio's own is used in the library, a comment beside it says why."""
    root = Path(oddswire.__file__).parent
    bare = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        # The servers' starter, the tests' proxy, and what `Deadline` is made of.
        if name.startswith(("embedded/", "testing/")) or name.endswith("/deadline.py"):
            continue
        lines = path.read_text("utf-8").splitlines()
        for before, line in zip(["", *lines], lines, strict=False):
            if re.search(r"asyncio\.(timeout|timeout_at|wait_for)\(", line):
                said = line.partition("#")[2] or before.partition("#")[2]
                if not said:
                    bare.append(f"{name}: {line.strip()}")
    assert bare == []
