"""`Cell`: what this process knows of one nonce; `Stamp`: the one of an entry."""

from __future__ import annotations

import msgspec


class Cell:
    """What this process knows of a nonce.

    Attributes:
        nonce: Of a tag both, the hard one first. None: it was invalidated, or nobody
            asked yet.
        coming: We made it, and the server's message of that is on its way.
        lasts_until: It does not expire before that, by the boot-time clock.
    """

    __slots__ = ("__weakref__", "coming", "lasts_until", "nonce")

    def __init__(self) -> None:
        self.nonce: bytes | None = None
        self.coming: bytes | None = None
        self.lasts_until = 0.0


class Stamp(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The nonce that a tag or a namespace had before an entry was loaded.

    Entries hold millions of them. Therefore the garbage collector does not visit them:
    they are part of no cycle.
    """

    cell: Cell
    nonce: bytes


Snapshot = tuple[Stamp, ...]
"""Of the namespace, then of each tag."""
