"""Bad input: a typed error at once, and the neighbours unharmed."""

from __future__ import annotations

import asyncio
import math
import traceback

import pytest
from redis.exceptions import DataError

from oddswire import Client, SimpleClient
from oddswire.errors import (
    ClosedError,
    CodecError,
    Outcome,
    ProtocolBroken,
    SettingsError,
)

pytestmark = pytest.mark.errors


@pytest.mark.parametrize("kind", [Client, SimpleClient])
@pytest.mark.parametrize(
    "argument",
    [None, True, object(), [1], {"a": 1}, "\ud800", b"x".hex],
    ids=["none", "bool", "object", "list", "dict", "surrogate", "function"],
)
async def test_argument_that_cannot_be_packed(server, prefix, kind, argument):
    """It fails before a byte leaves; its neighbours get their own replies."""
    async with kind.from_url(server.url) as client:
        await client.set(f"{prefix}k", "v", ex=60)
        results = await asyncio.gather(
            client.get(f"{prefix}k"),
            client.execute_command("SET", f"{prefix}bad", argument),
            client.get(f"{prefix}k"),
            client.execute_command("GET", argument),
            client.get(f"{prefix}k"),
            return_exceptions=True,
        )
        exists = await client.exists(f"{prefix}bad")

    assert results[::2] == [b"v"] * 3
    assert {type(result) for result in results[1::2]} == {DataError}
    assert exists == 0


@pytest.mark.parametrize("kind", [Client, SimpleClient])
@pytest.mark.parametrize(
    ("argument", "stored"),
    [
        pytest.param(
            *(bytearray(b"x\xff"), b"x\xff"), marks=pytest.mark.needs(redis_py="8")
        ),
        (memoryview(b"abcdef")[1:4], b"bcd"),
        (b"", b""),
        ("\x00\r\n$5", b"\x00\r\n$5"),
        (10**30, b"1" + b"0" * 30),
        (-1.5e300, b"-1.5e+300"),
    ],
    ids=["bytearray", "memoryview", "empty", "control", "int", "float"],
)
async def test_argument_that_is_unusual(server, prefix, kind, argument, stored):
    """What redis-py packs is packed, byte for byte."""
    async with kind.from_url(server.url) as client:
        await client.set(f"{prefix}k", argument, ex=60)
        assert await client.get(f"{prefix}k") == stored


@pytest.mark.parametrize("kind", [Client, SimpleClient])
@pytest.mark.parametrize("name", ["", "  ", b""], ids=["empty", "blank", "no bytes"])
async def test_command_without_a_name(kind, name, server):
    """An empty name, which no server answers, is refused: no reply is shifted."""
    async with kind.from_url(server.url) as client:
        results = await asyncio.gather(
            client.echo("a"),
            client.execute_command(name),
            client.echo("b"),
            return_exceptions=True,
        )

    assert (results[0], results[2]) == (b"a", b"b")
    assert isinstance(results[1], DataError)


async def test_large_value_beside_small_reads(client, prefix):
    """While 64 MiB go out and come back small calls get their own replies."""
    big = bytes(range(256)) * (256 * 1024)
    await client.set(f"{prefix}small", "s", ex=60)
    patient = client.bounded(20.0)
    results = await asyncio.gather(
        patient.set(f"{prefix}big", big),
        *(patient.get(f"{prefix}small") for _ in range(50)),
        patient.get(f"{prefix}big"),
        *(patient.get(f"{prefix}small") for _ in range(50)),
    )
    await patient.delete(f"{prefix}big", f"{prefix}small")

    assert results[0] is True
    assert results[51] == big
    assert results[1:51] + results[52:] == [b"s"] * 100
    assert client.stats().connects == 1


async def test_garbage_from_the_server_is_typed_and_got_over(server, prefix):
    """A server that answers with no RESP costs its calls; the client connects again."""
    answers = [b"garbage\r\n", b"+OK\r\n+OK\r\n", b"%1\r\n*1\r\n$1\r\nx\r\n:1\r\n"]

    async def answer(reader, writer):
        try:
            await reader.readuntil(b"HELLO")
            await reader.readline()
            await reader.readuntil(b"\r\n")
            await reader.readline()
            await reader.readuntil(b"server\r\n")
            writer.write(b"%1\r\n$2\r\nid\r\n:1\r\n$-1\r\n")
            await reader.read(1000)
            writer.write(answers.pop(0))
            await reader.read()
        finally:  # also when the loop ends before it was told that the client left
            writer.transport.abort()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    # Of redis-py 7 the default is RESP2, where a connection begins without HELLO.
    client = Client(
        host="127.0.0.1", port=port, protocol=3, retries=0, reconnect_delay=0.01
    )
    failures = [await _failure(client.incr("a")) for _ in range(1)]
    assert await client.execute_command("SET", "a", "b")
    failures.append(await _failure(client.incr("a")))
    await client.aclose()
    listener.close()
    await listener.wait_closed()

    assert {type(failure) for failure in failures} == {ProtocolBroken}
    assert {failure.outcome for failure in failures} == {Outcome.UNKNOWN}


