"""`Handles`: what a button that destroys carries, good once and for five minutes."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from oddswire.keys import Family, KeySpace

if TYPE_CHECKING:
    from oddswire.client import Client

BUTTON = Family("button", str)
TAKEN = Family("button_taken", str)
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
        name = self._keys.key(BUTTON, f"{handle:016x}")
        await self._client.set(name, str(person), ex=_LIFETIME)
        return handle

    async def take(self, handle: int, person: int, update_id: int) -> bool:
        """Return whether a number was given to this person, and not taken since.

        The update that took it takes it again: a process that was killed after this
        and before it did anything is followed by one that does it.

        Raises:
            OddswireError: Redis could not be asked; it may be taken.
        """
        number = f"{handle:016x}"
        given = await self._client.get(self._keys.key(BUTTON, number))
        if _text(given) != str(person):
            return False
        taken = self._keys.key(TAKEN, number)
        by = str(update_id)
        first = await self._client.set(taken, by, ex=_LIFETIME, nx=True)
        return bool(first) or _text(await self._client.get(taken)) == by


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
