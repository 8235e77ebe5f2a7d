"""`Replay`'s lifetime and its recorded time."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest

from oddsbot.standin.polymarket import PortUnavailable, Replay

from .conftest import INF, UP, connect


@pytest.mark.basic
async def test_nothing_happens_before_the_start(small, session):
    """Connected clients wait; the recorded time stands at its beginning."""
    async with Replay(small, speed=1000.0) as replay:
        await connect(session, replay, UP)
        assert (replay.position, replay.played_until) == (1_000_000, 1_000_000)
        assert replay.frames_sent == 0

        replay.start()
        with pytest.raises(RuntimeError, match="called once"):
            replay.start()


@pytest.mark.basic
async def test_the_speed_paces_the_recorded_time(small, session):
    """Three recorded minutes at 600 take 0.3 s, and end at the last item."""
    loop = asyncio.get_running_loop()
    async with Replay(small, speed=600.0, until=1_180_000) as replay:
        began = loop.time()
        replay.start()
        await replay.finished()
        took = loop.time() - began

    assert took >= 0.3
    assert replay.played_until == 1_180_000
    assert replay.position == 1_180_000


@pytest.mark.basic
@pytest.mark.parametrize(
    ("until", "played"),
    [(1_119_999, 1_060_000), (1_000_000, 1_000_000), (5, 1_000_000), (None, 1_900_000)],
)
async def test_it_stops_where_it_is_told(small, until, played):
    """Nothing recorded after `until` is sent."""
    async with Replay(small, speed=INF, until=until) as replay:
        replay.start()
        await replay.finished()

    assert replay.played_until == played


@pytest.mark.errors
async def test_closing_in_the_middle_releases_who_waits(small):
    """A replay that is closed before its end leaves nobody waiting."""
    async with asyncio.TaskGroup() as group, Replay(small, speed=1.0) as replay:
        replay.start()
        waiting = group.create_task(replay.finished())
        await asyncio.sleep(0)

    assert waiting.done()


@pytest.mark.errors
@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_a_speed_that_is_none_is_refused(small, speed):
    """Only a speed above 0 plays anything."""
    with pytest.raises(ValueError, match="speed must be above 0"):
        Replay(small, speed=speed)


@pytest.mark.errors
async def test_a_port_in_use_is_a_typed_error(small):
    """It names the port and says what to do, and leaves nothing behind."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            PortUnavailable, match=f"port {port} on 127.0.0.1 cannot be opened .*in use"
        ):
            async with Replay(small, port=port):
                pass

    async with Replay(small, port=port) as replay:
        assert replay.gamma_url.endswith(f":{port}")


@pytest.mark.basic
async def test_leaving_frees_everything(small):
    """After the end no socket of the replay is open, whoever was connected."""
    async with aiohttp.ClientSession() as session:
        async with Replay(small, speed=INF) as replay:
            ws = await connect(session, replay, UP)
            port = int(replay.clob_url.rpartition(":")[2])
        message = await ws.receive()

    assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
    async with Replay(small, port=port):
        pass
