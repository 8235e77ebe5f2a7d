"""A server that comes and goes: a waiting call hastens the next attempt."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic

import pytest

from oddswire import Client
from oddswire.errors import CircuitOpen, OddswireError, Unavailable
from oddswire.events import Connecting, Disconnected, Ready
from oddswire.testing import LoopLag
from support import eventually

pytestmark = pytest.mark.requirement("C3")

# A backoff that no test could sit out.
SLOW = {"reconnect_delay": 60.0, "reconnect_cap": 60.0}


async def _gone(client, own):
    """Kill the server, and return when the client knows."""
    lost = asyncio.get_running_loop().create_future()
    client.events.subscribe(
        lambda event: lost.done() or lost.set_result(event), Disconnected
    )
    own.kill()
    await own.wait_exit()
    await lost


@pytest.mark.integration
async def test_a_waiting_call_does_not_sit_out_the_backoff(own):
    """Once the server answers, a call that waits is served at once, each time."""
    async with Client.from_url(own.url, command_timeout=20, **SLOW) as client:
        for number in range(3):
            await client.set("k", number)
            await _gone(client, own)
            call = asyncio.create_task(client.ping())  # noqa: TID251 - awaited below
            await asyncio.sleep(0.3)
            with LoopLag() as lag:
                await own.restart()
                assert await call
            assert lag.free < 5.0


@pytest.mark.integration
async def test_an_open_circuit_is_closed_by_those_who_call(own):
    """Calls that the open circuit refuses hasten the probe all the same."""
    async with Client.from_url(
        own.url, reconnect_attempts=1, reconnect_probe=600.0, **SLOW
    ) as client:
        await client.ping()
        await _gone(client, own)
        await eventually(lambda: client.stats().circuit_open)
        with pytest.raises(CircuitOpen) as refused:
            await client.ping()
        assert refused.value.retry_after <= 0.25
        await own.restart()

        async def served():
            with suppress(CircuitOpen):
                return await client.ping()

        assert await eventually(served)


@pytest.mark.errors
async def test_there_is_one_attempt_each_quarter_of_a_second(own):
    """The connections of a client take turns, however many callers wait for them."""
    async with Client.from_url(own.url, command_timeout=2.0, **SLOW) as client:
        tracked = client.tracked(lambda message: None)
        listening = client.subscriber(lambda message: None, "c")
        views = (client, tracked, listening)
        await asyncio.gather(*(view.ping() for view in views))
        attempts = []
        client.events.subscribe(attempts.append, Connecting)
        await _gone(client, own)
        began = monotonic()
        failures = await asyncio.gather(
            *(view.get("k") for view in views for _ in range(50)),
            return_exceptions=True,
        )
        assert {type(each) for each in failures} <= {Unavailable}
        assert 3 <= len(attempts) <= (monotonic() - began) / 0.25 + 2
        assert {each.connection for each in attempts} == {
            "command",
            "tracked",
            "subscriber",
        }
        for view in (tracked, listening):
            await view.aclose()


@pytest.mark.errors
async def test_clients_of_one_server_take_turns(own):
    """However many clients a process has, they try a server together once each turn."""
    clients = [Client.from_url(own.url, command_timeout=2.0, **SLOW) for _ in range(4)]
    attempts = []
    for client in clients:
        await client.ping()
        client.events.subscribe(attempts.append, Connecting)
    await asyncio.gather(*(_gone(client, own) for client in clients))
    began = monotonic()
    await asyncio.gather(*(each.ping() for each in clients), return_exceptions=True)
    # The first attempt of each is at once.
    assert len(attempts) <= (monotonic() - began) / 0.25 + 2 + len(clients)
    for client in clients:
        await client.aclose()


@pytest.mark.errors
async def test_blocking_calls_are_no_storm(own):
    """Loops that block, and ask again after each failure, take turns, and come back."""
    async with Client.from_url(own.url, command_timeout=20) as client:
        await client.ping()
        await _gone(client, own)
        failures, over = [], asyncio.Event()

        async def work():
            while not over.is_set():
                try:
                    await client.blpop("q", 0.05)
                except OddswireError as error:
                    failures.append(error)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(6):
                tasks.create_task(work())
            began = monotonic()
            await asyncio.sleep(1.5)
            told = len(failures)
            assert told <= (monotonic() - began) / 0.25 + 8
            await own.restart()
            await client.ping()
            over.set()
        assert {type(each) for each in failures} == {Unavailable}


@pytest.mark.errors
async def test_the_first_success_wakes_the_other_connections(own):
    """A connection that nobody waits for is back as soon as another one is."""
    async with Client.from_url(own.url, command_timeout=20, **SLOW) as client:
        tracked = client.tracked(lambda message: None)
        await client.ping()
        await tracked.ping()
        await _gone(client, own)
        ready = set()
        client.events.subscribe(lambda event: ready.add(event.connection), Ready)
        await own.restart()
        await client.ping()
        await eventually(lambda: ready == {"command", "tracked"})
        await tracked.aclose()


@pytest.mark.errors
async def test_a_failover_of_some_seconds_does_not_open_the_circuit(own):
    """Hastened attempts do not count: callers wait, and are not refused."""
    async with Client.from_url(
        own.url, command_timeout=1.0, reconnect_attempts=2, **SLOW
    ) as client:
        await client.ping()
        await _gone(client, own)
        for _ in range(2):
            with pytest.raises(Unavailable) as failed:
                await client.ping()
            assert type(failed.value) is Unavailable
            assert "Connect call failed" in str(failed.value)
        assert not client.stats().circuit_open


@pytest.mark.errors
async def test_a_server_that_closes_what_is_idle(own):
    """A short idle timeout at the server costs its clients no call."""
    async with Client.from_url(
        own.url, heartbeat=30.0, command_timeout=10, retries=3
    ) as client:
        await client.config_set("timeout", 1)
        closed = []
        client.events.subscribe(closed.append, Disconnected)
        for number in range(1, 4):
            await eventually(lambda n=number: len(closed) >= n)
            with LoopLag() as lag:
                assert await client.set("k", number)
            assert lag.free < 2.0


@pytest.mark.errors
async def test_a_burst_before_the_first_connection_waits(own):
    """More calls than may be in flight are answered, first thing and after a loss."""
    async with Client.from_url(
        own.url, inflight_commands=500, inflight_bytes=100_000, command_timeout=30
    ) as client:
        for _ in range(2):
            plain = [client.set(f"k{n}", b"v" * 100) for n in range(3_000)]
            batches = []
            for _ in range(20):
                pipe = client.pipeline(transaction=False)
                for n in range(20):
                    pipe.set(f"p{n}", b"v" * 1_000)
                batches.append(pipe.execute())
            assert all(await asyncio.gather(*plain, *batches))
            await _gone(client, own)
            await own.restart()


@pytest.mark.errors
@pytest.mark.parametrize("protocol", [2, 3])
async def test_calls_end_with_their_cause_and_not_before(own, protocol):
    """While the server is away a call waits for its deadline, then says why."""
    async with Client.from_url(
        own.url, command_timeout=0.5, protocol=protocol
    ) as client:
        await client.ping()
        await _gone(client, own)
        began = monotonic()
        with pytest.raises(OddswireError) as failed:
            await client.incr("n")
        assert monotonic() - began >= 0.45
        assert str(own.port) in str(failed.value)
