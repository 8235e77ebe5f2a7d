"""`Charts`: prices as a picture, drawn in a worker thread. Extra ``charts``."""

from __future__ import annotations

import asyncio
import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from oddsbot.polymarket import PricePoint

# A ground of its own, so that the picture reads the same in a dark and a light chat.
GROUND, INK, GRID = "#ffffff", "#2b3640", "#dfe5ea"
COLOURS = ("#0b5cad", "#b3401a", "#14652b", "#6b3fa0", "#7a5b00")
"""Of the lines, each readable on the ground."""

_WIDTH, _HEIGHT, _DPI = 8.0, 4.2, 100
_NAME = 40


class Line(NamedTuple):
    """The history of one outcome; points are in order of their time."""

    name: str
    points: Sequence[PricePoint]


class Charts:
    """Draws one chart at a time: the library's fonts are not for several threads."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def draw(self, lines: Sequence[Line]) -> bytes | None:
        """Return a PNG of 800 x 420 pixels; None when there is nothing to draw.

        Cancelled, the thread finishes its picture and drops it.

        Args:
            lines: At most five; names are of anybody, and shown as plain text.
        """
        shown = [line for line in lines[: len(COLOURS)] if len(line.points) > 1]
        if not shown:
            return None
        async with self._turn:
            return await asyncio.to_thread(picture, shown)


def picture(lines: Sequence[Line]) -> bytes:
    """Return a PNG; the same lines give the same bytes."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor=GROUND)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.02, 0.11, 0.91, 0.78), facecolor=GROUND)
    low, high = 100.0, 0.0
    for line, colour in zip(lines, COLOURS, strict=False):
        times = [
            date2num(datetime.fromtimestamp(point.t, UTC))  # type: ignore[no-untyped-call]
            for point in line.points
        ]
        prices = [float(point.p) * 100 for point in line.points]
        axes.plot(times, prices, color=colour, linewidth=2.4, drawstyle="steps-post")
        axes.plot(times[-1:], prices[-1:], "o", color=colour, markersize=8)
        low, high = min(low, *prices), max(high, *prices)
    _decorate(axes, lines, low, high)
    out = io.BytesIO()
    # No name of a program and no time in it.
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _decorate(axes: Axes, lines: Sequence[Line], low: float, high: float) -> None:
    """Draw a quiet grid, and each name with its last price above the chart."""
    axes.set_ylim(max(0.0, low - 4), min(100.0, high + 4))
    axes.yaxis.tick_right()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}¢")
    locator = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.tick_params(colors=INK, length=0, labelsize=12)
    axes.grid(axis="y", color=GRID, linewidth=1)
    for spine in axes.spines.values():
        spine.set_visible(False)
    at = 0.02
    for line, colour in zip(lines, COLOURS, strict=False):
        name = plain(line.name, _NAME)
        # A dollar would begin a formula.
        text = f"{name} {float(line.points[-1].p) * 100:g}¢".replace("$", r"\$")
        axes.figure.text(at, 0.935, text, color=colour, fontsize=15, weight="bold")
        at += 0.03 + 0.0165 * len(text)
