"""Every key's format, in one place: a typed family for each kind of data.

A key reads ``prefix family : part : part``, for example
``oddswire:rate-limit:{rl}:trades:42``. The prefix and the family are one segment each.
In a part, every byte is escaped that has a meaning in a key, a pattern or a terminal.
So two different tuples of parts never share a key, and no pattern of this module
matches a key of another family or prefix, for any input.

Braces enclose the hash tag: keys with the same text there live in one slot of a
cluster, and may be used together in one script or transaction.
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar, TypeVarTuple, cast, final, overload
from urllib.parse import unquote_to_bytes

from oddswire.errors import InvalidKey

MAX_KEY_BYTES = 512
"""A longer key is refused: it costs memory in every server, and is a mistake."""

Parts = TypeVarTuple("Parts")
A = TypeVar("A", bound=int | str)
B = TypeVar("B", bound=int | str)
C = TypeVar("C", bound=int | str)

_SEGMENT = re.compile(r"[A-Za-z0-9_.-]+")
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")
_PLAIN_BYTES = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~-"
)
# No escape is a lone percent sign, so this cannot be another part's text. An empty
# hash tag would not be a tag at all: the server then hashes the whole key.
_EMPTY = "%"


@final
class Family(Generic[*Parts]):
    """The keys of one kind of data.

    Args:
        name: One segment, ``[A-Za-z0-9_.-]+``; unique among those of a prefix.
        *types: The types of the parts, `int` or `str`. More than three need the
            annotation that is inferred for fewer: ``Family[int, str, str, str]``.
        tag: How many leading parts the hash tag encloses.
        group: A fixed text at the beginning of the tag. Families of one group with
            the same tagged parts share a slot; without parts, the whole group does.

    Example:
        >>> WATCHES = Family("watches", int, tag=1)
        >>> KeySpace("polymarket:").key(WATCHES, 42)
        'polymarket:watches:{42}'

    Raises:
        InvalidKey: The name, a type, the tag or the group is not as above.
    """

    __slots__ = ("group", "name", "tag", "types")

    @overload
    def __init__(
        self: Family[()], name: str, *, tag: int = 0, group: str = ""
    ) -> None: ...
    @overload
    def __init__(
        self: Family[A], name: str, a: type[A], /, *, tag: int = 0, group: str = ""
    ) -> None: ...
    @overload
    def __init__(
        self: Family[A, B],
        name: str,
        a: type[A],
        b: type[B],
        /,
        *,
        tag: int = 0,
        group: str = "",
    ) -> None: ...
    @overload
    def __init__(
        self: Family[A, B, C],
        name: str,
        a: type[A],
        b: type[B],
        c: type[C],
        /,
        *,
        tag: int = 0,
        group: str = "",
    ) -> None: ...
    @overload
    def __init__(
        self, name: str, *types: type[int | str], tag: int = 0, group: str = ""
    ) -> None: ...
    def __init__(self, name: str, *types: Any, tag: int = 0, group: str = "") -> None:
        if not _SEGMENT.fullmatch(name):
            raise InvalidKey(f"family {name!r}: a name is [A-Za-z0-9_.-]+")
        if not all(each in (int, str) for each in types):
            raise InvalidKey(f"family {name!r}: a part is an int or a str")
        if not 0 <= tag <= len(types):
            raise InvalidKey(f"family {name!r}: tag is 0 to {len(types)} leading parts")
        if group and not _SEGMENT.fullmatch(group):
            raise InvalidKey(f"family {name!r}: a group is [A-Za-z0-9_.-]+")
        self.name = name
        self.types: tuple[type[int | str], ...] = types
        self.tag = tag
        self.group = group

    def __repr__(self) -> str:
        types = "".join(f", {each.__name__}" for each in self.types)
        return f"Family({self.name!r}{types}, tag={self.tag}, group={self.group!r})"


@final
class KeySpace:
    """Makes and reads the keys under one prefix.

    Args:
        prefix: One segment ``[A-Za-z0-9_.-]+`` and a colon, so that no prefix is the
            beginning of another's keys.

    Raises:
        InvalidKey: The prefix is not of that form.
    """

    __slots__ = ("prefix",)

    def __init__(self, prefix: str) -> None:
        if not (
            isinstance(prefix, str)
            and prefix.endswith(":")
            and _SEGMENT.fullmatch(prefix[:-1])
        ):
            raise InvalidKey(
                f"prefix {prefix!r}: one segment of [A-Za-z0-9_.-] and a colon, "
                'such as "oddswire:"'
            )
        self.prefix = prefix

    def __repr__(self) -> str:
        return f"KeySpace({self.prefix!r})"

    def key(self, family: Family[*Parts], *parts: *Parts) -> str:
        """Return the key of these parts.

        Raises:
            InvalidKey: The number or the type of the parts is not the family's, a part
                is not valid Unicode, or the key is longer than 512 bytes.
        """
        if len(parts) != len(family.types):
            raise InvalidKey(
                f"{family.name} takes {len(family.types)} parts, not {len(parts)}"
            )
        values = cast("tuple[int | str, ...]", parts)
        key = ":".join([self.prefix + family.name, *_written(family, values)])
        if len(key) > MAX_KEY_BYTES:  # all of it is ASCII
            raise InvalidKey(
                f"a key of {family.name} would have {len(key)} bytes, "
                f"{MAX_KEY_BYTES} is the limit: use a hash of the long part"
            )
        return key

    def parse(self, family: Family[*Parts], key: str | bytes) -> tuple[*Parts] | None:
        """Return the parts of a key; None if `key` is not one that this family makes.

        What it returns, `key` turns into exactly the same key again.
        """
        if isinstance(key, bytes):
            # Each byte one character: a byte that is not ASCII then fails below.
            key = key.decode("latin-1")
        start = self.prefix + family.name
        if not key.startswith(start) or len(key) > MAX_KEY_BYTES:
            return None
        texts = re.split("[:{}]+", key[len(start) :])
        texts = [text for text in texts[1:] if text]
        if _tagged(family):
            texts = texts[1:] if family.group else texts
        if len(texts) != len(family.types):
            return None
        try:
            parts = tuple(
                _part(kind, text)
                for kind, text in zip(family.types, texts, strict=True)
            )
            typed = cast("tuple[*Parts]", parts)
            # Splitting was lenient; only the one right spelling comes out the same.
            return typed if self.key(family, *typed) == key else None
        except ValueError:  # InvalidKey is one
            return None

    def pattern(self, family: Family[*Parts], *leading: int | str) -> str:
        """Return the SCAN pattern that matches the keys of a family and no others.

        Args:
            family: The family.
            *leading: Its first parts; the keys must begin with them.

        Raises:
            InvalidKey: More parts than the family has, or of other types.
        """
        if len(leading) > len(family.types):
            raise InvalidKey(f"{family.name} has only {len(family.types)} parts")
        start = [self.prefix + family.name, *_written(family, leading)]
        if len(leading) == len(family.types):
            return ":".join(start)
        return ":".join([*start, "*"])


def int_text(what: str, number: int) -> str:
    """Return the text of a number that becomes part of a key.

    Raises:
        InvalidKey: Python makes no text of it, for it has thousands of digits; the
            message begins with `what`.
    """
    try:
        return str(number)
    except ValueError:
        raise InvalidKey(f"{what} has too many digits for a key") from None


def _tagged(family: Family[*Parts]) -> bool:
    return bool(family.tag or family.group)


def _written(family: Family[*Parts], parts: tuple[int | str, ...]) -> list[str]:
    """Return what follows the family's name; of leading parts, an unfinished tag."""
    texts = [
        _text(family.name, kind, part)
        for kind, part in zip(family.types, parts, strict=False)
    ]
    if not _tagged(family):
        return texts
    tag = [family.group, *texts[: family.tag]] if family.group else texts[: family.tag]
    whole = len(texts) >= family.tag
    enclosed = "{" + ":".join(tag) + ("}" if whole else "")
    return [enclosed, *texts[family.tag :]] if tag else []


