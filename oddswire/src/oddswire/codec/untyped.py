"""Which values come back unchanged although no annotation names their type.

MessagePack has a few types. A value of another type is written as one of these, and is
decoded to its own type only where an annotation names it: under ``dict[str, Any]`` a
`Decimal` would come back as text, without an error. Therefore `Codec` checks a value
where no annotation names its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect

from oddswire.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SAME = frozenset({type(None), bool, int, float, str, bytes})


def find_untyped(kind: Any) -> inspect.Type | None:
    """Return the description of a type that says nothing of a part of its values.

    None where it names the type of each part.
    """
    node = inspect.type_info(kind)
    return node if _says_nothing(node, set()) else None


def check_untyped(node: inspect.Type, value: Any) -> None:
    """Refuse a value that would come back with other types.

    Args:
        node: As of `find_untyped`.
        value: A value of that type.

    Raises:
        CodecError: ``type``; names the part and its type.
    """
    _walk(node, value, "")


def _says_nothing(node: inspect.Type, seen: set[Any]) -> bool:
    if _is_any(node):
        return True
    name = getattr(node, "cls", None)
    if name is not None:
        if name in seen:  # a type that holds itself
            return False
        seen.add(name)
    return any(_says_nothing(part, seen) for part in _parts(node))


def _is_any(node: inspect.Type) -> bool:
    return isinstance(node, inspect.AnyType) or (
        isinstance(node, inspect.CustomType) and node.cls is object
    )


def _parts(node: Any) -> Iterator[inspect.Type]:
    match node:
        case inspect.UnionType():
            yield from node.types
        case inspect.Metadata():
            yield node.type
        case inspect.DictType():
            yield from (node.key_type, node.value_type)
        case inspect.TupleType():
            yield from node.item_types
        case inspect.CollectionType():
            yield node.item_type
        case _:
            yield from (each.type for each in getattr(node, "fields", ()))


def _walk(node: Any, value: Any, path: str) -> None:
    if _is_any(node):
        _check(value, path)
        return
    match node:
        case inspect.UnionType():
            for part in node.types:
                if _fits(part, value):
                    _walk(part, value, path)
        case inspect.Metadata():
            _walk(node.type, value, path)
        case inspect.DictType() if isinstance(value, Mapping):
            for key, each in value.items():
                _walk(node.key_type, key, f"{path}[{key!r}]")
                _walk(node.value_type, each, f"{path}[{key!r}]")
        case inspect.TupleType() if isinstance(value, (list, tuple)):
            _walk_each(zip(node.item_types, value, strict=False), path)
        case inspect.CollectionType() if _is_many(value):
            _walk_each(((node.item_type, each) for each in value), path)
        case _:
            for field in getattr(node, "fields", ()):
                if isinstance(value, Mapping):
                    each = value.get(field.name)
                else:
                    each = getattr(value, field.name, None)
                _walk(field.type, each, f"{path}.{field.name}")


def _walk_each(pairs: Iterable[tuple[inspect.Type, Any]], path: str) -> None:
    for index, (node, each) in enumerate(pairs):
        _walk(node, each, f"{path}[{index}]")


def _is_many(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset))


def _fits(node: Any, value: Any) -> bool:
    """Return whether a part of a union may be the one that describes the value."""
    match node:
        case inspect.DictType():
            return isinstance(value, Mapping)
        case inspect.CollectionType() | inspect.TupleType():
            return _is_many(value)
        case inspect.StructType() | inspect.DataclassType():
            return isinstance(value, (node.cls, Mapping))
        case _:
            return True


def _check(value: Any, path: str) -> None:
    kind = type(value)
    if kind in _SAME:
        return
    if kind is list:
        for index, each in enumerate(value):
            _check(each, f"{path}[{index}]")
    elif kind is dict:
        for key, each in value.items():
            if type(key) is tuple:
                for part in key:
                    _check(part, f"{path}[{key!r}]")
            else:
                _check(key, f"{path}[{key!r}]")
            _check(each, f"{path}[{key!r}]")
    elif not (kind is datetime and value.tzinfo is UTC) and kind is not msgspec.Raw:
        raise CodecError(
            f"{path[:100] or 'the value'} is a {kind.__name__} and would come back as "
            "another type: declare the type of these values with what is inside, such "
            "as a Struct or dict[str, Decimal]",
            reason="type",
        )
