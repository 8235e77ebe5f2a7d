"""`Outbox`: puts committed alerts into the queue; the database says what is due.

A message of the queue only says where an alert stands in the database. So the queue may
lose anything: what has no fate is put in again, under the id that it always has.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from typing import TYPE_CHECKING, NoReturn, Protocol

import msgspec

from oddsbot.store import LOOK_BACK_SECONDS, Fate, Place
from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.errors import LockLost, OddswireError, SourceError
from oddswire.events import Degradation
from oddswire.plain import plain
from oddswire.queue import QueueKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oddsbot.store import AlertLog
    from oddswire.clock import Clock
    from oddswire.locks import Locks
    from oddswire.queue import Queue

    from .home import Home

ATTEMPTS = 8
"""Failures of a delivery after which it is given up."""

_PAGE = 1_000
# Small pages: rounds and fates are written in between.
_FORGET_PAGE, _FORGET_PAGES = 250, 40
_MOST_WAITING = 10_000
_HOME_EVERY = 1.0
_AGAIN = 0.1
_SWEEP_AGAIN = 1.0
SWEEP_SECONDS = 30.0
"""How old an alert without a fate is when the sweep puts it into the queue again."""

_log = logging.getLogger("oddsbot.delivery")


class Entry(msgspec.Struct, frozen=True):
    """What a message holds: where the person's alert stands in the database."""

    shard: str
    n: int
    place: int

    @property
    def where(self) -> Place:
        """The place of the alert."""
        return Place(self.shard, self.n, self.place)


# The lease is for another courier to take over from one that died.
ALERTS = QueueKey("alerts", Entry, lease=2.0, max_attempts=ATTEMPTS)
"""Alerts on their way to people; a line for each person."""


class Due(Protocol):
    """An alert that is due: a row of the database, or what a commit returned."""

    @property
    def user_id(self) -> int:
        """Whom to tell."""

    @property
    def where(self) -> Place:
        """Its place in the order."""

    @property
    def kind(self) -> str:
        """Such as ``price``; the queue can be paused by it."""

    @property
    def market(self) -> str:
        """The market's condition id; likewise."""


async def enqueue(
    queue: Queue[Entry], due: Iterable[Due], *, at: float | None = None
) -> None:
    """Put alerts into the queue in their order; those that it knows are left out.

    The people who are told of the same thing are one call. Cancelled or failed, a part
    is put in; the whole call may be repeated.

    Args:
        queue: Where to.
        due: The alerts.
        at: When they are handed out, seconds since 1970; None: at once.

    Raises:
        OddswireError: The server cannot be asked, or refuses.
    """
    # The alerts of a person have different places, so a group has each person once.
    groups: defaultdict[tuple[Place, str, str], list[int]] = defaultdict(list)
    for each in due:
        groups[each.where, each.kind, each.market].append(each.user_id)
    for (where, kind, market), people in sorted(groups.items()):
        # The same object for all is encoded once.
        entry = Entry(where.shard, where.n, where.place)
        await queue.enqueue_many(
            dict.fromkeys(people, entry),
            dedup_id=f"{where.shard}:{where.n}:{where.place}",
            at=at,
            kind=kind,
            key=market,
        )


