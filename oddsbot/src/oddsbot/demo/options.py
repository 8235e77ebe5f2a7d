"""What the demo is asked to play, and how."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from oddsbot.standin.polymarket import Recording


class DemoError(ValueError):
    """The demo cannot run as it was asked to."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to play, and how.

    Attributes:
        recording: The ``.books.jsonl.gz`` file.
        speed: Recorded seconds a second; infinite for as fast as possible.
        seconds: How long to play at most; None for the whole recording.
        data_dir: Where the server keeps its data; None for a directory that is
            removed at the end.
        port: Where the recorded Polymarket listens; 0 for any free port.
        cluster: Whether Redis is a cluster of three primaries.
        session_ttl: Seconds of silence after which a conversation ends; None: a day.

    Raises:
        DemoError: A number makes no sense.
    """

    recording: Path
    speed: float = 60.0
    seconds: float | None = None
    data_dir: Path | None = None
    port: int = 0
    cluster: bool = False
    session_ttl: float | None = None

    def __post_init__(self) -> None:
        # Asked this way round, NaN is refused as well.
        if not self.speed > 0:
            raise DemoError(f"--speed {self.speed:g}: give a number above 0, like 60")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise DemoError(
                f"--seconds {self.seconds:g}: give a number above 0, like 20"
            )
        if not 0 <= self.port < 65_536:
            raise DemoError(
                f"--port {self.port}: give one from 1 to 65535, or 0 for any free one"
            )

        if self.cluster and self.data_dir is not None:
            raise DemoError("--cluster keeps no data: leave --data-dir out")

    def until(self, recording: Recording) -> int:
        """Return the recorded moment, in ms, at which the playing ends."""
        if self.seconds is None or math.isinf(self.speed):
            return recording.end
        played = int(self.seconds * self.speed * 1000)
        return min(recording.end, recording.start + played)
