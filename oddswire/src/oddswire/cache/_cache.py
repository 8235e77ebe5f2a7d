"""`Cache`: two tiers, coherent across processes, fenced, loaded once."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    overload,
)

from oddswire import keys
from oddswire._numbers import check_int, check_user, shown
from oddswire._tasks import check_function, spawn
from oddswire.cache._batching import Batcher, BatchLoad
from oddswire.cache._coherence import CoherenceLease
from oddswire.cache._hot import HotKeys, WarmReport, warm
from oddswire.cache._l1 import L1, Item
from oddswire.cache._l2 import L2, Lifetime
from oddswire.cache._loader import Loader
from oddswire.cache._namespaces import Namespaces
from oddswire.cache._record import check_version
from oddswire.cache._servers import CacheServer, OneServer, SlotMoved
from oddswire.cache._size_limit import SizeLimiter
from oddswire.cache._tags import TagVersions
from oddswire.cache._tracking import TrackingConnection
from oddswire.cache.decorator import (
    Cached,
    Template,
    check_template,
    one_argument,
    returned_type,
    tag_templates,
)
from oddswire.cache.entry import Entry, EntryOptions, LoadRequest
from oddswire.cache.namespace import MAX_BYTES, check_ttl
from oddswire.cache.statistics import CacheStats, total
from oddswire.client import keyspace
from oddswire.clock import SystemClock
from oddswire.connection.loop_guard import LoopGuard
from oddswire.errors import (
    AuthFailed,
    ClosedError,
    InvalidationNotConfirmed,
    InvalidKey,
    NoPermission,
    NotOnCluster,
    OddswireError,
    SettingsError,
    WrongLoop,
)
from oddswire.events import Degradation
from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from oddswire.cache._namespaces import CacheKey
    from oddswire.cache._servers import Servers
    from oddswire.cache.namespace import Namespace
    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.erasure import Erased

A = TypeVar("A")
T = TypeVar("T")
D = TypeVar("D")
E = TypeVar("E")
R = TypeVar("R")
P = ParamSpec("P")

_MIB = 1024 * 1024
_STORED_AT_ONCE = 100
# Of a connection, which takes 4,096 calls at a time: each load has some of them.
_LOADED_AT_ONCE = 1_000
_MAX_HOT = 2_000
_NAMED = 3
# How often a slot may move while one value is stored there.
_MOVES = 3
_MAX_TOUCHED = 1_000
# Options that are seconds, and whether 0 is one of them.
_DURATIONS = {
    "ttl": False,
    "stale": True,
    "negative_ttl": True,
    "max_age": True,
    "soft_timeout": True,
    "hard_timeout": False,
}
_OPTIONS = frozenset(EntryOptions.__annotations__)


class Cache:
    """Two tiers, coherent across processes, fenced, loaded once. ``async with``.

    A key is ``namespace:rest``. Values in memory are shared between their readers: do
    not change them. Reading raises when Redis cannot be asked; `get_or_set` then loads
    without it.

    Args:
        client: Whose server. It stays yours to close.
        namespaces: What is declared; other names get the defaults.
        prefix: What every key in Redis begins with; None: as the client's settings say.
        ttl: Seconds for which a value is fresh, where nothing else says.
        l1_bytes: Memory of this process, at most; 0 keeps nothing here.
        timeout: Seconds for one call of Redis.
        coherence: Seconds for which memory is believed after a proof that it is right.
        heartbeat: Seconds between proofs, while memory is read.
        load_lease: Seconds after which the load of a process that died is taken over.
        max_load: Seconds after which a loader is given up.
        compress_above: Values of more bytes are compressed, if that saves a tenth.
        max_size: Bytes of all entries in Redis; what was not used for longest goes.
        fallback: ``"pubsub"``: writes are published too, for processes that are refused
            CLIENT TRACKING. All must have it. Memory there may be 5 s and a heartbeat
            behind what is written by other means. ``"off"``: no memory there.
        clock: The time.

    Raises:
        SettingsError: An argument is out of range.
        InvalidKey: A namespace is declared twice, or its name has a colon.
        TypeError: msgspec does not support the type of a namespace.
        NotOnCluster: `fallback` on a cluster.
    """

    def __init__(
        self,
        client: Client,
        namespaces: Iterable[Namespace] = (),
        *,
        prefix: str | None = None,
        ttl: float = 300.0,
        l1_bytes: int = 64 * _MIB,
        timeout: float = 0.05,
        coherence: float = 2.0,
        heartbeat: float = 0.5,
        load_lease: float = 5.0,
        max_load: float = 60.0,
        compress_above: int = 1024,
        max_size: int = 1024 * _MIB,
        fallback: Literal["off", "pubsub"] = "off",
        clock: Clock | None = None,
    ) -> None:
        for name, seconds in (
            ("ttl", ttl),
            ("timeout", timeout),
            ("coherence", coherence),
            ("heartbeat", heartbeat),
            ("load_lease", load_lease),
            ("max_load", max_load),
        ):
            check_ttl(name, seconds)
        check_int("l1_bytes", l1_bytes, 0, MAX_BYTES, SettingsError)
        check_int("compress_above", compress_above, 0, MAX_BYTES, SettingsError)
        check_int("max_size", max_size, 1, MAX_BYTES, SettingsError)
        if heartbeat >= coherence:
            raise SettingsError(
                f"heartbeat {shown(heartbeat)}: less than coherence, {shown(coherence)}"
            )
        if fallback not in ("off", "pubsub"):
            raise SettingsError(f"fallback {shown(fallback)}: 'off' or 'pubsub'")
        clock = clock or SystemClock()
        self._now = clock.boottime
        self._ttl = ttl
        self._loop_guard = LoopGuard()
        space = keyspace(client, prefix)
        if client.is_cluster and fallback == "pubsub":
            raise NotOnCluster(
                "fallback='pubsub' is of one server: on a cluster no order is known "
                "between the messages of different nodes"
            )
        self._l1 = L1(l1_bytes)
        self._items = self._l1.items
        client = client.reading_from("primary")
        self._hot = HotKeys(client.bounded(timeout), space)
        lease: dict[str, Any] = {
            "length": coherence,
            "heartbeat": heartbeat,
            "uses": self._count_uses,
            "warm_keys": self._warm_keys,
            "forget": self._l1.clear,
            "remember": lambda: self._hot.remember(list(self._items.values())),
        }
        self._servers: Servers
        if client.is_cluster:
            # Imported where it is used: most programs have one server.
            cluster = import_module("oddswire.cache._cluster")
            self._servers = cluster.servers_of(client, timeout, space, clock, lease)
        else:
            channel = space.key(keys.CACHE_CHANGES) if fallback == "pubsub" else ""
            connection = TrackingConnection(client, timeout, channel)
            self._servers = OneServer(
                CacheServer(
                    connection,
                    CoherenceLease(connection, client, space, clock, **lease),
                )
            )
        self._namespaces = Namespaces(
            space, namespaces, compress_above, self._servers.slot
        )
        self._tags = TagVersions(self._servers, self._namespaces, space, clock)
        self._size_limit = SizeLimiter(client, space, max_size)
        self._l2 = L2(
            self._servers,
            self._l1,
            self._tags,
            clock,
            size_limit=self._size_limit,
            lease=load_lease,
            max_load=max_load,
        )
        self._loader = Loader(
            self._l1,
            self._l2,
            self._tags,
            clock,
            coherence=coherence,
            lease=load_lease,
            max_load=max_load,
            degraded=Degradation(client.events, "cache", "bypassed", clock.boottime),
        )
        self._servers.listen(self._namespaces.entries_prefix, self._on_entry)
        self._servers.listen(self._namespaces.leases_prefix, self._on_lease)
        self._servers.on_moved(self._on_moved)
        self._batchers: list[Batcher] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    # --- its life

    async def __aenter__(self) -> Self:
        if self._closed or self._tasks:
            raise ClosedError("a Cache is used once; make another")
        self._loop_guard.check()
        # While Redis is away, the task of the lease does this as soon as it is there.
        try:
            await self._servers.start(timeout=2.0)
        except BaseException as error:
            if not isinstance(error, OddswireError) or isinstance(
                error, (AuthFailed, NoPermission, WrongLoop)
            ):
                # Also when it is cancelled: no block will be left.
                await self._servers.aclose()
                raise
            self._servers.want()
        self._tasks = [
            *(spawn(each, name="oddswire cache") for each in self._servers.work()),
            spawn(self._size_limit.run(), name="oddswire cache size"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        try:
            for batcher in self._batchers:
                await batcher.aclose()
            await self._loader.aclose()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            await self._servers.aclose()

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("the cache was closed")

    # --- reading

    @overload
    async def get(self, key: str, default: D, *, type: type[T]) -> T | D: ...
    @overload
    async def get(self, key: str, *, type: type[T]) -> T | None: ...
    @overload
    async def get(self, key: str, default: Any = None) -> Any: ...
    async def get(
        self,
        key: str,
        default: Any = None,
        *,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> Any:
        """Return a fresh value, or `default`.

        Args:
            key: ``namespace:rest``.
            default: Returned where there is none, or a stale one.
            type: What it is; default: the namespace's.

        Raises:
            InvalidKey: The key is not of that form.
            OddswireError: Redis could not be asked. That is not "absent".
        """
        # As `_hit`, but here: a call would be a fifth of it.
        try:
            item = self._items[key]
        except (KeyError, TypeError):
            pass  # a list, which is no key, is named below
        else:
            if (type is item.asked_type or type is item.value_type) and (
                (
                    item.generation is self._tags.generation
                    and self._now() < item.valid_until
                )
                or self._is_valid(item)
            ):
                if item.uses < 3:
                    item.uses += 1
                item.counters.l1_hits += 1
                return item.value
        cache_key = self._namespaces.key(key)
        value_type = self._value_type(cache_key, type)
        if key in self._items:
            known = self._loader.peek(key, value_type)
            if known is not None:
                return known.value if self._now() < known.fresh_until else default
        found = await self._l2.fetch(cache_key, value_type)
        return found.item.value if found.item and found.fresh else default

    def _hit(self, key: str, type: Any = None) -> Item | None:  # noqa: A002 - as in `get`
        """Return an entry of memory that needs no decision, counted as a hit."""
        try:
            item = self._items.get(key)
        except TypeError:
            return None  # a list, which is no key, is named where it is asked for
        if (
            item is not None
            and (type is item.asked_type or type is item.value_type)
            and (
                (
                    item.generation is self._tags.generation
                    and self._now() < item.valid_until
                )
                or self._is_valid(item)
            )
        ):
            if item.uses < 3:
                item.uses += 1
            item.counters.l1_hits += 1
            return item
        return None

    def _is_valid(self, item: Item) -> bool:
        """Whether an item needs no decision; noted in it, for the next lookups."""
        valid_until = min(item.early_refresh_at, self._servers.until(item.stamps))
        if self._now() >= valid_until or not item.lives():
            return False
        # `lives` makes an item stale that was softly invalidated.
        item.generation = self._tags.generation
        item.valid_until = min(valid_until, item.early_refresh_at)
        return self._now() < item.valid_until

    def peek(self, key: str, default: Any = None) -> Any:
        """Return a fresh value if this process has it, without asking Redis.

        Raises:
            InvalidKey: The key is not of the form ``namespace:rest``.
        """
        item = self._items.get(key) if isinstance(key, str) else None
        if item is None:
            self._namespaces.key(key)
            return default
        now = self._now()
        until = min(self._servers.until(item.stamps), item.fresh_until)
        if now >= until or not item.lives():
            return default
        item.counters.l1_hits += 1
        item.use()
        return item.value

    async def get_entry(
        self,
        key: str,
        *,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> Entry | None:
        """Return a value with what is known of it, stale ones too; None: there is none.

        Raises:
            InvalidKey: The key has the wrong form.
            OddswireError: Redis could not be asked.
        """
        cache_key = self._namespaces.key(key)
        value_type = self._value_type(cache_key, type)
        item = in_memory = self._loader.peek(key, value_type)
        if item is None:
            item = (await self._l2.fetch(cache_key, value_type)).item
        if item is None:
            return None
        now = self._now()
        return Entry(
            value=item.value,
            tier="l1" if in_memory else "l2",
            stale=item.fresh_until <= now,
            age=max(0.0, now - item.stored_at),
            ttl=item.fresh_until - now,
            version=item.details.version,
        )

    async def get_many(
        self,
        keys: Iterable[str],
        *,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> dict[str, Any]:
        """Return the fresh values of those keys that have one, in one trip.

        Raises:
            InvalidKey: A key has the wrong form.
            OddswireError: Redis could not be asked.
        """
        self._require_open()
        cache_keys = [self._namespaces.key(key) for key in _listed(keys)]
        found = await self._loader.find_many(
            cache_keys, [self._value_type(each, type) for each in cache_keys]
        )
        return {
            item.key: item.value
            for item, _ in found
            if item is not None and self._now() < item.fresh_until
        }

    # --- loading

    @overload
    async def get_or_set(
        self,
        key: str,
        loader: Callable[..., Awaitable[T]],
        *,
        tags: Iterable[str] = (),
        **options: Unpack[EntryOptions],
    ) -> T: ...
    @overload
    async def get_or_set(
        self,
        key: str,
        loader: Callable[..., T],
        *,
        tags: Iterable[str] = (),
        **options: Unpack[EntryOptions],
    ) -> T: ...
    async def get_or_set(
        self,
        key: str,
        loader: Callable[..., Any],
        *,
        tags: Iterable[str] = (),
        **options: Unpack[EntryOptions],
    ) -> Any:
        """Return a value, loading it where there is none.

        One load at a time for a key in all processes; a caller that comes meanwhile
        waits for it. A stale value serves at once and is refreshed behind the caller's
        back. Where Redis cannot be asked, each process loads by itself and keeps the
        value for as long as memory would be believed.

        Args:
            key: ``namespace:rest``.
            loader: Returns the value, or an awaitable of it. One with a parameter gets
                a `LoadContext`. It runs on the event loop, so it must not block.
            tags: At most 16; invalidating one of them invalidates this entry.
            **options: See `EntryOptions`.

        Raises:
            InvalidKey: The key or a tag has the wrong form, or there are too many tags.
            SettingsError: A duration or the version is out of range.
            CacheLoadTimeout: It took longer than `hard_timeout`.
            CodecError: What was loaded is not of the type, or too large.
            Exception: What the loader raised.
        """
        if not options:
            item = self._hit(key)
        elif not options.keys() <= _OPTIONS:
            raise _no_such_option(options)
        else:
            # With a `max_age` every hit needs a decision.
            too_old = options.get("max_age") is not None
            item = None if too_old else self._hit(key, options.get("type"))
        if item is not None:
            return item.value
        self._require_open()
        request = self._request(key, loader, tags, **options)
        return (await self._loader.load(request)).value

    async def refresh(
        self,
        key: str,
        loader: Callable[..., Any],
        *,
        tags: Iterable[str] = (),
        **options: Unpack[EntryOptions],
    ) -> Any:
        """Load a value now, also where there is one, and return it.

        For when the source is known to have changed. What is there serves others until
        then, and stays if the loader fails. Loads of this key that began before, in any
        process, will not be stored. The value itself is fenced as any load's: what was
        invalidated meanwhile, or refreshed by another call, is returned and not stored.
        Cancelled, nothing is stored.

        Args:
            key: ``namespace:rest``.
            loader: As for `get_or_set`, like all that follow. It gets no old value.
            tags: Likewise.
            **options: Likewise.

        Raises:
            InvalidKey: The key or a tag has the wrong form, or there are too many tags.
            SettingsError: A duration or the version is out of range.
            CacheLoadTimeout: It took longer than `hard_timeout`.
            CodecError: What was loaded is not of the type, or too large.
            OddswireError: Redis could not be asked, and the loader was not called; or
                it did not confirm the value, which may be stored.
            Exception: What the loader raised.
        """
        self._require_open()
        request = self._request(key, loader, tags, **options)
        return (await self._loader.reload(request)).value

    async def get_or_set_many(
        self,
        keys: Iterable[str],
        batch_loader: Callable[[list[str]], Awaitable[Mapping[str, T | Exception]]],
        *,
        tags: Callable[[str], Iterable[str]] | Iterable[str] = (),
        **options: Unpack[EntryOptions],
    ) -> dict[str, T]:
        """Return the values of all keys, loading by one call those that are missing.

        Each key is loaded once in the fleet and fenced, as by `get_or_set`.

        Args:
            keys: Each ``namespace:rest``; of more than 1,000, so many at a time.
            batch_loader: Called with the keys that this process has to load; one that
                it leaves out has the value None, and one to which it gives an
                `Exception` failed with it: nothing is stored for that key.
            tags: Of all, or a function from the key to its tags. Not from the value:
                a tag that was invalidated while it loaded would not be noticed.
            **options: See `EntryOptions`.

        Raises:
            Exception: What the loader raised or gave, of several the first; and as
                `get_or_set`.
        """
        found = await self._obtain_many(keys, batch_loader, tags, options)
        for each in found.values():
            if isinstance(each, Exception):
                raise each
        return found

    async def _obtain_many(
        self,
        keys: Iterable[str],
        batch_loader: Callable[[list[str]], Awaitable[Mapping[str, Any]]],
        tags: Callable[[str], Iterable[str]] | Iterable[str],
        options: EntryOptions,
    ) -> dict[str, Any]:
        """Do what `get_or_set_many` does; what failed has its exception as value."""
        self._require_open()
        check_function("batch_loader", batch_loader, TypeError)
        found: dict[str, Any] = {}
        for names in _portions(_listed(keys), _LOADED_AT_ONCE):
            batch, requests = self._batch(names, batch_loader, tags, options)
            for key, item in (await batch.obtain(requests)).items():
                found[key] = item if isinstance(item, Exception) else item.value
        return found

    async def refresh_many(
        self,
        keys: Iterable[str],
        batch_loader: Callable[[list[str]], Awaitable[Mapping[str, Any]]],
        *,
        tags: Callable[[str], Iterable[str]] | Iterable[str] = (),
        **options: Unpack[EntryOptions],
    ) -> dict[str, Any]:
        """Load many values now by one call, also those that are there, and return them.

        Each key goes the way of `refresh`, with the same fence. Cancelled, nothing is
        stored but what another caller waits for.

        Args:
            keys: Each ``namespace:rest``; of more than 1,000, so many at a time.
            batch_loader: Called with all of them; a key that it leaves out has the
                value None.
            tags: As for `get_or_set_many`.
            **options: See `EntryOptions`.

        Raises:
            Exception: What the loader raised, and as `refresh`; of several, the first.
        """
        self._require_open()
        check_function("batch_loader", batch_loader, TypeError)
        found: dict[str, Any] = {}
        for names in _portions(_listed(keys), _LOADED_AT_ONCE):
            batch, requests = self._batch(names, batch_loader, tags, options)

            async def one(request: LoadRequest, batch: BatchLoad = batch) -> Any:
                try:
                    return (await self._loader.reload(request)).value
                finally:
                    batch.resolve(request.key.name)

            values = await asyncio.gather(*map(one, requests), return_exceptions=True)
            found |= zip(names, values, strict=True)
        for value in found.values():
            if isinstance(value, BaseException):
                raise value
        return found

    def _batch(
        self,
        names: Sequence[str],
        batch_loader: Callable[[list[str]], Awaitable[Mapping[str, Any]]],
        tags: Callable[[str], Iterable[str]] | Iterable[str],
        options: EntryOptions,
    ) -> tuple[BatchLoad, list[LoadRequest]]:
        batch = BatchLoad(batch_loader, names, self._loader)
        return batch, [
            self._request(
                key,
                functools.partial(batch.load, key),
                tags(key) if callable(tags) else tags,
                **options,
            )._replace(on_elsewhere=functools.partial(batch.resolve, key))
            for key in names
        ]

    def batched(
        self,
        batch_loader: Callable[[list[A]], Awaitable[Mapping[A, T | Exception]]],
        *,
        key: str,
        max_batch: int = 100,
        tags: Iterable[str] = (),
        **options: Unpack[EntryOptions],
    ) -> Callable[[A], Awaitable[T]]:
        """Return a function of one argument that loads what is asked for together.

        Calls within one turn of the loop become one call of `get_or_set_many`.

        Args:
            batch_loader: Called with arguments; returns values by argument, and an
                `Exception` for one that failed: only its callers get it.
            key: With one field, for the argument: ``"market:{market_id}"``.
            max_batch: Arguments of one call, 1 to 1,000.
            tags: Templates with the same field.
            **options: See `EntryOptions`.

        Raises:
            InvalidKey: The key has no field, or several; or a tag is none.
            SettingsError: `max_batch` or a duration is out of range.
        """
        takes = one_argument(key)
        template, templates = Template(key, takes), tag_templates(tags, takes)
        check_function("batch_loader", batch_loader, TypeError)
        check_int("max_batch", max_batch, 1, _LOADED_AT_ONCE, SettingsError)
        _check_options(options)

        async def obtain(arguments: dict[str, A]) -> dict[str, Any]:
            async def load(keys: list[str]) -> dict[str, T | Exception]:
                values: Any = batch_loader([arguments[each] for each in keys])
                if inspect.isawaitable(values):
                    values = await values
                if not isinstance(values, Mapping):
                    raise TypeError(
                        "a batch loader returns a dict of values by argument, not "
                        f"{shown(values)}"
                    )
                return {
                    each: values[arguments[each]]
                    for each in keys
                    if arguments[each] in values
                }

            def tagged(name: str) -> list[str]:
                return [each.fill((arguments[name],), {}) for each in templates]

            return await self._obtain_many(arguments, load, tagged, options)

        batcher = Batcher(
            obtain, lambda argument: template.fill((argument,), {}), max_batch
        )
        self._batchers.append(batcher)
        return batcher

    def cached(
        self, *, key: str, tags: Iterable[str] = (), **options: Unpack[EntryOptions]
    ) -> Callable[[Callable[P, Awaitable[R]]], Cached[P, R]]:
        """Cache what an async function returns; it keeps its signature and types.

        Args:
            key: With the function's parameters in braces: ``"market:{market_id}"``.
            tags: Likewise.
            **options: See `EntryOptions`. Where neither this nor the namespace says a
                type, it is the one that the function's annotation names.

        Returns:
            A decorator; what it makes also has `invalidate`, `refresh`, `peek` and
            `prime`.

        Raises:
            InvalidKey: A template names what is no parameter.
            SettingsError: A duration is out of range.
        """
        _check_options(options)
        check_template(key)

        def decorate(function: Callable[P, Awaitable[R]]) -> Cached[P, R]:
            namespace = self._namespaces.named(key.partition(":")[0])
            value_type = options.get("type") or namespace.config.type
            if value_type is Any:
                value_type = returned_type(function) or Any
            try:
                namespace.codec(value_type)
            except TypeError as error:
                raise TypeError(
                    f"{key}: {error}: say what the function returns, as in "
                    "cached(key=..., type=dict)"
                ) from None
            return Cached(
                self,
                self._hit,
                function,
                key,
                tags,
                {**options, "type": value_type},
            )

        return decorate

    # --- warming

    async def warm(
        self,
        items: Iterable[tuple[str, Callable[..., Any]]],
        *,
        concurrency: int = 8,
        **options: Any,
    ) -> WarmReport:
        """Load what is missing before a caller asks; one failure stops no other load.

        Args:
            items: (key, loader).
            concurrency: Loads at a time.
            **options: As for `get_or_set`.

        Raises:
            SettingsError: `items` are no pairs, or a number is out of range.
        """
        self._require_open()
        _check_options(options, also={"tags"})
        return await warm(self.get_or_set, items, concurrency, options)

    async def warm_hot(
        self,
        namespace: str,
        loader: Callable[[str], Any] | None = None,
        *,
        limit: int = 500,
        concurrency: int = 8,
        **options: Any,
    ) -> WarmReport:
        """Bring the hottest keys of a namespace into this process before a reader asks.

        Processes remember once a minute what they use most, for a day. What is still in
        Redis is read; what is not there is loaded, once in all processes.

        Args:
            namespace: Which.
            loader: Called with the key of what is missing; None: leave it missing.
            limit: So many keys, at most 2,000 are remembered.
            concurrency: Keys at a time.
            **options: `tags`, and `EntryOptions`.

        Raises:
            InvalidKey: Not the name of a namespace.
            SettingsError: A number is out of range.
            OddswireError: Redis could not be asked what is hot.
        """
        self._require_open()
        self._namespaces.named(namespace)  # it has to be one
        check_int("limit", limit, 1, _MAX_HOT, SettingsError)
        _check_options(options, also={"tags"})

        async def obtain(key: str, load: Callable[[], Any], **how: Any) -> None:
            if loader is not None:
                await self._loader.load(self._request(key, load, **how))
            elif await self.get_entry(key) is None:
                raise LookupError(f"{key}: not there any more")

        hottest = await self._hot.of(namespace, limit)
        return await warm(
            obtain,
            [(key, functools.partial(loader or _nothing, key)) for key in hottest],
            concurrency,
            options,
        )

    # --- writing

    async def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
        version: int | None = None,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> bool:
        """Store a value; False: a newer version is stored, and stays.

        A load of this key that is under way will not be stored. Cancelled, it may be
        stored or not.

        Raises:
            InvalidKey: The key or a tag has the wrong form.
            SettingsError: A duration or the version is out of range.
            CodecError: Not a value of the type, or too large; nothing was stored.
            OddswireError: Redis did not confirm it; by `outcome`, it may be stored.
        """
        self._require_open()
        if version is not None:
            check_version(version)
        request = self._request(
            key, _nothing, tags, ttl=ttl, stale=stale, version=version, type=type
        )
        for _ in range(_MOVES):
            with suppress(SlotMoved):
                return await self._put(request, value, version)
        try:
            return await self._put(request, value, version)
        except SlotMoved as error:
            raise error.raised() from None

    async def _put(self, request: LoadRequest, value: Any, version: int | None) -> bool:
        key = request.key
        snapshot = await self._tags.snapshot(
            key, request.tags, request.ttl + request.stale
        )
        server = await self._servers.find(key.slot)
        await server.coherence.ensure_current()
        lifetime = Lifetime(request.ttl, request.stale, version)
        item, data, life = self._l2.pack(request, value, lifetime, snapshot)
        self._forget(key.name)
        try:
            return await self._l2.put(key, item, data, life)
        finally:
            # Once this has returned, no caller may join a load that began before.
            self._loader.kill(key.name)

    async def set_many(
        self,
        mapping: Mapping[str, Any],
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
    ) -> None:
        """Store values, in one trip for each 100 of them.

        Each value has the time of a `set`, and the event loop runs between two trips.
        Cancelled, some may be stored.

        Raises:
            TypeError: The mapping is none.
            ExceptionGroup: Of what `set` raised for some; the message names the first
                keys, each exception has its key as a note, the others are stored.
        """
        if not isinstance(mapping, Mapping):
            raise TypeError(
                f"mapping must be a dict of values by key, not {shown(mapping)}"
            )
        tags, items = tuple(tags), list(mapping.items())
        failed: dict[str, Exception] = {}
        for first in range(0, len(items), _STORED_AT_ONCE):
            some = items[first : first + _STORED_AT_ONCE]
            results = await asyncio.gather(
                *(
                    self.set(key, value, ttl=ttl, tags=tags, stale=stale)
                    for key, value in some
                ),
                return_exceptions=True,
            )
            for (key, _), result in zip(some, results, strict=True):
                if isinstance(result, Exception):
                    result.add_note(f"key {plain(key)}")
                    failed[key] = result
        if failed:
            named = ", ".join(map(plain, list(failed)[:_NAMED]))
            more = ", ..." if len(failed) > _NAMED else ""
            raise ExceptionGroup(
                f"{len(failed)} of {len(items)} not stored: {named}{more}",
                list(failed.values()),
            )

    # --- invalidating

    async def delete(self, *keys: str) -> int:
        """Delete entries; how many there were.

        From when it returns, no `get` of this process sees an older value; another
        process, within the bounds of guides/cache.md. Loads that are under way are not
        stored.

        Raises:
            InvalidKey: A key has the wrong form; nothing was deleted.
            InvalidationNotConfirmed: It is not certain that all were deleted.
        """
        return await self._invalidate_each(keys, soft=False)

    async def expire(self, *keys: str) -> int:
        """Make entries stale, so that their next use refreshes them; how many.

        Raises:
            InvalidKey: A key has the wrong form; nothing was changed.
            InvalidationNotConfirmed: It is not certain that all were.
        """
        return await self._invalidate_each(keys, soft=True)

    async def _invalidate_each(self, names: tuple[str, ...], *, soft: bool) -> int:
        self._require_open()
        cache_keys = [self._namespaces.key(name) for name in names]
        for key in cache_keys:
            key.namespace.counters.invalidations += 1
            self._forget(key.name)
        results: list[bool | BaseException] = []
        for some in _portions(cache_keys, _LOADED_AT_ONCE):
            results += await asyncio.gather(
                *(self._l2.invalidate(key, soft=soft) for key in some),
                return_exceptions=True,
            )
        for key in cache_keys:
            self._forget(key.name)
        with _confirming():
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        return results.count(True)

    async def invalidate_tags(self, *tags: str, soft: bool = False) -> None:
        """Invalidate every entry that carries one of the tags.

        One command; its cost does not depend on how many entries there are.

        Args:
            *tags: Which.
            soft: As by `expire`: the entries are stale, and may serve while they are
                refreshed, or because that fails. What was loading is stale as well.

        Raises:
            InvalidKey: A tag has the wrong form.
            InvalidationNotConfirmed: It is not certain that it was done.
        """
        self._require_open()
        digests = [digest for tag in tags for digest in self._tags.digests((tag,))]
        if not digests:
            return
        with _confirming():
            await self._tags.invalidate(digests, soft=soft)

    async def clear(self, namespace: str) -> None:
        """Invalidate every entry of a namespace, at the cost of one command.

        Raises:
            InvalidKey: Not the name of a namespace.
            InvalidationNotConfirmed: It is not certain that it was done.
        """
        self._require_open()
        state = self._namespaces.named(namespace)
        state.counters.invalidations += 1
        with _confirming():
            await self._tags.clear(state)

    async def erase(self, user_id: int) -> Erased:
        """Invalidate every entry that carries the tag ``user:<id>``, and look again.

        No process reads them from when the bounds of guides/cache.md are over; their
        bytes are in Redis until the time of each is.

        Raises:
            InvalidKey: Not the id of a user.
            InvalidationNotConfirmed: It is not certain that it was done.
        """
        self._require_open()
        check_user(user_id, InvalidKey)
        with _confirming():
            return await self._tags.erase(f"user:{user_id}")

    def _forget(self, key: str) -> None:
        self._l1.drop(key)
        self._loader.kill(key)

    # --- what is asked for

    def _value_type(self, key: CacheKey, value_type: Any) -> Any:
        """Return the type of a value: as asked, or the namespace's.

        Raises:
            TypeError: msgspec does not support the type.
        """
        if value_type is None:
            return key.namespace.config.type
        # Here, for in the parser an exception would close the connection.
        key.namespace.codec(value_type)
        return value_type

    def _request(
        self,
        key: str,
        loader: Callable[..., Any],
        tags: Iterable[str] = (),
        **options: Unpack[EntryOptions],
    ) -> LoadRequest:
        """Return what a caller asks for, checked.

        Raises:
            InvalidKey: The key or a tag has the wrong form.
            SettingsError: A duration or the version is out of range.
            TypeError: The loader is not callable, or there is no such option.
        """
        cache_key = self._namespaces.key(key)
        if not callable(loader):
            raise TypeError(
                f"loader must be a function that returns the value, not {shown(loader)}"
            )
        config = cache_key.namespace.config
        if options:
            _check_options(options)
        stale, negative_ttl = options.get("stale"), options.get("negative_ttl")
        return LoadRequest(
            cache_key,
            loader,
            self._value_type(cache_key, options.get("type")),
            options.get("ttl") or config.ttl or self._ttl,
            config.stale if stale is None else stale,
            config.negative_ttl if negative_ttl is None else negative_ttl,
            self._tags.digests(tags) if tags else (),
            options.get("version"),
            options.get("max_age"),
            options.get("soft_timeout"),
            options.get("hard_timeout"),
        )

    # --- called by the parser, and by the parts

    def _on_entry(self, name: bytes, expected: Item | None, /, *, own: bool) -> None:
        key = self._namespaces.key_of(name, self._namespaces.entries_prefix)
        if own and expected is not None:
            self._l1.put(expected)
        else:
            item = self._items.get(key)
            if item is not None:
                item.counters.invalidated += 1
                self._l1.drop(key)
        self._loader.changed(key)

    def _on_moved(self, slots: frozenset[int]) -> None:
        """Other servers have these slots: what they change is told by others."""
        for name in [name for name, item in self._items.items() if item.slot in slots]:
            self._l1.drop(name)

    def _on_lease(self, name: bytes, _: object, /, *, own: bool) -> None:
        if not own:
            prefix = self._namespaces.leases_prefix
            self._loader.lost_lease(self._namespaces.key_of(name, prefix))

    def _count_uses(self) -> int:
        return sum(each.counters.l1_hits for each in self._namespaces.by_name.values())

    def _warm_keys(self) -> list[str]:
        """Return the Redis keys behind memory: to the server they look unused."""
        used = [key for key, item in self._items.items() if item.uses][:_MAX_TOUCHED]
        return self._tags.warm_keys() + [
            self._namespaces.key(key).entry for key in used
        ]

    # --- looking at it

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The names of the namespaces in use."""
        return tuple(self._namespaces.by_name)

    def stats(self, namespace: str | None = None) -> CacheStats:
        """Return what was counted, of one namespace or of all."""
        if namespace is None:
            states = list(self._namespaces.by_name.values())
        else:
            states = [self._namespaces.named(namespace)]
        connections = [each.connection for each in self._servers.all]
        return total(
            [state.counters for state in states],
            l1_entries=len(self._items),
            l1_bytes=self._l1.used,
            l1_evicted=self._l1.evicted,
            l2_evicted=self._size_limit.evicted,
            coherence=(
                "off"
                if self._servers.untracked
                else "pubsub"
                if any(each.by_pubsub for each in connections)
                else "tracking"
            ),
            generations=self._servers.epoch,
        )


