"""Least privilege: the commands and keys that each part of the library needs.

A part adds an entry here together with the command it begins to send; a test runs the
part as a user with the rights of its entry and no others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from oddswire import keys
from oddswire.errors import SettingsError
from oddswire.keys import Family, KeySpace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """The commands and keys of one part.

    Attributes:
        name: Its name on the command line.
        commands: The commands that it cannot work without, as an ACL spells them:
            ``"client|setname"``.
        one_server: As `commands`, on one server alone.
        cluster: As `commands`, on the nodes of a cluster alone.
        optional: Commands that it works without: it then reports something as
            unknown, or leaves it out.
        revealing: As `optional`, and each shows the names of every key of the server,
            also of those that the user's key patterns exclude. In no rules unless they
            are asked for.
        administering: As `optional`, and each is as good as the administrator's
            password: CONFIG GET shows it. In no rules.
        families: The keys that it reads and writes.
        channels: The families whose keys name the channels that it uses.
    """

    name: str
    commands: tuple[str, ...]
    one_server: tuple[str, ...] = ()
    cluster: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    revealing: tuple[str, ...] = ()
    administering: tuple[str, ...] = ()
    families: tuple[Family[*tuple[Any, ...]], ...] = ()
    channels: tuple[Family[*tuple[Any, ...]], ...] = ()

    def needs(self, *, cluster: bool) -> tuple[str, ...]:
        """Return the commands that it cannot work without there."""
        return (*self.commands, *(self.cluster if cluster else self.one_server))


CLIENT: Final = Component(
    name="client",
    # HELLO and AUTH are open to everybody; they are here to be read.
    commands=("hello", "auth", "ping"),
    one_server=("select",),
    # The map of slots, and a slot on its way. READONLY is for reads from replicas,
    # GETKEYS for a command that the client's own table lacks.
    cluster=("cluster|slots", "asking", "readonly", "command|getkeys"),
    # INFO tells that another server process answers; the others name the connection.
    optional=("info", "client|setname", "client|setinfo"),
)
HEALTH: Final = Component(
    name="health", commands=("ping", "info"), cluster=("cluster|info",)
)
DOCTOR: Final = Component(
    name="doctor",
    commands=("ping", "info"),
    cluster=("cluster|info",),
    optional=(
        "time", "command|info", "command|docs", "acl|whoami", "acl|dryrun", "acl|cat",
    ),
    revealing=("client|tracking",),
    # How the server is set up is looked at by its administrator.
    administering=("config|get",),
)  # fmt: skip
STATS: Final = Component(name="stats", commands=("info",))

# A script runs with the rights of its caller, so what it calls is in these lists.
CACHE: Final = Component(
    name="cache",
    commands=(
        "evalsha", "eval", "ping", "time",
        "get", "mget", "getrange", "set", "setrange", "exists", "pttl", "pexpire",
        "unlink",
        # What is hot, for warming.
        "zunionstore", "zincrby", "zremrangebyrank", "zcard", "zrevrange",
    ),
    # TOUCH is against eviction.
    optional=("touch",),
    # Without tracking nothing is kept in memory. With BCAST it announces every key.
    revealing=("client|tracking",),
    families=(
        keys.CACHE, keys.CACHE_LEASE, keys.CACHE_TAG, keys.CACHE_NAMESPACE,
        keys.CACHE_RUN, keys.CACHE_MARK, keys.CACHE_BEAT, keys.CACHE_HOT,
    ),
)  # fmt: skip
SESSIONS: Final = Component(
    name="sessions",
    commands=(
        "evalsha", "eval", "time", "exists", "unlink", "pexpireat",
        "hget", "hgetall", "hset", "hsetnx", "hdel", "hexists", "hkeys", "hlen",
        "hincrby",
        "sadd", "srem", "scard", "sdiff", "sscan", "sismember", "smismember",
        "smembers",
        "zadd", "zrem", "zcard", "zcount", "zscore", "zscan", "zrangebyscore",
        "xadd", "xrange", "xrevrange", "xread",
        # With a source of record.
        "hmget", "hscan", "zrange",
    ),
    # The search of `erase`, which says without it that it did not search.
    revealing=("scan",),
    families=(
        keys.SESSION, keys.SESSION_SHORT, keys.SESSION_EXPIRY, keys.SESSION_ACTIVITY,
        keys.SESSION_OFF, keys.SESSION_STATS, keys.SESSION_LOG, keys.SESSION_INDEX,
        keys.SESSION_MARKS, keys.SESSION_NOTED, keys.SESSION_BEAT,
    ),
)  # fmt: skip
LOCKS: Final = Component(
    name="locks",
    commands=(
        "evalsha", "eval", "time", "get", "set", "del", "pttl", "pexpire",
        "zadd", "zrem", "zscore", "zrange", "zrangebyscore",
        "xadd", "xrevrange", "xread",
    ),
    families=(
        keys.LOCK, keys.LOCK_SEAT, keys.LOCK_FENCE, keys.LOCK_QUEUE,
        keys.LOCK_WAITING, keys.LOCK_RELEASED,
    ),
)  # fmt: skip
RATELIMIT: Final = Component(
    name="ratelimit",
    commands=(
        "evalsha", "eval", "time", "get", "mget", "set", "del", "unlink", "exists",
        "pexpire", "zadd", "zrem", "zcount", "zrangebyscore", "zremrangebyscore",
        "sadd", "smembers",
    ),
    # What was counted before scopes were noted; `erase` says so without it.
    revealing=("scan",),
    families=(
        keys.RATE_LIMIT, keys.RATE_BLOCK, keys.RATE_CHANGE, keys.RATE_SCOPES,
    ),
)  # fmt: skip
PUBSUB: Final = Component(
    name="pubsub",
    commands=(
        "evalsha", "eval", "ping", "time", "get", "mget", "set", "pexpire",
        "hget", "hset", "hgetall", "xadd", "xrange", "xrevrange",
    ),
    one_server=("publish", "subscribe", "unsubscribe"),
    cluster=("spublish", "ssubscribe", "sunsubscribe"),
    families=(
        keys.TOPIC_HEAD, keys.TOPIC_LOG, keys.TOPIC_LATEST, keys.TOPIC_DEDUP,
        keys.TOPIC_POSITION,
    ),
    channels=(keys.TOPIC,),
)  # fmt: skip
QUEUE: Final = Component(
    name="queue",
    commands=(
        "evalsha", "eval", "time", "del",
        "hget", "hgetall", "hset", "hdel", "hexists", "hlen", "hincrby", "hscan",
        "zadd", "zrem", "zcard", "zmscore", "zpopmin", "zrange", "zscan",
        "sadd", "srem", "scard", "sismember", "smembers",
        "llen", "lpush", "blpop",
    ),
    # The identity of the server process.
    optional=("info",),
    families=(
        keys.QUEUE, keys.QUEUE_LINES, keys.QUEUE_USERS, keys.QUEUE_LEASES,
        keys.QUEUE_DELAYED, keys.QUEUE_PAUSED, keys.QUEUE_PARKED, keys.QUEUE_DEAD,
        keys.QUEUE_DEDUP, keys.QUEUE_META, keys.QUEUE_WAKE,
    ),
)  # fmt: skip

ADAPTERS: Final = Component(
    name="adapters",
    commands=(
        "evalsha", "eval", "multi", "exec", "get", "set", "del", "unlink",
        "pexpire", "persist", "hget", "hset", "hmget", "hgetall", "hdel",
    ),
    # `preload` of python-telegram-bot's persistence: off unless it is asked for.
    revealing=("scan",),
    families=(
        keys.CONVERSATION, keys.CONVERSATION_ADOPTED, keys.UPDATE_SEEN,
        keys.PTB_DATA, keys.PTB_CONVERSATIONS,
    ),
)  # fmt: skip
"""Conversations and updates of aiogram and python-telegram-bot.

