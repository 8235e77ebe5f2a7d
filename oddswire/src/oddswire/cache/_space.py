"""`Space`: a namespace at work: its key names, its codecs, its nonce, its counts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Optional, cast
from urllib.parse import unquote_to_bytes

from oddswire import keys
from oddswire._numbers import shown
from oddswire.cache._cell import Cell
from oddswire.cache.namespace import Namespace
from oddswire.cache.statistics import Counts
from oddswire.codec import Codec
from oddswire.connection.packing import pack
from oddswire.errors import InvalidKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddswire.keys import KeySpace

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+").fullmatch

# Names of namespaces come from code. Should they ever come from users, the table would
# grow with them.
_SPACES_AT_MOST = 1_000
_PLACES_AT_MOST = 4_096


class Space:
    """A namespace at work.

    Attributes:
        config: What was declared.
        cell: Holds the nonce; another object after each loss of the wire.
        left: The last one that had a nonce, with that nonce, and what this process had
            invalidated when it was lost.
        counts: What was counted.
    """

    __slots__ = (
        "_codecs",
        "_compress_above",
        "_keyspace",
        "_start",
        "cell",
        "config",
        "counts",
        "left",
        "mark_key",
        "nonce_key",
        "run_key",
    )

    def __init__(
        self, config: Namespace, keyspace: KeySpace, compress_above: int
    ) -> None:
        self.config = config
        self.cell = Cell()
        self.left: tuple[Cell, bytes, int] | None = None
        self.counts = Counts()
        self.nonce_key = keyspace.key(keys.CACHE_NAMESPACE, config.name)
        self.run_key = keyspace.key(keys.CACHE_RUN, config.name)
        self.mark_key = keyspace.key(keys.CACHE_MARK, config.name)
        self._keyspace = keyspace
        self._compress_above = compress_above
        self._start = keyspace.key(keys.CACHE, config.name, "x")[:-2]
        self._codecs: dict[Any, Codec[Any]] = {}
        self.codec(config.type)

    def codec(self, kind: Any) -> Codec[Any]:
        """Return the codec of a type."""
        codec = self._codecs.get(kind)
        if codec is None:
            # None is a value of every type: "there is none" is worth remembering.
            codec = self._codecs[kind] = Codec(
                cast("Any", Optional[kind]),  # noqa: UP045 - known at run time only
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


class Place:
    """Where one key lives.

    Args:
        key: As the user wrote it.
        space: Its namespace.
        entry: The Redis key of the entry.
        lease: The Redis key of the load lease, in the same slot.

    Attributes:
        ask: The packed command that reads the entry.
    """

    __slots__ = ("ask", "entry", "key", "lease", "space")

    def __init__(self, key: str, space: Space, entry: str, lease: str) -> None:
        self.key = key
        self.space = space
        self.entry = entry
        self.lease = lease
        self.ask = pack(("GET", entry))


class Spaces:
    """Every namespace in use, and the way from the user's keys to Redis' and back.

    Args:
        keyspace: The prefix.
        declared: Namespaces; others come into being at first use, with the defaults.
        compress_above: Bytes above which values are compressed.
    """

    def __init__(
        self, keyspace: KeySpace, declared: Iterable[Namespace], compress_above: int
    ) -> None:
        self._keyspace = keyspace
        self._compress_above = compress_above
        self.by_name: dict[str, Space] = {}
        # Making one is a good part of a lookup in Redis.
        self._places: dict[str, Place] = {}
        self._entries = keyspace.prefix + keys.CACHE.name + ":{"
        self._leases = keyspace.prefix + keys.CACHE_LEASE.name + ":{"
        self.entries_prefix = self._entries.encode()
        self.leases_prefix = self._leases.encode()
        for namespace in declared:
            self.declare(namespace)

    def declare(self, namespace: Namespace) -> Space:
        """Add a namespace, or return it as it is if it was declared alike.

        Raises:
            InvalidKey: Its name has a colon or is empty, or it was declared otherwise.
        """
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
        if len(self.by_name) >= _SPACES_AT_MOST:
            raise InvalidKey(
                f"more than {_SPACES_AT_MOST} namespaces: what stands before the first "
                "colon of a key is chosen by the program, not by its users"
            )
        space = Space(namespace, self._keyspace, self._compress_above)
        self.by_name[name] = space
        return space

    def named(self, name: str) -> Space:
        """Return a namespace, with the defaults if it was not declared."""
        return self.by_name.get(name) or self.declare(Namespace(name=name))

    def place(self, key: str) -> Place:
        """Return where a key lives.

        Raises:
            InvalidKey: Not a text of the form ``namespace:rest``, or too long.
        """
        if type(key) is not str:
            raise InvalidKey(f"a cache key is a str, not {type(key).__name__}")
        known = self._places.get(key)
        if known is None:
            known = self._find_place(key)
            if len(self._places) >= _PLACES_AT_MOST:
                self._places.clear()
            self._places[key] = known
        return known

    def _find_place(self, key: str) -> Place:
        name, _, rest = key.partition(":")
        if not name or not rest:
            raise InvalidKey(
                "a cache key has the form 'namespace:rest', both not empty; "
                f"{key[:50]!r} has not"
            )
        space = self.by_name.get(name) or self.named(name)
        entry = space.entry_key(rest)
        lease = self._leases + entry[len(self._entries) :]
        if len(lease) > keys.MAX_KEY_BYTES:
            raise InvalidKey(
                f"a key of {space.config.name!r} is too long: "
                "use a hash of its long part"
            )
        return Place(key, space, entry, lease)

    def key_of(self, name: bytes, prefix: bytes) -> str:
        """Return the user's key, of the Redis key of an entry or of a lease."""
        inner = name[len(prefix) : -1]
        if b"%" in inner:
            space, _, rest = inner.partition(b":")
            inner = unquote_to_bytes(space) + b":" + unquote_to_bytes(rest)
        return inner.decode(errors="replace")
