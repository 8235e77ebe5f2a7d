from __future__ import annotations

import math

import pytest

from oddsbot.standin.polymarket import Replay


@pytest.fixture
async def replay(sampled):
    """A Polymarket that stands still, five minutes after its recording began."""
    until = sampled.start + 300_000
    async with Replay(sampled, speed=math.inf, until=until, seed=7) as replay:
        replay.start()
        await replay.finished()
        yield replay


@pytest.fixture
def unused_url(unused_tcp_port):
    """An address where nobody listens."""
    return f"http://127.0.0.1:{unused_tcp_port}"
