"""Where the keys of a command stand, and what a cluster does with one that has none."""

from __future__ import annotations

from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Any

from redis.crc import key_slot

from oddswire.errors import CrossSlot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SLOTS = 16_384
"""Parts that the keys of a cluster are divided into."""

LAST_SLOT = SLOTS - 1

_ONE_KEY = """
APPEND BITCOUNT BITFIELD BITFIELD_RO BITPOS DECR DECRBY DELIFEQ DUMP EXPIRE EXPIREAT
EXPIRETIME GEOADD GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET
GETBIT GETDEL GETEX GETRANGE GETSET HDEL HEXISTS HEXPIRE HEXPIREAT HEXPIRETIME HGET
HGETALL HGETDEL HGETEX HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HMSET HPERSIST HPEXPIRE
HPEXPIREAT HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSET HSETEX HSETNX HSTRLEN HTTL HVALS
INCR INCRBY INCRBYFLOAT LINDEX LINSERT LLEN LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET
LTRIM MOVE PERSIST PEXPIRE PEXPIREAT PEXPIRETIME PFADD PSETEX PTTL RESTORE RPOP RPUSH
RPUSHX SADD SCARD SET SETBIT SETEX SETNX SETRANGE SISMEMBER SMEMBERS SMISMEMBER SPOP
SPUBLISH SRANDMEMBER SREM SSCAN STRLEN SUBSTR TTL TYPE XACK XADD XAUTOCLAIM XCLAIM XDEL
XLEN XPENDING XRANGE XREVRANGE XSETID XTRIM ZADD ZCARD ZCOUNT ZINCRBY ZLEXCOUNT ZMSCORE
ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREM ZREMRANGEBYLEX
ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK
ZSCAN ZSCORE
"""
ONE_KEY = frozenset(_ONE_KEY.split())
"""Commands whose one key is their first argument: what the fast path knows."""

# The server itself looks at what else these name: the key of a STORE, say.
_FIRST = "GEORADIUS GEORADIUSBYMEMBER SORT SORT_RO"
_TWO = """
BLMOVE BRPOPLPUSH COPY GEOSEARCHSTORE LCS LMOVE RENAME RENAMENX RPOPLPUSH SMOVE
ZRANGESTORE
"""
_ALL = """
DEL EXISTS MGET PFCOUNT PFMERGE SDIFF SDIFFSTORE SINTER SINTERSTORE SSUBSCRIBE SUNION
SUNIONSTORE SUNSUBSCRIBE TOUCH UNLINK WATCH
"""
# By the second word.
_SECOND = {
    b"MEMORY": {b"USAGE"},
    b"OBJECT": {b"ENCODING", b"FREQ", b"IDLETIME", b"REFCOUNT"},
    b"XGROUP": {b"CREATE", b"CREATECONSUMER", b"DELCONSUMER", b"DESTROY", b"SETID"},
    b"XINFO": {b"CONSUMERS", b"GROUPS", b"STREAM"},
}

SUMMED = frozenset({"DEL", "UNLINK", "EXISTS", "TOUCH"})
"""Commands over many keys that are split by slot, and their replies added up."""


class Scope(Enum):
    """Which nodes a command without a key is about."""

    ANY = "one node, whichever: each answers alike"
    ALL = "all primaries"
    ONE = "one node, which the caller has to name"


# Commands of no key that say something of the cluster when any node answers. A message
# of PUBLISH goes to all nodes. With no key, a script touches none.
_ANYWHERE = """
PING ECHO TIME COMMAND LOLWUT PUBLISH CLUSTER EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL
FCALL_RO
"""
_EVERYWHERE = {
    b"DBSIZE": None,
    b"KEYS": None,
    b"FLUSHALL": None,
    b"FLUSHDB": None,
    b"SCRIPT": {b"LOAD", b"FLUSH", b"EXISTS"},
    b"FUNCTION": {b"LOAD", b"DELETE", b"FLUSH", b"RESTORE"},
    b"CONFIG": {b"SET", b"RESETSTAT"},
}
# Of CLUSTER, what says or changes something about the node that is asked.
_OF_A_VIEW = frozenset({b"SLOTS", b"SHARDS", b"NODES", b"INFO", b"KEYSLOT", b"LINKS"})


def _after_number(
    place: int, step: int = 1
) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """Return what finds the keys behind their number, which stands at `place`."""

    def find(words: Sequence[Any]) -> Iterable[Any]:
        count = int(words[place])
        return words[place + 1 : place + 1 + step * count : step]

    return find


def _stored(words: Sequence[Any]) -> Iterable[Any]:
    return chain(words[1:2], words[3 : 3 + int(words[2])])


