"""The loop of `Queue.consume`: take, handle, settle, renew."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from oddswire.connection.backoff import OutageBackoff
from oddswire.connection.deadline import Deadline
from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.errors import CodecError, OddswireError, RateLimited, Undeliverable
from oddswire.events import Degradation
from oddswire.logs import log_line
from oddswire.queue._store import Settlement
from oddswire.queue.messages import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.codec import Codec
    from oddswire.queue._store import Store, Taken
    from oddswire.queue.messages import Counts

T = TypeVar("T")

_log = logging.getLogger("oddswire.queue")

_REASON_LENGTH = 500
_SHORTEST_WAIT = 0.01
_LONGEST_WAIT = 86_400.0
_FAREWELL = 1.0  # seconds that a cancelled handler may take to give its lease back


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a queue's workers behave; durations in seconds. See `Queue`."""

    max_attempts: int
    retry_base: float
    retry_cap: float
    lease: float
    timeout: float
    poll: float
    dead_limit: int


class _Ending(msgspec.Struct, frozen=True):
    """How a lease is to end."""

    what: Settlement
    delay: float = 0.0
    uncertain: bool = False
    reason: str = ""


# What a handler that is cancelled leaves, until it has come to an end of its own.
_RELEASED = _Ending("release", uncertain=True)


class _Held:
    """A lease in use: the task that handles its message, and what is known of it.

    `taken` changes when the lease ran out and came back to this worker.
    """

    __slots__ = ("_seconds", "_store", "lost", "settling", "taken", "task")

    def __init__(self, taken: Taken, store: Store, seconds: float) -> None:
        self.taken = taken
        self._store = store
        self._seconds = seconds
        self.task: asyncio.Task[None] | None = None
        self.settling = False
        self.lost = False

    async def keep(self) -> bool:
        """Prolong the lease; False: it is somebody else's, or over.

        Raises:
            OddswireError: Redis could not be asked.
        """
        while not (self.lost or self.settling):
            taken = self.taken
            (kept,) = await self._store.renew(self._seconds, [taken])
            # It may have come back to this worker meanwhile, as another lease.
            if kept or self.taken is taken:
                return kept
        return False

    def is_of(self, taken: Taken) -> bool:
        """Whether it is the same message, at the same attempt.

        After a loss of data ids come again, and after a failure whose settlement
        arrived while its reply did not, the next attempt is another one.
        """
        mine = self.taken
        return (mine.id, mine.user, mine.due, mine.attempts, mine.data) == (
            *(taken.id, taken.user, taken.due, taken.attempts, taken.data),
        )


