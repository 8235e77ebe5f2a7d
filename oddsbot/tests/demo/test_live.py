"""The figures of the demo's page."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from oddsbot.demo.live import Live
from oddswire.clock import ManualClock
from oddswire.counters import Histogram


class Counted:
    """Stands for the bot's metrics: commands that took as long as the test says."""

    def __init__(self) -> None:
        self.commands = Histogram()

    def snapshot(self):
        """Return what `Live` reads of a snapshot."""
        latency = SimpleNamespace(histogram=self.commands.snapshot())
        client = SimpleNamespace(
            total=self.commands.count,
            latency=latency,
            circuit_open=False,
            connections=SimpleNamespace(shared=1, leased=0, idle=2),
        )
        return SimpleNamespace(client=client, sample=None, cache=None)


@pytest.mark.basic
async def test_how_fast_redis_answers_is_of_the_last_minute():
    """What was slow while the bot began is no longer in the figure a minute later."""
    counted, clock = Counted(), ManualClock()
    live = Live(counted, lambda: 0, clock)

    def latency():
        return live.values(None, None)["latency"]

    assert latency() == "–"
    counted.commands.observe(1.5)
    assert latency().endswith(" s")
    for _ in range(20):
        await clock.advance(5)
        counted.commands.observe(0.0002)
        shown = latency()
    assert shown.count("µs") == 2