def _streams(words: Sequence[Any]) -> Iterable[Any]:
    place = [upper(word) for word in words].index(b"STREAMS")
    named = words[place + 1 :]
    return named[: len(named) // 2]


_FINDERS: dict[str, Callable[[Sequence[Any]], Iterable[Any]]] = {
    **dict.fromkeys([*ONE_KEY, *_FIRST.split()], lambda words: words[1:2]),
    **dict.fromkeys(_TWO.split(), lambda words: words[1:3]),
    **dict.fromkeys(_ALL.split(), lambda words: words[1:]),
    **dict.fromkeys(("MSET", "MSETNX"), lambda words: words[1::2]),
    **dict.fromkeys(
        ("BLPOP", "BRPOP", "BZPOPMAX", "BZPOPMIN"), lambda words: words[1:-1]
    ),
    "BITOP": lambda words: words[2:],
    "MIGRATE": lambda words: words[3:4],
    "MSETEX": _after_number(1, step=2),
    **dict.fromkeys(
        ("LMPOP", "SINTERCARD", "ZDIFF", "ZINTER", "ZINTERCARD", "ZMPOP", "ZUNION"),
        _after_number(1),
    ),
    **dict.fromkeys(
        ("BLMPOP", "BZMPOP", "EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL",
         "FCALL_RO"),
        _after_number(2),
    ),
    **dict.fromkeys(("ZDIFFSTORE", "ZINTERSTORE", "ZUNIONSTORE"), _stored),
    **dict.fromkeys(("XREAD", "XREADGROUP"), _streams),
}  # fmt: skip


def keys_of(words: Sequence[Any]) -> list[Any] | None:
    """Return the keys of a command; None: the table does not know the command.

    Args:
        words: The command as it is sent, a word each.
    """
    name = upper(words[0])
    find = _FINDERS.get(name.decode(errors="replace"))
    if find is not None:
        try:
            return list(find(words))
        except (ValueError, IndexError, TypeError):
            return []  # any server will say what is wrong with it
    if name in _SECOND:
        named = len(words) > 1 and upper(words[1]) in _SECOND[name]
        return list(words[2:3]) if named else []
    return [] if name in _KEYLESS else None


def scope_of(words: Sequence[Any]) -> Scope:
    """Return which nodes a command is about that has no key."""
    name = upper(words[0])
    second = upper(words[1]) if len(words) > 1 else b""
    if name == b"CLUSTER":
        return Scope.ANY if second in _OF_A_VIEW else Scope.ONE
    if name in _EVERYWHERE:
        seconds = _EVERYWHERE[name]
        return Scope.ALL if seconds is None or second in seconds else Scope.ONE
    # One that lacks its key: any server says so.
    known = name.decode(errors="replace")
    return Scope.ANY if known in _FREE or known in _FINDERS else Scope.ONE


_SCRIPTS = "EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL FCALL_RO"
SCRIPTS = frozenset(_SCRIPTS.split())
"""Commands whose error reply may be any words of a script."""

_FREE = frozenset(_ANYWHERE.split())
_WITHOUT_KEY = b"""
ACL ASKING AUTH BGREWRITEAOF BGSAVE CLIENT CLUSTER COMMAND COMMANDLOG CONFIG DBSIZE
DEBUG DISCARD ECHO EXEC FAILOVER FLUSHALL FLUSHDB FUNCTION HELLO INFO KEYS LASTSAVE
LATENCY LOLWUT MODULE MONITOR MULTI PFSELFTEST PING PSUBSCRIBE PSYNC PUBLISH PUBSUB
PUNSUBSCRIBE QUIT RANDOMKEY READONLY READWRITE REPLCONF REPLICAOF RESET ROLE SAVE SCAN
SCRIPT SELECT SHUTDOWN SLAVEOF SLOWLOG SUBSCRIBE SWAPDB SYNC TIME UNSUBSCRIBE UNWATCH
WAIT WAITAOF
"""
_KEYLESS = frozenset(_WITHOUT_KEY.split())


def slot_of(keys: Sequence[Any], name: str) -> int | None:
    """Return the slot of these keys; None: there are none.

    Raises:
        CrossSlot: They are in more than one.
    """
    slots = {key_slot(_bytes(key)) for key in keys}
    if len(slots) > 1:
        raise cross_slot(name, keys)
    return next(iter(slots), None)


def slot_of_all(args: Sequence[Any]) -> int | None:
    """Return the one slot of all keys; None: there is none, or it takes a closer look.

    Args:
        args: The command as redis-py has it.
    """
    find = _FINDERS.get(args[0])
    if find is None:
        return None
    try:
        slots = {
            key_slot(key.encode() if key.__class__ is str else key)
            for key in find(args)
        }
    except (ValueError, IndexError, TypeError, AttributeError):
        return None
    return slots.pop() if len(slots) == 1 else None


def by_slot(keys: Iterable[Any]) -> dict[int, list[int]]:
    """Return the positions of the keys by slot, in their order."""
    places: dict[int, list[int]] = {}
    for position, key in enumerate(keys):
        places.setdefault(key_slot(_bytes(key)), []).append(position)
    return places


def cross_slot(name: str, keys: Sequence[Any]) -> CrossSlot:
    """Return the error of a command whose keys are in more than one slot."""
    shown = [
        f"{each[0]!r} (slot {slot}{f', with {len(each) - 1} more' if each[1:] else ''})"
        for slot, places in by_slot(keys).items()
        if (each := [keys[place] for place in places])
    ]
    more = f" and {len(shown) - 3} further slots" if len(shown) > 3 else ""
    advice = _INSTEAD.get(name, "give them a common {tag}")
    return CrossSlot(
        f"{name}: its keys are in different slots: {', '.join(shown[:3])}{more}; "
        f"{advice}"
    )


_INSTEAD = {
    "MSET": "use `mset_nonatomic`, or give them a common {tag}",
    "MULTI": "use `pipeline(transaction=False)`, or give them a common {tag}",
}


def _bytes(key: Any) -> bytes:
    if isinstance(key, bytes):
        return key
    if isinstance(key, str):
        return key.encode()
    return bytes(key) if isinstance(key, memoryview | bytearray) else repr(key).encode()


def upper(word: Any) -> bytes:
    """Return a word of a command in capitals; empty if it is a number."""
    if isinstance(word, str):
        return word.encode(errors="replace").upper()
    return bytes(word).upper() if isinstance(word, bytes) else b""
