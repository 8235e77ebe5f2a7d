"""Closing: nothing in flight is lost, nothing stays open, and it ends in time."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
import redis
import redis.asyncio as aredis

from oddswire import Client, EmbeddedServer
from oddswire.errors import ClosedError, ConnectionLost, Outcome, Unavailable
from oddswire.testing import FaultProxy, LoopLag, frozen
from support import eventually

TASKS = 20


@asynccontextmanager
async def _working(url, drain):
    """Run `working.py`; it has made its first calls when the block begins."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("working.py")),
        url,
        str(drain),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"working\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def _unanswered(server):
    """Stop the server for the block, in which every task has a call under way."""
    with frozen(server):
        # The process reads what was answered before, and each task calls again. A close
        # between the two would find nothing that it has to wait for.
        await asyncio.sleep(0.5)
        yield


async def _told(process):
    """Return what it says at its end."""
    async with asyncio.timeout(15):
        out, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(out.splitlines()[-1])
    assert found["left"] == []
    return found


async def _counts(server, keys):
    async with aredis.Redis.from_url(server.url) as admin:
        return {key: int(await admin.get(key) or 0) for key in keys}


@pytest.mark.requirement("C13")
@pytest.mark.integration
async def test_sigterm_loses_no_call_that_is_in_flight():
    """Every call under way is answered, none after it is sent, the server agrees."""
    async with EmbeddedServer() as server, FaultProxy(server.url) as proxy:
        # Slow enough that each task has a call under way at any moment.
        proxy.down.latency = 0.1
        async with _working(proxy.url, drain=60) as process:
            process.send_signal(signal.SIGTERM)
            found = await _told(process)
        counts = await _counts(server, found["acknowledged"])

    assert len(counts) == TASKS
    assert counts == found["acknowledged"]
    assert found["took"] < 20  # not all of the time to drain
    # The call after the last was refused before it left; who blocks is cut.
    assert found["errors"].pop("ClosedError not_sent") == TASKS
    assert list(found["errors"].values()) == [1]
    assert list(found["unknown"]) == ["blocked"]


@pytest.mark.requirement("C13")
@pytest.mark.errors
async def test_sigterm_under_a_stopped_server_ends_with_the_drain_deadline():
    """What the server does not answer has an outcome when the time to drain is over."""
    async with EmbeddedServer() as server:
        async with (
            _working(server.url, drain=0.5) as process,
            _unanswered(server),
        ):
            process.send_signal(signal.SIGTERM)
            found = await _told(process)
        counts = await _counts(server, found["acknowledged"])

    assert 0.4 < found["took"] < 20  # its calls have 60 s
    assert found["errors"]["ClosedError unknown"] == TASKS
    for key, acknowledged in found["acknowledged"].items():
        assert acknowledged <= counts[key] <= acknowledged + found["unknown"][key]


@pytest.mark.requirement("C13")
@pytest.mark.errors
async def test_a_second_sigterm_ends_the_draining():
    """Closing that is cancelled closes at once, and each call has its outcome."""
    async with EmbeddedServer() as server:
        async with (
            _working(server.url, drain=60) as process,
            _unanswered(server),
        ):
            process.send_signal(signal.SIGTERM)
            assert await process.stdout.readline() == b"draining\n"
            process.send_signal(signal.SIGTERM)
            began = monotonic()
            found = await _told(process)
            assert monotonic() - began < 20
        counts = await _counts(server, found["acknowledged"])

    assert found["cancelled"]
    assert found["errors"]["ClosedError unknown"] == TASKS
    for key, acknowledged in found["acknowledged"].items():
        assert acknowledged <= counts[key] <= acknowledged + found["unknown"][key]


