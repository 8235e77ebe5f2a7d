"""A cause is never hidden behind a timeout: what answers at once is heard at once."""

from __future__ import annotations

import asyncio
import contextlib
import shutil

import pytest
import trustme

from oddswire import Client, EmbeddedServer
from oddswire.embedded.server import free_port
from oddswire.errors import AuthFailed, Outcome, Unavailable
from oddswire.testing import LoopLag
from oddswire.testing.proxy import close_listener

pytestmark = [pytest.mark.requirement("C1", "C2"), pytest.mark.errors]

DENIED = (
    b"-DENIED Redis is running in protected mode because protected mode is enabled and "
    b"no password is set for the default user.\r\n"
)
PAGE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"


@contextlib.asynccontextmanager
async def _saying(words, *, first):
    """A server that says this and hangs up: at once, or when it was spoken to."""
    writers = []

    async def take(reader, writer):
        writers.append(writer)
        if not first:
            await reader.read(10)
        writer.write(words)
        writer.close()

    async def end():
        for writer in writers:
            writer.transport.abort()

    listener = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        await close_listener(listener, end)


@contextlib.asynccontextmanager
async def _full(server):
    """A server that takes no further client."""
    async with Client.from_url(server.url) as admin:
        clients = await admin.info("clients")
        await admin.config_set("maxclients", clients["connected_clients"])
        yield server.url
        await admin.config_set("maxclients", 1_000)


@contextlib.asynccontextmanager
async def _speaking_tls(folder):
    """The URL, without TLS, of a Redis 7.0 that speaks TLS."""
    issued = trustme.CA().issue_cert("127.0.0.1")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    port = free_port()
    async with EmbeddedServer(
        binary=shutil.which("redis-server"),
        args=(
            *("--tls-port", str(port), "--tls-cert-file", str(certificate)),
            *("--tls-key-file", str(key), "--tls-auth-clients", "no"),
            *("--tls-ca-cert-file", str(certificate)),
        ),
    ):
        yield f"redis://127.0.0.1:{port}"


def _with(url, **change):
    """Return a context that only gives this URL."""

    @contextlib.asynccontextmanager
    async def given():
        yield url

    return given()


def _situation(what, own, folder):
    """Return (how to get the URL, the words, whether it is final)."""
    plain = f"redis://127.0.0.1:{free_port()}"
    return {
        "a refused port": (_with(plain), "Connection refused", False),
        "protected mode, said first": (
            _saying(DENIED, first=True),
            "is running in protected mode",
            True,
        ),
        "protected mode": (
            _saying(DENIED, first=False),
            "is running in protected mode",
            True,
        ),
        "another protocol": (_saying(PAGE, first=False), "Protocol error", True),
        "TLS to a plain port": (
            _with(own.url.replace("redis://", "rediss://")),
            "does this port speak TLS",
            True,
        ),
        "database 99": (_with(own.url.replace("/0", "/99")), "database 99", True),
        "too many clients": (_full(own), "max number of clients", False),
        "plaintext to a TLS port": (_speaking_tls(folder), "use rediss://", False),
    }[what]


SITUATIONS = (
    "a refused port",
    "protected mode, said first",
    "protected mode",
    "another protocol",
    "TLS to a plain port",
    "database 99",
    "too many clients",
    "plaintext to a TLS port",
)


@pytest.mark.system("redis-server", package="redis-server")
@pytest.mark.parametrize("what", SITUATIONS)
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("connection", ["command", "exclusive", "tracked"])
async def test_the_cause_is_said_at_once(own, tmp_path, what, protocol, connection):
    """The first call ends at once, on each kind of connection, with the cause."""
    where, words, final = _situation(what, own, tmp_path)
    async with (
        where as url,
        Client.from_url(url, command_timeout=30.0, protocol=protocol) as client,
    ):
        view = client.tracked(print) if connection == "tracked" else client
        call = view.blpop if connection == "exclusive" else view.get
        with LoopLag() as lag, pytest.raises(Unavailable) as failed:
            await call("none")
        assert lag.free < 5.0
        assert words in str(failed.value)
        assert failed.value.outcome in (
            {Outcome.REJECTED} if final else {Outcome.NOT_SENT, Outcome.REJECTED}
        )
        if connection == "tracked":
            await view.aclose()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_missing_password_on_a_unix_socket(own, protocol):
    """Every kind of connection says the same of it, and that it is of no use again."""
    url = f"unix://{own.unix_socket}"
    async with Client.from_url(url, protocol=protocol) as client:
        for call in (client.ping, lambda: client.blpop("q", 1)):
            with pytest.raises(AuthFailed) as refused:
                await call()
            assert refused.value.outcome is Outcome.REJECTED


@pytest.mark.parametrize("address", ["port", "path"])
async def test_the_causes_of_an_error_have_an_end(own, address):
    """What follows the causes of a refusal in the pool does not go in circles."""
    where = (
        {"host": own.host, "port": own.port}
        if address == "port"
        else {"unix_socket_path": str(own.unix_socket)}
    )
    async with Client(**where, password="wrong") as client:
        with pytest.raises(AuthFailed) as caught:
            await client.blpop("none", 0.1)
    causes, cause = [], caught.value
    while cause is not None and len(causes) < 10:
        causes.append(cause)
        cause = cause.__cause__
    assert len(causes) < 10
