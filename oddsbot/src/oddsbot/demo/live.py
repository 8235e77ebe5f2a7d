"""`Live`: what the layer under the bot does, as short texts for the page."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from oddswire.errors import OddswireError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from oddswire.cache import CacheStats
    from oddswire.clock import Clock
    from oddswire.counters import HistogramSnapshot
    from oddswire.metrics import Metrics

FIGURES = {
    "ticks": "Prices",
    "saved": "Calls to Polymarket saved",
    "l1": "Answered from memory",
    "l2": "Answered from Redis",
    "delivery": "Price to chat, p50 / p99",
    "queues": "Waiting messages",
    "sessions": "Sessions",
    "redis": "Redis",
    "latency": "Redis answers in, p50 / p99 of a minute",
    "commands": "Commands to Redis",
}
"""The label of each figure, by name."""
_SHOWN = 8
_SAMPLE = 2.0
# Rates are over so many looks, how fast Redis answers over so many seconds.
_LOOKS = 4
_MINUTE = 60.0


class Live:
    """Reads the counters of the bot's process; asks Redis every 2 s.

    Args:
        metrics: Of the bot.
        ticks: Returns how many prices the bot has judged.
        clock: Sleeps, and tells when.
    """

    def __init__(
        self, metrics: Metrics, ticks: Callable[[], int], clock: Clock
    ) -> None:
        self._metrics = metrics
        self._ticks = ticks
        self._clock = clock
        self._counts: deque[tuple[float, int, int]] = deque(maxlen=_LOOKS)
        self._answers: deque[tuple[float, HistogramSnapshot]] = deque()
        self._done: deque[tuple[float, str]] = deque(maxlen=_SHOWN)

    async def sample(self) -> NoReturn:
        """Count the sessions and messages of Redis now and then."""
        while True:
            # While Redis is away the last count stays.
            with suppress(OddswireError):
                await self._metrics.sample()
            await self._clock.sleep(_SAMPLE)

    def note(self, text: str) -> None:
        """Add what was done to the demo to the events."""
        self._done.append((self._clock.now(), text))

    def values(self, p50: float | None, p99: float | None) -> dict[str, str]:
        """Return the text of each figure.

        Args:
            p50: Seconds from a price to its alert in the chat; None: none came yet.
            p99: The same.
        """
        seen = self._metrics.snapshot()
        client, sample = seen.client, seen.sample
        now, ticks = self._clock.monotonic(), self._ticks()
        self._counts.append((now, ticks, client.total))
        then, ticks_then, calls_then = self._counts[0]
        seconds = (now - then) or 1.0
        waiting = sessions = "–"
        if sample is not None:
            waiting = str(sum(each.depth for each in sample.queues.values()))
            if sample.sessions is not None:
                sessions = (
                    f"{sample.sessions.total}, {sample.sessions.conversations} talking"
                )
        connections = client.connections
        state = "circuit open" if client.circuit_open else "connecting again"
        if connections.shared:
            more = connections.leased + connections.idle
            state = f"connected, circuit closed, {connections.shared + more} open"
        return {
            "ticks": f"{(ticks - ticks_then) / seconds:,.0f} a second",
            **_shares(seen.cache),
            "delivery": _pair(p50, p99),
            "queues": waiting,
            "sessions": sessions,
            "redis": state,
            "latency": self._answered(now, client.latency.histogram),
            "commands": f"{(client.total - calls_then) / seconds:,.0f} a second",
        }

    def _answered(self, now: float, seen: HistogramSnapshot) -> str:
        while self._answers and self._answers[0][0] < now - _MINUTE:
            self._answers.popleft()
        self._answers.append((now, seen))
        minute = seen.since(self._answers[0][1])
        return _pair(minute.quantile(0.5), minute.quantile(0.99))

    def events(self) -> list[str]:
        """Return what happened last, the newest first."""
        entries = [(each.at, each.text) for each in self._metrics.journal.entries]
        newest = sorted([*entries, *self._done], reverse=True)[:_SHOWN]
        return [f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} {t}" for at, t in newest]


def _shares(cache: CacheStats | None) -> dict[str, str]:
    if cache is None:
        return {}
    asked = cache.l1_hits + cache.l2_hits + cache.misses
    if not asked:
        return {"saved": "–", "l1": "–", "l2": "–"}
    saved = max(0, asked - cache.loads)
    return {
        "saved": f"{saved:,} of {asked:,}",
        "l1": f"{cache.l1_hits / asked:.0%}",
        "l2": f"{cache.l2_hits / asked:.0%}",
    }


def _pair(p50: float | None, p99: float | None) -> str:
    return "–" if p50 is None or p99 is None else f"{_short(p50)} / {_short(p99)}"


def _short(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1.0 else f"{seconds:.1f} s"
