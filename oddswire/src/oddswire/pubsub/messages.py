"""What a subscription yields, and what a publish returns."""

from __future__ import annotations

from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


# Not followed by the garbage collector: hundreds of thousands a second may be made, and
# a frozen one cannot be part of a cycle unless its value is made to refer to it.
class Message(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """A message.

    Attributes:
        topic: The topic's name.
        key: Empty for a topic without keys.
        value: What was published.
        id: Names this message; `start` takes it. Compare it only for equality.
        at: When it was published, by the server's clock: seconds since 1970, UTC.
    """

    topic: str
    key: str
    value: T
    id: str
    at: float


class GapReason(StrEnum):
    """Why messages are missing.

    - `OVERFLOW`: the reader was slower than its queue allows (VOLATILE).
    - `DISCONNECTED`: the connection was lost, or the topic moved to another node of the
      cluster (VOLATILE).
    - `LOST`: the connection held and a message did not come (VOLATILE).
    - `TRIMMED`: the log holds later ones only: it was away for more than `history`.
    - `EXPIRED`: the log is empty: it was away for more than `retention`.
    - `ROLLBACK`: the server lost what it had acknowledged, as in a failover.
    - `RESET`: the topic began again: flushed, or unused for ten times its retention.
    - `UNREADABLE`: the message is there and not a value of the topic's type.
    """

    OVERFLOW = "overflow"
    DISCONNECTED = "disconnected"
    LOST = "lost"
    TRIMMED = "trimmed"
    EXPIRED = "expired"
    ROLLBACK = "rollback"
    RESET = "reset"
    UNREADABLE = "unreadable"


class Gap(msgspec.Struct, frozen=True):
    """Messages are missing here. Between two gaps there is none missing.

    Attributes:
        topic: The topic's name. Of a keyed subscription too: what is missing may have
            had any key.
        after: The id of the last message before the gap, also of one with another key.
        next: The id of the first one after it; None: none yet.
        lost: How many are missing, by the server's count; None: not known.
        reason: Why.
    """

    topic: str
    after: str
    next: str | None
    lost: int | None
    reason: GapReason


class Published(msgspec.Struct, frozen=True):
    """What became of a publish.

    Attributes:
        id: The message's; of a duplicate, that of the first; of an outdated value, that
            of the newer one.
        sequence: How many messages the topic has had, this one included.
        subscribers: Connections that were sent it; 0 is no failure.
        duplicate: This `dedup_id` was published before: nothing happened.
        outdated: The key has this version or a newer one: nothing happened.
    """

    id: str
    sequence: int
    subscribers: int
    duplicate: bool = False
    outdated: bool = False
