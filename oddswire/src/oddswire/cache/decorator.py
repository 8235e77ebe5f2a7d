"""`Cached`: a function whose results are cached."""

from __future__ import annotations

import functools
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    get_type_hints,
)

from oddswire.cache._template import Template
from oddswire.errors import InvalidKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.cache._memory import Item

P = ParamSpec("P")
R = TypeVar("R")


class _Cache(Protocol):
    """What a decorated function needs of a cache."""

    @property
    def glance(self) -> Callable[[str, Any], Item | None]: ...

    @property
    def peek(self) -> Callable[[str], Any]: ...

    @property
    def get_or_set(self) -> Callable[..., Awaitable[Any]]: ...

    @property
    def set(self) -> Callable[..., Awaitable[bool]]: ...

    @property
    def refresh(self) -> Callable[..., Awaitable[Any]]: ...

    @property
    def delete(self) -> Callable[..., Awaitable[int]]: ...


class Cached(Generic[P, R]):
    """A function whose results are cached; made by `Cache.cached`.

    Call it as the function. On a class it becomes a method; the key then has to say of
    which object, should that matter.

    Args:
        cache: Where.
        function: What loads.
        key: Template of the key.
        tags: Templates of the tags.
        kind: The type of the results.
        options: Of `Cache.get_or_set`.
    """

    def __init__(
        self,
        cache: _Cache,
        function: Callable[P, Awaitable[R]],
        key: str,
        tags: tuple[str, ...],
        kind: Any,
        options: dict[str, Any],
    ) -> None:
        if ":" not in key.partition("{")[0]:
            raise InvalidKey(
                f"{key!r}: a key begins with its namespace and a colon, "
                'such as "market:{market_id}"'
            )
        functools.update_wrapper(self, function)
        self._cache = cache
        self._glance = cache.glance
        self._function = function
        self._key = Template(key, function)
        self._tags = tuple(Template(tag, function) for tag in tags)
        self._kind = kind
        self._options = options

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the function returns, from the cache if it is there."""
        key = self._key.fill(args, kwargs)
        held = self._glance(key, self._kind)
        if held is not None:
            return held.value  # type: ignore[no-any-return]
        value: R = await self._cache.get_or_set(
            key,
            functools.partial(self._function, *args, **kwargs),
            tags=tuple([tag.fill(args, kwargs) for tag in self._tags]),
            type=self._kind,
            **self._options,
        )
        return value

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
        options = {**self._options}
        options.pop("soft_timeout", None)
        value: R = await self._cache.refresh(
            self._key.fill(args, kwargs),
            functools.partial(self._function, *args, **kwargs),
            tags=tuple(tag.fill(args, kwargs) for tag in self._tags),
            type=self._kind,
            **options,
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
            tags=tuple(tag.fill(args, kwargs) for tag in self._tags),
            version=version(value) if callable(version) else version,
            type=self._kind,
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


def returned_type(function: Callable[..., Any]) -> Any:
    """Return the annotated type of a function's result; None without one."""
    try:
        return get_type_hints(function).get("return")
    except (NameError, TypeError):
        return None
