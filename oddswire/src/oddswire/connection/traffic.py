"""`Traffic`: what went over a link, in plain numbers."""

from __future__ import annotations

import math

from oddswire.counters import Histogram, Window


class Traffic:
    """Counted over all the wires that follow one another on a link.

    Attributes:
        latency: Seconds from a command's tick to its reply's arrival.
        answered: Calls that were answered lately.
        writes: Socket writes; commands per write tell how well commands are joined.
        bytes_in: Bytes read.
        bytes_out: Bytes handed to the socket.
        pushes: RESP3 push messages.
        timeouts: Calls whose deadline passed.
        abandoned: Calls whose caller was cancelled.
        waits: Calls that waited for room.
        stalls: Seconds by which the event loop came late to a deadline.
        slow_above: Seconds after which a reply counts as slow.
    """

    __slots__ = ("abandoned", "answered", "bytes_in", "bytes_out", "latency", "pushes",
                 "slow_above", "stalls", "timeouts", "waits", "writes")  # fmt: skip

    def __init__(self, slow_above: float = math.inf) -> None:
        self.latency = Histogram()
        self.stalls = Histogram()
        self.answered = Window()
        self.writes = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.pushes = 0
        self.timeouts = 0
        self.abandoned = 0
        self.waits = 0
        self.slow_above = slow_above
