"""`Wire`: the parts of the library, opened and closed in order."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Generic, Self, Unpack

import msgspec

from oddswire._numbers import shown
from oddswire.cache import Cache, CacheStats, Namespace
from oddswire.client import Client, ClientStats
from oddswire.clock import SystemClock
from oddswire.codec import Codec, Keyring
from oddswire.embedded import EmbeddedServer
from oddswire.erasure import Receipt
from oddswire.errors import ClosedError, QueueError, SettingsError
from oddswire.events import Events
from oddswire.health import Bound, Health, Status, Thresholds, Verdict
from oddswire.locks import Locks, LockStats
from oddswire.logs import log_events, log_line
from oddswire.metrics import Metrics
from oddswire.plain import plain
from oddswire.pubsub import PubSub, PubSubStats, Topic
from oddswire.queue import Queue, QueueKey, QueueStats
from oddswire.ratelimit import LimiterStats, RateLimiter, Rule, SlidingWindow
from oddswire.sessions import (
    Record,
    SealedSource,
    Session,
    Sessions,
    SessionStats,
    Source,
)
from oddswire.settings import Settings, is_example_key, not_a_setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    # Of the type checker alone: a parameter with a default, before Python 3.13.
    from typing_extensions import TypeVar

    from oddswire.erasure import Erased
    from oddswire.locks import Lock
    from oddswire.settings import Overrides

    S = TypeVar("S", bound=Record, default=Session)
    M = TypeVar("M", default=Any)
else:
    from typing import TypeVar

    S = TypeVar("S", bound=Record)
    M = TypeVar("M")

T = TypeVar("T")

_log = logging.getLogger("oddswire.wire")


_COMPRESS_ABOVE = 256
_SESSION_BYTES = 1024 * 1024


def connect(
    settings: Settings | None = None,
    *,
    session: type[S] = Session,  # type: ignore[assignment]
    source: Source | None = None,
    keyring: Keyring | None = None,
    namespaces: Iterable[Namespace] = (),
    topics: Iterable[Topic[Any]] = (),
    rules: Iterable[Rule] = (),
    queue: type[M] | None = None,
    queues: Iterable[QueueKey[Any]] = (),
    **overrides: Unpack[Overrides],
) -> Wire[S, M]:
    """Return a `Wire`; entering it connects.

    Args:
        settings: Where and how; they are used as they are. Default: what
            `Settings.from_env` finds in the environment and in ``.env``, a small file
            that is read at once. Without a URL, development and test start a server of
            their own for as long as the wire is open.
        session: The type of the sessions.
        source: Of record, where sessions are kept for good; see docs/guides/source.md.
        keyring: Seals the sessions; default: the settings' key, where
            `session_encryption` asks for it.
        namespaces: Of the cache.
        topics: Those that may be published and subscribed to; none: any.
        rules: Of the rate limiter, beside ``default``: `Settings.rate_limit_requests`
            in `Settings.rate_limit_window` for each ``user``, unless it is among them.
        queue: The type of the messages of `Wire.queue`; None: there is none.
        queues: The queues of `Wire.queues`.
        **overrides: Fields of `Settings` that replace those of `settings` or of the
            environment. With `url` nothing that completes a URL (user, password,
            database, sentinels) is taken from the environment.

    Raises:
        SettingsError: A setting or an argument is wrong; the message names it.

    Example:
        >>> async with oddswire.connect(url="redis://localhost:6379") as wire:
        ...     await wire.client.set("greeting", "hello")
    """
    if settings is None:
        settings = Settings.from_env(**overrides)
    elif not isinstance(settings, Settings):
        # Not repeated: it may be a URL with a password.
        raise SettingsError(
            f"settings must be oddswire.Settings, not {type(settings).__name__}: "
            "give a URL as connect(url=...)"
        )
    elif overrides:
        unknown = overrides.keys() - set(Settings.__struct_fields__)
        if unknown:
            raise SettingsError(*(not_a_setting(name) for name in sorted(unknown)))
        settings = msgspec.structs.replace(settings, **overrides)
    return Wire(
        settings,
        session=session,
        source=source,
        keyring=keyring,
        namespaces=namespaces,
        topics=topics,
        rules=rules,
        queue=queue,
        queues=queues,
    )


class WireStats(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of every part.

    Attributes:
        client: Of this process.
        cache: Of this process.
        limiter: Of this process.
        pubsub: Of this process.
        locks: Of this process.
        sessions: Of all processes, as Redis has them.
        queues: Of all processes, by the queue's name.
    """

    client: ClientStats
    cache: CacheStats
    limiter: LimiterStats
    pubsub: PubSubStats
    locks: LockStats
    sessions: SessionStats
    queues: dict[str, QueueStats]


