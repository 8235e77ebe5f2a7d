"""What memory alone can answer, without waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oddswire.cache._memory import used_again
from oddswire.cache._parts import Parts

if TYPE_CHECKING:
    from oddswire.cache._memory import Item


class Recalling(Parts):
    """The calls that ask nobody."""

    def glance(self, key: str, type: Any = None) -> Item | None:  # noqa: A002 - as in `get`
        """Return a value that needs no decision, counted as a hit; else None.

        For library code.
        """
        item = self._items.get(key)
        if (
            item is not None
            and (type is item.asked or type is item.kind)
            and (
                (item.mark is self._nonces.mark and self._now() < item.sure_until)
                or self._is_sure(item)
            )
        ):
            if item.uses < 3:
                item.uses += 1
            item.counts.l1_hits += 1
            return item
        return None

    def _is_sure(self, item: Item) -> bool:
        """Whether an item needs no decision; says so in it, for the next lookups."""
        sure_until = min(item.calm_until, self._lease.until)
        if self._now() >= sure_until or not item.lives():
            return False
        # Softly invalidated, it lives and is not calm any more.
        item.mark = self._nonces.mark
        item.sure_until = min(sure_until, item.calm_until)
        return self._now() < item.sure_until

    def peek(self, key: str, default: Any = None) -> Any:
        """Return a fresh value if this process holds it, without asking anybody."""
        item = self._items.get(key)
        if item is None:
            return default
        now = self._now()
        if now >= self._lease.until or not item.lives() or now >= item.fresh_until:
            return default
        item.counts.l1_hits += 1
        used_again(item)
        return item.value
