"""What is known of each command: on which connection it goes, and when it may go twice.

The classes of retry are StackExchange.Redis's. A command that is not listed here is
sent on the command connection and never sent again once a byte of it has left.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from redis.exceptions import DataError

from oddswire.connection.multiplexer import CallLabel

if TYPE_CHECKING:
    from collections.abc import Callable


class Route(Enum):
    """On which connection a command goes."""

    SHARED = "the command connection"
    EXCLUSIVE = "a connection of its own: it blocks, or occupies the server for long"
    BLOCK = "a connection of its own if BLOCK is among its arguments"
    OUT_OF_BAND = "a connection opened for it: it ends what the others may wait behind"
    REFUSED = "none: it would change the connection for all tasks that share it"


class Retry(StrEnum):
    """What may be done when a command's outcome is unknown."""

    READ = "read"  # again, as often as the deadline allows
    IDEMPOTENT = "idempotent"  # again: it changes nothing and replies the same
    NEVER = "never"  # it counts, moves or appends: twice is wrong


_READS = """
GET MGET GETRANGE GETBIT STRLEN SUBSTR LCS BITCOUNT BITPOS BITFIELD_RO EXISTS TTL PTTL
EXPIRETIME PEXPIRETIME TYPE KEYS SCAN RANDOMKEY DBSIZE DUMP OBJECT SORT_RO
HGET HMGET HGETALL HKEYS HVALS HLEN HEXISTS HSTRLEN HRANDFIELD HSCAN HTTL HPTTL
HEXPIRETIME HPEXPIRETIME
SMEMBERS SISMEMBER SMISMEMBER SCARD SRANDMEMBER SSCAN SINTER SUNION SDIFF SINTERCARD
ZRANGE ZREVRANGE ZRANGEBYSCORE ZREVRANGEBYSCORE ZRANGEBYLEX ZREVRANGEBYLEX ZSCORE
ZMSCORE ZCARD ZCOUNT ZLEXCOUNT ZRANK ZREVRANK ZSCAN ZRANDMEMBER ZUNION ZINTER ZDIFF
ZINTERCARD
LRANGE LLEN LINDEX LPOS
XRANGE XREVRANGE XLEN XINFO XPENDING XREAD
GEOPOS GEODIST GEOHASH GEOSEARCH GEORADIUS_RO GEORADIUSBYMEMBER_RO
PFCOUNT EVAL_RO EVALSHA_RO FCALL_RO PING ECHO TIME INFO ROLE LASTSAVE COMMAND PUBSUB
"""

READS = frozenset(_READS.split())
"""Commands that change nothing."""

# Twice must leave what once leaves, and reply what once replies: the replies of DEL,
# SADD, HSET, PERSIST ... are used as claims ("was it I who did it?"), and a claim whose
# first run took effect would be lost if a second run said 0. So these are not here, nor
# EXPIREAT and its like, which delete and reply something else once the time is past.
# A destination may be one of its own sources: a union or an intersection comes out the
# same, a difference does not. LTRIM 1 -1 and ZREMRANGEBYRANK 0 0 take one more each
# time; ZUNIONSTORE adds the scores up again.
_IDEMPOTENT = """
SETEX PSETEX MSET HMSET SETRANGE LSET TOUCH
EXPIRE PEXPIRE HEXPIRE HPEXPIRE
SINTERSTORE SUNIONSTORE PFMERGE
"""

