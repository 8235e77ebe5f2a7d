"""Each fault of the proxy is what it says, seen from a plain socket."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from time import monotonic

import pytest

from oddswire import Client
from oddswire.testing import FaultProxy, Resources, frozen
from support import eventually
from support.hooks import pushes_of

PING, PONG = b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"


@pytest.fixture
async def proxy(server):
    """A perfect link to the shared server."""
    async with FaultProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
async def line(proxy, server):
    """`line()`: a logged-in raw connection through the proxy."""
    writers = []

    async def connect():
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writers.append(writer)
        login = server.password.encode()
        writer.write(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(login), login))
        assert await reader.readexactly(5) == b"+OK\r\n"
        return reader, writer

    yield connect
    for writer in writers:
        writer.close()


async def _silent(reader):
    """Whether nothing comes for a while."""
    try:
        async with asyncio.timeout(0.1):
            await reader.readexactly(1)
    except TimeoutError:
        return True
    return False


@pytest.mark.basic
async def test_healing_lets_go_of_what_was_held(proxy, line):
    """What waits on a link that is held goes on when the link is healed."""
    reader, writer = await line()
    proxy.down.hold = True
    writer.write(PING)
    assert await _silent(reader)
    proxy.heal()
    async with asyncio.timeout(5):
        assert await reader.readexactly(len(PONG)) == PONG


@pytest.mark.basic
async def test_perfect_link_passes_everything_on(proxy, prefix):
    """Without faults a client works through the proxy as without it."""
    async with Client.from_url(proxy.url) as client:
        await client.set(f"{prefix}k", b"v" * 300_000, ex=60)
        assert await client.get(f"{prefix}k") == b"v" * 300_000
        assert proxy.open == proxy.accepted == 1
        assert proxy.up.bytes > 300_000 < proxy.down.bytes


@pytest.mark.basic
async def test_latency_bandwidth_and_slices(proxy, line):
    """Chunks come late, slowly, and in pieces, as set."""
    reader, writer = await line()
    proxy.up.latency = 0.1
    proxy.down.slice = 1
    started = monotonic()
    writer.write(PING)
    assert await reader.readexactly(7) == PONG
    assert monotonic() - started >= 0.1
    proxy.up.latency = 0.0

    async def in_pieces():
        # The kernel joins pieces that are not read at once, so not every time.
        writer.write(PING)
        first = await reader.read(100)
        assert first + await reader.readexactly(7 - len(first)) == PONG
        return len(first) < 7

    await eventually(in_pieces)
    proxy.heal()
    proxy.down.bandwidth = 70.0
    started = monotonic()
    writer.write(PING)
    assert await reader.readexactly(7) == PONG
    assert monotonic() - started >= 0.05


@pytest.mark.basic
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_blackhole_swallows_and_hold_delays(proxy, line, direction):
    """A link with a blackhole in it stays dead; what was held comes when it ends."""
    reader, writer = await line()
    faults = getattr(proxy, direction)
    faults.blackhole = True
    writer.write(PING)
    assert await _silent(reader)
    proxy.heal()
    writer.write(PING)
    assert await _silent(reader)
    reader, writer = await line()
    faults.hold = True
    writer.write(PING)
    assert await _silent(reader)
    faults.hold = False
    assert await reader.readexactly(7) == PONG
    assert await _silent(reader)


@pytest.mark.basic
async def test_cut_after_lets_so_many_bytes_through(proxy, line):
    """The link is reset in the middle of a reply, once."""
    reader, writer = await line()
    proxy.down.cut_after = 3
    writer.write(PING)
    assert await reader.readexactly(3) == PONG[:3]
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    reader, writer = await line()
    writer.write(PING)
    assert await reader.readexactly(7) == PONG


@pytest.mark.basic
async def test_reset_is_an_error_and_cut_an_end(proxy, line):
    """`reset` is seen as a reset connection, `cut` as the end of the stream."""
    reader, _ = await line()
    proxy.cut()
    assert await reader.read() == b""
    reader, _ = await line()
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await reader.read()


@pytest.mark.basic
async def test_refused_and_stalled_connections(proxy, line):
    """New connections are reset at once, or taken and left in silence."""
    proxy.refuse()
    reader, _ = await asyncio.open_connection(proxy.host, proxy.port)
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    proxy.accept()
    proxy.stall()
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(PING)
    assert await _silent(reader)
    proxy.accept()
    assert (await reader.readline()).startswith(b"-NOAUTH")
    writer.close()


@pytest.mark.basic
async def test_corruption_flips_one_bit_and_repeats_with_its_seed(server):
    """The same seed flips the same bits."""
    replies = []
    for _ in range(2):
        async with FaultProxy(server.url, seed=7) as proxy:
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
            proxy.down.corrupt = 1.0
            writer.write(PING)
            replies.append(await reader.read(200))
            writer.close()
    good = b"-NOAUTH Authentication required.\r\n"
    flipped = [a ^ b for a, b in zip(replies[0], good, strict=True) if a != b]
    assert len(flipped) == 1
    assert flipped[0].bit_count() == 1
    assert replies[0] == replies[1]


@pytest.mark.advanced
async def test_injected_push_reaches_the_client(server, prefix):
    """A RESP3 push put in by the test is counted as one and disturbs no reply."""
    async with (
        FaultProxy(server.url) as proxy,
        Client.from_url(proxy.url, protocol=3) as client,
    ):
        await client.set(f"{prefix}k", "v", ex=60)
        calls = [client.get(f"{prefix}k") for _ in range(50)]
        proxy.inject(b">2\r\n$10\r\ninvalidate\r\n_\r\n")
        assert set(await asyncio.gather(*calls)) == {b"v"}
        assert pushes_of(client) == 1


@pytest.mark.advanced
async def test_nothing_is_left_behind(server, caplog):
    """Leaving the block ends every task and socket, and logs nothing of them."""
    before = Resources.now()
    async with FaultProxy(server.url) as proxy:
        lines = [
            await asyncio.open_connection(proxy.host, proxy.port) for _ in range(5)
        ]
        proxy.stall()
        lines.append(await asyncio.open_connection(proxy.host, proxy.port))
        for _, writer in lines:
            writer.write(PING)
        assert Resources.now().leaked(before)
    for reader, writer in lines:
        with pytest.raises(ConnectionError):
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    assert Resources.now().leaked(before) == []
    assert caplog.text == ""


@pytest.mark.advanced
@pytest.mark.parametrize("how", ["by the client", "by the proxy", "unanswered"])
async def test_a_quiet_proxy_has_closed_its_sockets(server, how):
    """However connections ended, after `quiet` none of their sockets is open."""
    async with FaultProxy(server.url) as proxy:
        before = Resources.now()
        for n in range(20):
            if how == "unanswered":
                proxy.stall()
            _, writer = await asyncio.open_connection(proxy.host, proxy.port)
            await eventually(lambda n=n: proxy.accepted > n)
            if how != "unanswered":
                await eventually(lambda: proxy.open)
            if how == "by the proxy":
                proxy.reset()
            if how == "by the client":
                sock = writer.get_extra_info("socket")
                never = struct.pack("ii", 1, 0)  # it ends by a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, never)
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()
            proxy.heal()
            await proxy.quiet()
            assert Resources.now().leaked(before) == []
            assert proxy.open == 0


@pytest.mark.errors
def test_an_upstream_without_an_address_is_refused():
    """A unix socket cannot be proxied, and the error says what can."""
    with pytest.raises(ValueError, match="server on TCP"):
        FaultProxy("unix:///run/redis.sock")


@pytest.mark.advanced
async def test_frozen_server_answers_after_the_block():
    """Nothing is answered in the block, everything after it."""
    from oddswire import EmbeddedServer

    async with EmbeddedServer() as server, Client.from_url(server.url) as client:
        await client.ping()
        with frozen(server):
            call = asyncio.ensure_future(client.ping())  # noqa: TID251 - awaited below
            done, _ = await asyncio.wait([call], timeout=0.1)
            assert not done
        assert await call


@pytest.mark.advanced
async def test_tls_towards_the_client(server):
    """The proxy speaks TLS with the certificate it is given."""
    import trustme

    authority = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    async with FaultProxy(server.url, tls=theirs) as proxy:
        ours = ssl.create_default_context()
        authority.configure_trust(ours)
        reader, writer = await asyncio.open_connection(
            proxy.host, proxy.port, ssl=ours, server_hostname="127.0.0.1"
        )
        writer.write(PING)
        assert (await reader.readline()).startswith(b"-NOAUTH")
        assert proxy.url.startswith("rediss://")
        writer.close()
