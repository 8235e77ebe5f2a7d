"""`SessionStats`: sessions, counted."""

from __future__ import annotations

import msgspec


class SessionStats(msgspec.Struct, frozen=True):
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
        local_hits: Reads that this process answered from memory.
        replica_rebuilds: How often this process built its replica of the indexes.
        maintenance_failures: Removals of ended sessions that failed in this process;
            it repeats them later.
        foreign: Names and entries that no session wrote; this process skipped them.
    """

    total: int
    active: int
    inactive: int
    conversations: int
    having: dict[str, int]
    mean_age: float
    active_within: dict[float, int]
    created: int
    local_hits: int
    replica_rebuilds: int
    maintenance_failures: int
    foreign: int = 0