class Outbox:
    """Puts what a process committed into the queue, soon and in order; `run` it.

    Nothing waits for it. While Redis is away nothing is kept here: what is due is read
    from the database when Redis is back. The same is done when Redis has another `Home`
    than before, since it may have lost what was queued.

    Args:
        queue: Where to.
        log: What is due.
        home: Which data Redis has.
        clock: Sleeps.

    Attributes:
        home: The name of the Redis that alerts are queued in; empty before it is known.
        resumed: How often all that is due was read from the database.
        queued: Alerts that were put into the queue, or that it knew.
    """

    def __init__(
        self, queue: Queue[Entry], log: AlertLog, home: Home, clock: Clock
    ) -> None:
        self.home = ""
        self.resumed = 0
        self.queued = 0
        self._queue = queue
        self._alerts = log
        self._home = home
        self._clock = clock
        self._waiting: deque[Sequence[Due]] = deque()
        self._size = 0
        self._shards: set[str] = set()
        self._stale: set[str] = set()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._degraded = Degradation(
            queue.client.events, "outbox", "waiting", clock.monotonic
        )

    def put(self, committed: Sequence[Due]) -> None:
        """Have alerts queued soon, in the order of the calls; never waits."""
        self._shards.update(each.where.shard for each in committed)
        self._waiting.append(committed)
        self._size += len(committed)
        if self._size > _MOST_WAITING:
            # All of them are in the database.
            self._forget()
        self._stir()

    def resume(self, shard: str) -> None:
        """Have all that a shard has due queued, before anything newer; never waits."""
        self._shards.add(shard)
        self._forget()
        self._stir()

    def _forget(self) -> None:
        """Keep nothing here; read what is due from the database."""
        self._waiting.clear()
        self._size = 0
        self._stale.update(self._shards)
        if self._stale:
            self._idle.clear()

    def _stir(self) -> None:
        self._idle.clear()
        self._work.set()

    async def wait_queued(self) -> None:
        """Wait until all that was put is in the queue; through outages too."""
        await self._idle.wait()

    async def run(self) -> NoReturn:
        """Put alerts in for ever; waits through outages of Redis and the database.

        Raises:
            OddswireError: A refusal that waiting does not mend.
        """
        looked_at = None
        while True:
            self._work.clear()
            now = self._clock.monotonic()
            try:
                if looked_at is None or now - looked_at >= _HOME_EVERY:
                    await self._look()
                    looked_at = now
                await self._send()
            except OddswireError as error:
                if not isinstance(error, (SourceError, *TRANSIENT_ERRORS)):
                    raise
                self._degraded.begin(error)
                # It may be another server, or another one's data, that comes back.
                looked_at = None
                self._forget()
                await self._clock.sleep(_AGAIN)
                continue
            self._degraded.end()
            if not (self._waiting or self._stale):
                self._idle.set()
            try:
                # A standby looks too: it may own a shard in a moment.
                async with asyncio.timeout(_HOME_EVERY):
                    await self._work.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        home = await self._home.read()
        if home != self.home:
            if self.home:
                _log.warning("queue_changed", extra={"event": "queue_changed"})
                self._forget()
            self.home = home

    async def _send(self) -> None:
        for shard in sorted(self._stale):
            # First: what is left to the database behind the last page is read again.
            self._stale.discard(shard)
            await self._read_due(shard)
        while self._waiting and not self._stale:
            committed = self._waiting[0]
            await enqueue(self._queue, committed)
            self.queued += len(committed)
            # Meanwhile all of them may have been left to the database.
            if self._waiting and self._waiting[0] is committed:
                self._waiting.popleft()
                self._size -= len(committed)

    async def _read_due(self, shard: str) -> None:
        self.resumed += 1
        after = None
        while rows := await self._alerts.unsettled(shard, after=after, limit=_PAGE):
            await enqueue(self._queue, rows)
            self.queued += len(rows)
            after = rows[-1].where, rows[-1].user_id


class Sweep:
    """Finds alerts that were left without a fate; `run` it in every courier's process.

    What is old and has no fate is put into the queue, which leaves out what it has.
    What the queue gave up gets the fate `failed`. What nobody can ask about any more is
    deleted.

    Args:
        queue: Where to.
        log: What is due.
        locks: Say which process looks; only economy rests on it.
        clock: Sleeps.

    Attributes:
        swept: Old alerts that had no fate, each look.
        failed: Alerts that the queue gave up.
        forgotten: Alerts of more than `LOOK_BACK_SECONDS` ago that were deleted.
    """

    def __init__(
        self, queue: Queue[Entry], log: AlertLog, locks: Locks, clock: Clock
    ) -> None:
        self.swept = 0
        self.failed = 0
        self.forgotten = 0
        self._queue = queue
        self._alerts = log
        self._locks = locks
        self._clock = clock

    async def run(self) -> NoReturn:
        """Look each half minute, in one process of all; for ever.

        Raises:
            OddswireError: A refusal that waiting does not mend.
        """
        while True:
            try:
                async with self._locks.lock("alerts.sweep", SWEEP_SECONDS):
                    while True:
                        await self.look()
                        await self._clock.sleep(SWEEP_SECONDS)
            except OddswireError as error:
                if not isinstance(error, (SourceError, LockLost, *TRANSIENT_ERRORS)):
                    raise
                _log.warning(
                    "sweep_failed error=%s",
                    plain(error),
                    extra={"event": "sweep_failed"},
                )
                await self._clock.sleep(_SWEEP_AGAIN)

    async def look(self) -> None:
        """Look once.

        Raises:
            OddswireError: Redis or the database cannot be asked.
        """
        await self._fail_dead()
        await self._queue_old()
        await self._forget()

    async def _queue_old(self) -> None:
        before, after = self._clock.now() - SWEEP_SECONDS, None
        while rows := await self._alerts.unsettled(
            due_before=before, after=after, limit=_PAGE
        ):
            self.swept += len(rows)
            await enqueue(self._queue, rows)
            after = rows[-1].where, rows[-1].user_id

    async def _forget(self) -> None:
        before = self._clock.now() - LOOK_BACK_SECONDS
        for _ in range(_FORGET_PAGES):
            gone = await self._alerts.forget(before, limit=_FORGET_PAGE)
            self.forgotten += gone
            if gone < _FORGET_PAGE:
                return

    async def _fail_dead(self) -> None:
        after = ""
        while letters := await self._queue.dead(after=after):
            for letter in letters:
                if letter.value is None:
                    continue
                where = letter.value.where
                for row in await self._alerts.due(letter.user_id, where):
                    if row.where == where:
                        settled = await self._alerts.settle(
                            row, Fate.FAILED, letter.reason
                        )
                        self.failed += settled
            after = letters[-1].id
