"""Key templates: ``"market:{market_id}"`` compiled once, filled at each call."""

from __future__ import annotations

import inspect
from enum import Enum
from string import Formatter, ascii_letters, digits
from typing import TYPE_CHECKING, Any
from uuid import UUID

from oddswire.errors import InvalidKey
from oddswire.keys import int_text

if TYPE_CHECKING:
    from collections.abc import Callable

_NOT_BETWEEN = frozenset(f"%{ascii_letters}{digits}_.~-")


class Template:
    """Fills a text with the arguments of a function.

    Two tuples of arguments give the same text only where each argument is the same text
    in both: ``f(1)`` and ``f("1")`` share a key, ``f("a:b", "c")`` and
    ``f("a", "b:c")`` do not. With more than one field, one character stands in all the
    texts between them and is escaped in what a field contributes.

    Args:
        text: With the function's parameters in braces.
        function: Whose parameters.

    Raises:
        InvalidKey: A field that is no parameter, or has a conversion or a format; or
            no such character is between the fields.
    """

    __slots__ = (
        "_escape", "_fields", "_separator", "_signature", "_single", "_start", "text",
    )  # fmt: skip

    def __init__(self, text: str, function: Callable[..., Any]) -> None:
        self.text = text
        self._signature = inspect.signature(function)
        names = list(self._signature.parameters)
        literals = [""]
        fields: list[tuple[int, str, Any]] = []
        try:
            pieces = list(Formatter().parse(text))
        except ValueError as error:
            raise InvalidKey(
                f"{text!r}: {error}; a brace that is no field is written twice"
            ) from None
        for literal, field, spec, conversion in pieces:
            literals[-1] += literal
            if field is None:
                continue
            if field not in names or spec or conversion:
                raise InvalidKey(
                    f"{text!r}: {{{field}}} is not one of the parameters "
                    f"{', '.join(names) or '(none)'}, written plainly"
                )
            parameter = self._signature.parameters[field]
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise InvalidKey(f"{text!r}: {{{field}}} takes any number of values")
            at = (
                len(names)
                if parameter.kind is parameter.KEYWORD_ONLY
                else names.index(field)
            )
            fields.append((at, field, parameter.default))
            literals.append("")
        self._start = literals[0]
        # (position, name, default, what follows) of each field
        self._fields = [
            (*field, after) for field, after in zip(fields, literals[1:], strict=True)
        ]
        self._single = len(fields) <= 1
        self._separator = ":" if self._single else _separator(text, literals[1:-1])
        self._escape = f"%{ord(self._separator):02X}"

    def fill(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the text for these arguments.

        Raises:
            InvalidKey: A value that is not a str, an int, a UUID or an enum of these.
            TypeError: An argument is missing.
        """
        text = self._start
        for at, name, default, after in self._fields:
            if at < len(args):
                value = args[at]
            elif name in kwargs:
                value = kwargs[name]
            elif default is not inspect.Parameter.empty:
                value = default
            else:
                self._signature.bind(*args, **kwargs)  # raises Python's own error
                raise TypeError(f"missing argument: {name!r}")
            if type(value) is int:  # the usual case; a bool is none
                try:
                    text = f"{text}{value}{after}"
                except ValueError:
                    text = int_text(name, value)  # raises
                continue
            if type(value) is not str:
                value = field_text(name, value)
            elif not value:
                raise InvalidKey(f"{self.text!r}: {name} is empty")
            if not self._single and (self._separator in value or "%" in value):
                value = value.replace("%", "%25").replace(self._separator, self._escape)
            text = f"{text}{value}{after}"
        return text

    def fields(self) -> list[str]:
        """Return the names of the fields."""
        return [name for _, name, *_ in self._fields]


def _separator(text: str, between: list[str]) -> str:
    """Return a character of every literal that no field contributes unescaped.

    Numbers are not escaped, and the escapes are percent signs and digits: so none of
    these, and nothing that would be escaped in most names.
    """
    common = set(between[0]).intersection(*between[1:])
    usable = sorted(
        each for each in common if each.isascii() and each not in _NOT_BETWEEN
    )
    if ":" in usable:
        return ":"
    if not usable:
        raise InvalidKey(
            f"{text!r}: nothing tells where a field ends: put a colon between the "
            'fields, such as "position:{user}:{wallet}"'
        )
    return usable[0]


def field_text(name: str, value: Any) -> str:
    """Return what an argument contributes to a key.

    Raises:
        InvalidKey: Not a str, an int, a UUID or an enum of these; or empty.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str) and value:
        return str(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int_text(name, value)
    raise InvalidKey(
        f"{name} is a {type(value).__name__}: a key is made of str, int and UUID"
    )