def _text(family: str, kind: type[int | str], part: int | str) -> str:
    # By exact type: True is an int, and an enum of str prints its own name.
    if type(part) is not kind:
        raise InvalidKey(
            f"a part of {family} is {kind.__name__}, not {type(part).__name__}"
        )
    if isinstance(part, int):
        return int_text(f"a part of {family}", part)
    if _PLAIN.fullmatch(part):
        return part
    if not part:
        return _EMPTY
    try:
        data = part.encode()
    except UnicodeEncodeError:
        raise InvalidKey(f"a part of {family} is not valid Unicode") from None
    return "".join(
        chr(byte) if byte in _PLAIN_BYTES else f"%{byte:02X}" for byte in data
    )


def _part(kind: type[int | str], text: str) -> int | str:
    if kind is int:
        return int(text)
    return "" if text == _EMPTY else unquote_to_bytes(text).decode()


# --- the families of the library; the first part of a session's is a shard

SESSION = Family("session", int, str, tag=1, group="s")
"""shard, user: hash of one session's sections"""
SESSION_SHORT = Family("session-short", int, str, tag=1, group="s")
"""shard, user: fields that live for minutes, such as one-time codes"""
SESSION_EXPIRY = Family("session-expiry", int, tag=1, group="s")
"""shard: users by expiry; alone decides which sessions live"""
SESSION_ACTIVITY = Family("session-activity", int, tag=1, group="s")
"""shard: users by last activity"""
SESSION_OFF = Family("session-off", int, tag=1, group="s")
"""shard: deactivated users"""
SESSION_STATS = Family("session-stats", int, tag=1, group="s")
"""shard: counters"""
SESSION_LOG = Family("session-log", int, tag=1, group="s")
"""shard: the latest changes, for what processes keep in their memory"""
SESSION_MARKS = Family("session-marks", int, tag=1, group="s")
"""shard: users whose change is on its way to the source of record"""
SESSION_NOTED = Family("session-noted", int, tag=1, group="s")
"""shard: users by their version in the source of record"""
SESSION_BEAT = Family("session-beat", int, tag=1, group="s")
"""shard: never written; an UNLINK of it proves that the user may"""
SESSION_INDEX = Family("session-index", int, str, str, tag=1, group="s")
"""shard, index, value: users with that value, such as a tracked wallet"""

