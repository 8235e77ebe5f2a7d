"""Nonces: the random versions of tags and namespaces.

An entry carries the nonces that its tags had before it was loaded, and lives while they
are still the same. To invalidate a tag is to UNLINK its nonce: whoever needs it next
makes another, and a nonce never comes back. So nothing is lost if a nonce is evicted or
expires (entries die, none revives), if an invalidation is repeated, or if the clocks of
hosts differ.

A tag has two of them, one behind the other. Another second one makes entries stale
instead of invalid; who compares both at once finds out at no cost.
"""

from __future__ import annotations

import asyncio
import secrets
from hashlib import sha1
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from redis.exceptions import NoScriptError

from oddswire import keys, scripts
from oddswire.cache._cell import Cell, Snapshot, Stamp
from oddswire.cache._record import MAX_TAGS, NONCE_BYTES, TAG_NONCE_BYTES, digest
from oddswire.erasure import Erased
from oddswire.errors import InvalidKey, WrongType

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oddswire.cache._memory import Item
    from oddswire.cache._space import Space, Spaces
    from oddswire.cache._wire import TrackedWire
    from oddswire.clock import Clock
    from oddswire.keys import KeySpace

_TAG = scripts.load("cache_tag")
_SOFTEN = scripts.load("cache_soften")
_NAMESPACE = scripts.load("cache_namespace")

_NAMESPACE_LIFE = 400 * 86_400.0
_TAG_BYTES = 512
# Seconds: nobody waits for an answer meanwhile, and it has to be certain.
_ERASING = 5.0


