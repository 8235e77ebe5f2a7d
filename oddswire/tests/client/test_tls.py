"""TLS against Debian's redis-server 7.0: verified, or refused with what to do."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import shutil
import ssl
import threading

import pytest
import trustme

from oddswire import Client, EmbeddedServer
from oddswire.clock import SystemClock
from oddswire.embedded.server import free_port
from oddswire.errors import OddswireError, Unavailable
from oddswire.events import Disconnected
from oddswire.testing import FaultProxy, LoopLag
from support import eventually

pytestmark = pytest.mark.system("redis-server", package="redis-server")


class Authority:
    """Files of an authority and of the certificates that it issued."""

    def __init__(self, folder, name):
        self._folder = folder / name
        self._folder.mkdir()
        self._authority = trustme.CA()
        self.file = str(self._folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.file)

    def issue(self, name, *identities, **options):
        """Return the files of a certificate and of its key."""
        issued = self._authority.issue_cert(*(identities or ("127.0.0.1",)), **options)
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        for position, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(certificate), append=position > 0)
        issued.private_key_pem.write_to_path(str(key))
        return str(certificate), str(key)


@pytest.fixture
def ours(tmp_path):
    """The authority that the client trusts."""
    return Authority(tmp_path, "ours")


@pytest.fixture
async def speaking_tls():
    """`speaking_tls(authority, files, *args)`: a Redis 7.0 that speaks TLS."""
    servers = []

    async def start(authority, files, *args):
        port = free_port()
        certificate, key = files
        server = EmbeddedServer(
            binary=shutil.which("redis-server"),
            args=(
                *("--tls-port", str(port), "--tls-ca-cert-file", authority.file),
                *("--tls-cert-file", certificate, "--tls-key-file", key),
                *(args or ("--tls-auth-clients", "no")),
            ),
        )
        await server.__aenter__()
        servers.append(server)
        return server, f"rediss://:{server.password}@127.0.0.1:{port}/0"

    yield start
    for server in servers:
        await server.__aexit__(None, None, None)


@pytest.mark.requirement("C1")
@pytest.mark.integration
async def test_verified_tls_carries_every_kind_of_connection(ours, speaking_tls):
    """Commands, pipelines, blocking calls and redis-py's pub/sub go over TLS."""
    _, url = await speaking_tls(ours, ours.issue("server"))
    async with Client.from_url(url, tls_ca_file=ours.file) as client:
        assert await client.set("k", b"v" * 100_000)
        assert await client.pipeline().get("k").incr("n").execute() == [
            b"v" * 100_000,
            1,
        ]
        await client.rpush("list", "x")
        assert await client.blpop("list", 1) == (b"list", b"x")
        assert (await client.info("server"))["redis_version"].startswith("7.0")


@pytest.mark.requirement("C1", "C10")
@pytest.mark.integration
async def test_the_statistics_know_when_the_certificate_ends(ours, speaking_tls):
    """`stats()` has the end of the server's certificate, to the second."""
    ends = dt.datetime.fromtimestamp(int(SystemClock().now()) + 9 * 86_400, dt.UTC)
    _, url = await speaking_tls(ours, ours.issue("server", not_after=ends))
    async with Client.from_url(url, tls_ca_file=ours.file) as client:
        assert client.stats().certificate_ends is None  # not connected yet
        await client.ping()
        assert client.stats().certificate_ends == ends.timestamp()
    async with Client.from_url(url, tls_verify=False) as careless:
        await careless.ping()
        assert careless.stats().certificate_ends is None


@pytest.mark.requirement("C1")
@pytest.mark.errors
@pytest.mark.parametrize("kind", ["expired", "wrong name", "unknown authority"])
async def test_a_certificate_that_does_not_hold_is_refused(
    ours, speaking_tls, tmp_path, kind
):
    """Refused in one attempt, well within the deadline, saying what to look at."""
    authority, options, names = ours, {}, ()
    if kind == "expired":
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)  # noqa: TID251 - the certificate's
        options = {"not_after": yesterday}
    elif kind == "wrong name":
        names = ("example.test",)
    else:
        authority = Authority(tmp_path, "theirs")
    server, url = await speaking_tls(
        authority, authority.issue("server", *names, **options)
    )
    port = int(url.rpartition(":")[2].removesuffix("/0"))
    async with (
        FaultProxy(("127.0.0.1", port)) as proxy,
        Client.from_url(
            f"rediss://:{server.password}@127.0.0.1:{proxy.port}/0",
            tls_ca_file=ours.file,
        ) as client,
    ):
        with pytest.raises(
            Unavailable, match="name its CA, or check the host name and the certificate"
        ):
            await client.get("k")
        assert proxy.accepted == 1


