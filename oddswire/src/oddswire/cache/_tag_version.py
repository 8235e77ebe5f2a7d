"""What a process knows of one nonce, and what an entry was stored under."""

from __future__ import annotations

from typing import Any

import msgspec


class TagVersion:
    """What this process knows of the nonce of a tag or a namespace.

    Attributes:
        nonce: Of a tag both, the hard one first. None: it was invalidated, or this
            process has not asked yet.
        pending: This process made it, and the server's message of that is on its way.
        lasts_until: It does not expire before that, by the boot-time clock.
        lost: On a cluster, the nonce of before its server's connection was lost.
        server: Where the nonce is; None: it was not asked for yet.
    """

    __slots__ = ("__weakref__", "lasts_until", "lost", "nonce", "pending", "server")

    def __init__(self) -> None:
        self.nonce: bytes | None = None
        self.pending: bytes | None = None
        self.lasts_until = 0.0
        self.lost: bytes | None = None
        self.server: Any = None  # a `CacheServer`, which knows this class


class Stamp(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The nonce that a tag or a namespace had before an entry was loaded.

    Each entry in memory has some. Therefore the garbage collector does not visit them;
    they are part of no cycle.
    """

    tag_version: TagVersion
    nonce: bytes


Snapshot = tuple[Stamp, ...]
"""Of the namespace, then of each tag; on a cluster, of the server process at last."""
