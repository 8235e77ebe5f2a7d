"""Where the primary is, by what the sentinels say, and when it moves."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from oddswire._tasks import retrieve, spawn
from oddswire._text import text
from oddswire.connection.deadline import Deadline
from oddswire.connection.hardened import hardened
from oddswire.connection.pool import ExclusivePool
from oddswire.errors import Outcome, Unavailable
from oddswire.settings import Endpoint, endpoint, plaintext_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis.asyncio as aredis

    from oddswire.settings import Settings

    Address = tuple[str, int]

# Seconds in which a sentinel has to answer; it may be asked thrice.
_ANSWER = 1.0

# Seconds after which the sentinels are asked though they announced nothing, for an
# announcement can be missed; and after which a silent one is asked whether it is there.
_ASK_AGAIN = 5.0

# Seconds between two questions, however often servers refuse.
_ASK_AT_MOST = 0.1

# The sentinel that leads a failover announces the new primary at its end, the others as
# soon as they hear of it. Only the leader announces the promotion itself.
_CHANNELS = ("+switch-master", "+promoted-slave")


class Named(NamedTuple):
    """What a sentinel says of a primary.

    Attributes:
        epoch: Counts failovers; a sentinel that is behind has a lower one.
        address: Of the primary.
    """

    epoch: int
    address: Address


class Primary:
    """The address of the primary of one name, for all connections of a pool.

    Sentinels hear of a failover one after the other, and one that is cut off does not.
    So all of them are listened to and all are asked, and the highest epoch counts. It
    goes back to a lower one only when a majority answers and none has the higher one:
    then the sentinels were set up again.

    Args:
        manager: The sentinels.
        name: The name under which they know it.
        why_not: Says why an address is not connected to; None: it is.

    Attributes:
        named: The address that the exclusive connections were last left for.
        told: The address that followers were told of last; None: none yet.
    """

    def __init__(
        self,
        manager: Sentinel,
        name: str,
        why_not: Callable[[Address], str | None] = lambda _: None,
    ) -> None:
        self.name = name
        self.named: Address | None = None
        self.told: Address | None = None
        self._manager = manager
        self._why_not = why_not
        self._known: Named | None = None
        self._due = asyncio.Event()
        self._followers: dict[object, Callable[[Address], None]] = {}
        self._watch: asyncio.Task[None] | None = None
        # With those that were cancelled and have not ended yet.
        self._watches: set[asyncio.Task[None]] = set()
        self._asking = 0
        self._asked: set[asyncio.Task[Named]] = set()

    # --- asking

    async def address(self) -> Address:
        """Ask all sentinels, and wait for a majority of them. Followers are called.

        Raises:
            Unavailable: None answered, or none knows a primary of that name that is up,
                or the profile allows no connection to its address.
        """
        self._asking += 1
        try:
            return await self._agreed()
        finally:
            self._asking -= 1

    async def _agreed(self) -> Address:
        waiting: set[asyncio.Task[Named]] = set()
        for sentinel in self._manager.sentinels:
            # A task of its own: a late sentinel still answers, for the next question.
            task = spawn(
                self._ask(sentinel), name="oddswire sentinel asked", into=self._asked
            )
            task.add_done_callback(retrieve)  # no caller waits for a late one
            waiting.add(task)
        majority = len(waiting) // 2 + 1
        answers: list[Named] = []
        errors: list[str] = []
        while waiting and not (
            len(answers) >= majority
            and (self._known is None or max(answers).epoch >= self._known.epoch)
        ):
            done, waiting = await asyncio.wait(
                waiting, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    answers.append(task.result())
                elif isinstance(error, RedisError | OSError | Unavailable):
                    errors.append(_why(error))
                else:
                    raise error
        if not answers:
            raise Unavailable(
                f"the sentinels name no primary {self.name!r}: {'; '.join(errors)}"
            )
        newest, known = max(answers), self._known
        if known is not None and newest.epoch < known.epoch and len(answers) < majority:
            return known.address
        if why := self._why_not(newest.address):
            host, port = newest.address
            raise Unavailable(
                f"the sentinels name {host}:{port} as the primary: {why}",
                outcome=Outcome.REJECTED,
            )
        self._known = newest
        self._tell(newest.address)
        return newest.address

    async def _ask(self, sentinel: aredis.Redis) -> Named:
        # redis-py declares no type for the reply.
        client: Any = sentinel
        async with Deadline(3 * _ANSWER):
            state = await client.sentinel_master(self.name)
            if "failover_in_progress" in state["flags"].split(","):
                # The leader names the replica that it promoted before it has changed
                # its own record; what it names is as new as the epoch read after it.
                found = await client.sentinel_get_master_addr_by_name(self.name)
                promoted = (text(found[0]), int(found[1])) if found else None
                if promoted and promoted != (state["ip"], state["port"]):
                    state = await client.sentinel_master(self.name)
                    return Named(state["config-epoch"], self._address(*promoted))
        if not self._manager.check_master_state(state, self.name):
            raise Unavailable(
                f"{state['ip']}:{state['port']} is down ({state['flags']})"
            )
        return Named(state["config-epoch"], self._address(state["ip"], state["port"]))

    def _address(self, host: str, port: int) -> Address:
        # redis-py's option for a primary that is seen behind another address.
        forced = getattr(self._manager, "_force_master_ip", None)
        return forced or host, port

    # --- following

    def follow(self, moved: Callable[[Address], None]) -> object:
        """Have `moved` called with the address of the primary, whenever it is heard.

        Returns:
            What `unfollow` takes.
        """
        token = object()
        self._followers[token] = moved
        self.ask()
        if self._watch is None:
            self._watch = spawn(
                self.watch(self._tell), name="oddswire sentinels", into=self._watches
            )
        return token

    def unfollow(self, token: object) -> None:
        """Call it no longer; with the last one the watch ends."""
        self._followers.pop(token, None)
        if not self._followers and self._watch is not None:
            self._watch.cancel()
            # Who follows before it has ended needs a watch that goes on.
            self._watch = None

    def ask(self) -> None:
        """Have the sentinels asked at once: a server has refused a write."""
        self._due.set()

    async def rest(self) -> None:
        """End the watch and questions under way, if no follower is left."""
        await _end([each for each in self._watches if each is not self._watch])
        # A pool of the caller's may be closed at once, and its connections with it.
        if not self._followers and not self._asking:
            await _end(list(self._asked))

    def _tell(self, address: Address) -> None:
        self.told = address
        for moved in list(self._followers.values()):
            moved(address)

    async def watch(self, moved: Callable[[Address], None]) -> None:
        """Tell of the address at each announcement; ends by cancellation.

        Announcements of every sentinel are listened to. One that was missed is made up
        for by asking, after each subscription and every 5 seconds.

        Args:
            moved: Called with the address of the primary, also when it has not changed.
        """
        listening = [
            spawn(self._listen(each), name="oddswire sentinel heard")
            for each in self._manager.sentinels
        ]
        try:
            while True:
                self._due.clear()
                with suppress(Unavailable):
                    moved(await self.address())
                await asyncio.sleep(_ASK_AT_MOST)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_ASK_AGAIN):  # a pause
                        await self._due.wait()
        finally:
            await _end(listening)

    async def _listen(self, sentinel: aredis.Redis) -> None:
        while True:
            try:
                async with sentinel.pubsub() as pubsub:
                    await pubsub.subscribe(*_CHANNELS)
                    self.ask()
                    pinged = False
                    while True:
                        message = await pubsub.get_message(timeout=_ASK_AGAIN)
                        if message is not None:
                            pinged = False
                            self._heard(message)
                        elif pinged:
                            break  # half-open
                        else:
                            await pubsub.ping()
                            pinged = True
            except (RedisError, OSError):
                pass
            await asyncio.sleep(_ANSWER)

    def _heard(self, message: dict[str, Any]) -> None:
        # What it says of the address is not used: a sentinel that is behind announces
        # an older failover later.
        if message["type"] == "message" and self.name in text(message["data"]).split():
            self.ask()

    async def aclose(self) -> None:
        """Close the connections to the sentinels."""
        self._followers.clear()
        self._watch = None
        await _end([*self._watches, *self._asked])
        # Each in a task of its own, which no cancellation reaches.
        closing = [
            spawn(sentinel.aclose(), name="oddswire sentinel closing")
            for sentinel in self._manager.sentinels
        ]
        await asyncio.wait(closing)


def _why(error: BaseException) -> str:
    """Return what a sentinel's question failed with.

    redis-py's clients pause between their attempts. If the time ends in such a pause,
    the last failure is what the timeout was raised from.
    """
    why: BaseException | None = error
    while why is not None:
        if str(why):
            return str(why)
        why = why.__cause__ or why.__context__
    return type(error).__name__


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end, also when cancelled meanwhile."""
    cancelled = False
    left = {task for task in tasks if not task.done()}
    while left:
        # Again and again: before Python 3.12 redis-py may swallow it.
        for task in left:
            task.cancel()
        try:
            _, left = await asyncio.wait(left, timeout=0.1)
        except asyncio.CancelledError:
            cancelled = True
            left = {task for task in left if not task.done()}
    if cancelled:
        raise asyncio.CancelledError


