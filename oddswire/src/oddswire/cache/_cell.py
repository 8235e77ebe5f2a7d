"""`Cell`: what this process knows of one nonce."""

from __future__ import annotations


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