class Queues:
    """The queues that `connect` was given, each by its key."""

    def __init__(self, queues: dict[QueueKey[Any], Queue[Any]]) -> None:
        self._queues = queues

    def __getitem__(self, key: QueueKey[T]) -> Queue[T]:
        """Return the queue of a key.

        Raises:
            QueueError: `connect` was not given this key.
        """
        queue = self._queues.get(key)
        if queue is None:
            raise QueueError(
                f"this Wire has no such queue: give connect(queues=[...]) the key "
                f"{getattr(key, 'name', key)!r}"
            )
        return queue

    def __iter__(self) -> Iterator[QueueKey[Any]]:
        return iter(self._queues)

    def __len__(self) -> int:
        return len(self._queues)


class Wire(Generic[S, M]):
    """Everything a process needs of Redis, behind one `async with`. Single use.

    ``Wire[UserSession, Greeting]`` is one whose sessions are `UserSession` and whose
    `queue` has `Greeting` messages. Before it is entered, its parts raise
    `ClosedError`.

    Attributes:
        settings: What it was opened with; with an embedded server, `url` is filled in.
        events: Where changes of state can be subscribed to, before it is entered too.
        client: The `Client`.
        health: Its `Health`; a server that the cache shares counts as durable.
        sessions: The `Sessions`.
        locks: The `Locks` of this process.
        cache: The `Cache`, on the server of `cache_url` where that is set.
        pubsub: The topics.
        limiter: The `RateLimiter`.
        queues: The queues that `connect` was given by `QueueKey`.
        metrics: What all parts count, and the last changes of state.
    """

    settings: Settings
    client: Client
    health: Health
    sessions: Sessions[S]
    locks: Locks
    cache: Cache
    pubsub: PubSub
    limiter: RateLimiter
    queues: Queues
    metrics: Metrics

    def __init__(
        self,
        settings: Settings,
        *,
        session: type[S] = Session,  # type: ignore[assignment]
        source: Source | None = None,
        keyring: Keyring | None = None,
        namespaces: Iterable[Namespace] = (),
        topics: Iterable[Topic[Any]] = (),
        rules: Iterable[Rule] = (),
        queue: type[M] | None = None,
        queues: Iterable[QueueKey[Any]] = (),
    ) -> None:
        _check_types(session, source, keyring, queue)
        self.settings = settings
        self._namespaces = _all_of("namespaces", namespaces, Namespace)
        self._topics: tuple[Topic[Any], ...] = _all_of("topics", topics, Topic)
        self._rules = _all_of("rules", rules, Rule)
        self._queue_type = queue
        self.events = Events()
        log_events(self.events)
        self._session = session
        self._source = source
        self._keyring = keyring
        self._stack = AsyncExitStack()
        self._opened = False
        self._queue: Queue[M] | None = None
        self._keys: tuple[QueueKey[Any], ...] = _all_of("queues", queues, QueueKey)
        _refuse_twice(self._keys, also=queue is not None)

    if not TYPE_CHECKING:

        def __class_getitem__(cls, params: Any) -> Any:
            # `Wire[UserSession]`, before Python 3.13 knows that M has a default.
            given = params if isinstance(params, tuple) else (params, Any)
            return super().__class_getitem__(given)

        def __getattr__(self, name: str) -> Any:
            # Asked for what is not there: a part, before it was opened.
            if name in Wire.__annotations__:
                raise ClosedError(
                    f"this Wire has no {name} yet: enter it, as in "
                    "`async with oddswire.connect() as wire`"
                )
            raise AttributeError(f"a Wire has no attribute {name!r}")

    @property
    def queue(self) -> Queue[M]:
        """The queue named ``messages``, of the type that `connect` was given.

        Raises:
            ClosedError: None was given, or the `Wire` was not entered yet.
        """
        if self._queue is None:
            raise ClosedError(
                "this Wire has no queue: give connect(queue=...) the type of its "
                "messages, and enter it"
            )
        return self._queue

    async def __aenter__(self) -> Self:
        if self._opened:
            raise ClosedError("a Wire is used once; call connect() for another")
        self._opened = True
        for warning in self.settings.warnings:
            log_line(_log, logging.WARNING, "settings_warning", reason=warning)
        # On failure or cancellation half way, what was opened is closed again.
        async with AsyncExitStack() as stack:
            if self.settings.url is None:
                server = await stack.enter_async_context(
                    EmbeddedServer(binary=self.settings.server_bin)
                )
                log_line(
                    _log,
                    logging.WARNING,
                    "embedded_server",
                    reason="no REDIS_URL: started a server of our own for this "
                    "process; its data ends with it",
                )
                self.settings = msgspec.structs.replace(
                    self.settings, url=server.url, password=None, database=None
                )
            self.client = Client.from_settings(self.settings, events=self.events)
            stack.push_async_callback(self.client.aclose)
            # Twice what a live link is silent for at most.
            quiet = 2 * (self.settings.heartbeat + self.settings.heartbeat_answer)
            self.health = Health(
                self.client, thresholds=Thresholds(silence=Bound(quiet))
            )
            await self.client.ping()
            self.limiter = await stack.enter_async_context(
                RateLimiter(
                    self.client,
                    _with_default(self._rules, self.settings),
                    prefix=self.settings.prefix,
                    deadline=self.settings.side_timeout,
                    processes=self.settings.rate_limit_processes,
                )
            )
            self.cache = await stack.enter_async_context(self._cache(stack))
            self.pubsub = await stack.enter_async_context(
                PubSub(self.client, prefix=self.settings.prefix, topics=self._topics)
            )
            self.locks = Locks(self.client, prefix=self.settings.prefix)
            self.sessions = await stack.enter_async_context(await self._sessions())
            if self._queue_type is not None:
                self._queue = Queue(
                    self.client,
                    "messages",
                    self._queue_type,
                    prefix=self.settings.prefix,
                )
            self.queues = Queues(
                {
                    key: key.open(self.client, prefix=self.settings.prefix)
                    for key in self._keys
                }
            )
            self._add_checks()
            self.metrics = self._measure()
            stack.callback(self.metrics.close)
            self._stack = stack.pop_all()
        return self

    def _add_checks(self) -> None:
        limiter, cache = self.limiter, self.cache
        self.health.add(
            "limiter",
            "without Redis each process admits by its own share",
            lambda: _limiter_verdict(limiter.stats()),
        )
        self.health.add(
            "cache",
            "without announced changes this process keeps nothing in memory",
            lambda: _cache_verdict(cache.stats()),
        )

    def _measure(self) -> Metrics:
        return Metrics(
            self.client,
            cache=self.cache,
            limiter=self.limiter,
            pubsub=self.pubsub,
            locks=self.locks,
            sessions=self.sessions,
            queues=self._all_queues(),
        )

    def _all_queues(self) -> list[Queue[Any]]:
        own = [] if self._queue is None else [self._queue]
        return own + [self.queues[key] for key in self.queues]

    async def _sessions(self) -> Sessions[S]:
        settings = self.settings
        if self._keyring is None and settings.session_encryption:
            self._keyring = await asyncio.to_thread(_keyring_of, settings)
        if self._keyring is not None:
            _refuse_examples(self._keyring, settings)
            if self._source is not None and not isinstance(self._source, SealedSource):
                log_line(
                    _log,
                    logging.WARNING,
                    "source_readable",
                    reason="sessions are sealed in Redis, and the source of record "
                    "gets their content readable; SealedSource(source, keyring) seals "
                    "it there too",
                )
        compress = settings.session_compression
        return Sessions(
            self.client,
            self._session,
            prefix=settings.prefix,
            keyring=self._keyring,
            ttl=settings.session_ttl,
            cap=settings.session_max,
            cleanup=settings.session_cleanup,
            compress_above=_COMPRESS_ABOVE if compress else _SESSION_BYTES,
            max_size=_SESSION_BYTES,
            source=self._source,
        )

    def _cache(self, stack: AsyncExitStack) -> Cache:
        settings = self.settings
        client = self.client
        if settings.cache_url is not None:
            client = Client.from_settings(settings.for_cache(), events=self.events)
            stack.push_async_callback(client.aclose)
        return Cache(
            client,
            self._namespaces,
            prefix=settings.prefix,
            ttl=settings.cache_ttl,
            timeout=settings.side_timeout,
            heartbeat=settings.heartbeat_tracked,
            coherence=4 * settings.heartbeat_tracked,
            compress_above=settings.cache_compress_above,
            max_size=settings.cache_max_size,
            fallback="pubsub" if settings.cache_publish else "off",
        )

    def lock(
        self,
        name: str,
        ttl: float,
        *,
        patience: float | None = None,
        seats: int = 1,
    ) -> Lock:
        """Return a lock, to be held by ``async with``; see `Lock`.

        Args:
            name: Of what it protects.
            ttl: Seconds that it outlives a holder that was killed.
            patience: Seconds that a killed waiter keeps its place; see `Locks.lock`.
            seats: How many may hold it at a time.
        """
        return self.locks.lock(name, ttl, patience=patience, seats=seats)

    async def stats(self) -> WireStats:
        """Return what every part counted.

        Raises:
            OddswireError: Redis could not be asked for sessions or queues.
        """
        return WireStats(
            client=self.client.stats(),
            cache=self.cache.stats(),
            limiter=self.limiter.stats(),
            pubsub=self.pubsub.stats(),
            locks=self.locks.stats(),
            sessions=await self.sessions.stats(),
            queues={queue.name: await queue.stats() for queue in self._all_queues()},
        )

    async def erase(self, user_id: int, *, search: bool = False) -> Receipt:
        """Remove a user from every part, and look again whether anything is left.

        Her session; messages in the queues and their ids; what rules that count by
        ``user`` or ``chat`` know of her, as ``42`` or ``<bot>:42``; cache entries with
        the tag ``user:<id>``, which no process reads any more. Topics and locks are not
        looked at: guides/operations.md has what ends by itself. Cancelled or failed
        half way, some parts are done; it can be run again.

        Args:
            user_id: The user.
            search: Search every index of the sessions too; see `Sessions.erase`.

        Raises:
            OddswireError: A part could not be asked; nothing is claimed.
        """
        # First what could still reach her, last what she asked for.
        queues: list[Erased] = []
        if self._queue is not None:
            queues.append(await self._queue.erase(user_id))
        for key in self.queues:
            erased = await self.queues[key].erase(user_id)
            queues.append(msgspec.structs.replace(erased, part=f"queue:{key.name}"))
        parts = (
            *queues,
            # Her private chat with a bot has her id.
            await self.limiter.erase(user=user_id, chat=user_id),
            await self.cache.erase(user_id),
            await self.sessions.erase(user_id, search=search),
        )
        return Receipt(user_id, SystemClock().now(), parts)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


