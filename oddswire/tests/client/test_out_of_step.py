"""Replies out of step under load: found after 1,000 replies or a second of metrics."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from oddswire import Client
from oddswire.errors import OddswireError
from oddswire.events import Disconnected
from oddswire.testing.proxy import close_listener
from support import eventually

pytestmark = [pytest.mark.requirement("C4"), pytest.mark.errors]

# GET k:NNNN is answered with the key's own name: 12 bytes.
SIZE = len(b"$6\r\nk:0000\r\n")


class Dropping:
    """A link that drops, or doubles, the first reply of the next answer to GET."""

    def __init__(self, server):
        self._server, self._writers = server, []
        self.armed = ""

    async def __aenter__(self):
        self._listener = await asyncio.start_server(self._take, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        self.url = f"redis://:{self._server.password}@127.0.0.1:{port}/0"
        return self

    async def __aexit__(self, *_):
        async def end():
            for writer in self._writers:
                writer.transport.abort()

        await close_listener(self._listener, end)

    async def _take(self, reader, writer):
        down, up = await asyncio.open_connection(self._server.host, self._server.port)
        self._writers += [writer, up]
        copying = asyncio.get_running_loop().create_task(self._down(down, writer))
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                up.write(data)
        up.close()
        await copying

    async def _down(self, reader, writer):
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if self.armed and data.startswith(b"$6\r\nk:"):
                    data = data[SIZE:] if self.armed == "drop" else data[:SIZE] + data
                    self.armed = ""
                writer.write(data)
        writer.close()


@pytest.mark.parametrize("how", ["drop", "double"])
@pytest.mark.parametrize("callers", [1, 50])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
async def test_a_lost_reply_is_found_under_load(own, how, callers, decode):
    """However busy the link, wrong replies end within the stated number of calls."""
    keys = [f"k:{number:04d}" for number in range(100)]
    async with (
        Dropping(own) as link,
        Client.from_url(link.url, decode_responses=decode) as client,
    ):
        await client.mset(dict(zip(keys, keys, strict=True)))
        lost = []
        client.events.subscribe(lost.append, Disconnected)
        wrong, right_after = 0, 0

        async def call(start):
            nonlocal wrong, right_after
            for number in range(start, start + 1_000_000, 7):
                key = keys[number % 100]
                try:
                    value = await client.get(key)
                except OddswireError:
                    continue
                if value != (key if decode else key.encode()):
                    wrong += 1
                elif lost:
                    right_after += 1
                    if right_after >= 500:
                        return

        calls = [asyncio.create_task(call(n)) for n in range(callers)]  # noqa: TID251 - awaited below
        await eventually(lambda: client.stats().calls.get("GET", 0) > 10 * callers)
        link.armed = how
        await asyncio.gather(*calls)

        assert wrong <= 1_000 + 3 * callers
        assert len(lost) == 1
        assert lost[0].protocol_desync


async def test_slow_traffic_is_checked_each_second(own):
    """Few calls a second are checked by the second, not by the thousand."""
    async with Dropping(own) as link, Client.from_url(link.url) as client:
        keys = [f"k:{number:04d}" for number in range(100)]
        await client.mset(dict(zip(keys, keys, strict=True)))
        lost = asyncio.get_running_loop().create_future()
        client.events.subscribe(lost.set_result, Disconnected)
        calls = 0

        async def beside(number):
            with suppress(OddswireError):
                await client.get(keys[number])

        link.armed = "drop"
        while not lost.done():
            pair = asyncio.gather(beside(calls % 100), beside((calls + 1) % 100))
            calls += 2
            await asyncio.wait([pair, lost], return_when="FIRST_COMPLETED")
            await asyncio.sleep(0.02)

        assert (await lost).protocol_desync
        assert calls < 500


async def test_the_echo_is_never_within_a_batch(own):
    """Between MULTI and EXEC, and within any batch, nothing else is sent."""
    async with Client.from_url(own.url) as client, Client.from_url(own.url) as admin:

        async def load():
            for _ in range(20):
                pipe = client.pipeline(transaction=True)
                for number in range(200):
                    pipe.incr(f"n{number}")
                assert len(await pipe.execute()) == 200

        await admin.ping()
        async with admin.monitor() as monitor:
            done = asyncio.gather(*(load() for _ in range(3)))
            within, echoes = False, 0
            async with asyncio.timeout(30):
                # What it has not read yet is more of the same.
                while not done.done() or echoes < 4:
                    said = (await monitor.next_command())["command"]
                    if said == "MULTI":
                        within = True
                    elif said == "EXEC":
                        within = False
                    elif said.startswith("PING oddswire"):
                        assert not within
                        echoes += 1
            await done
