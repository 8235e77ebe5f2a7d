from __future__ import annotations

import asyncio
import io
from contextlib import suppress

import aiohttp
import pytest
from aiohttp import web

from oddswire.web.listener import Listener
from support import eventually

pytestmark = pytest.mark.requirement("X4")


def application():
    """Return an application with each kind of answer."""
    app = web.Application()

    async def fine(request):
        return web.json_response(
            {"got": len(await request.read())},
            headers={"Access-Control-Allow-Origin": "*"},
        )

    async def fails(request):
        raise RuntimeError("secret")

    async def begins(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"a part")
        raise RuntimeError("secret")

    async def socket(request):
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.send_str("hello")
        await ws.receive()
        return ws

    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65_536)

    app.router.add_route("*", "/", fine)
    app.router.add_get("/fails", fails)
    app.router.add_get("/begins", begins)
    app.router.add_get("/ws", socket)
    app.router.add_get("/endless", endless)
    return app


async def raw(port, text):
    """Send bytes on a connection of its own; return what comes until it ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    data = await reader.read()
    await closed(writer)
    return data


async def closed(writer):
    """Close a connection that may be lost already."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.integration
async def test_a_page_of_another_site_reaches_no_route():
    """Requests, forms and websockets of other sites are refused before routing."""
    async with Listener(application()) as here, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{here.port}"
        async with session.post(url, data=b"x" * 10) as answer:
            assert await answer.json() == {"got": 10}
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert "Server" not in answer.headers
        for headers, status in (
            ({"Host": "evil.example"}, 421),
            ({"Host": f"evil.example:{here.port}"}, 421),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
        ):
            for path in ("/", "/fails", "/ws", "/none"):
                async with session.get(url + path, headers=headers) as answer:
                    text = await answer.text()
                    assert answer.status == status
                    assert len(text.splitlines()) == 1
                    assert "evil" not in text
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(url + "/ws", headers=headers)
            assert caught.value.status == status
        own = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
        async with session.ws_connect(url + "/ws", headers=own) as ws:
            assert await ws.receive_str() == "hello"


@pytest.mark.errors
async def test_an_error_is_one_line_and_tells_nothing(caplog):
    """No traceback, no address, no version; a body and a head have their bounds."""
    async with Listener(application()) as here, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{here.port}"
        for path, status in (("/fails?token=canary", 500), ("/none?token=canary", 404)):
            async with session.get(url + path) as answer:
                text = await answer.text()
                assert (answer.status, len(text.splitlines())) == (status, 1)
                assert not {"secret", "Traceback", "Python"} & set(text.split())
                assert "canary" not in text
        async with session.post(url, data=io.BytesIO(b"x" * 1_100_000)) as answer:
            assert answer.status == 413
        packed = {"Content-Encoding": "gzip"}
        async with session.post(url, data=b"junk", headers=packed) as answer:
            assert (answer.status, answer.reason) == (400, "Bad Request")
    assert "canary" not in caplog.text


@pytest.mark.errors
@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nA: canary" + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: canary\r\n" * 300 + b"\r\n",
        b"GET /canary" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /canary HTTP/9.9\r\n\r\n",
        b"CANARY /canary HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: canary\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ncanary",
        b"\x16\x03\x01\x00\xffcanary\r\n\r\n",
        b"GET /canary HTTP/1.0\r\n\r\n",
    ],
)
async def test_a_malformed_request_is_answered_as_any_other(junk):
    """One line that repeats nothing of it and names no program or version."""
    async with Listener(application()) as here:
        head, _, body = (await raw(here.port, junk)).partition(b"\r\n\r\n")
    assert head.split(b" ")[1][:1] == b"4"
    assert b"server:" not in head.lower()
    assert body.count(b"\n") == 1
    assert b"canary" not in body.lower()


@pytest.mark.errors
async def test_an_answer_that_began_is_cut_and_not_followed_by_another():
    """A handler that fails in the middle of its answer costs the connection."""
    async with Listener(application()) as here:
        host = f"Host: 127.0.0.1:{here.port}".encode()
        data = await raw(here.port, b"GET /begins HTTP/1.1\r\n" + host + b"\r\n\r\n")
    assert data.endswith(b"6\r\na part\r\n")
    assert data.count(b"HTTP/1.1") == 1


@pytest.mark.errors
async def test_a_client_that_is_silent_or_takes_nothing_is_cut():
    """It holds nobody up: neither half a request, nor a body, nor an answer unread."""
    app = application()
    async with Listener(app, patience=0.2, connections=6) as here:
        host = f"Host: 127.0.0.1:{here.port}\r\n".encode()
        assert await raw(here.port, b"") == b""
        assert await raw(here.port, b"GET / HTTP/1.1\r\nHost") == b""
        slow = b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 9\r\n\r\nx"
        assert b" 408 " in await raw(here.port, slow + b"")
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", here.port, limit=1024
        )
        writer.write(b"GET /endless HTTP/1.1\r\n" + host + b"\r\n")
        writer.transport.pause_reading()

        async def cut():
            return not here._open

        await eventually(cut)
        writer.transport.resume_reading()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1 << 30)
        await closed(writer)
        # Above the most connections, one more is cut; the others are served.
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{here.port}/ws"
            sockets = [await session.ws_connect(url) for _ in range(6)]
            assert [await ws.receive_str() for ws in sockets] == ["hello"] * 6
            assert await raw(here.port, b"GET / HTTP/1.1\r\n\r\n") == b""
            await asyncio.gather(*(ws.close() for ws in sockets))