def _limiter_verdict(seen: LimiterStats) -> Verdict:
    values: dict[str, float | int | str] = {
        "asked": seen.asked,
        "failed": seen.failed,
        "waiting": seen.waiting,
    }
    if seen.redis_down:
        return Verdict(
            status=Status.WARN,
            seen="Redis did not answer the last question",
            fix="see the check reachable; if it passes, raise ODDSWIRE_SIDE_TIMEOUT",
            values=values,
        )
    return Verdict(status=Status.PASS, seen="Redis answers the limiter", values=values)


def _cache_verdict(seen: CacheStats) -> Verdict:
    values: dict[str, float | int | str] = {"coherence": seen.coherence}
    if seen.coherence == "off":
        return Verdict(
            status=Status.WARN,
            seen="memory is not used",
            fix="let an administrator run what `oddswire acl cache` prints",
            values=values,
        )
    return Verdict(
        status=Status.PASS, seen=f"coherence by {seen.coherence}", values=values
    )


def _with_default(rules: tuple[Rule, ...], settings: Settings) -> tuple[Rule, ...]:
    if any(rule.name == "default" for rule in rules):
        return rules
    window = SlidingWindow(settings.rate_limit_requests, settings.rate_limit_window)
    return (*rules, Rule("default", window, key="user"))


