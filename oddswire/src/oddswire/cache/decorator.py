"""`Cached`: a function whose results are cached, and the template of its keys."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum
from string import Formatter, ascii_letters, digits
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    get_type_hints,
)
from uuid import UUID

from oddswire._numbers import shown
from oddswire._tasks import check_function
from oddswire.errors import InvalidKey
from oddswire.keys import int_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.cache._l1 import Item
    from oddswire.cache.entry import EntryOptions

P = ParamSpec("P")
R = TypeVar("R")

_NOT_BETWEEN = frozenset(f"%{ascii_letters}{digits}_.~-")


class _Cache(Protocol):
    """The calls of a cache that a decorated function makes."""

    @property
    def peek(self) -> Callable[[str], Any]: ...
    @property
    def get_or_set(self) -> Callable[..., Awaitable[Any]]: ...
    @property
    def refresh(self) -> Callable[..., Awaitable[Any]]: ...
    @property
    def set(self) -> Callable[..., Awaitable[bool]]: ...
    @property
    def delete(self) -> Callable[..., Awaitable[int]]: ...


class Cached(Generic[P, R]):
    """A function whose results are cached; made by `Cache.cached`.

    Call it as the function. On a class it becomes a method; the key then has to say of
    which object, should that matter.

    Args:
        cache: Where.
        hit: Returns an entry of memory that needs no decision, by key and type.
        function: What loads.
        key: Template of the key.
        tags: Templates of the tags.
        options: As of `Cache.get_or_set`; the type is one of them.
    """

    def __init__(
        self,
        cache: _Cache,
        hit: Callable[[str, Any], Item | None],
        function: Callable[P, Awaitable[R]],
        key: str,
        tags: Iterable[str],
        options: EntryOptions,
    ) -> None:
        check_template(key)
        check_function("what is cached", function, TypeError)
        functools.update_wrapper(self, function)
        self._cache = cache
        # With a `max_age` every hit needs a decision.
        self._hit = hit if options.get("max_age") is None else _no_hit
        self._function = function
        self._key = Template(key, function)
        self._tags = tag_templates(tags, function)
        self._type = options.get("type")
        self._options = options

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the function returns, from the cache if it is there."""
        key = self._key.fill(args, kwargs)
        item = self._hit(key, self._type)
        if item is not None:
            return item.value  # type: ignore[no-any-return]
        value: R = await self._cache.get_or_set(
            key,
            functools.partial(self._function, *args, **kwargs),
            tags=self._fill_tags(args, kwargs),
            **self._options,
        )
        return value

    def _fill_tags(self, args: Any, kwargs: Any) -> tuple[str, ...]:
        return tuple([tag.fill(args, kwargs) for tag in self._tags])

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of a call."""
        return self._key.fill(args, kwargs)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the result of a call; whether there was one."""
        return await self._cache.delete(self._key.fill(args, kwargs)) == 1

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function now, store what it returns, and return it.

        The old result serves others until then, and stays if the function fails. What
        was invalidated while the function ran is returned and not stored.
        """
        value: R = await self._cache.refresh(
            self._key.fill(args, kwargs),
            functools.partial(self._function, *args, **kwargs),
            tags=self._fill_tags(args, kwargs),
            **self._options,
        )
        return value

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the result if this process holds it, without asking anybody."""
        return self._cache.peek(self._key.fill(args, kwargs))  # type: ignore[no-any-return]

    async def prime(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a result that came another way."""
        version = self._options.get("version")
        await self._cache.set(
            self._key.fill(args, kwargs),
            value,
            ttl=self._options.get("ttl"),
            stale=self._options.get("stale"),
            tags=self._fill_tags(args, kwargs),
            version=version(value) if callable(version) else version,
            type=self._type,
        )

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else _Bound(self, instance)


class _Bound:
    """A cached method of one object."""

    def __init__(self, cached: Cached[..., Any], instance: object) -> None:
        self._cached = cached
        self._instance = instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._cached(self._instance, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._cached, name)
        if name == "prime":
            return lambda value, *args, **kwargs: method(
                value, self._instance, *args, **kwargs
            )
        if name in ("key", "invalidate", "refresh", "peek"):
            return functools.partial(method, self._instance)
        return method


def _no_hit(key: str, value_type: Any) -> None:
    del key, value_type


def returned_type(function: Callable[..., Any]) -> Any:
    """Return the annotated type of a function's result; None without one."""
    try:
        return get_type_hints(function).get("return")
    except (NameError, TypeError):
        return None


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


def check_template(key: object) -> None:
    """Refuse a template whose keys are of no namespace.

    Raises:
        InvalidKey: No text, or without a colon before its first field.
    """
    if not isinstance(key, str) or ":" not in key.partition("{")[0]:
        raise InvalidKey(
            f"{shown(key)}: a key begins with its namespace and a colon, "
            'such as "market:{market_id}"'
        )


def tag_templates(
    tags: Iterable[str], function: Callable[..., Any]
) -> tuple[Template, ...]:
    """Return the templates of tags.

    Raises:
        InvalidKey: One text, whose letters would be tags; no texts; or as `Template`.
    """
    found = () if isinstance(tags, str) or not isinstance(tags, Iterable) else tags
    texts = tuple(found)
    if found is not tags or not all(isinstance(each, str) for each in texts):
        raise InvalidKey(f"tags are a tuple of texts, as in (tag,), not {shown(tags)}")
    return tuple(Template(each, function) for each in texts)


def one_argument(key: str) -> Callable[..., Any]:
    """Return a function whose parameter is the one field of a key.

    Raises:
        InvalidKey: The key has no field, or several, or none that is a name.
    """
    check_template(key)
    with suppress(ValueError):
        (field,) = [each for _, each, *_ in Formatter().parse(key) if each is not None]
        if field.isidentifier():

            def takes(_: Any) -> None: ...

            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            signature = inspect.Signature([inspect.Parameter(field, kind)])
            takes.__signature__ = signature  # type: ignore[attr-defined]
            return takes
    raise InvalidKey(f"{key!r}: a key with one field, as in 'market:{{id}}'")


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
