"""`QueueStore`: a queue in Redis. Each step is one script, so none can end half way.

Every user has a line, and one worker at a time serves it, under a lease: 1. take,
2. renew, 3. settle. That alone keeps the order of a user: a message that failed stays
at the head of its line, and nobody else waits. The clock is the server's: workers need
not agree on theirs.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from oddswire import keys as families
from oddswire._text import text
from oddswire.queue.statistics import QueueStats
from oddswire.scripts import Script, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.keys import Family, KeySpace
    from oddswire.queue._arguments import EnqueueOptions

Action = Literal["done", "retry", "wait", "release", "dead"]

# Messages that one script looks at: some milliseconds of the server at most.
_STEPS = 200
_PURGE_PAGE = 500

# What holds users, and which key of queue_erase.lua that is.
_USER_KEYS = {"messages": 0, "ids": 7}

# Read with the module: a queue is made within a running loop, which must not wait for
# a disk.
_MESSAGE = load("queue_message").source


def _script(name: str) -> Script:
    # The flags of a script are its first line.
    flags, _, rest = load(name).source.partition("\n")
    return Script(name, f"{flags}\n{_MESSAGE}\n{rest}")


_SCRIPTS = {
    name: _script(f"queue_{name}")
    for name in (
        *("enqueue", "take", "settle", "renew", "pause", "purge", "dead", "replay"),
        *("stats", "erase", "identity"),
    )
}

_COUNTERS = (
    *("enqueued", "duplicates", "delivered", "retried", "reclaimed"),
    *("expired", "dead", "replayed", "purged", "dropped", "foreign"),
)


class LeasedMessage(msgspec.Struct, frozen=True):
    """A message, and the lease on the line of its user."""

    token: str
    id: str
    user: int
    kind: str
    key: str
    due: int
    expires: int
    attempts: int
    uncertain: bool
    data: bytes


class Settlement(msgspec.Struct, frozen=True):
    """How a lease ends.

    Attributes:
        action: ``done``; ``retry`` after a failure; ``wait`` without one; ``release``
            to another worker; ``dead`` for a dead letter.
        delay: Seconds before the user's next attempt.
        uncertain: Whether the message may have been delivered.
        reason: Of a failure.
    """

    action: Action
    delay: float = 0.0
    uncertain: bool = False
    reason: str = ""


class LeasedBatch(msgspec.Struct, frozen=True):
    """The messages that `QueueStore.take` leased.

    Attributes:
        now: The time by which they were chosen, seconds since 1970.
        taken: Messages to handle.
        next: Seconds until more may be due; None when nothing is.
        expired: Messages found too old.
        reclaimed: Messages of this batch that another worker had before.
    """

    now: float
    leased: list[LeasedMessage]
    next: float | None
    expired: int
    reclaimed: int


class QueueStore:
    """The keys of one queue, and the scripts on them.

    Args:
        client: Where.
        keys: Names the keys.
        name: Of the queue.
        clock: None for the server's time; else what every step takes for the time.
    """

    def __init__(
        self, client: Client, keys: KeySpace, name: str, clock: Clock | None
    ) -> None:
        self.client = client
        self._clock = clock

        def key(family: Family[str]) -> str:
            return keys.key(family, name)

        messages, lines = key(families.QUEUE), key(families.QUEUE_LINES)
        users, leases = key(families.QUEUE_USERS), key(families.QUEUE_LEASES)
        delayed, dedup = key(families.QUEUE_DELAYED), key(families.QUEUE_DEDUP)
        paused, parked = key(families.QUEUE_PAUSED), key(families.QUEUE_PARKED)
        dead, meta = key(families.QUEUE_DEAD), key(families.QUEUE_META)
        self.wake = wake = key(families.QUEUE_WAKE)
        self._keys = {
            "enqueue": (messages, lines, users, delayed, dedup, meta, wake),
            "take": (
                *(messages, lines, users, leases, delayed, paused, parked, meta),
                wake,
            ),
            "settle": (messages, lines, users, leases, dead, meta),
            "renew": (users, leases, messages),
            "identity": (meta,),
            "pause": (paused, meta, wake),
            "purge": (messages, lines, users, leases, delayed, parked, dead, meta),
            "erase": (
                *(messages, lines, users, leases, delayed, parked, dead, dedup, meta),
            ),
            "dead": (messages, dead),
            "replay": (messages, lines, users, dead, meta, wake),
            "stats": (
                *(messages, lines, users, leases, delayed, parked, dead, meta),
                paused,
            ),
        }

    async def enqueue(
        self,
        values: Sequence[int | bytes],
        options: EnqueueOptions,
        dedup_window: float,
    ) -> list[str] | None:
        """Add a message for each of ``user, value, user, value, ...``.

        Returns the ids, empty for a duplicate; None for a server of another identity.
        """
        # One script for ids and messages: a crash leaves no id without its message.
        ids = await self._run(
            "enqueue",
            *(self._now(), options.dedup_id or "", _ms(dedup_window)),
            *(_ms(options.at or 0.0), _ttl(options.ttl), options.kind, options.key),
            *(options.identity or "", int(options.uncertain), *values),
        )
        return None if ids is None else [each.decode() for each in ids]

    async def identity(self) -> str:
        """Name the server process and the data in it."""
        return text(await self._run("identity", secrets.token_hex(8)))

    async def take(self, want: int, lease: float) -> LeasedBatch:
        """Lease the lines of at most so many users, and take their first messages."""
        # 1. A line that is due moves to the end of the lease, and its first message is
        # handed out: no other worker gets the line before that. If this worker dies, or
        # the reply is lost, the end of the lease makes the line due again; the message
        # is uncertain then. The token is new each time, so no worker can mistake the
        # lease of another for its own.
        token = secrets.token_hex(8)
        now, pause, expired, reclaimed, leased = await self._run(
            "take", self._now(), want, token, _ms(lease), _STEPS
        )
        return LeasedBatch(
            now=now / 1000,
            leased=[_leased_message(token, each) for each in leased],
            next=None if pause < 0 else pause / 1000,
            expired=expired,
            reclaimed=reclaimed,
        )

    async def settle(
        self,
        leased: LeasedMessage,
        settlement: Settlement,
        *,
        dead_limit: int = 0,
    ) -> bool:
        """End a lease; False when the caller does not own it any more."""
        # 3. The server compares the token, takes the message out of the line or leaves
        # it at the head, and makes the line due. A worker whose lease ran out settles
        # nothing: another worker may have the message in hand.
        return bool(
            await self._run(
                "settle",
                *(self._now(), leased.user, leased.id, leased.token),
                *(settlement.action, _ms(settlement.delay)),
                *(int(settlement.uncertain), settlement.reason, dead_limit),
            )
        )

    async def renew(self, lease: float, leased: Sequence[LeasedMessage]) -> list[bool]:
        """Prolong leases; False for each that the caller does not own any more."""
        # 2. The line moves to a later end, if it still has the token. If not, another
        # worker may have the message: this one must stop.
        pairs = [x for each in leased for x in (each.user, f"{each.token}:{each.id}")]
        return [
            bool(x) for x in await self._run("renew", self._now(), _ms(lease), *pairs)
        ]

    async def pause(self, label: str) -> bool:
        """Pause a label; False when it is already."""
        return bool(await self._run("pause", "pause", label))

    async def resume(self, label: str) -> bool:
        """Resume a label; False when it was not paused."""
        return bool(await self._run("pause", "resume", label))

    async def purge(self, user: str, kind: str, key: str) -> int:
        """Remove messages, page by page; return how many."""
        return await self._count_pages("purge", (self._now(),), (user, kind, key))

    async def erase(self, user: str) -> int:
        """Remove a user's messages and ids, page by page; return how many."""
        return sum([await self._scan("erase", user, what) for what in _USER_KEYS])

    async def traces(self, user: str) -> tuple[str, ...]:
        """Return the keys that speak of a user, looking at all of them."""
        return tuple(
            [
                self._keys["erase"][place]
                for what, place in _USER_KEYS.items()
                if await self._scan("look", user, what)
            ]
        )

    async def _scan(self, how: Literal["erase", "look"], user: str, what: str) -> int:
        return await self._count_pages("erase", (how, user, what))

    async def _count_pages(
        self, name: str, before: Sequence[Any], after: Sequence[Any] = ()
    ) -> int:
        """Run a script on each page of its keys; return the sum of its counts."""
        # Page by page, so that other commands of the server go in between.
        cursor: bytes = b"0"
        found: int = 0
        while True:
            cursor, count = await self._run(name, *before, cursor, _PURGE_PAGE, *after)
            found += count
            if cursor == b"0":
                return found

    async def dead(self, after: str, limit: int) -> list[list[Any]]:
        """Read dead letters, the oldest message first, as queue_dead.lua has them."""
        letters: list[list[Any]] = await self._run("dead", after, limit)
        return letters

    async def replay(self, ids: Sequence[str], ttl: float | None) -> int:
        """Put dead letters back; return how many of the ids were one."""
        return int(await self._run("replay", self._now(), _ttl(ttl), *ids))

    async def stats(self) -> QueueStats:
        """Read sizes and counters, at one moment."""
        (
            *(waiting, delayed, parked, dead, leased, users, lag),
            paused,
            counted,
        ) = await self._run("stats", self._now())
        counters = dict(zip(counted[::2], map(_number, counted[1::2]), strict=True))
        return QueueStats(
            waiting=waiting,
            delayed=delayed,
            parked=parked,
            dead_letters=dead,
            leased=leased,
            users=users,
            lag=lag / 1000,
            paused=frozenset(label.decode(errors="replace") for label in paused),
            **{name: counters.get(name.encode(), 0) for name in _COUNTERS},
        )

    def _now(self) -> int | str:
        return "" if self._clock is None else _ms(self._clock.now())

    async def _run(self, name: str, *args: Any) -> Any:
        return await _SCRIPTS[name].run(self.client, self._keys[name], args)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _ttl(seconds: float | None) -> int:
    # 0 stands for none, so a very short one must not become 0.
    return 0 if seconds is None else max(1, _ms(seconds))


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() else 0  # not a counter


def _leased_message(token: str, fields: list[Any]) -> LeasedMessage:
    id_, user, kind, key, due, expires, attempts, uncertain, data = fields
    return LeasedMessage(
        token=token,
        id=id_.decode(),
        user=int(user),
        kind=kind.decode(errors="replace"),
        key=key.decode(errors="replace"),
        due=due,
        expires=expires,
        attempts=attempts,
        uncertain=bool(uncertain),
        data=data,
    )