@pytest.mark.errors
async def test_not_verifying_has_to_be_spelled_out(ours, speaking_tls, tmp_path):
    """Only `tls_verify=False` talks to a server of an unknown authority."""
    theirs = Authority(tmp_path, "theirs")
    _, url = await speaking_tls(theirs, theirs.issue("server"))
    async with Client.from_url(url, tls_ca_file=ours.file, tls_verify=False) as client:
        assert await client.ping()


@pytest.mark.requirement("C1")
@pytest.mark.errors
async def test_mutual_tls_wants_our_certificate(ours, speaking_tls):
    """With our certificate it works; without it the refusal names the setting."""
    _, url = await speaking_tls(ours, ours.issue("server"), "--tls-auth-clients", "yes")
    certificate, key = ours.issue("client", "bot@example.test")
    async with Client.from_url(
        url, tls_ca_file=ours.file, tls_cert_file=certificate, tls_key_file=key
    ) as client:
        assert await client.ping()
    async with Client.from_url(
        url, tls_ca_file=ours.file, command_timeout=1.0
    ) as client:
        with LoopLag() as lag, pytest.raises(Unavailable, match="tls_cert_file"):
            await client.ping()
    assert lag.free < 1.1


@pytest.mark.requirement("C1")
@pytest.mark.errors
async def test_tls_and_plaintext_mixed_up(ours, speaking_tls):
    """TLS to a plain port and plaintext to a TLS port say which scheme to use."""
    server, url = await speaking_tls(ours, ours.issue("server"))
    tls_port = url.rpartition(":")[2].removesuffix("/0")
    async with Client.from_url(
        f"rediss://:{server.password}@127.0.0.1:{server.port}/0",
        tls_ca_file=ours.file,
        connect_timeout=0.6,
        command_timeout=15.0,
        reconnect_attempts=1,  # what it failed with is told at once
    ) as client:
        with pytest.raises(Unavailable, match=r"redis://|speak TLS"):
            await client.ping()
    async with Client.from_url(
        f"redis://:{server.password}@127.0.0.1:{tls_port}",
        connect_timeout=0.6,
        command_timeout=15.0,
        reconnect_attempts=1,  # what it failed with is told at once
    ) as client:
        with pytest.raises(Unavailable, match="rediss://"):
            await client.ping()


@pytest.mark.advanced
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_certificates_are_read_outside_of_the_loop(
    ours, speaking_tls, monkeypatch, transport
):
    """No kind of connection reads its files in the thread of the event loop."""
    _, url = await speaking_tls(ours, ours.issue("server"))
    make, loop, readers = ssl.create_default_context, threading.get_ident(), []

    def reading(*args, **options):
        readers.append(threading.get_ident())
        return make(*args, **options)

    monkeypatch.setattr(ssl, "create_default_context", reading)
    async with Client.from_url(
        url, tls_ca_file=ours.file, transport=transport
    ) as client:
        await client.ping()
        assert await client.blpop("nothing", 0.01) is None
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("channel")
    assert readers
    assert loop not in readers


@pytest.mark.requirement("C1")
@pytest.mark.advanced
async def test_a_new_certificate_drops_no_connection(ours, speaking_tls, tmp_path):
    """Live connections outlast a change of certificate; new ones see the new one."""
    server, url = await speaking_tls(ours, ours.issue("server"))
    theirs = Authority(tmp_path, "theirs")
    certificate, key = theirs.issue("server")
    lost = []
    async with (
        Client.from_url(url, tls_ca_file=ours.file) as client,
        Client.from_url(server.url) as plain,
    ):
        client.events.subscribe(lost.append, Disconnected)
        await client.ping()
        await plain.execute_command(
            *("CONFIG", "SET", "tls-cert-file", certificate, "tls-key-file", key)
        )
        assert await client.ping()
        assert not lost
        async with Client.from_url(url, tls_ca_file=ours.file) as late:
            with pytest.raises(Unavailable, match="certificate"):
                await late.ping()
        async with Client.from_url(url, tls_ca_file=theirs.file) as late:
            assert await late.ping()


