"""`SessionStatistics`: sessions, counted."""

from __future__ import annotations

import msgspec


class SessionStatistics(msgspec.Struct, frozen=True):
    """What the server counted at one instant.

    Attributes:
        total: Sessions.
        active: Those that were not deactivated.
        inactive: The others.
        conversations: Those whose conversation has not ended, but for an absolute
            deadline.
        having: By collection: sessions with at least one member.
        mean_age: Seconds since creation, on average; 0 without sessions.
        active_within: By window in seconds: sessions with activity in it.
        created: Sessions ever created.
        near_hits: Reads that this process answered from memory.
        mirror_rebuilt: How often this process built its mirror of the indexes.
        upkeep_failures: Removals of what has ended that failed here, and were tried
            again later.
        foreign: Names and entries that no session wrote, and that this process has
            skipped.
    """

    total: int
    active: int
    inactive: int
    conversations: int
    having: dict[str, int]
    mean_age: float
    active_within: dict[float, int]
    created: int
    near_hits: int
    mirror_rebuilt: int
    upkeep_failures: int
    foreign: int = 0