Event isolation, the update processor and the limiters of sending stand on `LOCKS` and
`RATELIMIT`. Records that aiogram's own storage left are under keys of its own: grant
them beside these lines (``~fsm:*``), with EXISTS and PTTL, for `legacy_prefix`.
"""

COMPONENTS: Final[tuple[Component, ...]] = (
    *(CLIENT, HEALTH, DOCTOR, STATS),
    *(CACHE, SESSIONS, LOCKS, RATELIMIT, PUBSUB, QUEUE, ADAPTERS),
)
"""Every part; each of them needs `CLIENT` as well."""

DANGEROUS: Final = (
    # Every user's rights and passwords.
    "acl|deluser", "acl|genpass", "acl|getuser", "acl|list", "acl|load", "acl|log",
    "acl|save", "acl|setuser", "acl|users",
    "config|get", "config|resetstat", "config|rewrite", "config|set",
    # Every key and value, or what others send.
    "commandlog|get", "commandlog|len", "commandlog|reset", "dump", "keys", "migrate",
    "monitor", "psync", "randomkey", "replconf", "restore", "restore-asking",
    "slowlog|get", "slowlog|len", "slowlog|reset", "sort", "sort_ro", "sync",
    # Other connections.
    "client|kill", "client|list", "client|no-evict", "client|pause", "client|unblock",
    "client|unpause",
    # The whole server.
    "bgrewriteaof", "bgsave", "debug", "failover", "flushall", "flushdb", "lastsave",
    "latency|doctor", "latency|graph", "latency|histogram", "latency|history",
    "latency|latest", "latency|reset", "module|list", "module|load", "module|loadex",
    "module|unload", "pfdebug", "pfselftest", "replicaof", "role", "save", "shutdown",
    "slaveof", "swapdb",
    # Code that others run.
    "function|delete", "function|flush", "function|kill", "function|load",
    "function|restore", "script|debug", "script|flush", "script|kill",
    # The cluster.
    "cluster|addslots", "cluster|addslotsrange", "cluster|bumpepoch",
    "cluster|cancelslotmigrations", "cluster|count-failure-reports",
    "cluster|delslots", "cluster|delslotsrange", "cluster|failover",
    "cluster|flushslot", "cluster|flushslots", "cluster|forget",
    "cluster|getslotmigrations", "cluster|meet", "cluster|migrateslots",
    "cluster|migration", "cluster|replicas", "cluster|replicate", "cluster|reset",
    "cluster|saveconfig", "cluster|set-config-epoch", "cluster|setslot",
    "cluster|slaves", "cluster|syncslots",
)  # fmt: skip
"""What no part needs, and what ends, empties, reads or rules a whole server.