def _check_options(
    options: EntryOptions | dict[str, Any], also: AbstractSet[str] = frozenset()
) -> None:
    """Refuse options that are out of range, and unknown ones.

    Raises:
        SettingsError: A duration or the version is out of range.
        TypeError: There is no such option.
    """
    if not options.keys() <= _OPTIONS | also:
        raise _no_such_option(options)
    for name, value in options.items():
        if value is None:
            continue
        if name in _DURATIONS:
            check_ttl(name, value, zero=_DURATIONS[name])
        elif name == "version" and not callable(value):
            check_version(value)


def _listed(keys: Iterable[str]) -> list[str]:
    """Return keys, each once.

    Raises:
        InvalidKey: One text, or no list at all.
    """
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise InvalidKey(f"{shown(keys)} is not a list of keys; for one, call get(key)")
    try:
        return list(dict.fromkeys(keys))
    except TypeError:
        raise InvalidKey("a key in the list is no text") from None


def _portions(items: Sequence[E], size: int) -> Iterator[Sequence[E]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _no_such_option(options: Iterable[str]) -> TypeError:
    wrong = ", ".join(sorted(map(repr, set(options) - _OPTIONS - {"tags"})))
    return TypeError(
        f"there is no option {wrong}; there are tags, {', '.join(sorted(_OPTIONS))}"
    )


@contextmanager
def _confirming() -> Iterator[None]:
    """Turn what Redis fails with into the error of an invalidation."""
    try:
        yield
    except OddswireError as error:
        raise InvalidationNotConfirmed(
            f"not confirmed by Redis: {error}; this process has forgotten it, others "
            "may serve it until its time is over",
            outcome=error.outcome,
        ) from error


def _nothing(*_: object) -> None:
    return None
