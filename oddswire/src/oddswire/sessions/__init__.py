"""Sessions: what is known of each user, changed without losing anything.

`Sessions` is the part, `oddswire.sessions.record` what a session is made of.
"""

from oddswire.sessions._sessions import Sessions
from oddswire.sessions.feed import Change, Changes, Feed, Reset
from oddswire.sessions.record import (
    Collection,
    Expiring,
    Indexed,
    Record,
    Secret,
    Session,
)
from oddswire.sessions.source import (
    RebuildProgress,
    SealedSource,
    Source,
    SourceRecord,
)
from oddswire.sessions.statistics import SessionStats

__all__ = [
    "Change",
    "Changes",
    "Collection",
    "Expiring",
    "Feed",
    "Indexed",
    "RebuildProgress",
    "Record",
    "Reset",
    "SealedSource",
    "Secret",
    "Session",
    "SessionStats",
    "Sessions",
    "Source",
    "SourceRecord",
]