@pytest.mark.requirement("C1")
@pytest.mark.advanced
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_a_connection_that_is_opened_again_reads_the_files_of_now(
    ours, speaking_tls, tmp_path, transport
):
    """After a change of authority, old connections' successors know the new one."""
    server, url = await speaking_tls(ours, ours.issue("server"))
    theirs = Authority(tmp_path, "theirs")
    certificate, key = theirs.issue("server")
    known = tmp_path / "known.pem"
    shutil.copyfile(ours.file, known)
    async with (
        Client.from_url(url, tls_ca_file=str(known), transport=transport) as client,
        Client.from_url(server.url) as plain,
    ):
        await client.ping()
        assert await client.blpop("nothing", 0.01) is None
        await plain.execute_command(
            *("CONFIG", "SET", "tls-cert-file", certificate, "tls-key-file", key)
        )
        shutil.copyfile(theirs.file, known)
        await plain.client_kill_filter(_type="normal", skipme=True)
        assert await client.ping()
        assert await client.blpop("nothing", 0.01) is None


@pytest.mark.requirement("C1")
@pytest.mark.advanced
async def test_busy_executor_threads_do_not_matter(ours, speaking_tls):
    """With every thread of the loop's executor busy, TLS connections are made."""
    _, url = await speaking_tls(ours, ours.issue("server"))
    loop = asyncio.get_running_loop()
    free = threading.Event()
    busy = [loop.run_in_executor(None, free.wait) for _ in range(40)]
    try:
        async with Client.from_url(
            url, tls_ca_file=ours.file, command_timeout=30
        ) as client:
            assert await client.ping()
            assert await client.blpop("nothing", 0.01) is None
    finally:
        free.set()
        await asyncio.gather(*busy)


@pytest.mark.requirement("C1", "C4")
@pytest.mark.errors
async def test_certificates_that_do_not_come_count_into_the_connect_timeout(
    ours, speaking_tls, tmp_path
):
    """A file that is not read in time ends the attempt, and the error names it."""
    _, url = await speaking_tls(ours, ours.issue("server"))
    stuck = tmp_path / "stuck.pem"
    os.mkfifo(stuck)
    try:
        async with Client.from_url(
            url, tls_ca_file=str(stuck), connect_timeout=0.3, command_timeout=20
        ) as client:
            with LoopLag() as lag, pytest.raises(Unavailable, match=r"stuck\.pem"):
                await client.ping()
        assert lag.free < 10
    finally:
        # Whoever reads it gets its end, and the threads theirs.
        end = threading.Event()

        def feed():
            while not end.is_set():
                with contextlib.suppress(OSError):
                    os.close(os.open(stuck, os.O_WRONLY | os.O_NONBLOCK))
                end.wait(0.01)

        thread = threading.Thread(target=feed)
        thread.start()
        await eventually(
            lambda: (
                not any(
                    each.name.startswith("oddswire_") for each in threading.enumerate()
                )
            )
        )
        end.set()
        thread.join()


@pytest.mark.errors
@pytest.mark.parametrize("blocking", [False, True])
async def test_an_attempt_that_is_cancelled_as_tls_opens(ours, speaking_tls, blocking):
    """Nothing stays open of it, and the connections after it are not refused."""
    _, url = await speaking_tls(ours, ours.issue("server"))
    options = {"command_timeout": 1.0, "acquire_timeout": 1.0, "tls_ca_file": ours.file}
    attempt = f"oddswire {'exclusive connection opening' if blocking else 'command'}"

    def named(name):
        return [t for t in asyncio.all_tasks() if t.get_name().startswith(name)]

    def cancel_attempt(_):
        for task in named(attempt):
            task.cancel()

    async with Client.from_url(url, **options) as client:
        call = client.blpop("none", 0.01) if blocking else client.get("k")
        task = asyncio.get_running_loop().create_task(call)
        while not (opening := named("oddswire TLS handshake")):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        opening[0].add_done_callback(cancel_attempt)
        with contextlib.suppress(OddswireError):
            await task
    for _ in range(3):
        async with Client.from_url(url, **options) as client:
            assert await client.ping()
            assert await client.blpop("none", 0.01) is None
