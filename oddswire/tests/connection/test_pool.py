"""Exclusive connections: leased in order, never above the most, always given back."""

from __future__ import annotations

import asyncio

import pytest
import redis
import uvloop

from oddswire import Client, EmbeddedServer
from oddswire.errors import ClosedError, Outcome, PoolTimeout, Unavailable
from oddswire.testing import LoopLag

SMALL = {"pool_max": 4, "acquire_timeout": 1.0}  # two of them are exclusive


def _state(client):
    state = client.connection_pool.state
    return state.leased, state.idle, state.opening, state.waiting


@pytest.mark.requirement("C2")
@pytest.mark.errors
async def test_no_connection_within_the_acquire_timeout(server):
    """When every connection is leased the next caller is refused in time, typed."""
    async with Client.from_url(server.url, **SMALL) as client:
        pool = client.connection_pool
        leased = [await pool.get_connection() for _ in range(2)]
        with (
            LoopLag() as lag,
            pytest.raises(PoolTimeout, match="2 of 2 leased, 0 waiting") as caught,
        ):
            await client.blpop("a", 1)
        assert lag.free < 3.0
        assert caught.value.outcome is Outcome.NOT_SENT
        for connection in leased:
            await pool.release(connection)
        assert await client.blpop("a", 0.01) is None


@pytest.mark.requirement("C2")
@pytest.mark.advanced
async def test_connections_are_counted_at_the_server():
    """Under load, idle or exhausted, there are never more than pool_max connections."""
    async with EmbeddedServer() as server:
        client = Client.from_url(server.url, pool_max=6, pool_idle=0.2)
        watch = Client.from_url(server.url)

        async def seen():
            entries = await watch.client_list()
            mine = await watch.client_id()
            return sum(int(entry["id"]) != mine for entry in entries)

        await asyncio.gather(*(client.incr("n") for _ in range(1_000)))
        under_load = await seen()
        blocked = [
            asyncio.get_running_loop().create_task(client.blpop("list", 5))
            for _ in range(10)
        ]
        async with asyncio.timeout(5):
            while int((await watch.info("clients"))["blocked_clients"]) < 4:
                pass
        exhausted = await seen()
        counts = client.stats().connections
        await watch.lpush("list", *range(10))
        popped = await asyncio.gather(*blocked)
        async with asyncio.timeout(5):
            while await seen() > 1:
                pass
        idle = await seen()
        await client.aclose()
        async with asyncio.timeout(5):
            while await seen():
                pass
        await watch.aclose()

    assert under_load == 1
    assert (
        exhausted == 5
    )  # one command connection and four exclusive ones; the sixth is the cache's
    assert (counts.shared, counts.leased, counts.waiting) == (1, 4, 6)
    assert sorted(int(value) for _, value in popped) == list(range(10))
    assert idle == 1


@pytest.mark.advanced
async def test_waiters_are_served_in_order(server):
    """Connections go to callers in the order in which they asked."""
    async with Client.from_url(server.url, pool_max=3) as client:
        pool = client.connection_pool
        connection = await pool.get_connection()
        served = []

        async def use(number):
            connection = await pool.get_connection()
            served.append(number)
            await pool.release(connection)

        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(use(number))
            await asyncio.sleep(0)  # one turn of the loop: they all wait now
            await pool.release(connection)

    assert served == list(range(5))


@pytest.mark.errors
async def test_cancelled_waiters_lose_no_connection(server):
    """Callers cancelled at any moment of getting a connection leave none leased."""
    async with Client.from_url(server.url, pool_max=4) as client:
        pool = client.connection_pool
        loop = asyncio.get_running_loop()

        async def use():
            connection = await pool.get_connection()
            await asyncio.shield(pool.release(connection))

        for turns in range(12):
            tasks = [loop.create_task(use()) for _ in range(6)]
            for _ in range(turns):
                await asyncio.sleep(0)  # so many turns of the loop
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert await client.blpop("none", 0.01) is None
        leased, idle, opening, waiting = _state(client)

    assert (leased, opening, waiting) == (0, 0, 0)
    assert 1 <= idle <= 2