class Worker(Generic[T]):
    """One `consume`.

    Args:
        store: The queue in Redis.
        codec: Decodes values.
        handler: Delivers a message, or raises.
        options: As of the queue.
        counts: Where it counts.
        concurrency: Handlers at the same time.
        stop: Set to end after what is being handled.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec[T],
        handler: Callable[[Message[T]], Awaitable[object]],
        options: Options,
        counts: Counts,
        *,
        concurrency: int,
        stop: asyncio.Event | None,
    ) -> None:
        self._store = store
        self._codec = codec
        self._handler = handler
        self._options = options
        self._counts = counts
        self._concurrency = concurrency
        self._stop = stop
        self._stopping = False
        self._held: set[_Held] = set()
        # Something happened that may let the loop go on: a slot is free, a token came.
        self._stir = asyncio.Event()
        self._idle = asyncio.Event()
        self._failure: OddswireError | None = None

    async def run(self) -> None:
        """Take and handle until `stop` is set, or for ever."""
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(self._renew(), name="queue: renew leases"),
                tasks.create_task(self._listen(), name="queue: wait for messages"),
                tasks.create_task(self._watch_stop(), name="queue: wait for the stop"),
            ]
            try:
                await self._serve(tasks)
                while self._held:
                    self._stir.clear()
                    await self._stir.wait()
            finally:
                for helper in helpers:
                    helper.cancel()
        if self._failure is not None:
            raise self._failure

    # --- taking

    async def _serve(self, tasks: asyncio.TaskGroup) -> None:
        outage = OutageBackoff(
            Degradation(self._store.client.events, "queue", "waiting", time.monotonic)
        )
        while not (self._stopping or self._failure):
            # Before looking, so that what happens from here on is not missed.
            self._stir.clear()
            free = self._concurrency - len(self._held)
            if free <= 0:
                await self._stir.wait()
                continue
            try:
                batch = await self._store.take(free, self._options.lease)
            except OddswireError as error:
                if not self._passes(error):
                    return
                await outage.wait(error)
                continue
            outage.over()
            self._counts.expired += batch.expired
            self._counts.reclaimed += batch.reclaimed
            for taken in batch.taken:
                if not self._adopt(taken):
                    self._counts.lag.observe(batch.now - taken.due / 1000)
                    held = _Held(taken, self._store, self._options.lease)
                    self._held.add(held)
                    held.task = tasks.create_task(
                        self._handle(held), name=f"queue: message {taken.id}"
                    )
            if len(batch.taken) < free and batch.next != 0:
                await self._rest(batch.next)

    def _adopt(self, taken: Taken) -> bool:
        """Go on under the new lease with a message that is in hand here already.

        After an outage that outlasted the leases, the worker may be handed what it
        has delivered and could not settle; it is not to deliver that again.
        """
        for held in self._held:
            if held.is_of(taken) and not held.lost:
                held.taken = taken
                return True
        return False

    async def _rest(self, until: float | None) -> None:
        """Wait for a token, a free slot, or the time when something is due."""
        self._idle.set()
        pause = self._options.poll if until is None else min(until, self._options.poll)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):  # a pause
                await self._stir.wait()
        self._idle.clear()

    async def _listen(self) -> None:
        """Block on the list of tokens while idle; a lost token costs `poll` at most."""
        outage = OutageBackoff()
        while not self._failure:
            await self._idle.wait()
            try:
                if await self._store.client.blpop(self._store.wake, self._options.poll):
                    self._stir.set()
                    # Until the loop has looked: a token is for whoever is idle.
                    self._idle.clear()
            except OddswireError as error:
                if not self._passes(error):
                    return
                await outage.wait(error)
            else:
                outage.over()

    async def _watch_stop(self) -> None:
        if self._stop is not None:
            await self._stop.wait()
            self._stopping = True
            self._stir.set()

    def _passes(self, error: OddswireError) -> bool:
        """Whether an error passes by waiting; if not, the worker ends with it."""
        if isinstance(error, TRANSIENT_ERRORS):
            return True
        self._failure = self._failure or error
        self._stir.set()
        return False

    # --- handling

    async def _handle(self, held: _Held) -> None:
        ending = _RELEASED
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            ending = await self._attempt(held)
            held.settling = True
            await self._settle(held, ending)
        except asyncio.CancelledError:
            if held.lost:
                self._counts.lost += 1
            else:
                await self._part(held.taken, ending)
            raise
        finally:
            self._counts.handling.observe(loop.time() - started)
            self._held.discard(held)
            self._stir.set()

    async def _attempt(self, held: _Held) -> _Ending:
        """Call the handler; what it raises decides how the lease ends."""
        taken = held.taken
        try:
            message = self._message(held)
        except CodecError as error:
            return self._dead(taken, _text(error))
        scope = Deadline(self._options.timeout)
        try:
            async with scope:
                await self._handler(message)
        except RateLimited as error:
            return _Ending("wait", delay=_sane(error.retry_after))
        except Undeliverable as error:
            return self._dead(taken, _text(error))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._failed(taken, "CancelledError: by the handler", uncertain=True)
        except Exception as error:  # noqa: BLE001 - a handler may raise anything, and the queue goes on
            if scope.expired():
                reason = f"not done after {self._options.timeout:g} s"
                return self._failed(taken, reason, uncertain=True)
            return self._failed(taken, _text(error), uncertain=False)
        return _Ending("done")

    def _message(self, held: _Held) -> Message[T]:
        taken = held.taken
        return Message(
            id=taken.id,
            user_id=taken.user,
            value=self._codec.decode(taken.data),
            kind=taken.kind,
            key=taken.key,
            attempt=taken.attempts + 1,
            uncertain=taken.uncertain,
            due_at=taken.due / 1000,
            expires_at=taken.expires / 1000 if taken.expires else None,
            _lease=held,
        )

    def _failed(self, taken: Taken, reason: str, *, uncertain: bool) -> _Ending:
        attempt = taken.attempts + 1
        if attempt >= self._options.max_attempts:
            return self._dead(taken, reason, uncertain=uncertain)
        log_line(
            _log,
            logging.INFO,
            "message_failed",
            id=taken.id,
            attempt=attempt,
            reason=reason,
        )
        doubled = self._options.retry_base * 2.0 ** min(attempt - 1, 64)
        delay = min(self._options.retry_cap, doubled) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, keeps no secret
        return _Ending("retry", delay, uncertain, reason)

    def _dead(self, taken: Taken, reason: str, *, uncertain: bool = False) -> _Ending:
        log_line(_log, logging.WARNING, "dead_letter", id=taken.id, reason=reason)
        return _Ending("dead", 0.0, uncertain, reason)

    # --- settling

    async def _settle(self, held: _Held, ending: _Ending) -> None:
        """End the lease, through outages: until an answer, the message would return."""
        outage = OutageBackoff()
        unsure = False
        while True:
            taken = held.taken
            try:
                ours = await self._end(taken, ending)
            except OddswireError as error:
                if not self._passes(error):
                    return
                unsure = True
                log_line(
                    _log,
                    logging.DEBUG,
                    "settling_failed",
                    id=taken.id,
                    reason=error,
                )
                await outage.wait(error)
                continue
            if not ours and held.taken is not taken:
                continue
            # After a lost reply "not ours" may mean that the first one arrived.
            self._count(ending, ours=ours or unsure)
            return

    async def _part(self, taken: Taken, ending: _Ending) -> None:
        """The last word of a cancelled handler; unsaid, the lease runs out."""
        with suppress(OddswireError, TimeoutError):
            async with Deadline(_FAREWELL):
                if await self._end(taken, ending):
                    self._count(ending, ours=True)

    async def _end(self, taken: Taken, ending: _Ending) -> bool:
        return await self._store.settle(
            taken,
            ending.what,
            delay=ending.delay,
            uncertain=ending.uncertain,
            reason=ending.reason,
            dead_limit=self._options.dead_limit,
        )

    def _count(self, ending: _Ending, *, ours: bool) -> None:
        counts = self._counts
        if not ours:
            counts.lost += 1
            return
        match ending.what:
            case "done":
                counts.delivered += 1
            case "retry":
                counts.retried += 1
            case "wait":
                counts.postponed += 1
            case "dead":
                counts.dead += 1

    # --- renewing

    async def _renew(self) -> None:
        """Prolong the leases in use; a handler whose lease is lost is cancelled."""
        while True:
            await asyncio.sleep(self._options.lease / 3)
            # One that settles ends its lease by itself.
            held = [each for each in self._held if not each.settling]
            if not held:
                continue
            leases = [each.taken for each in held]
            try:
                kept = await self._store.renew(self._options.lease, leases)
            except OddswireError as error:
                if not self._passes(error):
                    return
                continue
            for each, lease, ours in zip(held, leases, kept, strict=True):
                # It may have begun to settle, or got a new lease, while we asked.
                if ours or each.settling or each.taken is not lease:
                    continue
                if each.task is not None:
                    each.lost = True
                    each.task.cancel()


def _text(error: Exception) -> str:
    # What a handler raises may hold anything, and has to be stored as UTF-8.
    text = f"{type(error).__name__}: {error}"[:_REASON_LENGTH]
    return text.encode(errors="replace").decode()


def _sane(seconds: float) -> float:
    # Never nothing, which would ask again at once, and NaN is less than anything.
    return min(max(_SHORTEST_WAIT, seconds), _LONGEST_WAIT)
