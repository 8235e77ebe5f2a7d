"""`LabelLimit`: a bound on the number of series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddswire.counters import HistogramSnapshot
from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddswire.metrics.families import Row, Value

OTHER = "other"


class LabelLimit:
    """Admits the first rows of a family; later ones are added up under ``other``.

    A row that was admitted stays: a counter that moved to ``other`` and back would seem
    to fall. Text in a label is one harmless line, as `plain` makes it; names that
    become the same are added up.

    Args:
        most: Rows of a family.
    """

    def __init__(self, most: int = 200) -> None:
        self._most = most
        self._admitted: dict[str, set[tuple[str, ...]]] = {}

    def rows(self, family: str, rows: Iterable[Row]) -> list[Row]:
        """Return the rows of a family at this moment, each set of labels once."""
        admitted = self._admitted.setdefault(family, set())
        found: dict[tuple[str, ...], Value] = {}
        for raw, value in rows:
            labels = tuple(plain(text) for text in raw)
            if labels not in admitted:
                if len(admitted) < self._most:
                    admitted.add(labels)
                else:
                    labels = (OTHER,) * len(labels)
            found[labels] = _add(found[labels], value) if labels in found else value
        return list(found.items())


def _add(left: Value, right: Value) -> Value:
    if isinstance(left, HistogramSnapshot) and isinstance(right, HistogramSnapshot):
        return left.merge(right)
    assert not isinstance(left, HistogramSnapshot)  # noqa: S101 - of one family
    assert not isinstance(right, HistogramSnapshot)  # noqa: S101 - of one family
    return left + right
