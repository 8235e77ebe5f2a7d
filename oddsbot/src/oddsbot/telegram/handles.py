"""`Handles`: what a button that destroys carries, good once and for five minutes."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from oddswire.keys import Family, KeySpace

if TYPE_CHECKING:
    from oddswire.client import Client

BUTTON = Family("button", str)
_LIFETIME = 300


class Handles:
    """Gives out numbers, and takes each back once, from the person it was given to.

    Args:
        client: Where they are kept.
        prefix: What their keys begin with.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._keys = KeySpace(prefix)

    async def give(self, person: int) -> int:
        """Return a number of 64 bits that `take` accepts for five minutes.

        Raises:
            OddswireError: Redis could not be asked.
        """
        handle = secrets.randbits(64)
        await self._client.set(self._key(handle), str(person), ex=_LIFETIME)
        return handle

    async def take(self, handle: int, person: int) -> bool:
        """Return whether a number was given to this person, and not taken since.

        Raises:
            OddswireError: Redis could not be asked; it may be taken.
        """
        found = await self._client.getdel(self._key(handle))
        text = found.decode() if isinstance(found, bytes) else found
        return text == str(person)

    def _key(self, handle: int) -> str:
        return self._keys.key(BUTTON, f"{handle:016x}")
