"""Warming: the keys that processes use most, and loads before a caller asks."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from oddswire import keys, scripts
from oddswire._numbers import check_int, shown
from oddswire._text import text
from oddswire.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from oddswire.cache._l1 import Item
    from oddswire.client import Client
    from oddswire.keys import KeySpace

_REMEMBER = scripts.load("cache_hot")

_KEPT = 2_000
_SENT = 500
_LIFE_MS = 86_400_000


class HotKeys:
    """Keys by use, of each namespace, remembered for a day after the last use.

    Args:
        client: Whose server; not the tracking connection: no process reads these keys.
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
        # Other software may have written keys of other namespaces.
        return [key for key in map(text, found) if key.startswith(f"{namespace}:")]

    def _name(self, namespace: str) -> str:
        return self._keyspace.key(keys.CACHE_HOT, namespace)


class WarmReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of warming.

    Attributes:
        present: Keys whose value is there now, loaded or found.
        failed: What was raised, by key.
    """

    present: int
    failed: dict[str, Exception]


async def warm(
    get_or_set: Callable[..., Awaitable[Any]],
    items: Iterable[tuple[str, Callable[..., Any]]],
    concurrency: int,
    options: dict[str, Any],
) -> WarmReport:
    """See `Cache.warm`."""
    check_int("concurrency", concurrency, 1, 10_000, SettingsError)
    pairs = list(items.items() if isinstance(items, Mapping) else items)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise SettingsError(
                f"items are pairs of a key and its loader, not {shown(pair)}"
            )
    failed: dict[str, Exception] = {}
    present = 0
    remaining = iter(pairs)

    async def worker() -> None:
        nonlocal present
        for key, loader in remaining:
            try:
                await get_or_set(key, loader, **options)
            except Exception as error:  # noqa: BLE001 - a loader may raise anything; it is reported
                failed[key] = error
            else:
                present += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    return WarmReport(present=present, failed=failed)