# Options that make such a command depend on what was there before, or its reply: where
# they may begin, and their names.
_EXPIRING = frozenset({"EXPIRE", "PEXPIRE", "HEXPIRE", "HPEXPIRE"})
_CHECKED = dict.fromkeys(_EXPIRING, (3, {b"NX", b"XX", b"GT", b"LT"})) | {
    "SET": (3, {b"NX", b"XX", b"GET", b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE"}),
}
_UNCHECKED: tuple[int, set[bytes]] = (0, set())

_EXCLUSIVE = """
BLPOP BRPOP BRPOPLPUSH BLMOVE BLMOVEM BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF
MIGRATE FAILOVER DEBUG HIMPORT
"""

_REFUSED = """
SELECT AUTH HELLO RESET QUIT MULTI EXEC DISCARD WATCH UNWATCH READONLY READWRITE ASKING
SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE MONITOR
SYNC PSYNC REPLCONF
"""

# What to do instead of what is refused, where that is not `client.client()`.
_INSTEAD = {
    "SELECT": "name the database in the URL, or use `client.client()`",
    **dict.fromkeys(
        ("MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"), "use `client.pipeline()`"
    ),
    **dict.fromkeys(
        ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE",
         "SUNSUBSCRIBE"), "use `client.pubsub()`"
    ),
    "MONITOR": "use `client.monitor()`",
}  # fmt: skip

# By the second word. These change the state of a connection. The state is lost when the
# connection is replaced, and until then it holds for all tasks that share it.
_SUBCOMMANDS = {
    "CLIENT": {
        **dict.fromkeys(
            (b"REPLY", b"TRACKING", b"CACHING", b"NO-TOUCH", b"NO-EVICT", b"CAPA",
             b"SETINFO", b"IMPORT-SOURCE", b"MAINT_NOTIFICATIONS"), Route.REFUSED
        ),
        b"UNBLOCK": Route.OUT_OF_BAND,
        b"UNPAUSE": Route.OUT_OF_BAND,
    },
    "SCRIPT": {b"DEBUG": Route.REFUSED, b"KILL": Route.OUT_OF_BAND},
    # It answers while a function runs.
    "FUNCTION": {b"KILL": Route.OUT_OF_BAND, b"STATS": Route.OUT_OF_BAND},
    "FAILOVER": {b"ABORT": Route.OUT_OF_BAND},
}  # fmt: skip

_ROUTES = (
    dict.fromkeys(_EXCLUSIVE.split(), Route.EXCLUSIVE)
    | {"SHUTDOWN": Route.OUT_OF_BAND}
    | dict.fromkeys(_REFUSED.split(), Route.REFUSED)
    | {"XREAD": Route.BLOCK, "XREADGROUP": Route.BLOCK}
)
_RETRIES = (
    dict.fromkeys(READS, Retry.READ)
    | dict.fromkeys(_IDEMPOTENT.split(), Retry.IDEMPOTENT)
    | {"SET": Retry.IDEMPOTENT}
)

# Seconds that a blocking command may block, by where the number stands.
_BLOCKS_FIRST = frozenset({"BLMPOP", "BZMPOP"})
_BLOCKS_LAST = frozenset(
    {"BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BZPOPMIN", "BZPOPMAX"}
)

# They speak of the writes made before them on the connection they are sent on.
OF_EARLIER_WRITES = frozenset({"WAIT", "WAITAOF"})


class CommandSpec(CallLabel):
    """One command as this client sends it, resolved once per name.

    Attributes:
        name: Upper case, its first word only: ``"CONFIG"``.
        words: The words that the name consists of; more than one is sent as several
            arguments (``"CONFIG GET"``).
        route: On which connection it goes.
        retry: When it may be sent again.
        callback: redis-py's function from a reply to what its method returns.
        awaits: Whether that function is a coroutine function.
        is_fast_path: Whether sending it takes nothing special: shared connection, one
            word.
        calls: How often it was called.
        slow: Replies that took longer than `Settings.slow_above`.

    Raises:
        DataError: The name is empty.
    """

    __slots__ = ("awaits", "callback", "calls", "checked", "is_fast_path", "retry",
                 "route", "words")  # fmt: skip

    def __init__(
        self, spelled: str, callback: Callable[..., Any] | None, *, is_fast_path: bool
    ) -> None:
        self.words = tuple(spelled.split())
        if not self.words:
            # It would be sent as an empty list, which the server does not answer:
            # every reply after it would go to the wrong call.
            raise DataError("the name of a command is empty")
        super().__init__(self.words[0].upper())
        self.route = _ROUTES.get(self.name, Route.SHARED)
        self.retry = _RETRIES.get(self.name, Retry.NEVER)
        self.checked = _CHECKED.get(self.name, _UNCHECKED)
        self.use(callback)
        special = self.route is not Route.SHARED or self.name in _SUBCOMMANDS
        self.is_fast_path = is_fast_path and not special and len(self.words) == 1
        self.calls = 0

    def use(self, callback: Callable[..., Any] | None) -> None:
        """Take this function from a reply to a result from now on."""
        self.callback = callback
        self.awaits = iscoroutinefunction(callback) or iscoroutinefunction(
            getattr(callback, "__call__", None)  # noqa: B004 - its kind, not its presence
        )

    def route_for(self, args: tuple[Any, ...]) -> Route:
        """Return the connection for a call with these arguments."""
        if self.route is Route.BLOCK:
            blocks = any(_upper(arg) == b"BLOCK" for arg in self._split(args)[1:])
            return Route.EXCLUSIVE if blocks else Route.SHARED
        routes = _SUBCOMMANDS.get(self.name)
        if routes is None:
            return self.route
        word = self.subcommand(args)
        if self.name == "CLIENT" and word == b"KILL":
            return _route_of_kill(args)
        return routes.get(word, self.route)

    @property
    def instead(self) -> str:
        """What to do where it is refused."""
        return _INSTEAD.get(
            self.name, "use it on `client.client()`, which has one for itself"
        )

    def subcommand(self, args: tuple[Any, ...]) -> bytes:
        """Return the second word, in capitals: TRACKING of CLIENT TRACKING."""
        # It is a part of the first argument in redis-py's methods, and may be the next.
        words = self._split(args)
        return _upper(words[1]) if len(words) > 1 else b""

    def _split(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments as they are sent: ``"BLPOP q 0"`` is three of them."""
        return args if len(self.words) == 1 else (*self.words, *args[1:])

    def may_repeat(self, args: tuple[Any, ...]) -> bool:
        """Whether a second time leaves and replies what one time does."""
        if self.retry is Retry.NEVER:
            return False
        args = self._split(args)
        start, options = self.checked
        if any(_upper(arg) in options for arg in args[start:]):
            return False
        # A lifetime that is over deletes: the second time there is nothing to delete.
        return self.name not in _EXPIRING or _lasts(args)

    def blocking_timeout(self, args: tuple[Any, ...]) -> float:
        """Return the seconds it may block at the server; infinite for "for ever".

        What does not say is taken as 0: the client's own deadline applies.
        """
        args = self._split(args)
        try:
            if self.name in _BLOCKS_FIRST:
                seconds = float(args[1])
            elif self.name in _BLOCKS_LAST:
                seconds = float(args[-1])
            elif self.name == "BLMOVEM":
                seconds = float(args[5])
            elif self.name == "MIGRATE":
                seconds = float(args[5]) / 1000.0
            elif self.route is Route.BLOCK:
                place = [_upper(arg) for arg in args].index(b"BLOCK")
                seconds = float(args[place + 1]) / 1000.0
            elif self.name in OF_EARLIER_WRITES:
                seconds = float(args[-1]) / 1000.0
            else:
                return 0.0
        except (ValueError, IndexError, TypeError, OverflowError):
            return 0.0  # the server will say what is wrong with it
        return seconds or float("inf")


def _route_of_kill(args: tuple[Any, ...]) -> Route:
    """Return the route of CLIENT KILL.

    The server spares the connection that asks, unless SKIPME says otherwise. A filter
    that ends a whole kind of clients therefore goes on the command connection, which it
    spares. A client that is named may block that connection, so it is ended by another.
    """
    words = [*_upper(args[0]).split(), *map(_upper, args[1:])]
    filters = words[words.index(b"KILL") + 1 :]
    names = dict(zip(filters[::2], filters[1::2], strict=False))
    named = len(filters) == 1 or b"ID" in names or b"ADDR" in names
    return Route.OUT_OF_BAND if named or names.get(b"SKIPME") == b"NO" else Route.SHARED


def _lasts(args: tuple[Any, ...]) -> bool:
    """Whether the lifetime that EXPIRE or one of its like gives is not over at once."""
    try:
        return int(args[2]) > 0
    except (ValueError, IndexError, TypeError):
        return False  # the server will say what is wrong with it


def _upper(arg: Any) -> bytes:
    if isinstance(arg, str):
        return arg.encode(errors="replace").upper()
    return arg.upper() if isinstance(arg, bytes) else b""
