"""The demo in a terminal: prices as Redis has them, alerts as they are delivered."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from oddsbot.watch import latest_prices
from oddswire.errors import OddswireError
from oddswire.plain import plain

from .cast import PEOPLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from rich.console import Console, RenderableType

    from oddsbot.polymarket import Quote

    from .stage import Stage

_REFRESH_EVERY = 0.25
_READ_WITHIN = 0.2
_LINES_SHOWN = 12
_TITLE = 120


class Progress:
    """Says how far a stage is, a line every few seconds, until it is cancelled.

    Args:
        write: Takes each line.
        every: Seconds between two lines.
    """

    def __init__(self, write: Callable[[str], object], *, every: float = 5.0) -> None:
        self._write = write
        self._every = every

    async def show(self, stage: Stage) -> NoReturn:
        """Say it at once, and again and again."""
        recording = stage.replay.recording
        whole = max(1, stage.until - recording.start)
        takes = whole / 1000 / stage.replay.speed
        self._write(
            f"playing {whole / 1000:,.0f} recorded seconds at speed "
            f"{stage.replay.speed:g}: about {takes:,.0f} s"
        )
        while True:
            await stage.clock.sleep(self._every)
            done = (stage.replay.position - recording.start) / whole
            self._write(f"{done:.0%} played, {len(stage.told)} alerts delivered")


class View:
    """Shows a stage until it is cancelled.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: deque[str] = deque(maxlen=_LINES_SHOWN)
        self._prices: dict[str, Quote] = {}
        self._away = False
        # (time, ticks, commands) of the looks of the last second or so.
        self._looks: deque[tuple[float, int, int]] = deque(maxlen=5)

    def write(self, line: str) -> None:
        """Show a line below the others."""
        self._lines.append(plain(line))

    async def show(self, stage: Stage) -> NoReturn:
        """Draw the stage, four times a second, until cancelled."""
        with Live(console=self._console, auto_refresh=False) as live:
            try:
                while True:
                    await self._look(stage)
                    live.update(self.draw(stage), refresh=True)
                    await stage.clock.sleep(_REFRESH_EVERY)
            finally:
                live.update(self.draw(stage), refresh=True)

    async def _look(self, stage: Stage) -> None:
        now = stage.clock.monotonic()
        commands = stage.client.stats().total
        self._looks.append((now, stage.shard.ticks, commands))
        markets = [market.condition_id for market in stage.markets]
        try:
            # From Redis, as any other process would read them; an outage must not
            # stop the drawing.
            async with asyncio.timeout(_READ_WITHIN):
                self._prices = await latest_prices(stage.pubsub, markets)
        except (OddswireError, TimeoutError):
            self._away = True
        else:
            self._away = False

    def draw(self, stage: Stage) -> RenderableType:
        """Return what the terminal shows now."""
        return Group(
            self._headline(stage),
            self._rates(stage),
            self._table(stage),
            *(Text(line, no_wrap=True, overflow="ellipsis") for line in self._lines),
            Text("Ctrl-C stops", style="dim"),
        )

    def _headline(self, stage: Stage) -> Text:
        replay = stage.replay
        start, position = replay.recording.start, replay.position
        done = (position - start) / max(1, stage.until - start)
        at = datetime.fromtimestamp(position / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        return Text.assemble(
            ("oddsbot demo  ", "bold"),
            f"recorded {at} UTC, {done:.0%}, speed {replay.speed:g}",
        )

    def _rates(self, stage: Stage) -> Text:
        (then, ticks_then, commands_then), (now, ticks, commands) = (
            self._looks[0],
            self._looks[-1],
        )
        passed = max(now - then, 1e-9) if len(self._looks) > 1 else 1.0
        return Text.assemble(
            f"ticks/s {(ticks - ticks_then) / passed:,.0f}  ",
            f"Redis commands/s {(commands - commands_then) / passed:,.0f}  ",
            f"restarts {stage.restarts}  ",
            f"reconnects {max(0, stage.client.stats().connects - 1)}  ",
            f"feed reconnects {stage.feed.counters.streams.reconnects}  ",
            ("Redis is away", "bold red") if self._away else ("Redis is up", "green"),
        )

    def _table(self, stage: Stage) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("market", "outcome", "bid", "ask"):
            table.add_column(
                name, justify="right" if name in ("bid", "ask") else "left"
            )
        for market in stage.markets:
            for token in market.tokens:
                quote = self._prices.get(token.token_id)
                table.add_row(
                    # Text, not str: a table reads markup in those.
                    Text(plain(market.question, _TITLE)),
                    Text(plain(token.outcome, _TITLE)),
                    _price(quote.bid if quote else None),
                    _price(quote.ask if quote else None),
                )
        counts = dict.fromkeys(PEOPLE, 0)
        for one in stage.told:
            counts[one.user] += 1
        told = ", ".join(f"{PEOPLE[user]} {count}" for user, count in counts.items())
        table.caption = Text(f"alerts: {told}")
        return table


def _price(price: Decimal | None) -> str:
    return "-" if price is None else str(price)
