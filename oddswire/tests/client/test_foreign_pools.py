"""A pool of the caller's keeps its settings and size, and its clients share with it."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio as aredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from oddswire import Client
from oddswire.errors import CommandTimeout, PoolTimeout, SettingsError
from support import eventually

KINDS = [aredis.ConnectionPool, aredis.BlockingConnectionPool]


async def _opened(client):
    return (await client.info("stats"))["total_connections_received"]


@pytest.mark.integration
@pytest.mark.requirement("C15")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_per_request_opens_no_connection_each(own, kind):
    """One after the other and all at once they share one command connection."""
    pool = kind.from_url(own.url, max_connections=4)
    async with Client.from_url(own.url) as admin:
        before = await _opened(admin)
        for _ in range(20):
            async with Client(connection_pool=pool) as client:
                await client.incr("n")

        async def request():
            client = Client(connection_pool=pool)
            await client.incr("n")
            await client.blpop("none", timeout=0.01)
            await client.aclose()

        for _ in range(3):
            await asyncio.gather(request(), request())
        assert await _opened(admin) - before <= 1 + 2
        assert await admin.get("n") == b"26"
        await pool.disconnect()
        await eventually(lambda: _only(admin, 1))
        # As with redis-py's own, the pool and its clients go on after that.
        assert await Client(connection_pool=pool).get("n") == b"26"
        await pool.aclose()
        await eventually(lambda: _only(admin, 1))


async def _only(client, count):
    return len(await client.client_list()) == count


@pytest.mark.integration
@pytest.mark.requirement("C15")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["argument", "from_pool"])
async def test_a_pool_keeps_its_settings(own, kind, how):
    """Timeouts, retries, name and decoding hold on the command connection too."""
    pool = kind.from_url(
        own.url, socket_timeout=1.5, socket_connect_timeout=2.0, max_connections=3,
        client_name="bot", decode_responses=True, health_check_interval=7,
        retry=Retry(NoBackoff(), 0),
    )  # fmt: skip
    make = Client.from_pool if how == "from_pool" else None
    client = make(pool) if make else Client(connection_pool=pool)
    settings = client.settings
    assert (settings.command_timeout, settings.connect_timeout) == (1.5, 2.0)
    assert (settings.retries, settings.heartbeat) == (0, 7.0)
    assert await client.client_getname() == "bot"
    own.kill(19)
    try:
        with pytest.raises(CommandTimeout, match=r"1\.5"):
            await client.get("k")
    finally:
        own.kill(18)
    assert Client(connection_pool=pool, command_timeout=2).timeout == 2.0
    await client.aclose()
    await pool.disconnect()


@pytest.mark.advanced
@pytest.mark.requirement("C15")
@pytest.mark.parametrize(
    ("arguments", "becomes"),
    [
        ({"health_check_interval": 7}, {"heartbeat": 7.0}),
        ({"health_check_interval": 0}, {"heartbeat": 30.0}),
        ({"health_check_interval": 1e9}, {"heartbeat": 3600.0}),
        ({"retry": Retry(NoBackoff(), 0)}, {"retries": 0}),
        ({"retry": Retry(NoBackoff(), -1)}, {"retries": 100}),
        ({"retry": Retry(NoBackoff(), 5), "retries": 1}, {"retries": 1}),
        ({"health_check_interval": 7, "heartbeat": 9}, {"heartbeat": 9.0}),
    ],
)
def test_arguments_of_redis_py_keep_their_meaning(arguments, becomes):
    """Health checks and attempts count as they do in a pool, and ours come first."""
    for client in (
        Client(host="h", **arguments),
        Client.from_url("redis://h", **arguments),
    ):
        assert {name: getattr(client.settings, name) for name in becomes} == becomes


@pytest.mark.errors
def test_a_retry_that_is_none_is_named():
    """What redis-py would fail on later is a `SettingsError` at once."""
    with pytest.raises(SettingsError, match=r"retry must be a redis\.asyncio\.retry"):
        Client(host="h", retry=3)


@pytest.mark.advanced
@pytest.mark.requirement("C15")
async def test_the_command_connection_is_one_of_the_pool(server):
    """A pool of two has one for commands and one to lease, and never three."""
    pool = aredis.ConnectionPool.from_url(server.url, max_connections=2)
    client = Client(connection_pool=pool)
    await client.ping()
    leased = await pool.get_connection()
    with pytest.raises(PoolTimeout):
        await client.blpop("none", timeout=0.01)
    assert await client.ping()
    await pool.release(leased)
    assert await client.blpop("none", timeout=0.01) is None
    await pool.aclose()


@pytest.mark.advanced
@pytest.mark.requirement("C15")
async def test_clients_on_the_pool_of_a_client_share_with_it(own):
    """`Client(connection_pool=client.connection_pool)` opens nothing new."""
    async with Client.from_url(own.url) as client:
        before = await _opened(client)
        for _ in range(5):
            async with Client(connection_pool=client.connection_pool) as other:
                assert await other.ping()
        assert await _opened(client) == before
        assert await client.ping()


@pytest.mark.advanced
@pytest.mark.requirement("C15")
async def test_a_lease_in_two_steps(server):
    """`get_available_connection`, `ensure_connection`, `release`, as with redis-py."""
    async with Client.from_url(server.url, max_connections=3) as client:
        pool = client.connection_pool
        connection = pool.get_available_connection()
        await pool.ensure_connection(connection)
        await connection.send_command("PING")
        assert await connection.read_response() == b"PONG"
        assert not pool.can_get_connection()
        with pytest.raises(PoolTimeout, match="1 of 1 leased"):
            pool.get_available_connection()
        await pool.release(connection)
        assert pool.can_get_connection()
        assert pool.get_available_connection() is connection
        await pool.release(connection)
        assert await client.blpop("none", timeout=0.01) is None
        never_opened = pool.get_available_connection()
        await never_opened.disconnect()
        await pool.release(never_opened)
        assert await client.blpop("none", timeout=0.01) is None


@pytest.mark.errors
async def test_a_connection_class_that_goes_its_own_way(server):
    """A class that opens its socket by itself, through a tunnel, is left to do so."""

    class Tunnel(aredis.Connection):
        async def _connect(self):
            self._reader, self._writer = await asyncio.open_connection(
                server.host, server.port
            )

    async with Client(
        host="behind.invalid",
        password=server.password,
        connection_class=Tunnel,
        transport="pool",
    ) as client:
        assert await client.ping()
