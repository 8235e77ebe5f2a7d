"""Sessions: what is known of each user, changed without losing anything.

`Sessions` is the part, `oddswire.sessions.record` what a session is made of.
"""

from oddswire.sessions._sessions import Sessions
from oddswire.sessions.feed import Announced, Feed, Heard, Missed
from oddswire.sessions.record import (
    Collection,
    Expiring,
    Indexed,
    Record,
    Secret,
    Session,
)
from oddswire.sessions.source import Kept, Rebuilt, SealedSource, Source
from oddswire.sessions.statistics import SessionStatistics

__all__ = [
    "Announced",
    "Collection",
    "Expiring",
    "Feed",
    "Heard",
    "Indexed",
    "Kept",
    "Missed",
    "Rebuilt",
    "Record",
    "SealedSource",
    "Secret",
    "Session",
    "SessionStatistics",
    "Sessions",
    "Source",
]