class SentinelPool(ExclusivePool):
    """Exclusive connections to the primary of the time when they are opened.

    Args:
        primary: Where it is.
        **arguments: Of `ExclusivePool` and of its connections.
    """

    is_master = True
    check_connection = False

    def __init__(self, primary: Primary, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.primary = primary
        # As redis-py's own pool does: its connection asks it for the address.
        self.connection_kwargs["connection_pool"] = weakref.proxy(self)

    async def get_master_address(self) -> Address:
        """Return where the primary is (redis-py's name for it)."""
        return await self.primary.address()

    async def _connect(self, connection: Any) -> None:
        await super()._connect(connection)
        # The pool leaves the old primary and does not see a connection to it that is
        # just opening. A BLPOP there would wait for a push to another server.
        if self.primary.told not in (None, (connection.host, connection.port)):
            await connection.disconnect()
            await super()._connect(connection)

    async def aclose(self) -> None:
        """Close every connection, and those to the sentinels."""
        try:
            await super().aclose()
        finally:
            await self.primary.aclose()


def sentinel_pool(settings: Settings, arguments: dict[str, Any]) -> SentinelPool:
    """Return a pool that asks the sentinels of the settings.

    Args:
        settings: Their addresses and password; the URL's host is the primary's name.
        arguments: Of the pool and of its connections; host and port are not used.
    """
    arguments = dict(arguments)
    name = arguments.pop("host")
    arguments.pop("port", None)
    secure = issubclass(arguments["connection_class"], SSLConnection)
    tls = {key: v for key, v in arguments.items() if key.startswith("ssl_")}
    manager = Sentinel(
        addresses(settings.sentinels or ""),
        sentinel_kwargs={
            "username": settings.sentinel_username,
            "password": settings.sentinel_password,
            "socket_timeout": _ANSWER,
            "socket_connect_timeout": _ANSWER,
            "retry": Retry(NoBackoff(), 0),
            **({"ssl": True, **tls} if secure else {}),
        },
    )
    for sentinel in manager.sentinels:
        pool = sentinel.connection_pool
        pool.connection_class = hardened(pool.connection_class)  # type: ignore[arg-type]
    arguments["connection_class"] = (
        SentinelManagedSSLConnection if secure else SentinelManagedConnection
    )
    primary = Primary(manager, name, _refusing(settings, secure=secure))
    return SentinelPool(primary, **arguments)


def addresses(text: str) -> list[Address]:
    """Return the addresses in ``host:port, [::1]:port``; the port may be left out."""
    return list(endpoint.addresses(text, 26379))


def _refusing(settings: Settings, *, secure: bool) -> Callable[[Address], str | None]:
    """Return what says why the profile allows no connection to an address."""

    def why_not(address: Address) -> str | None:
        if settings.profile != "production":
            return None
        there = Endpoint(host=address[0], port=address[1], tls=secure)
        return plaintext_refused(there, settings.private_hosts)

    return why_not


def primary_of(settings: Settings, pool: aredis.ConnectionPool) -> Primary | None:
    """Return where a pool's primary is asked for, if its address is not fixed.

    redis-py's own Sentinel pool will do too: ``Sentinel.master_for(name,
    redis_class=oddswire.Client)``.
    """
    if isinstance(pool, SentinelPool):
        return pool.primary
    manager = getattr(pool, "sentinel_manager", None)
    if manager is None:
        return None
    secure = issubclass(pool.connection_class, SSLConnection)
    name = pool.service_name  # type: ignore[attr-defined]
    return Primary(manager, name, _refusing(settings, secure=secure))
