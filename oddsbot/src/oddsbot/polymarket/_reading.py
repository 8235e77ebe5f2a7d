"""Decoded JSON to models, by one rule for every field of every model.

1. null, ``""`` and a missing key are the same: nothing. An optional field then has its
   default; an element without one of its required fields cannot be read.
2. A key may be written in snake or camel case, and has the synonyms below.
3. A number may be a text and a text a number; neither passes through a float. A list
   may be JSON text. The words of a choice may be in any case.
4. A number is finite and of a size that a text can show. A time is in seconds,
   milliseconds, microseconds, nanoseconds or ISO text; 0 is nothing.
5. What cannot be read costs the smallest element that is useful without it: the entry
   of a list that is marked `EACH`, a field that is marked `SHOWN`, otherwise the whole
   object.
"""

from __future__ import annotations

import functools
import types
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args
from typing import get_origin as origin_of

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from .slices import Steps, at_once

if TYPE_CHECKING:
    from collections.abc import Callable

Model = TypeVar("Model", bound=Struct)

# A list in which an element that cannot be read costs only itself.
EACH = Meta(extra={"each": True})
# A text that is shown and that nothing is decided by: unreadable, it is its default.
SHOWN = Meta(extra={"shown": True})
Shown = Annotated[str, SHOWN]
# An id: text that is not empty.
Id = Annotated[str, Meta(min_length=1)]
# Unix time; None where the wire says none.
Milliseconds = Annotated[int, Meta(extra={"unit": "ms"})]
Seconds = Annotated[int, Meta(extra={"unit": "s"})]
# The Data API writes 999 for "no outcome is meant".
OutcomeIndex = Annotated[int, Meta(extra={"nothing": 999})]

_SYNONYMS = {
    "market": ("condition_id",),
    "asset_id": ("token_id",),
    "assets_ids": ("asset_ids", "clob_token_ids"),
}
_LARGEST = Decimal(10) ** 21
_MOST_DIGITS = 100
_MOST_SECONDS = 10**11  # above it, and of ten digits or more: no longer seconds
_FEWEST_DIGITS = 10**9
# More is no list or object of Polymarket's, and would hold up the loop.
_MOST_TEXTS = 1_000
_MOST_STRUCTS = 20_000
_MOST_LEVELS = 5_000
_LEVELS_AT_ONCE = 1_000
_MOST_KEYS = 1_000
_LONGEST_LIST = 32 * 1024
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
# float_hook: a number with a point must not pass through a float.
decoder = msgspec.json.Decoder(float_hook=Decimal)


class _Unfit(ValueError):
    """A value that its field cannot have."""


class _Nothing(_Unfit):
    """A value that stands for none."""

    def __init__(self) -> None:
        super().__init__("it is missing")


def read(
    raw: Any,
    kind: type[Model],
    left_out: list[str] | None = None,
    *,
    most: int | None = None,
) -> Model:
    """Turn one decoded JSON object into its model.

    Args:
        raw: As decoded, best with numbers as `Decimal`.
        kind: The model.
        left_out: Gets a line for each element inside that could not be read.
        most: Elements inside that are read one by one; None: any number.

    Raises:
        ValueError: It cannot be read; one line says where and why.
    """
    return at_once(reading(raw, kind, [] if left_out is None else left_out), most)


def reading(raw: Any, kind: type[Model], left_out: list[str]) -> Steps[Model]:
    """Do as `read`, in steps: one for each element of a list inside."""
    try:
        return (yield from _struct(kind, raw, left_out))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_each(
    raw: list[Any], kind: type[Model], left_out: list[str]
) -> tuple[Model, ...]:
    """Turn a list of decoded JSON objects into models; `left_out` names the others."""
    return at_once(reading_each(raw, kind, left_out))


def reading_each(
    raw: list[Any], kind: type[Model], left_out: list[str]
) -> Steps[tuple[Model, ...]]:
    """Do as `read_each`, in steps."""
    found: list[Model] = []
    for index, each in enumerate(raw):
        yield
        try:
            found.append((yield from reading(each, kind, left_out)))
        except ValueError as error:
            left_out.append(f"{name_of(each, index)}: {error}")
    return tuple(found)


def ids_of(raw: list[Any], key: str) -> set[str]:
    """Return the ids that decoded objects have, "" among them for one without."""
    return {str(each.get(key) or "") if isinstance(each, dict) else "" for each in raw}


def name_of(raw: Any, index: int) -> str:
    """Return how a log line calls an element: by an id it has, else by its place."""
    if isinstance(raw, dict):
        for key in ("conditionId", "condition_id", "asset_id", "market", "slug", "id"):
            value = raw.get(key)
            if isinstance(value, str) and value:
                return f"{key} {value[:80]!r}"
    return f"element {index}"