@pytest.mark.errors
async def test_connection_that_died_while_idle_is_replaced(server):
    """No caller gets a connection that the server closed while it was idle."""
    async with Client.from_url(server.url) as client:
        await client.blpop("none", 0.01)
        names = [e["id"] for e in await client.client_list() if e["cmd"] == "blpop"]
        for name in names:
            await client.client_kill_filter(_id=name)
        assert await client.blpop("none", 0.01) is None


@pytest.mark.errors
@pytest.mark.parametrize(
    "new_loop",
    [asyncio.new_event_loop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
def test_connection_that_died_while_the_loop_was_busy_is_replaced(
    server, new_loop, transport
):
    """The loop has not heard of the end yet: no caller gets the connection either."""

    async def main():
        async with Client.from_url(server.url, transport=transport) as client:
            async with client.client() as alone:
                number = await alone.client_id()
            with redis.Redis.from_url(server.url) as admin:  # it blocks the loop
                assert admin.client_kill_filter(_id=str(number)) == 1
            return await client.blpop("none", 0.01)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main()) is None


@pytest.mark.errors
async def test_unreachable_server_fails_each_caller_once():
    """With nobody at the port every caller hears so, and nothing stays on the books."""
    from oddswire.embedded.server import free_port

    client = Client(host="127.0.0.1", port=free_port(), pool_max=4)
    failures = await asyncio.gather(
        *(client.blpop("a", 1) for _ in range(10)), return_exceptions=True
    )

    assert {type(failure) for failure in failures} == {Unavailable}
    assert {failure.outcome for failure in failures} == {Outcome.NOT_SENT}
    assert _state(client) == (0, 0, 0, 0)
    await client.aclose()


@pytest.mark.errors
async def test_silent_server_is_bounded_by_the_connect_timeout(peer):
    """Opening an exclusive connection ends with the connect timeout."""
    client = Client(host="127.0.0.1", port=peer.port, connect_timeout=0.1)
    with pytest.raises(Unavailable, match=r"in 0\.1 s"):
        await client.blpop("a", 1)
    await (await peer.line()).ended()
    await client.aclose()


@pytest.mark.errors
async def test_closing_ends_leased_connections_and_waiters(server):
    """When the pool closes, whoever waits is told and no connection stays open."""
    client = Client.from_url(server.url, pool_max=3)
    loop = asyncio.get_running_loop()
    pool = client.connection_pool
    connection = await pool.get_connection()
    waiting = loop.create_task(client.blpop("a", 5))
    await asyncio.sleep(0)  # one turn of the loop: it waits now
    await client.aclose()

    with pytest.raises(ClosedError):
        await waiting
    with pytest.raises(ClosedError):
        await pool.get_connection()
    assert not connection.is_connected
    await client.aclose()


@pytest.mark.errors
async def test_giving_back_twice_is_refused(server):
    """A connection given back twice is an error, not a connection lent twice."""
    async with Client.from_url(server.url) as client:
        pool = client.connection_pool
        connection = await pool.get_connection()
        await pool.release(connection)
        with pytest.raises(KeyError):
            await pool.release(connection)
        assert _state(client) == (0, 1, 0, 0)


@pytest.mark.requirement("C2")
@pytest.mark.errors
async def test_two_thousand_waiters_cancelled_at_once_lose_no_connection(server):
    """A connection that comes back as all waiters are cancelled is idle after that."""
    async with Client.from_url(server.url, pool_max=3) as client:
        pool = client.connection_pool
        connection = await pool.get_connection()
        waiting = [
            asyncio.get_running_loop().create_task(pool.get_connection())
            for _ in range(2_000)
        ]
        await asyncio.sleep(0)  # one turn of the loop: they wait now
        for each in waiting:
            each.cancel()
        # In the same turn: the cancelled tasks have not left the queue yet.
        await pool.release(connection)
        await asyncio.wait(waiting)
        assert _state(client) == (0, 1, 0, 0)