CACHE = Family("cache", str, str, tag=2)
"""namespace, key: an entry"""
CACHE_LEASE = Family("cache-lease", str, str, tag=2)
"""namespace, key: the right to load that entry, in the entry's slot"""
CACHE_TAG = Family("cache-tag", str)
"""digest of a tag: its nonce"""
CACHE_NAMESPACE = Family("cache-namespace", str, tag=1)
"""namespace: its nonce"""
CACHE_RUN = Family("cache-run", str, tag=1)
"""namespace: the server process that its nonce was made under"""
CACHE_MARK = Family("cache-mark", str, tag=1)
"""namespace: names the server process, where its run id cannot be asked"""
CACHE_BEAT = Family("cache-beat", str, str, tag=1)
"""process, use: a tracking connection's proof that invalidations arrive"""
CACHE_CHANGES = Family("cache-changes")
"""a channel: written keys, for processes that are refused CLIENT TRACKING"""
CACHE_CAP = Family("cache-cap")
"""held by the process that weighs the entries"""
CACHE_HOT = Family("cache-hot", str)
"""namespace: keys by use, for warming"""

RATE_LIMIT = Family("rate-limit", str, str, group="rl")
"""rule, subject: its usage; one slot, for rules are decided together"""
RATE_BLOCK = Family("rate-block", str, str, group="rl")
"""rule, subject: refused until then, after a 429"""
RATE_CHANGE = Family("rate-change", str, group="rl")
"""rule: the limit that holds instead of the declared one"""
RATE_SCOPES = Family("rate-scopes", str, group="rl")
"""rule: the first parts of its subjects such as ``<bot>:<user>``; for erasure"""

