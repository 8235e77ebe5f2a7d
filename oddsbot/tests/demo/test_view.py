from __future__ import annotations

import asyncio
import io
import signal
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from oddsbot.demo import Options
from oddsbot.demo.run import run
from oddsbot.demo.view import View
from oddsbot.standin.polymarket import sample
from oddswire import Settings

if TYPE_CHECKING:
    from oddsbot.demo.stage import Stage


class Screen(io.StringIO):
    """What a terminal was sent; wakes who waits for a text to be drawn anew."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn = asyncio.Event()

    def write(self, text: str) -> int:
        """Take what is drawn."""
        self._drawn.set()
        return super().write(text)

    async def wait_shown(self, text: str) -> None:
        """Wait until a text is drawn after this call."""
        before = len(self.getvalue())
        while text not in self.getvalue()[before:]:
            self._drawn.clear()
            await self._drawn.wait()


@pytest.mark.requirement("B5")
@pytest.mark.integration
async def test_the_terminal_shows_prices_alerts_and_an_outage():
    """Prices as Redis has them, alerts as delivered, and Redis being away and back."""
    screen = Screen()
    view = View(Console(file=screen, force_terminal=True, width=110, height=40))
    stop = asyncio.Event()

    async def show_and_freeze(stage: Stage) -> None:
        async with asyncio.TaskGroup() as tasks:
            showing = tasks.create_task(view.show(stage))
            await screen.wait_shown("Chloe: Down above")
            stage.server.kill(signal.SIGSTOP)
            await screen.wait_shown("Redis is away")
            stage.server.kill(signal.SIGCONT)
            await screen.wait_shown("Redis is up")
            stop.set()
            showing.cancel()

    report = await run(
        Options(recording=sample(), speed=120.0),
        Settings(profile="test"),
        stop=stop,
        write=view.write,
        view=show_and_freeze,
    )

    assert report.check.agrees
    text = screen.getvalue()
    for shown in (
        "oddsbot demo",
        "recorded 2026-09-28 12:",
        "speed 120",
        "ticks/s",
        "Redis commands/s",
        "reconnects",
        "Bitcoin Up or Down - September 28, 8:15AM-8:30AM ET",
        "alerts: Ana",
        "Ctrl-C stops",
    ):
        assert shown in text


@pytest.mark.basic
async def test_a_price_is_shown_as_redis_has_it(written):
    """The table shows bid and ask that were read back, and - where a side is empty."""
    screen = Screen()
    view = View(Console(file=screen, force_terminal=True, width=110, height=40))
    for at in range(3):
        written.book(at * 50, bid=0.123, ask=0.456)
        written.book(at * 50, bid=0.544, side="DOWN")
    written.book(300, bid=0.321, ask=0.654)
    stop = asyncio.Event()

    async def show(stage: Stage) -> None:
        async with asyncio.TaskGroup() as tasks:
            showing = tasks.create_task(view.show(stage))
            await screen.wait_shown("0.123")
            await screen.wait_shown("0.654")
            stop.set()
            showing.cancel()

    await run(
        Options(recording=written.save(), speed=0.2),
        Settings(profile="test"),
        stop=stop,
        write=view.write,
        view=show,
    )

    rows = [line.split() for line in screen.getvalue().splitlines()]
    assert any(row[-3:] == ["Up", "0.123", "0.456"] for row in rows)
    assert any(row[-3:] == ["Down", "0.544", "-"] for row in rows)
    assert any(row[-3:] == ["Up", "0.321", "0.654"] for row in rows)