def _check_types(session: object, source: object, keyring: object, queue: Any) -> None:
    if not (isinstance(session, type) and issubclass(session, Record)):
        raise SettingsError(
            f"session must be a subclass of oddswire.sessions.Record, not "
            f"{shown(session)}"
        )
    if source is not None and not isinstance(source, Source):
        raise SettingsError(
            f"source must have the methods of oddswire.sessions.Source, which "
            f"{type(source).__name__} has not"
        )
    if keyring is not None and not isinstance(keyring, Keyring):
        # Not repeated: it may be a key.
        raise SettingsError(
            f"keyring must be an oddswire.codec.Keyring, not {type(keyring).__name__}: "
            "Keyring.from_text makes one"
        )
    try:
        Codec(queue)
    except (TypeError, NameError) as error:
        raise SettingsError(
            f"queue must be the type of its messages, such as a msgspec.Struct, not "
            f"{shown(queue)}: {plain(error)}"
        ) from None


def _all_of(name: str, values: Any, kind: type[T]) -> tuple[T, ...]:
    """Return an argument as a tuple.

    Raises:
        SettingsError: It is no collection of that type.
    """
    try:
        found = tuple(values)
    except TypeError:
        raise SettingsError(
            f"{name} must be a list, as in {name}=[...], not {shown(values)}"
        ) from None
    wrong = [each for each in found if not isinstance(each, kind)]
    if wrong:
        raise SettingsError(
            f"{name} must be a list of {kind.__name__} objects, not {shown(wrong[0])}"
        )
    return found


def _refuse_twice(keys: tuple[QueueKey[Any], ...], *, also: bool) -> None:
    names = [key.name for key in keys] + (["messages"] if also else [])
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(
            f"queues: {twice[0]!r} is the name of two queues"
            + (", one of them connect(queue=...)" if twice[0] == "messages" else "")
        )


def _keyring_of(settings: Settings) -> Keyring:
    if settings.encryption_key_file is not None:
        return Keyring.from_file(settings.encryption_key_file)
    if settings.encryption_key is not None:
        return Keyring.from_text(settings.encryption_key)
    raise SettingsError("session_encryption asks for encryption and there is no key")


def _refuse_examples(keyring: Keyring, settings: Settings) -> None:
    examples = keyring.examples(is_example_key)
    if not examples:
        return
    problem = f"key {examples[0]} of the keyring is an example, not a random key"
    if settings.profile in ("staging", "production"):
        raise SettingsError(f"{problem}: make one with openssl rand -hex 32")
    log_line(
        _log,
        logging.WARNING,
        "example_key",
        reason=f"{problem}; staging and production refuse it",
    )
