"""`LabelLimit`: a bound on the number of series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddswire.counters import HistogramSnapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddswire.metrics.families import Row, Value

OTHER = "other"


class LabelLimit:
    """Admits the first rows of a family; later ones are added up under ``other``.

    A row that was admitted stays: a counter that moved to ``other`` and back would seem
    to fall.

    Args:
        most: Rows of a family.
    """

    def __init__(self, most: int = 200) -> None:
        self._most = most
        self._admitted: dict[str, set[tuple[str, ...]]] = {}

    def rows(self, family: str, rows: Iterable[Row]) -> list[Row]:
        """Return the rows of a family at this moment."""
        admitted = self._admitted.setdefault(family, set())
        found: list[Row] = []
        rest: Value | None = None
        width = 0
        for labels, value in rows:
            if labels in admitted or len(admitted) < self._most:
                admitted.add(labels)
                found.append((labels, value))
            else:
                rest = value if rest is None else _add(rest, value)
                width = len(labels)
        if rest is not None:
            found.append(((OTHER,) * width, rest))
        return found


def _add(left: Value, right: Value) -> Value:
    if isinstance(left, HistogramSnapshot) and isinstance(right, HistogramSnapshot):
        return left.merge(right)
    assert not isinstance(left, HistogramSnapshot)  # noqa: S101 - of one family
    assert not isinstance(right, HistogramSnapshot)  # noqa: S101 - of one family
    return left + right
