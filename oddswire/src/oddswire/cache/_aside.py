"""What was loaded while Redis could not be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddswire.cache._memory import Item

_REMEMBERED = 10_000


class Aside:
    """Values of this process alone, each believed no longer than memory would be."""

    def __init__(self) -> None:
        # Item, until when it counts, invalidations when its load began.
        self._kept: dict[str, tuple[Item, float, int]] = {}

    def put(
        self, key: str, item: Item, until: float, invalidations: int, now: float
    ) -> None:
        """Keep an item, if there is room among those that still count."""
        if len(self._kept) >= _REMEMBERED:
            self._kept = {
                name: each for name, each in self._kept.items() if each[1] > now
            }
            if len(self._kept) >= _REMEMBERED:
                return
        self._kept[key] = (item, until, invalidations)

    def get(self, key: str, kind: Any, invalidations: int, now: float) -> Item | None:
        """Return an item; None once anything was invalidated here since it began."""
        kept = self._kept.get(key)
        if kept is None or kept[0].kind is not kind:
            return None
        item, until, born = kept
        return item if now < until and born == invalidations else None

    def drop(self, key: str) -> None:
        """Forget a key."""
        self._kept.pop(key, None)