More than any server that was looked at has in its categories ``@dangerous`` and
``@admin``, less what a part needs. ``+@read +@write`` allows FLUSHALL, KEYS, SWAPDB and
MIGRATE: only lists are least privilege.
"""
CATEGORIES: Final = ("dangerous", "admin")
"""The server's own, which `doctor` asks for too."""


def component(name: str) -> Component:
    """Return the entry of that name.

    Raises:
        SettingsError: There is none; the message has those that there are.
    """
    for each in COMPONENTS:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in COMPONENTS)
    raise SettingsError(f"there is no component {name!r}; there are {known}")


def commands(
    components: Iterable[Component], *, cluster: bool = False
) -> tuple[str, ...]:
    """Return every command of these parts and of the client, optional ones too.

    Args:
        components: The parts.
        cluster: On the nodes of a cluster; else on one server.
    """
    return tuple(
        dict.fromkeys(
            command
            for each in (CLIENT, *components)
            for command in (
                *(*each.needs(cluster=cluster), *each.optional),
                *(*each.revealing, *each.administering),
            )
        )
    )


def withheld(
    components: Iterable[Component], *, revealing: bool = False
) -> tuple[str, ...]:
    """Return the commands that `rules` leaves out, with the same `revealing`."""
    return tuple(
        dict.fromkeys(
            command
            for each in components
            for command in (
                *each.administering, *(() if revealing else each.revealing)
            )
        )
    )  # fmt: skip


def needed() -> frozenset[str]:
    """Return every command of the parts but those of administrators."""
    return frozenset(
        command
        for each in COMPONENTS
        for command in (
            *(*each.commands, *each.one_server, *each.cluster),
            *(*each.optional, *each.revealing),
        )
    )


def rules(
    components: Iterable[Component],
    prefix: str,
    *,
    without: Collection[str] = (),
    add: bool = False,
    revealing: bool = False,
    cluster: bool = False,
) -> tuple[str, ...]:
    """Return the rules of ACL SETUSER for a user with the rights of these parts.

    They replace the rights that the user had, or add to them; its passwords stay.

    Args:
        components: The parts; the client's own commands are added.
        prefix: The beginning of every key, as in `Settings.prefix`.
        without: Commands to leave out: one that the server does not know makes it
            refuse all of them.
        add: Whether what the user may do already stays.
        revealing: Whether to grant what shows the names of every key of the server.
        cluster: Whether the user is one of a cluster; each of its nodes has users of
            its own.

    Raises:
        InvalidKey: The prefix is none.
    """
    parts = tuple(components)
    left_out = set(without) | set(withheld(parts, revealing=revealing))
    wanted = commands(parts, cluster=cluster)
    allowed = [name for name in wanted if name not in left_out]
    resets = ("resetkeys", "resetchannels", "clearselectors", "-@all")
    return (
        *(() if add else resets),
        *(f"+{name}" for name in allowed),
        *(f"~{pattern}" for pattern in key_patterns(parts, prefix)),
        *(f"&{pattern}" for pattern in channel_patterns(parts, prefix)),
    )


def key_patterns(components: Iterable[Component], prefix: str) -> tuple[str, ...]:
    """Return the patterns of the keys that these use, each once."""
    families = (family for each in components for family in each.families)
    return _patterns(families, prefix)


def channel_patterns(components: Iterable[Component], prefix: str) -> tuple[str, ...]:
    """Return the patterns of the channels that these use, each once."""
    families = (family for each in components for family in each.channels)
    return _patterns(families, prefix)


def _patterns(
    families: Iterable[Family[*tuple[Any, ...]]], prefix: str
) -> tuple[str, ...]:
    space = KeySpace(prefix)
    return tuple(dict.fromkeys(space.pattern(family) for family in families))
