"""`Layout`: which field of a `Record` is stored where, read once from its marks."""

from __future__ import annotations

import builtins
import copy
from typing import (
    Annotated,
    Any,
    Generic,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from oddswire.codec.untyped import find_untyped
from oddswire.sessions.record import Collection, Expiring, Indexed, Record, Secret

T = TypeVar("T", bound=Record)

DURABLE, CONVERSATION, AUTH = "D", "T", "A"
SECTIONS = (DURABLE, CONVERSATION, AUTH)
_SHARED = (str, int, float, bytes, type(None))
_OWN = frozenset(field.name for field in msgspec.structs.fields(Record))


class Layout(Generic[T]):
    """Where the fields of a type go.

    Args:
        type: A subclass of `Record`.

    Raises:
        TypeError: A field has no default, or a mark that does not fit its type.

    Attributes:
        type: As given.
        sections: Names of fields by section: durable, conversation, authentication.
        decoders: What checks and decodes a section's fields.
        collections: Marks by field.
        members: What checks and decodes a member's value, by field.
        indexes: Fields with an index of their own.
        index_names: Every index that `users_for` knows.
        untyped: For `check_untyped`; None where the type names all of its parts.
        untyped_members: The same of a member's value, by field.
    """

    def __init__(self, type: type[T]) -> None:  # noqa: A002 - as in Codec
        if not (isinstance(type, _StructMeta) and issubclass(type, Record)):
            raise TypeError(f"{type!r} is not a subclass of Record")
        self.type = type
        self.sections: dict[str, list[str]] = {name: [] for name in SECTIONS}
        self.collections: dict[str, Collection] = {}
        self.members: dict[str, msgspec.msgpack.Decoder[Any]] = {}
        self.untyped_members: dict[str, Any] = {}
        self.indexes: list[str] = []
        self.whole = msgspec.msgpack.Decoder(type)
        self.untyped = find_untyped(type)
        hints = get_type_hints(type, include_extras=True)
        for field in msgspec.structs.fields(type):
            if field.required:
                raise TypeError(
                    f"{type.__name__}.{field.name} has no default: a session begins "
                    "with defaults"
                )
            if field.name not in _OWN:
                self._place(field.name, hints[field.name])
        names = [*self.indexes]
        names += [mark.index for mark in self.collections.values() if mark.index]
        if len(set(names)) < len(names):
            raise TypeError(f"{type.__name__} declares an index twice: {names}")
        self.index_names = frozenset(names)
        self.decoders = {
            name: msgspec.msgpack.Decoder(
                msgspec.defstruct(
                    f"{type.__name__}_{name}",
                    [(field, hints[field], msgspec.UNSET) for field in fields],
                )
            )
            for name, fields in self.sections.items()
        }
        self._blank = type()
        self._copied = [
            name
            for name in type.__struct_fields__
            if builtins.type(getattr(self._blank, name)) not in _SHARED
        ]
        for name in self.indexes:
            if getattr(self._blank, name):
                raise TypeError(
                    f"{type.__name__}.{name} is Indexed, so its default is '': one who "
                    "asked for nothing is in no index"
                )

    def _place(self, name: str, hint: Any) -> None:
        kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        section = DURABLE
        for mark in marks:
            match mark:
                case Expiring():
                    section = CONVERSATION
                case Secret():
                    section = AUTH
                case Indexed():
                    if kind is not str:
                        raise TypeError(f"{name}: only a str field can be Indexed")
                    self.indexes.append(name)
                case Collection():
                    types = get_args(kind)
                    if get_origin(kind) is not dict or not _is_text(types[0]):
                        raise TypeError(f"{name}: a Collection is a dict[str, ...]")
                    self.collections[name] = mark
                    self.members[name] = msgspec.msgpack.Decoder(
                        tuple[types]  # type: ignore[valid-type]
                    )
                    self.untyped_members[name] = find_untyped(types[1])
        if name in self.indexes and section != DURABLE:
            raise TypeError(f"{name}: what expires cannot be Indexed")
        if name not in self.collections:
            self.sections[section].append(name)
        elif section != DURABLE:
            raise TypeError(f"{name}: a Collection does not expire")

    def blank(self) -> T:
        """Return a session of defaults that nobody else holds."""
        value = copy.copy(self._blank)
        for name in self._copied:
            setattr(value, name, copy.deepcopy(getattr(value, name)))
        return value

    def changed(self, value: T, section: str) -> dict[str, Any]:
        """Return the fields of a section that differ from their defaults."""
        blank = self._blank
        return {
            name: getattr(value, name)
            for name in self.sections[section]
            if getattr(value, name) != getattr(blank, name)
        }


def _is_text(kind: Any) -> bool:
    return kind is str or (get_origin(kind) is Annotated and get_args(kind)[0] is str)


_StructMeta = type(msgspec.Struct)
