"""The memory of hot keys: what processes use most, for those that start."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from oddswire import keys, scripts
from oddswire._text import text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddswire.cache._memory import Item
    from oddswire.client import Client
    from oddswire.keys import KeySpace

_REMEMBER = scripts.load("cache_hot")

_KEPT = 2_000
_SENT = 500
_LIFE_MS = 86_400_000


class Hot:
    """Keys by use, of each namespace, remembered for a day after the last use.

    Args:
        client: Whose server; not the tracked wire, nobody is to be told of this.
        keyspace: The prefix.
    """

    def __init__(self, client: Client, keyspace: KeySpace) -> None:
        self._client = client
        self._keyspace = keyspace

    async def remember(self, items: Iterable[Item]) -> None:
        """Add what is used in this process: the 500 most used keys of each namespace.

        Raises:
            OddswireError: Redis did not answer; some may be counted.
        """
        used: dict[str, list[tuple[int, str]]] = {}
        for item in items:
            if item.uses:
                name = item.key.partition(":")[0]
                used.setdefault(name, []).append((item.uses, item.key))
        for name, pairs in used.items():
            args = [each for pair in heapq.nlargest(_SENT, pairs) for each in pair]
            await _REMEMBER.run(
                self._client, [self._name(name)], (_KEPT, _LIFE_MS, *args)
            )

    async def of(self, namespace: str, limit: int) -> list[str]:
        """Return the keys that were used most, the hottest first.

        Raises:
            OddswireError: Redis could not be asked.
        """
        found: list[Any] = await self._client.zrevrange(
            self._name(namespace), 0, limit - 1
        )
        # Of another namespace is nothing here, whoever wrote it.
        return [key for key in map(text, found) if key.startswith(f"{namespace}:")]

    def _name(self, namespace: str) -> str:
        return self._keyspace.key(keys.CACHE_HOT, namespace)
