"""What erasing a user leaves to show: an `Erased` of each part, one `Receipt`."""

from __future__ import annotations

import msgspec


class Erased(msgspec.Struct, frozen=True):
    """What one part removed of a user.

    Attributes:
        part: ``"sessions"``, ``"queue"``, ...
        removed: Keys and entries that were there before.
        left: Where a second look still found the user: nowhere, if it worked.
    """

    part: str
    removed: int
    left: tuple[str, ...] = ()


class Receipt(msgspec.Struct, frozen=True):
    """That a user was erased.

    Attributes:
        user_id: Who.
        at: When, in seconds since 1970.
        parts: What each part did.
    """

    user_id: int
    at: float
    parts: tuple[Erased, ...]

    @property
    def complete(self) -> bool:
        """Whether the second look found nothing anywhere."""
        return not any(part.left for part in self.parts)
