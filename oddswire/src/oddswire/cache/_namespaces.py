"""A namespace at work (key names, codecs, nonce, counters), and the keys in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Optional, cast
from urllib.parse import unquote_to_bytes

from oddswire import keys
from oddswire._numbers import shown
from oddswire.cache._tag_version import TagVersion
from oddswire.cache.namespace import Namespace
from oddswire.cache.statistics import CacheCounters
from oddswire.codec import Codec
from oddswire.connection.packing import pack
from oddswire.errors import InvalidKey, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.keys import KeySpace

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+").fullmatch

# Names of namespaces come from code. Should they ever come from users, the table would
# grow with them.
_MAX_NAMESPACES = 1_000
_MAX_KEYS = 4_096


class NamespaceState:
    """A namespace at work.

    Attributes:
        config: What was declared.
        tag_version: Of its nonce; another object after each loss of the connection.
        lost: The last object that had a nonce, with that nonce, and how much this
            process had invalidated when the connection was lost.
        slot: Of its nonce.
        counters: What was counted.
        expect_miss: The last lookup of a key in Redis found nothing.
    """

    def __init__(
        self,
        config: Namespace,
        keyspace: KeySpace,
        compress_above: int,
        slot_of: Callable[[str], int],
    ) -> None:
        self.config = config
        self.tag_version = TagVersion()
        self.lost: tuple[TagVersion, bytes, int] | None = None
        self.counters = CacheCounters()
        self.expect_miss = False
        self.nonce_key = keyspace.key(keys.CACHE_NAMESPACE, config.name)
        self.slot = slot_of(self.nonce_key)
        self.run_key = keyspace.key(keys.CACHE_RUN, config.name)
        self.incarnation_key = keyspace.key(keys.CACHE_MARK, config.name)
        self._keyspace = keyspace
        self._compress_above = compress_above
        self._start = keyspace.key(keys.CACHE, config.name, "x")[:-2]
        self._codecs: dict[Any, Codec[Any]] = {}
        try:
            self.codec(config.type)
        except TypeError as error:
            raise TypeError(f"namespace {config.name!r}: {error}") from None

    def codec(self, value_type: Any) -> Codec[Any]:
        """Return the codec of a type."""
        codec = self._codecs.get(value_type)
        if codec is None:
            # None is a value of every type: "there is none" is worth remembering.
            codec = self._codecs[value_type] = Codec(
                cast("Any", Optional[value_type]),  # noqa: UP045 - known at run time only
                compress_above=self._compress_above,
                max_size=self.config.max_size,
            )
        return codec

    def entry_key(self, rest: str) -> str:
        """Return the Redis key of an entry.

        Raises:
            InvalidKey: Too long, or not valid Unicode.
        """
        if _PLAIN(rest) and len(rest) < 200:
            return f"{self._start}{rest}}}"
        return self._keyspace.key(keys.CACHE, self.config.name, rest)


class CacheKey:
    """A key of the user, with what belongs to it.

    Args:
        name: As the user wrote it.
        namespace: Its namespace.
        entry: The Redis key of the entry.
        lease: The Redis key of the load lease, in the same slot.
        slot: That one.

    Attributes:
        get: The packed command that reads the entry.
    """

    __slots__ = ("entry", "get", "lease", "name", "namespace", "slot")

    def __init__(
        self, name: str, namespace: NamespaceState, entry: str, lease: str, slot: int
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.entry = entry
        self.lease = lease
        self.slot = slot
        self.get = pack(("GET", entry))


class Namespaces:
    """Every namespace in use, and the way from the user's keys to Redis' and back.

    Args:
        keyspace: The prefix.
        declared: Namespaces; others come into being at first use, with the defaults.
        compress_above: Bytes above which values are compressed.
        slot_of: Returns the slot of a Redis key.
    """

    def __init__(
        self,
        keyspace: KeySpace,
        declared: Iterable[Namespace],
        compress_above: int,
        slot_of: Callable[[str], int],
    ) -> None:
        self._keyspace = keyspace
        self._slot_of = slot_of
        self._compress_above = compress_above
        self.by_name: dict[str, NamespaceState] = {}
        # To make one is a good part of a lookup in Redis.
        self._keys: dict[str, CacheKey] = {}
        self._entries = keyspace.prefix + keys.CACHE.name + ":{"
        self._leases = keyspace.prefix + keys.CACHE_LEASE.name + ":{"
        self.entries_prefix = self._entries.encode()
        self.leases_prefix = self._leases.encode()
        if isinstance(declared, Namespace) or not isinstance(declared, Iterable):
            raise SettingsError(
                f"namespaces must be a list, as in [Namespace(...)], not "
                f"{shown(declared)}"
            )
        for namespace in declared:
            self.declare(namespace)

    def declare(self, namespace: Namespace) -> NamespaceState:
        """Add a namespace; one that was declared with the same options is returned.

        Raises:
            InvalidKey: Its name has a colon or is empty, or it was declared otherwise.
            SettingsError: It is no `Namespace`.
            TypeError: msgspec does not support its type.
        """
        if not isinstance(namespace, Namespace):
            raise SettingsError(
                f"namespaces are Namespace objects, not {shown(namespace)}"
            )
        name = namespace.name
        if not isinstance(name, str) or not name or ":" in name:
            raise InvalidKey(
                f"namespace {shown(name)}: a name that is not empty and has no colon"
            )
        known = self.by_name.get(name)
        if known is not None:
            if known.config != namespace:
                raise InvalidKey(f"namespace {name!r} is declared twice")
            return known
        if len(self.by_name) >= _MAX_NAMESPACES:
            raise InvalidKey(
                f"more than {_MAX_NAMESPACES} namespaces: what stands before the first "
                "colon of a key is chosen by the program, not by its users"
            )
        state = NamespaceState(
            namespace, self._keyspace, self._compress_above, self._slot_of
        )
        self.by_name[name] = state
        return state

    def named(self, name: str) -> NamespaceState:
        """Return a namespace, with the defaults if it was not declared."""
        return self.by_name.get(name) or self.declare(Namespace(name=name))

    def key(self, key: str) -> CacheKey:
        """Return a key with what belongs to it.

        Raises:
            InvalidKey: Not a text of the form ``namespace:rest``, or too long.
        """
        if type(key) is not str:
            raise InvalidKey(f"a cache key is a str, not {type(key).__name__}")
        known = self._keys.get(key)
        if known is None:
            known = self._make_key(key)
            if len(self._keys) >= _MAX_KEYS:
                self._keys.clear()
            self._keys[key] = known
        return known

    def _make_key(self, key: str) -> CacheKey:
        name, _, rest = key.partition(":")
        if not name or not rest:
            raise InvalidKey(
                "a cache key has the form 'namespace:rest', both not empty; "
                f"{key[:50]!r} has not"
            )
        namespace = self.by_name.get(name) or self.named(name)
        entry = namespace.entry_key(rest)
        lease = self._leases + entry[len(self._entries) :]
        if len(lease) > keys.MAX_KEY_BYTES:
            raise InvalidKey(
                f"a key of {namespace.config.name!r} is too long: "
                "use a hash of its long part"
            )
        return CacheKey(key, namespace, entry, lease, self._slot_of(entry))

    def key_of(self, name: bytes, prefix: bytes) -> str:
        """Return the user's key, of the Redis key of an entry or of a lease."""
        inner = name[len(prefix) : -1]
        if b"%" in inner:
            name, _, rest = inner.partition(b":")
            inner = unquote_to_bytes(name) + b":" + unquote_to_bytes(rest)
        return inner.decode(errors="replace")
