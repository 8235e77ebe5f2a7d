"""What a run of the demo found, as JSON and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_VERSION = 1


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """The recording.

    Attributes:
        name: Of the file.
        markets: How many it has.
        skipped_lines: Damaged lines that were left out.
        first_skipped: The first of them and what is wrong with it.
        warning: What could not be read of a file that is cut off.
        seconds_played: Recorded seconds that were played.
    """

    name: str
    markets: int
    skipped_lines: int
    first_skipped: str | None
    warning: str | None
    seconds_played: float


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """What came over the websocket.

    Attributes:
        gaps: Times in which something may have been missed.
    """

    frames: int
    bad_frames: int
    skipped_events: int
    ticks: int
    reconnects: int
    gaps: int


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """From when a tick was seen to when its alert was delivered, in ms."""

    p50: float | None
    p99: float | None
    max: float | None


class RedisUse(msgspec.Struct, frozen=True, kw_only=True):
    """What Redis did and went through.

    Attributes:
        commands: Sent by the demo.
        restarts: How often the server ended unasked and was started again.
        reconnects: How often the command connection was made anew.
        price_writes: Pipelined writes of latest prices.
    """

    commands: int
    restarts: int
    reconnects: int
    price_writes: int


class OutboxState(msgspec.Struct, frozen=True, kw_only=True):
    """The outbox at the end; None where Redis could not be asked.

    Attributes:
        pending: Handed out and not settled.
        lag: Not handed out.
        dead_letters: Alerts that were given up.
        repeats_prevented: Alerts that came again and were not delivered again.
    """

    pending: int | None
    lag: int | None
    dead_letters: int | None
    repeats_prevented: int


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What the independent checker says.

    Attributes:
        agrees: Whether nothing is wrong.
        complete: Whether the whole played part was compared. After a gap in the feed
            nobody could have seen everything: then `missing` and `unexpected` are told
            and do not count.
        expected: Alerts that the recording must cause.
        missing: Of those, what the chat did not get.
        unexpected: What it got and should not have, or got twice.
        out_of_order: What it got after something later.
        drained: Whether everything was delivered before the end.
    """

    agrees: bool
    complete: bool
    expected: int
    missing: list[str]
    unexpected: list[str]
    out_of_order: list[str]
    drained: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run; the fields are a contract, more may be added.

    Attributes:
        schema_version: Grows when a field changes its meaning or goes.
        interrupted: Whether it was stopped before its end.
        seconds: How long it took.
        speed: Recorded seconds a second; None for as fast as possible.
        alerts: Delivered alerts by user.
    """

    schema_version: int = SCHEMA_VERSION
    interrupted: bool
    seconds: float
    speed: float | None
    recording: Recorded
    feed: Feed
    alerts: dict[str, int]
    latency_ms: Latency
    redis: RedisUse
    outbox: OutboxState
    check: Check

    def json(self) -> str:
        """Return it as one JSON object on one line."""
        return msgspec.json.encode(self).decode()

    def text(self) -> str:
        """Return it for people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        recording, feed, latency = self.recording, self.feed, self.latency_ms
        how = "interrupted" if self.interrupted else "finished"
        yield (
            f"{how}: {recording.seconds_played:,.0f} recorded seconds of "
            f"{recording.name} in {self.seconds:.1f} s"
        )
        if recording.skipped_lines:
            yield (
                f"recording: {recording.skipped_lines} damaged lines skipped, "
                f"first {recording.first_skipped}"
            )
        if recording.warning:
            yield f"recording: {recording.warning}"
        yield (
            f"feed: {feed.frames:,} frames, {feed.ticks:,} ticks, "
            f"{feed.bad_frames} broken frames, {feed.reconnects} reconnects, "
            f"{feed.gaps} gaps"
        )
        by_user = ", ".join(f"{name} {count}" for name, count in self.alerts.items())
        yield f"alerts: {sum(self.alerts.values())} delivered ({by_user})"
        if latency.p50 is not None and latency.p99 is not None:
            yield (
                f"tick to delivery: p50 {latency.p50:.1f} ms, p99 {latency.p99:.1f} ms"
            )
        yield (
            f"Redis: {self.redis.commands:,} commands, {self.redis.restarts} restarts, "
            f"{self.redis.reconnects} reconnects"
        )
        yield from self._verdict()

    def _verdict(self) -> Iterator[str]:
        check = self.check
        if not check.agrees:
            yield "check: the alerts differ from what the recording must cause"
        elif check.complete:
            yield f"check: exactly the {check.expected} alerts that had to come"
        else:
            yield "check: nothing twice, nothing out of order; the feed had gaps"
        if not check.drained:
            yield "  not everything was delivered before the end"
        for what in ("missing", "unexpected", "out_of_order"):
            for line in getattr(check, what):
                yield f"  {what.replace('_', ' ')}: {line}"