LOCK = Family("lock", str, tag=1)
"""name: the holder's token"""
LOCK_SEAT = Family("lock-seat", str, int, tag=1)
"""name, number from 1: the token of the holder of that further seat"""
LOCK_FENCE = Family("lock-fence", str, tag=1)
"""name: the last fencing number given out"""
LOCK_QUEUE = Family("lock-queue", str, tag=1)
"""name: the waiters, by arrival"""
LOCK_WAITING = Family("lock-waiting", str, tag=1)
"""name: the waiters, by the time until which each counts as alive"""
LOCK_RELEASED = Family("lock-released", str, tag=1)
"""name: a stream of the last release, which wakes the waiters"""

QUEUE = Family("queue", str, tag=1)
"""queue: hash of its messages by id, in every state"""
QUEUE_LINES = Family("queue-lines", str, tag=1)
"""queue: each user's messages that wait, in order; one being handled is its first"""
QUEUE_USERS = Family("queue-users", str, tag=1)
"""queue: users with a line, by when it may be served next"""
QUEUE_LEASES = Family("queue-leases", str, tag=1)
"""queue: the worker that serves a user's line, and its message"""
QUEUE_DELAYED = Family("queue-delayed", str, tag=1)
"""queue: messages for later, by when they are due"""
QUEUE_PAUSED = Family("queue-paused", str, tag=1)
"""queue: the kinds and keys that are paused"""
QUEUE_PARKED = Family("queue-parked", str, tag=1)
"""queue: messages that stepped out of their line because they are paused"""
QUEUE_DEAD = Family("queue-dead", str, tag=1)
"""queue: dead letters"""
QUEUE_DEDUP = Family("queue-dedup", str, tag=1)
"""queue: ids already taken, by when they are forgotten"""
QUEUE_META = Family("queue-meta", str, tag=1)
"""queue: the last id, and counters"""
QUEUE_WAKE = Family("queue-wake", str, tag=1)
"""queue: list that idle workers block on"""

TOPIC = Family("topic", str, str, tag=2)
"""topic, key: the channel of live messages"""
TOPIC_HEAD = Family("topic-head", str, str, tag=2)
"""topic, key: sequence number and id of the last message"""
TOPIC_LOG = Family("topic-log", str, str, tag=2)
"""topic, key: the stream of a LOG topic"""
TOPIC_LATEST = Family("topic-latest", str, str, tag=2)
"""topic, key: the newest version of a LATEST topic"""
TOPIC_DEDUP = Family("topic-dedup", str, str, str, tag=2)
"""topic, key, id: the result of the publish with that id"""
TOPIC_POSITION = Family("topic-position", str, str, str, tag=2)
"""topic, key, name: how far the reader of that name has come"""

CONVERSATION: Family[int, int, int, str, str, str] = Family(
    "conversation", int, int, int, str, str, str, tag=6
)
"""bot, chat, user, thread, business connection, destiny: hash of state and data"""
CONVERSATION_ADOPTED: Family[int, int, int, str, str, str] = Family(
    "conversation-adopted", int, int, int, str, str, str, tag=6
)
"""the same: another storage's record was taken over, and is not read any more"""
UPDATE_SEEN = Family("update-seen", int, int)
"""bot, update: it is handled, or was"""
PTB_DATA = Family("ptb-data", int, str, int)
"""bot, kind, id: hash of user, chat, bot or callback data"""
PTB_CONVERSATIONS = Family("ptb-conversations", int, str)
"""bot, handler: hash of the states of its conversations"""

FAMILIES: tuple[Family[*tuple[Any, ...]], ...] = tuple(
    family for family in list(globals().values()) if isinstance(family, Family)
)
"""Every family above."""
