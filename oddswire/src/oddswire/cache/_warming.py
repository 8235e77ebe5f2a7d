"""Loading before somebody asks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from oddswire._numbers import check_int
from oddswire.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable


class WarmReport(msgspec.Struct, frozen=True, kw_only=True):
    """What warming came to.

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
    failed: dict[str, Exception] = {}
    present = 0
    remaining = iter(items)

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