async def _failure(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the caller looks at it
        await call
    return caught.value


async def test_text_that_does_not_decode(server, prefix):
    """With `decode_responses` bytes that are no text fail their call alone."""
    async with Client.from_url(server.url, decode_responses=True) as client:
        await client.set(f"{prefix}bad", b"\xff\xfe", ex=60)
        await client.set(f"{prefix}good", "é", ex=60)
        results = await asyncio.gather(
            client.get(f"{prefix}good"),
            client.get(f"{prefix}bad"),
            client.mget(f"{prefix}good", f"{prefix}bad"),
            client.get(f"{prefix}good"),
            return_exceptions=True,
        )
        with pytest.raises(UnicodeDecodeError):
            await client.pipeline().get(f"{prefix}good").get(f"{prefix}bad").execute()
        connects = client.stats().connects

    assert (results[0], results[3]) == ("é", "é")
    assert {type(result) for result in results[1:3]} == {UnicodeDecodeError}
    assert connects == 1


@pytest.mark.parametrize("kind", [Client, SimpleClient])
async def test_closing_twice(server, kind):
    """Closing again does nothing, before the first use too."""
    client = kind.from_url(server.url)
    await client.aclose()
    await client.aclose()
    used = kind.from_url(server.url)
    await used.ping()
    await asyncio.gather(used.aclose(), used.aclose())
    await used.aclose()


async def test_use_after_closing(server, prefix):
    """Every kind of call on a closed client is refused, typed, and not sent."""
    client = Client.from_url(server.url)
    await client.ping()
    await client.aclose()
    for call in (
        client.get("a"),
        client.blpop("a", 1),
        client.pipeline().get("a").execute(),
        client.pipeline(transaction=False).blpop("a", 1).execute(),
        client.bounded(1.0).get("a"),
    ):
        failure = await _failure(call)
        assert (type(failure), failure.outcome) == (ClosedError, Outcome.NOT_SENT)


async def test_closing_a_view_closes_nothing(client):
    """`bounded` is a view: closing it leaves the client open."""
    async with client.bounded(1.0) as view:
        assert await view.ping()
    assert await client.ping()
    assert client.stats().connects == 1


@pytest.mark.parametrize("kind", [Client, SimpleClient])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"comand_timeout": 2.0},
            "comand_timeout is not a setting; did you mean command_timeout",
        ),
        ({"command_timeout": -1}, "command_timeout"),
        ({"command_timeout": "soon"}, "command_timeout"),
        ({"pool_max": 0}, "pool_max"),
        ({"url": "http://localhost"}, "redis://"),
        ({"url": "redis://localhost:99999"}, "port"),
    ],
    ids=["typo", "negative", "text", "zero", "scheme", "port"],
)
async def test_wrong_setting_is_refused_when_the_client_is_made(kind, options, text):
    """A wrong setting or an unknown name is an error at once, not at the first call."""
    with pytest.raises(SettingsError, match=text):
        kind(**options)


async def test_unknown_transport_is_refused():
    """A transport that does not exist is not taken for the other one."""
    with pytest.raises(SettingsError, match="'multiplexed' or 'pool'"):
        Client(transport="multiplex")


async def test_errors_of_the_codec_are_not_this_parts():
    """A codec's error keeps its reason when it ends calls on a connection."""
    from oddswire.connection.errors import clone_error

    copy = clone_error(CodecError("x", reason="damaged"), Outcome.UNKNOWN)

    assert copy.reason == "damaged"


async def test_cancel_storm(client, prefix):
    """2,000 calls, half cancelled anywhere: no wrong reply, no new connection."""
    keys = [f"{prefix}{n}" for n in range(200)]
    await client.mset({key: key for key in keys})
    loop = asyncio.get_running_loop()
    for round_ in range(10):
        tasks = {key: loop.create_task(client.get(key)) for key in keys}
        for _ in range(round_ % 5):
            await asyncio.sleep(0)  # so many turns of the loop
        for task in list(tasks.values())[round_ % 2 :: 2]:
            task.cancel()
        await asyncio.wait(tasks.values())
        for key, task in tasks.items():
            assert task.cancelled() or task.result() == key.encode()
    await client.delete(*keys)
    connections = client.stats().connections

    assert client.stats().connects == 1
    assert (
        connections.in_flight,
        connections.in_flight_bytes,
        connections.waiting,
    ) == (0, 0, 0)


@pytest.mark.parametrize("seconds", ["1", None, True, math.nan, -1], ids=repr)
async def test_a_deadline_that_is_no_number_is_refused(server, seconds):
    """A deadline that is no number is refused before a call could be made with it."""
    async with Client.from_url(server.url) as client:
        with pytest.raises(SettingsError, match=r"^a deadline of "):
            client.bounded(seconds)
        assert await client.ping()


@pytest.mark.parametrize("url", ["redis://:hunter2@h/x", "redis://:hunter2@h:99999", 5])
def test_an_error_of_a_setting_can_be_shown_with_its_frames(url):
    """What is half made when its settings are refused has a representation."""
    with pytest.raises(SettingsError) as caught:
        Client(url=url)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    made = [frame.f_locals["self"] for frame in frames if "self" in frame.f_locals]
    assert any(isinstance(each, Client) for each in made)
    assert all("hunter2" not in repr(each) for each in made)
