"""An entry: what a call asks of it, what its loader gets, and what a caller gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.cache._l1 import Item
    from oddswire.cache._namespaces import CacheKey


class EntryOptions(TypedDict, total=False):
    """Options of every call that loads; what it leaves out, the `Namespace` says.

    Attributes:
        ttl: Seconds for which the value is fresh.
        stale: Seconds after that in which it may serve while it is refreshed, or when
            that fails.
        negative_ttl: Seconds for which a None is fresh; 0: it is not kept.
        version: Of the source's data: a number, or a function from the value to it. An
            older one never replaces a newer one.
        max_age: Seconds after which the value is stale for this caller, though it is
            fresh for others.
        soft_timeout: Seconds to wait for a refresh before a stale value serves;
            default: none.
        hard_timeout: Seconds to wait for a load.
        type: What the value is.
    """

    ttl: float | None
    stale: float | None
    negative_ttl: float | None
    version: int | Callable[[Any], int] | None
    max_age: float | None
    soft_timeout: float | None
    hard_timeout: float | None
    type: Any


class LoadRequest(NamedTuple):
    """What a caller asked for, checked, with the defaults of the namespace.

    Attributes:
        loader: Returns the value or an awaitable of it; may take a `LoadContext`.
        value_type: The type of the value.
        tags: Digests.
        on_elsewhere: Called when it turns out that this call begins no load.
    """

    key: CacheKey
    loader: Callable[..., Any]
    value_type: Any
    ttl: float
    stale: float
    negative_ttl: float | None
    tags: tuple[bytes, ...]
    version: int | Callable[[Any], int] | None
    max_age: float | None
    soft_timeout: float | None
    hard_timeout: float | None
    on_elsewhere: Callable[[], None] | None = None


class LoadContext:
    """What a loader gets as its only argument, if it has one: what is there.

    Attributes:
        found: Whether there is an old value.
        value: The old value, or None.
        version: Its version, 0 without.
        ttl: Set it to keep this value for so many seconds.
    """

    __slots__ = ("found", "ttl", "value", "version")

    def __init__(self, old: Item | None) -> None:
        self.found = old is not None
        self.value: Any = old.value if old is not None else None
        self.version = old.details.version if old is not None else 0
        self.ttl: float | None = None

    def not_modified(self) -> Any:
        """Return the old value, for the loader to return: it is kept for longer.

        Raises:
            LookupError: There is none.
        """
        if not self.found:
            raise LookupError("there is no old value; look at `found` first")
        return self.value


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A cached value with what is known of it.

    Attributes:
        value: Shared with every other reader in this process: do not change it.
        tier: ``"l1"``: from this process; ``"l2"``: from Redis.
        stale: Past its time, and within its stale window.
        age: Seconds since it was stored.
        ttl: Seconds for which it is fresh from now on, negative when it is stale.
        version: As it was stored with, 0 without.
    """

    value: Any
    tier: Literal["l1", "l2"]
    stale: bool
    age: float
    ttl: float
    version: int
