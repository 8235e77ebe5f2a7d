"""The receipt of an erasure: an `Erased` of each part, one `Receipt` for all."""

from __future__ import annotations

import msgspec


class Erased(msgspec.Struct, frozen=True):
    """The result of erasing a user in one part.

    Attributes:
        part: ``"sessions"``, ``"queue"``, ...
        removed: Keys and entries that were there before.
        left: Where a second look still found the user: nowhere, if it worked.
    """

    part: str
    removed: int
    left: tuple[str, ...] = ()


class Receipt(msgspec.Struct, frozen=True):
    """The result of erasing a user.

    Attributes:
        user_id: The user.
        at: When, in seconds since 1970.
        parts: The result of each part.
    """

    user_id: int
    at: float
    parts: tuple[Erased, ...]

    @property
    def complete(self) -> bool:
        """Whether the second look found nothing anywhere."""
        return not any(part.left for part in self.parts)