class Nonces:
    """The cells of a process.

    Args:
        wire: Where they are read.
        spaces: The namespaces.
        keyspace: The prefix.
        clock: The time.

    Attributes:
        invalidations: Counts what this process invalidated.
        mark: Another object whenever any cell has changed.
    """

    def __init__(
        self, wire: TrackedWire, spaces: Spaces, keyspace: KeySpace, clock: Clock
    ) -> None:
        self._wire = wire
        self._spaces = spaces
        self._clock = clock
        self._tag_prefix = keyspace.key(keys.CACHE_TAG, "x")[:-1]
        # A cell lives as long as an item or a load holds it; then its nonce is not
        # needed here, and is asked for when it is.
        self._tags: WeakValueDictionary[bytes, Cell] = WeakValueDictionary()
        self.invalidations = 0
        self.mark = object()
        wire.listen(self._tag_prefix.encode(), self._on_tag)
        wire.listen(
            keyspace.key(keys.CACHE_NAMESPACE, "x")[:-2].encode(), self._on_namespace
        )
        wire.on_drop(self._drop)

    # --- what is held

    @property
    def untold(self) -> bool:
        """Whether nobody tells of changes: then a load's nonces stay as it read them.

        A caller that invalidated something meanwhile cannot see by them whether the
        load is older than that.
        """
        return self._wire.plain

    def digests(self, tags: Iterable[str]) -> tuple[bytes, ...]:
        """Return the digests of tags.

        Raises:
            InvalidKey: More than 16, or one that is not a text of 1 to 512 bytes.
        """
        if isinstance(tags, str):
            raise InvalidKey("tags are a tuple of texts; for one, write (tag,)")
        found = tuple(dict.fromkeys(_tag_digest(tag) for tag in tags))
        if len(found) > MAX_TAGS:
            raise InvalidKey(
                f"{len(found)} tags, an entry carries at most {MAX_TAGS}: "
                "tag what is invalidated together"
            )
        return found

    def cell(self, tag: bytes) -> Cell:
        """Return the cell of a tag."""
        if self._wire.plain:
            return Cell()  # nobody tells us of changes: good for one look only
        cell = self._tags.get(tag)
        if cell is None:
            cell = self._tags[tag] = Cell()
        return cell

    def _change(self, cell: Cell, nonce: bytes | None) -> None:
        """Have a cell hold another nonce, or none."""
        cell.nonce, cell.coming = nonce, None
        self.mark = object()

    def _drop(self) -> None:
        """What is held was not watched for a while: other cells, not empty ones.

        An empty cell could get its old nonce back, and with it items whose own
        invalidation was missed meanwhile.
        """
        for space in self._spaces.by_name.values():
            if space.cell.nonce is not None:
                space.left = (space.cell, space.cell.nonce, self.invalidations)
            self._change(space.cell, None)
            space.cell = Cell()
        self._tags = WeakValueDictionary()

    def _on_tag(self, name: bytes, nonce: Any, *, own: bool) -> None:
        tag = _unhex(name[len(self._tag_prefix) :])
        cell = self._tags.get(tag)
        if cell is not None:
            self._change(cell, nonce if own else None)

    def _on_namespace(self, name: bytes, nonce: Any, *, own: bool) -> None:
        for space in self._spaces.by_name.values():
            if space.nonce_key.encode() == name:
                self._change(space.cell, nonce if own else None)

    def was_alive(self, item: Item, space: Space) -> bool:
        """Whether nothing is known to have invalidated an item.

        Also one that was held when the connection was lost. What others have
        invalidated since is not known here.
        """
        if item.lives():
            return True
        if space.left is None:
            return False
        cell, nonce, invalidations = space.left
        own, *tags = item.stamps
        return (
            own.cell is cell
            and own.nonce[:NONCE_BYTES] == nonce[:NONCE_BYTES]
            # By this process, meanwhile: of what, is not noted.
            and invalidations == self.invalidations
            # The cells of tags keep what they had.
            and all(
                (each.cell.nonce or b"")[:NONCE_BYTES] == each.nonce[:NONCE_BYTES]
                for each in tags
            )
        )

    # --- reading

    async def snapshot(
        self, space: Space, tags: Sequence[bytes], life: float
    ) -> Snapshot:
        """Return the nonces of a namespace and of tags, made where there are none.

        An old nonce does no harm: what is stored under it is dead from the start.

        Args:
            space: The namespace.
            tags: Digests.
            life: Seconds for which they must not expire.

        Raises:
            OddswireError: They could not be read.
        """
        while True:
            epoch = self._wire.epoch
            pairs = await self._snapshot(space, tags, life)
            # The wire was lost half way: a cell of before would hear of no change, and
            # beside the namespace's new one it would be believed.
            if epoch == self._wire.epoch:
                return pairs

    async def _snapshot(
        self, space: Space, tags: Sequence[bytes], life: float
    ) -> Snapshot:
        until = self._clock.boottime() + life
        known: list[Stamp] = []
        cells = [space.cell, *(self.cell(tag) for tag in tags)]
        for cell in cells:
            if self._wire.plain or cell.nonce is None or cell.lasts_until < until:
                break
            known.append(Stamp(cell, cell.nonce))
        else:
            return tuple(known)
        # The wire joins what is sent in one tick into one trip.
        nonces = await asyncio.gather(
            self._namespace(space),
            *(
                self._tag(tag, cell, life)
                for tag, cell in zip(tags, cells[1:], strict=True)
            ),
        )
        return tuple(map(Stamp, cells, nonces))

    async def verify(self, tags: Iterable[tuple[bytes, Cell]]) -> None:
        """Read the nonces of tags into their cells, where there are any.

        Raises:
            OddswireError: They could not be read.
        """
        await asyncio.gather(*(self._look(tag, cell) for tag, cell in tags))

    async def namespace(self, space: Space) -> None:
        """Have the nonce of a namespace in its cell."""
        if space.cell.nonce is None or self._wire.plain:
            await self._namespace(space)

    async def _namespace(self, space: Space) -> bytes:
        while True:
            cell = space.cell
            now = self._clock.boottime()
            if (
                cell.nonce is not None
                and not self._wire.plain
                and cell.lasts_until > now
            ):
                return cell.nonce
            if not self._wire.run_id:
                nonce = await self._ask_unnamed(space, cell, now)
                if nonce is not None:
                    return nonce
                continue
            # The call may wait for a connection, and reach another server process than
            # the one this names: then what it answers is not used.
            run = self._wire.run_id
            nonce = await self._ask_namespace(space, cell, space.run_key, run, now)
            if run == self._wire.run_id:
                return nonce

    async def _ask_unnamed(self, space: Space, cell: Cell, now: float) -> bytes | None:
        """Return the nonce where the server does not tell its run id; None: ask again.

        1. The nonce has a mark beside it, which is the name of a script that was loaded
           into one server process. One that restarted from disk, or was promoted, does
           not have it: scripts are neither in a dump nor replicated (Redis 7, Valkey).
           One that was a primary before and is again has that of its own time, and
           finds the mark of the time between.
        2. Without it the namespace gets a new nonce, under another mark.
        3. Then its script is loaded. Two processes that do so at once make two nonces,
           and the first of them is of no use, which does no harm.
        """
        client = self._wire.client
        before = client.command_connection()
        key = space.mark_key
        try:
            kept: bytes | None = await self._wire.call(("GET", key), repeatable=True)
            mark = (kept or b"").decode("latin-1")
            digest = sha1(_named(mark).encode(), usedforsecurity=False).hexdigest()
            await self._wire.call(("EVALSHA", digest, "0"), repeatable=True)
        except (NoScriptError, WrongType):
            mark = secrets.token_hex(8)
            nonce = await self._ask_namespace(space, cell, key, mark, now)
            await self._wire.call(("EVAL", _named(mark), "0"), repeatable=True)
        else:
            nonce = await self._ask_namespace(space, cell, key, mark, now)
        # On one connection: between two, another process may have taken its place.
        same = before is not None and before is client.command_connection()
        return nonce if same else None

    async def _ask_namespace(
        self, space: Space, cell: Cell, key: str, run: str, now: float
    ) -> bytes:
        name = space.nonce_key.encode()

        def read(reply: Any, *, current: bool) -> None:
            if current and space.cell is cell and self._answers(run):
                self._take(cell, name, reply, now + _NAMESPACE_LIFE / 2)

        reply = await self._wire.script(
            _NAMESPACE,
            # Those that know a run id and those that do not have a key of their own:
            # neither undoes what the other made.
            (space.nonce_key, key),
            (secrets.token_bytes(NONCE_BYTES), int(_NAMESPACE_LIFE * 1000), run),
            read,
        )
        nonce: bytes = reply[0]
        if self._wire.plain and self._answers(run):
            self._change(space.cell, nonce)
        return nonce

    def _answers(self, run: str) -> bool:
        """Whether the server process is still the one asked, as far as it tells."""
        return self._wire.run_id in (run, "")

    async def _tag(self, tag: bytes, cell: Cell, life: float) -> bytes:
        now = self._clock.boottime()
        if (
            cell.nonce is not None
            and not self._wire.plain
            and cell.lasts_until >= now + life
        ):
            return cell.nonce
        key = self._tag_prefix + tag.hex()
        kept = 4 * life

        def read(reply: Any, *, current: bool) -> None:
            # Two cells of one tag, and one of them would not hear of a change.
            if current and self._tags.setdefault(tag, cell) is cell:
                self._take(cell, key.encode(), reply, now + kept / 2)

        # A random nonce for each attempt: the same one again would be an old one.
        reply = await self._wire.script(
            _TAG,
            (key,),
            (secrets.token_bytes(TAG_NONCE_BYTES), int(kept * 1000)),
            read,
        )
        nonce: bytes = reply[0]
        if self._wire.plain:
            self._change(cell, nonce)
        return nonce

    async def _look(self, tag: bytes, cell: Cell) -> None:
        def read(reply: Any, *, current: bool) -> None:
            # Two cells of one tag, and one of them would not hear of a change.
            heard = current and self._tags.setdefault(tag, cell) is cell
            if heard or self._wire.plain:
                self._change(cell, reply if type(reply) is bytes else None)

        await self._wire.call(
            ("GET", self._tag_prefix + tag.hex()), read, repeatable=True
        )

    def _take(self, cell: Cell, name: bytes, reply: Any, until: float) -> None:
        if isinstance(reply, Exception):
            return
        nonce, wrote = reply
        cell.lasts_until = until
        if wrote:
            # Our own write will come back as a message; until then it is not held, and
            # that message, not another's, brings it back.
            self._change(cell, None)
            cell.coming = nonce
            self._wire.expect(name, nonce)
        else:
            self._change(cell, nonce)

    # --- invalidating

    async def invalidate(
        self,
        tags: Sequence[bytes],
        *,
        soft: bool = False,
        timeout: float | None = None,
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
        if soft:
            chance = secrets.token_bytes(NONCE_BYTES)
            return int(
                await self._wire.script(
                    _SOFTEN, names, (chance,), done, repeatable=True, timeout=timeout
                )
            )
        return await self._wire.unlink(names, done, timeout=timeout)

    async def erase(self, tag: str) -> Erased:
        """Make every entry that carries a tag invalid, and see that the tag is gone.

        Raises:
            OddswireError: It is not certain that it was done.
        """
        tags = self.digests((tag,))
        key = self._tag_prefix + tags[0].hex()
        removed = await self.invalidate(tags, timeout=_ERASING)
        there = await self._wire.call(
            ("EXISTS", key), repeatable=True, timeout=_ERASING
        )
        return Erased("cache", removed, (key,) if there else ())

    async def clear(self, space: Space) -> None:
        """Make every entry of a namespace invalid, everywhere.

        Raises:
            OddswireError: It is not certain that it was done.
        """
        self._forget_space(space)

        def done(_: Any, *, current: bool) -> None:
            del current
            self._forget_space(space)

        await self._wire.unlink([space.nonce_key], done)

    def _forget_tags(self, tags: Sequence[bytes]) -> None:
        self.invalidations += 1
        for tag in tags:
            cell = self._tags.get(tag)
            if cell is not None:
                self._change(cell, None)

    def _forget_space(self, space: Space) -> None:
        self.invalidations += 1
        self._change(space.cell, None)

    def warm_keys(self) -> list[str]:
        """Return the keys of what is held: they look cold to the server's eviction."""
        names = [
            space.nonce_key
            for space in self._spaces.by_name.values()
            if space.cell.nonce is not None
        ]
        return names + [self._tag_prefix + tag.hex() for tag in self._tags]


def _named(mark: str) -> str:
    """Return the script of a mark."""
    return f"return 1 -- {mark}"


def _tag_digest(tag: str) -> bytes:
    if type(tag) is not str or not tag:
        raise InvalidKey("a tag is a str that is not empty")
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
