"""Exclusive connections, views and closing: nobody inherits another's state."""

from __future__ import annotations

import asyncio
import socket

import pytest
from redis.credentials import CredentialProvider

from oddswire import Client
from oddswire.errors import CommandTimeout, NotShared, Outcome, PoolTimeout
from support.hooks import connection_of

SMALL = {"pool_max": 3}  # one of them is exclusive


@pytest.mark.errors
@pytest.mark.parametrize(
    "change",
    [
        lambda own: own.select(5),
        lambda own: own.execute_command("CLIENT", "TRACKING", "ON"),
        lambda own: own.execute_command("MONITOR"),
    ],
    ids=["select", "tracking", "monitor"],
)
async def test_state_of_ones_own_connection_ends_with_it(own, change):
    """What was changed on `client.client()` is not what the next one leases."""
    async with Client.from_url(own.url, **SMALL) as client:
        await client.rpush("list", "of database 0")
        async with client.client() as alone:
            await alone.select(5)
            await alone.rpush("list", "of database 5")
        async with client.client() as alone:
            before = await alone.client_id()
            await change(alone)
        async with client.client() as alone:
            assert await alone.client_id() != before
        assert await client.blpop("list", 1) == (b"list", b"of database 0")


@pytest.mark.errors
async def test_state_of_a_pipelines_connection_ends_with_it(own):
    """What a pipeline changes on its connection does not reach the next user."""
    async with Client.from_url(own.url, transport="pool", **SMALL) as client:
        assert await client.pipeline(transaction=False).select(5).execute() == [True]
        assert (await client.client_info())["db"] == 0
        async with client.pipeline() as pipe:
            await pipe.watch("k")
            await pipe.select(5)
        assert (await client.client_info())["db"] == 0


@pytest.mark.advanced
async def test_changed_connection_lasts_as_long_as_its_client(own):
    """The connection of `client.client()` is the same one until it is closed."""
    async with Client.from_url(own.url) as client, client.client() as alone:
        first = await alone.client_id()
        await alone.select(5)
        await alone.ping()
        assert await alone.client_id() == first
        assert (await alone.client_info())["db"] == 5


class Slow(CredentialProvider):
    """Credentials that are there at once, then never."""

    def __init__(self, password):
        self.password = password
        self.asked = asyncio.Event()
        self.stuck = False

    def get_credentials(self):
        """Return them."""
        return "default", self.password

    async def get_credentials_async(self):
        """Return them, unless stuck."""
        if self.stuck:
            self.asked.set()
            await asyncio.get_running_loop().create_future()
        return self.get_credentials()


@pytest.mark.errors
async def test_reconnecting_connection_is_whole_or_closed(own):
    """A connection cancelled while it logs in again is not used half logged in."""
    provider = Slow(own.password)
    client = Client(host=own.host, port=own.port, credential_provider=provider)
    async with client, client.client() as alone:
        await alone.ping()
        connection = alone.connection
        await connection.disconnect()
        provider.stuck = True
        call = asyncio.get_running_loop().create_task(alone.ping())
        await provider.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not connection.is_connected
        provider.stuck = False
        assert await alone.ping()


@pytest.mark.errors
async def test_one_connection_has_no_second_deadline(client):
    """`bounded` of a client with one connection is refused: it would be shared."""
    async with client.client() as alone:
        with pytest.raises(NotShared, match=r"asyncio\.timeout"):
            alone.bounded(1.0)
        assert await alone.ping()


@pytest.mark.errors
async def test_cancelled_close_closes_the_pool_too(own):
    """A close that is cancelled while it drains leaves no connection open."""
    url = f"redis://:{own.password}@127.0.0.1:{own.port}"
    client = Client.from_url(url)
    connection = await client.connection_pool.get_connection()
    async with Client.from_url(url) as other:
        await other.client_pause(60_000, all=False)
        call = asyncio.get_running_loop().create_task(client.set("k", 1))
        await client.ping()
        closing = asyncio.get_running_loop().create_task(client.aclose())
        await asyncio.sleep(0)  # one turn of the loop: it drains now
        closing.cancel()
        await asyncio.gather(closing, call, return_exceptions=True)
        await other.client_unpause()

    assert closing.cancelled()
    assert not connection.is_connected


@pytest.mark.errors
async def test_one_that_cannot_be_closed_keeps_no_other_open(own):
    """Closing the pool closes every connection, also when one of them fails to."""
    client = Client.from_url(own.url)
    pool = client.connection_pool
    connections = [await pool.get_connection() for _ in range(3)]

    async def fails():
        raise OSError("cannot be closed")

    for connection in connections[:2]:
        connection.really, connection.disconnect = connection.disconnect, fails
    await client.aclose()
    assert not connections[2].is_connected
    for connection in connections[:2]:
        await connection.really()


@pytest.mark.errors
async def test_waiting_for_a_connection_is_within_the_deadline(own):
    """A bounded blocking call waits for a connection no longer than it may take."""
    async with Client.from_url(own.url, acquire_timeout=30.0, **SMALL) as client:
        pool = client.connection_pool
        connection = await pool.get_connection()
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(PoolTimeout) as caught:
            await client.bounded(0.1).blpop("list", 0.1)
        assert 0.2 <= loop.time() - started < 5.0
        assert caught.value.outcome is Outcome.NOT_SENT
        assert pool.state.waiting == 0
        await pool.release(connection)


@pytest.mark.errors
async def test_bounded_holds_with_a_connection_per_call(own):
    """With transport="pool" a bounded call ends at its own deadline too."""
    options = {"transport": "pool", "command_timeout": 30.0, **SMALL}
    async with Client.from_url(own.url, **options) as client:
        connection = await client.connection_pool.get_connection()
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(CommandTimeout, match=r"within 0\.1 s"):
            await client.bounded(0.1).get("k")
        assert loop.time() - started < 5.0
        await client.connection_pool.release(connection)
        assert await client.get("k") is None


@pytest.mark.advanced
async def test_kernel_watches_exclusive_connections(server):
    """Exclusive connections have the keepalive settings of the command connection."""
    options = {"keepalive": 18.0, "tcp_user_timeout": 7.0}
    async with Client.from_url(server.url, **options) as client:
        pool = client.connection_pool
        connection = await pool.get_connection()
        sock = connection._writer.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for name, value in (
            ("TCP_KEEPIDLE", 18),
            ("TCP_KEEPINTVL", 3),
            ("TCP_USER_TIMEOUT", 7_000),
        ):
            if hasattr(socket, name):
                option = getattr(socket, name)
                assert sock.getsockopt(socket.IPPROTO_TCP, option) == value
        await pool.release(connection)


@pytest.mark.advanced
@pytest.mark.parametrize(
    "options",
    [{}, {"transport": "pool"}, {"single_connection_client": True}],
    ids=["multiplexed", "pool", "single"],
)
async def test_tracking_connection_closes_with_its_block(own, options):
    """A tracking connection is one connection, whatever the client's transport is."""
    async with Client.from_url(own.url, **options) as client:
        async with client.tracked(lambda push: None) as tracked:
            await asyncio.gather(*(tracked.get("k") for _ in range(10)))
            assert tracked.stats().connects == 1
            connection = connection_of(tracked)
        assert connection.error is not None
        assert await client.ping()