def number(value: Any) -> Decimal:
    """Return a number exactly.

    Raises:
        ValueError: It is none, not finite, or too large or too long for a text.
    """
    if isinstance(value, bool):
        raise _Unfit("a number was expected, not a boolean")
    if isinstance(value, float):
        value = repr(value)
    if not isinstance(value, (Decimal, int, str)):
        raise _Unfit(f"a number was expected, not {_kind(value)}")
    if isinstance(value, str):
        value = value.strip()
        if value in {"", "null"}:
            raise _Nothing
        if len(value) > 2 * _MOST_DIGITS:
            raise ValueError("a number was expected, not a long text")
    try:
        found = Decimal(value)
    except (InvalidOperation, ValueError):
        raise ValueError("a number was expected, not a text") from None
    check_number(found)
    return found


def check_number(value: Decimal | None) -> None:
    """Refuse what no text can show or no comparison can take.

    Raises:
        ValueError: The number is not finite, or too large or too fine.
    """
    if value is None:
        return
    # is_finite first: to compare with a NaN raises another error than ValueError.
    if not value.is_finite() or abs(value) >= _LARGEST:
        raise ValueError(f"{value:.3} is out of range")
    if abs(int(value.as_tuple().exponent)) > _MOST_DIGITS:
        raise ValueError("a number has too many digits")


def milliseconds(value: Any) -> int | None:
    """Return a time in Unix milliseconds; None for one that stands for no time.

    A number of fewer than ten digits is kept as it is: whatever its unit, it is not of
    these years, and it still says which came first.

    Raises:
        ValueError: It is no time.
    """
    try:
        found = number(value)
    except _Nothing:
        return None
    except ValueError:
        if not isinstance(value, str):
            raise
        return _iso(value.strip())
    if found < 0:
        raise ValueError("a time is negative")
    if found == 0:
        return None
    if found < _FEWEST_DIGITS:
        return int(found)
    for unit in (1_000, 1, Decimal("0.001"), Decimal("0.000001")):
        if found * unit < _MOST_SECONDS * 1_000:
            return int(found * unit)
    raise ValueError("a time is too far away")


def check_milliseconds(at: int | None) -> None:
    """Refuse what is of another unit, or no time.

    Raises:
        ValueError: It is no Unix time in milliseconds.
    """
    # Literals: this runs for every event of the feed.
    if at is not None and not (
        100_000_000_000 <= at < 100_000_000_000_000 or 0 <= at < 1_000_000_000
    ):
        raise ValueError(f"{at} is no time in Unix milliseconds")


def _iso(text: str) -> int | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("a time was expected, not a text") from None
    if at.year == 1:  # how some write "never"
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    try:
        found = round(at.timestamp() * 1_000)
    except (OverflowError, OSError):
        raise ValueError("a time is too far away") from None
    if not 0 < found < _MOST_SECONDS * 1_000:
        raise ValueError("a time is out of range")
    return found


# --- one object


class _Field:
    """How one field of a model is read."""

    __slots__ = (
        "convert", "key", "name", "no_default", "others", "required", "shown", "steps",
        "unset",
    )  # fmt: skip

    def __init__(self, info: msgspec.structs.FieldInfo) -> None:
        bare, nullable, self.unset = _split(info.type)
        self.shown = SHOWN in getattr(bare, "__metadata__", ())
        self.name = info.name
        self.key = info.encode_name
        self.others = tuple(map(_plain, (self.key, *_SYNONYMS.get(self.key, ()))))
        self.steps = _steps(bare)
        self.convert = _nothing if self.steps else _converter(bare)
        self.no_default = info.required
        self.required = info.required and not nullable


@functools.cache
def _fields(kind: type[Struct]) -> tuple[_Field, ...]:
    return tuple(map(_Field, msgspec.structs.fields(kind)))


@functools.lru_cache(4096)
def _plain(key: str) -> str:
    """Return a key without what differs between its spellings."""
    return key.replace("_", "").lower()


def _struct(kind: type[Model], raw: Any, left_out: list[str]) -> Steps[Model]:
    if not isinstance(raw, dict):
        raise _Unfit(f"an object was expected, not {_kind(raw)}")
    if len(raw) > _MOST_KEYS:
        raise ValueError(f"an object has {len(raw)} keys")
    values: dict[str, Any] = {}
    spelled: dict[str, Any] | None = None
    for field in _fields(kind):
        value = raw.get(field.key, UNSET)
        if value is UNSET or value is None or value == "":
            if spelled is None:
                spelled = {
                    _plain(key): each
                    for key, each in raw.items()
                    if each is not None and each != ""
                }
            for other in field.others:
                if other in spelled:
                    value = spelled[other]
                    break
        try:
            if value is UNSET or value is None or value == "":
                raise _Nothing  # noqa: TRY301 - as the converters do
            values[field.name] = (
                (yield from field.steps(value, left_out))
                if field.steps is not None
                else field.convert(value)
            )
        except _Nothing as error:
            if field.required:
                raise ValueError(f"`{field.key}`: {error}") from None
            # Null of a field that may be "unset" says more than a missing key.
            if field.no_default or (field.unset and value is not UNSET):
                values[field.name] = None
        except ValueError as error:
            line = f"`{field.key}`: {error}"
            if not field.shown:
                raise ValueError(line) from None
            left_out.append(f"{name_of(raw, 0)}: {line}")
    return kind(**values)


# --- one value