@pytest.mark.requirement("C13")
@pytest.mark.errors
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("turns", [1, 2, 3, 4, 6, 9])
async def test_a_close_that_is_cancelled_leaves_nothing_open(server, turns, twice):
    """Wherever closing is cancelled, every connection ends and every call too."""
    loop = asyncio.get_running_loop()
    async with FaultProxy(server.url) as proxy:
        client = Client.from_url(proxy.url, pool_max=6)
        await client.ping()
        await asyncio.gather(*(client.blpop("none", 0.01) for _ in range(3)))
        async with client.client() as leased:
            await leased.ping()
        assert proxy.open >= 4
        proxy.down.hold = True
        calls = [loop.create_task(client.incr("n")) for _ in range(3)]
        calls += [loop.create_task(client.blpop("none", 0)) for _ in range(2)]
        await eventually(lambda: client.connection_pool.state.leased == 2)
        proxy.stall()
        calls += [loop.create_task(client.blpop("none", 0)) for _ in range(2)]
        await eventually(lambda: client.connection_pool.state.opening)

        closing = loop.create_task(client.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        if twice:
            await asyncio.sleep(0)
            closing.cancel()
        await asyncio.wait([closing])
        async with asyncio.timeout(15):
            ends = await asyncio.gather(*calls, return_exceptions=True)
        proxy.heal()
        async with asyncio.timeout(15):
            await proxy.quiet()

    assert closing.cancelled()
    assert {type(end) for end in ends} <= {ClosedError, ConnectionLost, Unavailable}
    assert {end.outcome for end in ends[:3]} == {Outcome.UNKNOWN}
    left = [task for task in asyncio.all_tasks(loop) if "oddswire" in task.get_name()]
    assert left == []
    with pytest.raises(ClosedError):
        await client.ping()
    with pytest.raises(ClosedError):
        await client.blpop("none", 1)


@pytest.mark.errors
@pytest.mark.parametrize("closed", ["subscriber", "client"])
@pytest.mark.parametrize("read", ["get_message", "listen"])
async def test_a_subscriber_that_is_read_from_stays_closed(server, closed, read):
    """A task that reads from a raw subscriber opens no connection after the close."""

    async def read_on():
        while True:
            if read == "get_message":
                await subscriber.get_message(timeout=5)
            else:
                async for _ in subscriber.listen():
                    pass

    async def still_open():
        return [each for each in await admin.client_list() if each["name"] == read]

    async with (
        aredis.Redis.from_url(server.url) as admin,
        Client.from_url(server.url, client_name=read) as client,
    ):
        subscriber = client.pubsub()
        await subscriber.subscribe("c")
        task = asyncio.get_running_loop().create_task(read_on())
        await eventually(lambda: admin.pubsub_numsub("c"), holds=lambda n: n[0][1])
        await (subscriber if closed == "subscriber" else client).aclose()

        with pytest.raises(redis.RedisError):
            await asyncio.wait_for(task, 5)
        if closed == "client":
            with pytest.raises(ClosedError):
                await subscriber.get_message(timeout=5)
        await client.aclose()
        await eventually(still_open, 5, holds=lambda found: not found)


@pytest.mark.requirement("C13")
@pytest.mark.errors
async def test_a_batch_that_nobody_takes_does_not_hold_up_the_close(server):
    """Megabytes that a stalled link does not take keep no connection open."""
    async with FaultProxy(server.url) as proxy:
        client = Client.from_url(proxy.url, drain_timeout=0.1)
        await client.ping()
        await client.blpop("none", 0.01)
        proxy.up.hold = True
        batch = client.pipeline()
        for number in range(1_500):
            batch.echo(b"x" * 10_000 + b"%d" % number)
        call = asyncio.get_running_loop().create_task(batch.execute())
        await asyncio.sleep(0.3)  # the kernel is full; nothing tells of that
        with LoopLag() as lag:
            await client.aclose()
        assert lag.free < 2.0
        with pytest.raises((ConnectionLost, ClosedError)) as cut:
            await call
        assert cut.value.outcome is Outcome.UNKNOWN


@pytest.mark.requirement("C13")
@pytest.mark.integration
async def test_what_the_page_shows_ends_in_order(pytestconfig, tmp_path):
    """The program on the page of the client ends by SIGTERM with its assertion true."""
    page = (pytestconfig.rootpath / "docs" / "guides" / "client.md").read_text(
        encoding="utf-8"
    )
    code = page.partition("## Closing")[2].split("```python\n")[1].split("```")[0]
    said = code.replace(
        "await stop.wait()", "print('up', flush=True); await stop.wait()"
    )
    script = tmp_path / "closing.py"
    script.write_text(said)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
