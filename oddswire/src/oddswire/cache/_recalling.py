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
        if item is not None and (type is item.asked or type is item.kind):
            now = self._now()
            if now < item.calm_until and now < self._lease.until:
                for cell, nonce in item.pairs:
                    if cell.nonce != nonce:
                        break
                else:
                    if item.uses < 3:
                        item.uses += 1
                    item.counts.l1_hits += 1
                    return item
        return None

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