def _split(annotation: Any) -> tuple[Any, bool, bool]:
    """Return a type without None and UNSET, and whether they were there."""
    if origin_of(annotation) not in (Union, types.UnionType):
        return annotation, False, False
    parts = get_args(annotation)
    bare = [part for part in parts if part not in (types.NoneType, UnsetType)]
    (only,) = bare
    return only, types.NoneType in parts, UnsetType in parts


def _steps(annotation: Any) -> Callable[[Any, list[str]], Steps[Any]] | None:
    """Return what reads values of this type in steps; None: no objects are inside."""
    each = False
    if origin_of(annotation) is Annotated:
        annotation, *metas = get_args(annotation)
        each = EACH in metas
    if origin_of(annotation) is tuple:
        (item, *_) = get_args(annotation)
        if isinstance(item, type) and issubclass(item, Struct):
            return _struct_list(item, each=each)
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return functools.partial(_struct, annotation)
    return None


def _struct_list(
    item: type[Struct], *, each: bool
) -> Callable[[Any, list[str]], Steps[tuple[Any, ...]]]:
    # Where each field is required there is one way to write an object, and msgspec
    # reads a book of hundreds of levels at once.
    whole = not each and all(map(_required, msgspec.structs.fields(item)))
    most = _MOST_LEVELS if whole else _MOST_STRUCTS

    def steps(value: Any, left_out: list[str]) -> Steps[tuple[Any, ...]]:
        values = _list(value, most)
        if each:
            return (yield from reading_each(values, item, left_out))
        if whole:
            try:
                return tuple((yield from _converted(values, item)))
            except msgspec.ValidationError:
                pass  # another spelling, or one that cannot be read
        found = []
        for one in values:
            yield
            found.append((yield from _struct(item, one, left_out)))
        return tuple(found)

    return steps


def _converted(values: list[Any], item: type[Model]) -> Steps[list[Model]]:
    found: list[Model] = []
    for at in range(0, len(values), _LEVELS_AT_ONCE):
        if at:
            yield
        part = values[at : at + _LEVELS_AT_ONCE]
        found += msgspec.convert(part, list[item], strict=False)  # type: ignore[valid-type]
    return found


def _list(value: Any, most: int) -> list[Any]:
    if isinstance(value, str):
        if len(value) > _LONGEST_LIST:
            raise ValueError("a list was expected, not a long text")
        try:
            value = decoder.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise ValueError("the text is not a list in JSON") from None
    if value is None:
        raise _Nothing
    if not isinstance(value, (list, tuple)):
        raise _Unfit(f"a list was expected, not {_kind(value)}")
    if len(value) > most:
        raise ValueError(f"a list has {len(value)} elements")
    return list(value)


def _nothing(_: Any) -> Any:
    raise _Nothing


def _converter(annotation: Any) -> Callable[[Any], Any]:
    """Return what reads values of this type."""
    extra: dict[str, Any] = {}
    if origin_of(annotation) is Annotated:
        annotation, *metas = get_args(annotation)
        for meta in metas:
            extra |= meta.extra or {}
            if meta.min_length:
                return _id
    if origin_of(annotation) is tuple:
        return functools.partial(_text_list, get_args(annotation)[0])
    if origin_of(annotation) is Literal:
        return functools.partial(_choice, get_args(annotation))
    if "unit" in extra:
        return functools.partial(_time, extra["unit"])
    if annotation is int:
        return functools.partial(_whole, extra.get("nothing"))
    return {str: _text, Decimal: number, bool: _flag}[annotation]


def _text_list(item: Any, value: Any) -> tuple[Any, ...]:
    convert = _converter(item)
    # A text that is null stays at its place: lists are paired by index.
    return tuple(
        "" if one is None and item is str else convert(one)
        for one in _list(value, _MOST_TEXTS)
    )


def _required(info: msgspec.structs.FieldInfo) -> bool:
    return info.required


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise _Unfit(f"a text was expected, not {_kind(value)}")
    return format(number(value), "f") if not isinstance(value, int) else str(value)


def _id(value: Any) -> str:
    text = _text(value).strip()
    if not text:
        raise _Nothing
    return text


def _whole(nothing: int | None, value: Any) -> int:
    found = number(value)
    if found != found.to_integral_value():
        raise ValueError("a whole number was expected")
    if nothing is not None and found == nothing:
        raise _Nothing
    return int(found)


def _time(unit: str, value: Any) -> int:
    found = milliseconds(value)
    if found is None:
        raise _Nothing
    return found // 1_000 if unit == "s" and found >= _FEWEST_DIGITS else found


def _flag(value: Any) -> bool:
    flag = _FLAGS.get(str(value).strip().lower())
    if flag is None:
        raise ValueError("true or false was expected")
    return flag


def _choice(choices: tuple[str, ...], value: Any) -> str:
    word = value.strip().upper() if isinstance(value, str) else None
    if word not in choices:
        raise ValueError(f"one of {', '.join(filter(None, choices))} was expected")
    return word


def _kind(value: Any) -> str:
    return {
        type(None): "null",
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a boolean",
    }.get(type(value), "a number")
