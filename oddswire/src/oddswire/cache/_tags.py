"""The random versions of tags and namespaces, called nonces.

An entry carries the nonces that its tags had before it was loaded, and lives while they
are the same. To invalidate a tag is to UNLINK its nonce: the next process that needs
one makes another, and a nonce never comes back. So a nonce may be evicted or expire:
entries die, and none revives. An invalidation may be repeated, and the clocks of hosts
may differ.

A tag has two nonces in one value. A soft invalidation changes the second one and makes
entries stale instead of invalid; one comparison of both finds out.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from functools import partial
from hashlib import sha1
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from redis.exceptions import NoScriptError

from oddswire import keys, scripts
from oddswire._numbers import shown
from oddswire.cache._record import MAX_TAGS, NONCE_BYTES, TAG_NONCE_BYTES, digest
from oddswire.cache._servers import on_its_way
from oddswire.cache._tag_version import Stamp, TagVersion
from oddswire.erasure import Erased
from oddswire.errors import InvalidKey, OddswireError, WrongType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from oddswire.cache._namespaces import CacheKey, Namespaces, NamespaceState
    from oddswire.cache._servers import CacheServer, Servers
    from oddswire.cache._tag_version import Snapshot
    from oddswire.clock import Clock
    from oddswire.keys import KeySpace

_TAG = scripts.load("cache_tag")
_SOFTEN = scripts.load("cache_soften")
_NAMESPACE = scripts.load("cache_namespace")

_NAMESPACE_LIFE = 400 * 86_400.0
_TAG_BYTES = 512
# Seconds: no user waits for the answer, and it has to be certain.
_ERASE_TIMEOUT = 5.0


class TagVersions:
    """The nonces that this process knows, and how it reads and changes them.

    Args:
        servers: Where they are read.
        namespaces: Those in use.
        keyspace: The prefix.
        clock: The time.

    Attributes:
        invalidations: Counts what this process invalidated.
        generation: Another object whenever any nonce has changed.
    """

    def __init__(
        self,
        servers: Servers,
        namespaces: Namespaces,
        keyspace: KeySpace,
        clock: Clock,
    ) -> None:
        self._servers = servers
        self._namespaces = namespaces
        self._clock = clock
        self._tag_prefix = keyspace.key(keys.CACHE_TAG, "x")[:-1]
        # One lives as long as an item or a load refers to it. Without any, its nonce is
        # not needed here, and is read when it is.
        self._tags: WeakValueDictionary[bytes, TagVersion] = WeakValueDictionary()
        self.invalidations = 0
        self.generation = object()
        servers.listen(self._tag_prefix.encode(), self._on_tag)
        servers.listen(
            keyspace.key(keys.CACHE_NAMESPACE, "x")[:-2].encode(), self._on_namespace
        )
        servers.on_drop(self._drop)
        servers.on_moved(self._on_moved)

    # --- what this process knows

    @property
    def untracked(self) -> bool:
        """Whether the server announces no changes.

        Then the nonces of a load stay the same, also when a tag was invalidated. By
        them a caller cannot see whether the load began before its own invalidation.
        """
        return self._servers.untracked

    def digests(self, tags: Iterable[str]) -> tuple[bytes, ...]:
        """Return the digests of tags.

        Raises:
            InvalidKey: More than 16, or one that is not a text of 1 to 512 bytes.
        """
        if isinstance(tags, str) or not isinstance(tags, Iterable):
            raise InvalidKey("tags are a tuple of texts; for one, write (tag,)")
        found = tuple(dict.fromkeys(_tag_digest(tag) for tag in tags))
        if len(found) > MAX_TAGS:
            raise InvalidKey(
                f"{len(found)} tags, an entry carries at most {MAX_TAGS}: "
                "tag what is invalidated together"
            )
        return found

    def tag_version(self, tag: bytes) -> TagVersion:
        """Return what is known of a tag."""
        if self._servers.untracked:
            return TagVersion()  # no message tells of changes: good for one read
        tag_version = self._tags.get(tag)
        if tag_version is None:
            tag_version = self._tags[tag] = TagVersion()
        return tag_version

    def _set(self, tag_version: TagVersion, nonce: bytes | None) -> None:
        """Take another nonce, or none."""
        tag_version.nonce, tag_version.pending = nonce, None
        tag_version.lost = None
        self.generation = object()

    def _drop(self, server: CacheServer) -> None:
        """Begin with new objects: the connection was lost, and messages with it.

        The old objects, emptied, could get their old nonces back, and with them items
        whose own invalidation was missed meanwhile. On a cluster that is so of the
        object of the server process alone: items of other servers have missed nothing,
        and live again if a nonce comes back.
        """
        if self._servers.on_cluster:
            self._drop_of(server)
            return
        for namespace in self._namespaces.by_name.values():
            if namespace.tag_version.nonce is not None:
                namespace.lost = (
                    namespace.tag_version,
                    namespace.tag_version.nonce,
                    self.invalidations,
                )
            self._set(namespace.tag_version, None)
            namespace.tag_version = TagVersion()
        self._tags = WeakValueDictionary()

    def _drop_of(self, server: CacheServer) -> None:
        process = server.process
        if process is not None and process.nonce is not None:
            server.lost = (process, process.nonce, self.invalidations)
            self._set(process, None)
        server.process = TagVersion()
        server.process.server = server
        for known in self._known():
            if known.server is server and known.nonce is not None:
                nonce = known.nonce
                self._set(known, None)
                known.lost = nonce

    def _known(self) -> list[TagVersion]:
        states = self._namespaces.by_name.values()
        return [*self._tags.values(), *(each.tag_version for each in states)]

    def _on_moved(self, slots: frozenset[int]) -> None:
        """Forget what was read of these slots: another server has them now."""
        for namespace in self._namespaces.by_name.values():
            if namespace.slot in slots:
                self._set(namespace.tag_version, None)
        for tag, known in list(self._tags.items()):
            if self._slot(tag) in slots:
                self._set(known, None)

    def _slot(self, tag: bytes) -> int:
        if not self._servers.on_cluster:
            return 0
        return self._servers.slot(self._tag_prefix + tag.hex())

    def _on_tag(self, name: bytes, nonce: Any, *, own: bool) -> None:
        tag = _unhex(name[len(self._tag_prefix) :])
        tag_version = self._tags.get(tag)
        if tag_version is not None:
            self._set(tag_version, nonce if own else None)

    def _on_namespace(self, name: bytes, nonce: Any, *, own: bool) -> None:
        for namespace in self._namespaces.by_name.values():
            if namespace.nonce_key.encode() == name:
                self._set(namespace.tag_version, nonce if own else None)

    def were_alive(self, stamps: Snapshot, namespace: NamespaceState) -> bool:
        """Whether stamps were right when the connection was lost, as far as is known.

        What other processes have invalidated since is not known here.
        """
        if self._servers.on_cluster:
            return self._were_alive_on_cluster(stamps)
        if namespace.lost is None:
            return False
        tag_version, nonce, invalidations = namespace.lost
        own, *tags = stamps
        return (
            own.tag_version is tag_version
            and own.nonce[:NONCE_BYTES] == nonce[:NONCE_BYTES]
            # What this process invalidated meanwhile is counted, and not named.
            and invalidations == self.invalidations
            # The versions of tags keep the nonces they had.
            and all(
                (each.tag_version.nonce or b"")[:NONCE_BYTES]
                == each.nonce[:NONCE_BYTES]
                for each in tags
            )
        )

    def _were_alive_on_cluster(self, stamps: Snapshot) -> bool:
        *others, process = stamps
        server = process.tag_version.server
        if server is None or server.lost is None:
            return False
        lost, nonce, invalidations = server.lost
        return (
            lost is process.tag_version
            and nonce == process.nonce
            and invalidations == self.invalidations
            and all(
                (each.tag_version.nonce or each.tag_version.lost or b"")[:NONCE_BYTES]
                == each.nonce[:NONCE_BYTES]
                for each in others
            )
        )

    # --- reading

    def snapshot_known(
        self, key: CacheKey, tags: Sequence[bytes], life: float
    ) -> Snapshot | None:
        """Return what an entry is stored under, if all of it is known.

        Args:
            key: Of the entry.
            tags: Digests.
            life: Seconds for which the nonces must not expire.
        """
        if self._servers.untracked:
            return None
        namespace = key.namespace
        until = self._clock.boottime() + life
        stamps: list[Stamp] = []
        for tag_version in (namespace.tag_version, *map(self.tag_version, tags)):
            if tag_version.nonce is None or tag_version.lasts_until < until:
                return None
            stamps.append(Stamp(tag_version, tag_version.nonce))
        server = self._servers.at(key.slot)
        if server is None:
            return None
        if server.process is not None:
            if server.process.nonce is None:
                return None
            stamps.append(Stamp(server.process, server.process.nonce))
        return tuple(stamps)

    async def snapshot(
        self, key: CacheKey, tags: Sequence[bytes], life: float
    ) -> Snapshot:
        """Return what an entry is stored under; nonces are made where there are none.

        An old nonce does no harm: what is stored under it is dead from the start.

        Args:
            key: Of the entry.
            tags: Digests.
            life: Seconds for which the nonces must not expire.

        Raises:
            OddswireError: They could not be read.
        """
        namespace = key.namespace
        while True:
            epoch = self._servers.epoch
            known = self.snapshot_known(key, tags, life)
            if known is not None:
                return known
            server = self._servers.at(key.slot) or await self._servers.find(key.slot)
            if server.process is not None and server.process.nonce is None:
                await server.identify()
            tag_versions = [namespace.tag_version, *map(self.tag_version, tags)]
            # The connection joins what is sent in one tick into one round trip.
            nonces = await asyncio.gather(
                self._namespace_nonce(namespace),
                *(
                    self._tag_nonce(tag, tag_version, life)
                    for tag, tag_version in zip(tags, tag_versions[1:], strict=True)
                ),
            )
            # The connection was lost half way: an object of before would hear of no
            # change, and beside the namespace's new one it would be believed.
            if epoch == self._servers.epoch:
                stamps = tuple(map(Stamp, tag_versions, nonces))
                if server.process is None:
                    return stamps
                if server.process.nonce is not None:
                    return (*stamps, Stamp(server.process, server.process.nonce))

    async def verify(self, tags: Iterable[tuple[bytes, TagVersion]]) -> None:
        """Read the nonces of tags, where there are any.

        Raises:
            OddswireError: They could not be read.
        """
        await asyncio.gather(
            *(self._read(tag, tag_version) for tag, tag_version in tags)
        )

    async def ensure_namespace(self, namespace: NamespaceState) -> None:
        """Read the nonce of a namespace if it is not known."""
        if namespace.tag_version.nonce is None or self._servers.untracked:
            await self._namespace_nonce(namespace)

    def _namespace_nonce(self, namespace: NamespaceState) -> Awaitable[bytes]:
        return self._servers.run(
            namespace.slot, lambda server: self._namespace_nonce_at(namespace, server)
        )

    async def _namespace_nonce_at(
        self, namespace: NamespaceState, server: CacheServer
    ) -> bytes:
        connection = server.connection
        while True:
            known = namespace.tag_version
            now = self._clock.boottime()
            if (
                known.nonce is not None
                and not connection.untracked
                and known.lasts_until > now
            ):
                return known.nonce
            if not connection.run_id:
                if server.process is not None:
                    await server.identify()
                    continue
                nonce = await self._ask_unnamed(namespace, known, now, server)
                if nonce is not None:
                    return nonce
                continue
            # The call may wait for a connection, and reach another server process than
            # the one this names: then what it answers is not used.
            run = connection.run_id
            nonce = await self._ask_namespace(
                namespace, known, namespace.run_key, run, now, server
            )
            if run == connection.run_id:
                return nonce

    async def _ask_unnamed(
        self,
        namespace: NamespaceState,
        known: TagVersion,
        now: float,
        server: CacheServer,
    ) -> bytes | None:
        """Return the nonce where the server does not tell its run id; None: ask again.

        1. Beside the nonce is the name of the server process that it was read from: the
           text of a script that was loaded into that process alone. A server that
           restarted from disk, or was promoted, does not have the script: scripts are
           neither in a dump nor replicated (Redis 7, Valkey). A server that was a
           primary before and is one again has the script of its own time, and finds
           the name of the time between.
        2. Without the script the namespace gets a new nonce, under another name.
        3. Then the script of that name is loaded. Two processes that do so at once make
           two nonces; the first of them is of no use, which does no harm.
        """
        client = server.connection.client
        before = client.command_connection()
        key = namespace.incarnation_key
        call = server.connection.call
        try:
            kept: bytes | None = await call(("GET", key), repeatable=True)
            incarnation = (kept or b"").decode("latin-1")
            script = _script_of(incarnation).encode()
            sha = sha1(script, usedforsecurity=False).hexdigest()
            await call(("EVALSHA", sha, "0"), repeatable=True)
        except (NoScriptError, WrongType):
            incarnation = secrets.token_hex(8)
            nonce = await self._ask_namespace(
                namespace, known, key, incarnation, now, server
            )
            await call(("EVAL", _script_of(incarnation), "0"), repeatable=True)
        else:
            nonce = await self._ask_namespace(
                namespace, known, key, incarnation, now, server
            )
        # On one connection: between two, another server may have taken its place.
        same = before is not None and before is client.command_connection()
        return nonce if same else None

    async def _ask_namespace(
        self,
        namespace: NamespaceState,
        known: TagVersion,
        key: str,
        run: str,
        now: float,
        server: CacheServer,
    ) -> bytes:
        name = namespace.nonce_key.encode()
        connection = server.connection

        def answers() -> bool:
            # The same server process answers as was asked, as far as it tells.
            return connection.run_id in (run, "")

        def read(reply: Any, *, current: bool) -> None:
            if current and namespace.tag_version is known and answers():
                self._take(known, name, reply, now + _NAMESPACE_LIFE / 2, server)

        reply = await connection.script(
            _NAMESPACE,
            # Processes that know a run id have one key, those that do not have another:
            # neither undoes what the other made.
            (namespace.nonce_key, key),
            (secrets.token_bytes(NONCE_BYTES), int(_NAMESPACE_LIFE * 1000), run),
            read,
        )
        nonce: bytes = reply[0]
        if connection.untracked and answers():
            self._set(namespace.tag_version, nonce)
        return nonce

    def _tag_nonce(
        self, tag: bytes, known: TagVersion, life: float
    ) -> Awaitable[bytes]:
        return self._servers.run(
            self._slot(tag), lambda server: self._tag_nonce_at(tag, known, life, server)
        )

    async def _tag_nonce_at(
        self, tag: bytes, known: TagVersion, life: float, server: CacheServer
    ) -> bytes:
        connection = server.connection
        if server.process is not None and server.process.nonce is None:
            await server.identify()
        now = self._clock.boottime()
        if (
            known.nonce is not None
            and not connection.untracked
            and known.lasts_until >= now + life
        ):
            return known.nonce
        key = self._tag_prefix + tag.hex()
        kept = 4 * life

        def read(reply: Any, *, current: bool) -> None:
            # Of two objects of one tag, one would not hear of a change.
            if current and self._tags.setdefault(tag, known) is known:
                self._take(known, key.encode(), reply, now + kept / 2, server)

        # A random nonce for each attempt: the same one again would be an old one.
        mask = server.mask
        reply = await connection.script(
            _TAG, (key,), (secrets.token_bytes(TAG_NONCE_BYTES), int(kept * 1000)), read
        )
        nonce: bytes = _masked(reply[0], mask)
        if connection.untracked:
            self._set(known, nonce)
        return nonce

    def _read(self, tag: bytes, known: TagVersion) -> Awaitable[None]:
        return self._servers.run(
            self._slot(tag), lambda server: self._read_at(tag, known, server)
        )

    async def _read_at(
        self, tag: bytes, known: TagVersion, server: CacheServer
    ) -> None:
        connection = server.connection
        if server.process is not None and server.process.nonce is None:
            await server.identify()

        def read(reply: Any, *, current: bool) -> None:
            # Of two objects of one tag, one would not hear of a change.
            heard = current and self._tags.setdefault(tag, known) is known
            if heard or connection.untracked:
                known.server = server
                self._set(
                    known,
                    _masked(reply, server.mask) if type(reply) is bytes else None,
                )

        await connection.call(
            ("GET", self._tag_prefix + tag.hex()), read, repeatable=True
        )

    def _take(
        self,
        known: TagVersion,
        name: bytes,
        reply: Any,
        until: float,
        server: CacheServer,
    ) -> None:
        if isinstance(reply, Exception):
            return
        nonce, wrote = reply
        nonce = _masked(nonce, server.mask)
        known.lasts_until, known.server = until, server
        if wrote:
            # The server's message of our own write is on its way. Only that message,
            # not one of another write, makes this nonce the known one.
            self._set(known, None)
            known.pending = nonce
            server.connection.expect_echo(name, nonce)
        else:
            self._set(known, nonce)

    # --- invalidating

    async def invalidate(
        self, tags: Sequence[bytes], *, soft: bool = False, timeout: float | None = None
    ) -> int:
        """Make every entry that carries one of the tags invalid, or stale, everywhere.

        Returns how many of the tags were in use.

        Raises:
            OddswireError: It is not certain that it was done.
        """
        self._forget_tags(tags)

        def done(_: Any, *, current: bool) -> None:
            del current
            self._forget_tags(tags)

        names = [self._tag_prefix + tag.hex() for tag in tags]
        chance = secrets.token_bytes(NONCE_BYTES)

        async def call(names: Sequence[str], server: CacheServer) -> int:
            connection = server.connection
            if not soft:
                return await connection.unlink(names, done, timeout=timeout)
            return int(
                await connection.script(
                    _SOFTEN, names, (chance,), done, repeatable=True, timeout=timeout
                )
            )

        if not self._servers.on_cluster:
            return await self._servers.run(0, partial(call, names))
        found = await asyncio.gather(
            *(self._run_or_remove(name, partial(call, [name])) for name in names),
            return_exceptions=True,
        )
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return sum(each for each in found if isinstance(each, int))

    async def _run_or_remove(
        self, name: str, call: Callable[[CacheServer], Awaitable[int]]
    ) -> int:
        """Call the server of a key; remove the key if its slot is on its way."""
        try:
            return await self._servers.run(self._servers.slot(name), call, waits=False)
        except OddswireError as error:
            if not on_its_way(error):
                raise
            return await self._servers.remove([name])

    async def erase(self, tag: str) -> Erased:
        """Invalidate every entry that carries a tag, and check that the tag is gone.

        Raises:
            OddswireError: It is not certain that it was done.
        """
        tags = self.digests((tag,))
        key = self._tag_prefix + tags[0].hex()
        removed = await self.invalidate(tags, timeout=_ERASE_TIMEOUT)
        there = await self._servers.run(
            self._servers.slot(key),
            lambda server: server.connection.call(
                ("EXISTS", key), repeatable=True, timeout=_ERASE_TIMEOUT
            ),
        )
        return Erased("cache", removed, (key,) if there else ())

    async def clear(self, namespace: NamespaceState) -> None:
        """Make every entry of a namespace invalid, everywhere.

        Raises:
            OddswireError: It is not certain that it was done.
        """
        self._forget_namespace(namespace)

        def done(_: Any, *, current: bool) -> None:
            del current
            self._forget_namespace(namespace)

        await self._run_or_remove(
            namespace.nonce_key,
            lambda server: server.connection.unlink([namespace.nonce_key], done),
        )

    def _forget_tags(self, tags: Sequence[bytes]) -> None:
        self.invalidations += 1
        for tag in tags:
            tag_version = self._tags.get(tag)
            if tag_version is not None:
                self._set(tag_version, None)

    def _forget_namespace(self, namespace: NamespaceState) -> None:
        self.invalidations += 1
        self._set(namespace.tag_version, None)

    def warm_keys(self) -> list[str]:
        """Return the keys of known nonces: to the server's eviction they look cold."""
        names = [
            namespace.nonce_key
            for namespace in self._namespaces.by_name.values()
            if namespace.tag_version.nonce is not None
        ]
        return names + [self._tag_prefix + tag.hex() for tag in self._tags]


def _masked(nonce: bytes, mask: bytes) -> bytes:
    """Return a nonce, bound to the server process where it is one of a cluster's.

    A replica that takes over may have back what was invalidated; under another mask
    that is another nonce.
    """
    if not any(mask) or len(nonce) != len(mask):
        return nonce
    number = int.from_bytes(nonce, "big") ^ int.from_bytes(mask, "big")
    return number.to_bytes(len(nonce), "big")


def _script_of(incarnation: str) -> str:
    """Return the script whose presence shows that a server process is this one."""
    return f"return 1 -- {incarnation}"


def _tag_digest(tag: str) -> bytes:
    if type(tag) is not str or not tag:
        raise InvalidKey(f"a tag is a str that is not empty, not {shown(tag)}")
    try:
        data = tag.encode()
    except UnicodeEncodeError:
        raise InvalidKey("a tag is not valid Unicode") from None
    if len(data) > _TAG_BYTES:
        raise InvalidKey(f"a tag has {len(data)} bytes, {_TAG_BYTES} is the limit")
    return digest(data)


def _unhex(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode())
    except ValueError:
        return b""
