"""What the bot reads of an answer, and how an answer differs from it.

The contract of an endpoint is its model: the fields that are read, and the kinds of
JSON that are understood in each.
"""

from __future__ import annotations

import types
from decimal import Decimal
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

_NUMBER = frozenset({"number", "text", "null"})


class Drift(msgspec.Struct, frozen=True):
    """How answers differ from what is read.

    Attributes:
        missing: Fields that no row had.
        changed: Fields with a kind of JSON that is not understood: ``name: kind``.
        new: Fields that nobody reads, for whoever looks for something new.
    """

    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    @property
    def breaks(self) -> bool:
        """Whether something that is read is not as it was."""
        return bool(self.missing or self.changed)


def contract_of(model: type[msgspec.Struct]) -> dict[str, frozenset[str]]:
    """Return the fields of a model on the wire, and the kinds that each takes."""
    hints = get_type_hints(model, include_extras=True)
    fields = msgspec.structs.fields(model)
    return {
        field.encode_name: _kinds(hints[field.name])
        for field in fields
        if field.name != "skipped"  # counted by us
    }


def _kinds(hint: Any) -> frozenset[str]:
    origin = get_origin(hint)
    if origin is Annotated:
        return _kinds(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return frozenset().union(*map(_kinds, get_args(hint)))
    if origin in (tuple, list):
        # Gamma writes lists as text, and leaves out what is null.
        return frozenset({"list", "text", "null"})
    if hint in (Decimal, float, int):
        return _NUMBER
    if hint is bool:
        return frozenset({"flag", "null"})
    if hint is type(None):
        return frozenset({"null"})
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return frozenset({"object", "null"})
    return frozenset({"text", "number", "null"})


def drift(
    rows: list[Any], contract: dict[str, frozenset[str]], optional: frozenset[str]
) -> Drift:
    """Compare rows of an answer with a contract.

    Args:
        rows: Objects of JSON; what is none is a change of its own.
        contract: See `contract_of`.
        optional: Fields that may be absent of every row.
    """
    seen: dict[str, set[str]] = {}
    for row in rows:
        if not isinstance(row, dict):
            return Drift(changed=(f"row: {_kind(row)}",))
        for name, value in row.items():
            seen.setdefault(name, set()).add(_kind(value))
    missing = sorted(set(contract) - set(seen) - optional) if rows else []
    changed = sorted(
        f"{name}: {kind}"
        for name, kinds in contract.items()
        for kind in seen.get(name, set()) - kinds
    )
    new = sorted(set(seen) - set(contract))
    return Drift(tuple(missing), tuple(changed), tuple(new))


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else "object"
