"""`Worker`: the loop of `Queue.consume`.

1. take: lease as many messages as handlers are free, each of another user.
2. handle: one task for each message calls the handler.
3. settle: the outcome of the handler ends the lease, through outages of the server.
4. renew: leases in use are prolonged three times within; a handler whose lease another
   worker has is cancelled.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from oddswire._numbers import is_number
from oddswire.connection.backoff import Backoff, OutageBackoff
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
    from oddswire.queue._store import LeasedMessage, QueueStore
    from oddswire.queue.statistics import QueueCounts

T = TypeVar("T")

_log = logging.getLogger("oddswire.queue")

_REASON_LENGTH = 500
_SHORTEST_WAIT = 0.01
_LONGEST_WAIT = 86_400.0
_RELEASE_TIMEOUT = (
    1.0  # seconds that a cancelled handler may take to give its lease back
)


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a queue's workers behave; durations in seconds. See `Queue`."""

    max_attempts: int
    retry_base: float
    retry_cap: float
    lease: float
    timeout: float
    poll: float
    dead_limit: int


# Of a handler that is cancelled before it has an outcome of its own.
_RELEASED = Settlement("release", uncertain=True)


class _Delivery:
    """A message in hand: its lease, and the task that handles it.

    `leased` changes when the lease ran out and came back to this worker.
    """

    __slots__ = ("_seconds", "_store", "leased", "lost", "settling", "task")

    def __init__(
        self, leased: LeasedMessage, store: QueueStore, seconds: float
    ) -> None:
        self.leased = leased
        self._store = store
        self._seconds = seconds
        self.task: asyncio.Task[None] | None = None
        self.settling = False
        self.lost = False

    async def renew(self) -> bool:
        """Prolong the lease; False: another worker has it, or it is over.

        Raises:
            OddswireError: Redis could not be asked.
        """
        while not (self.lost or self.settling):
            leased = self.leased
            (kept,) = await self._store.renew(self._seconds, [leased])
            # The message may have come back to this worker meanwhile, on another lease.
            if kept or self.leased is leased:
                return kept
        return False

    def is_same_attempt(self, leased: LeasedMessage) -> bool:
        """Whether it is the same message, at the same attempt.

        After a loss of data ids come again, and after a failure whose settlement
        arrived while its reply did not, the next attempt is another one.
        """
        mine = self.leased
        return (mine.id, mine.user, mine.due, mine.attempts, mine.data) == (
            *(leased.id, leased.user, leased.due, leased.attempts, leased.data),
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
        store: QueueStore,
        codec: Codec[T],
        handler: Callable[[Message[T]], Awaitable[object] | object],
        options: WorkerOptions,
        counts: QueueCounts,
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
        self._cancelled = False
        self._deliveries: set[_Delivery] = set()
        # Set when the loop may go on: a handler is free, a wake-up came.
        self._wake = asyncio.Event()
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
                while self._deliveries:
                    self._wake.clear()
                    await self._wake.wait()
            except asyncio.CancelledError:
                self._cancelled = True
                raise
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
            # Before looking: an event from here on wakes the loop again.
            self._wake.clear()
            free = self._concurrency - len(self._deliveries)
            if free <= 0:
                await self._wake.wait()
                continue
            # 1. Take. If the reply is lost, the messages come again when their leases
            # have run out.
            try:
                batch = await self._store.take(free, self._options.lease)
            except OddswireError as error:
                if not self._is_transient(error):
                    return
                await outage.wait(error)
                continue
            outage.over()
            self._counts.expired += batch.expired
            self._counts.reclaimed += batch.reclaimed
            # 2. Handle: a task for each, which settles its message too.
            for leased in batch.leased:
                if not self._adopt(leased):
                    self._counts.lag.observe(batch.now - leased.due / 1000)
                    delivery = _Delivery(leased, self._store, self._options.lease)
                    self._deliveries.add(delivery)
                    delivery.task = tasks.create_task(
                        self._handle(delivery), name=f"queue: message {leased.id}"
                    )
            if len(batch.leased) < free and batch.next != 0:
                await self._wait_idle(batch.next)

    def _adopt(self, leased: LeasedMessage) -> bool:
        """Continue under the new lease with a message that this worker has in hand.

        After an outage that outlasted the leases, the server hands out again what this
        worker has delivered and could not settle: it settles it, and delivers no copy.
        """
        for delivery in self._deliveries:
            if delivery.is_same_attempt(leased) and not delivery.lost:
                delivery.leased = leased
                return True
        return False

    async def _wait_idle(self, until: float | None) -> None:
        """Wait for a wake-up, a free handler, or the time when a message is due."""
        self._idle.set()
        pause = self._options.poll if until is None else min(until, self._options.poll)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):  # a pause
                await self._wake.wait()
        self._idle.clear()

    async def _listen(self) -> None:
        """Block on the list of wake-ups while idle; a lost one costs `poll` at most."""
        outage = OutageBackoff()
        while not self._failure:
            await self._idle.wait()
            try:
                if await self._store.client.blpop(self._store.wake, self._options.poll):
                    self._wake.set()
                    # Until the loop has looked: a wake-up is for an idle worker.
                    self._idle.clear()
            except OddswireError as error:
                if not self._is_transient(error):
                    return
                await outage.wait(error)
            else:
                outage.over()

    async def _watch_stop(self) -> None:
        if self._stop is not None:
            await self._stop.wait()
            self._stopping = True
            self._wake.set()

    def _is_transient(self, error: OddswireError) -> bool:
        """Whether an error passes by waiting; if not, the worker ends with it."""
        if isinstance(error, TRANSIENT_ERRORS):
            return True
        self._failure = self._failure or error
        self._wake.set()
        return False

    # --- handling

    async def _handle(self, delivery: _Delivery) -> None:
        settlement = _RELEASED
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            settlement = await self._attempt(delivery)
            if self._cancelled:
                # Before Python 3.13 a task group that fails in a handler drops the
                # cancellation, and settling would wait for as long as Redis is away.
                raise asyncio.CancelledError  # noqa: TRY301 - as if it had not
            # 3. Settle. From here on nothing renews the lease, and nothing cancels the
            # task for its loss: the message may be delivered.
            delivery.settling = True
            await self._settle(delivery, settlement)
        except asyncio.CancelledError:
            # Cancelled by `_renew`, another worker has the message; else `consume` was
            # cancelled, and this is the last chance to give the message back.
            if delivery.lost:
                self._counts.lost += 1
            else:
                await self._release_cancelled(delivery.leased, settlement)
            raise
        finally:
            self._counts.handling.observe(loop.time() - started)
            self._deliveries.discard(delivery)
            self._wake.set()

    async def _attempt(self, delivery: _Delivery) -> Settlement:
        """Call the handler; its outcome decides how the lease ends."""
        leased = delivery.leased
        try:
            message = self._message(delivery)
        except CodecError as error:
            return self._dead(leased, _reason_text(error))
        scope = Deadline(self._options.timeout)
        try:
            async with scope:
                # A plain function has handled it by now: it must not come again.
                if inspect.isawaitable(result := self._handler(message)):
                    await result
        except RateLimited as error:
            return Settlement("wait", delay=_bounded_delay(error.retry_after))
        except Undeliverable as error:
            return self._dead(leased, _reason_text(error))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._failed(
                leased, "CancelledError: by the handler", uncertain=True
            )
        except (Exception, BaseExceptionGroup, GeneratorExit) as error:  # noqa: BLE001 - a handler may raise anything, and the queue goes on
            if scope.expired():
                reason = f"not done after {self._options.timeout:g} s"
                return self._failed(leased, reason, uncertain=True)
            return self._failed(leased, _reason_text(error), uncertain=False)
        return Settlement("done")

    def _message(self, delivery: _Delivery) -> Message[T]:
        leased = delivery.leased
        return Message(
            id=leased.id,
            user_id=leased.user,
            value=self._codec.decode(leased.data),
            kind=leased.kind,
            key=leased.key,
            attempt=leased.attempts + 1,
            uncertain=leased.uncertain,
            due_at=leased.due / 1000,
            expires_at=leased.expires / 1000 if leased.expires else None,
            _lease=delivery,
        )

    def _failed(
        self, leased: LeasedMessage, reason: str, *, uncertain: bool
    ) -> Settlement:
        attempt = leased.attempts + 1
        if attempt >= self._options.max_attempts:
            return self._dead(leased, reason, uncertain=uncertain)
        log_line(
            _log,
            logging.INFO,
            "message_failed",
            id=leased.id,
            attempt=attempt,
            reason=reason,
        )
        backoff = Backoff(self._options.retry_base, self._options.retry_cap)
        backoff.failures = attempt
        return Settlement("retry", backoff.delay(), uncertain, reason)

    def _dead(
        self, leased: LeasedMessage, reason: str, *, uncertain: bool = False
    ) -> Settlement:
        log_line(_log, logging.WARNING, "dead_letter", id=leased.id, reason=reason)
        return Settlement("dead", 0.0, uncertain, reason)

    # --- settling

    async def _settle(self, delivery: _Delivery, settlement: Settlement) -> None:
        """End the lease, through outages: until then, the message would come again."""
        outage = OutageBackoff()
        unsure = False
        while True:
            leased = delivery.leased
            try:
                ours = await self._try_settle(leased, settlement)
            except OddswireError as error:
                if not self._is_transient(error):
                    return
                unsure = True
                log_line(
                    _log,
                    logging.DEBUG,
                    "settling_failed",
                    id=leased.id,
                    reason=error,
                )
                await outage.wait(error)
                continue
            # The lease came back to this worker during the request: settle that one.
            if not ours and delivery.leased is not leased:
                continue
            # 3a. After a lost reply, "not ours" may mean that the first request
            # arrived: it is counted as settled.
            self._count(settlement, ours=ours or unsure)
            return

    async def _release_cancelled(
        self, leased: LeasedMessage, settlement: Settlement
    ) -> None:
        """Release the message of a cancelled handler; else its lease runs out."""
        with suppress(OddswireError, TimeoutError):
            async with Deadline(_RELEASE_TIMEOUT):
                if await self._try_settle(leased, settlement):
                    self._count(settlement, ours=True)

    async def _try_settle(self, leased: LeasedMessage, settlement: Settlement) -> bool:
        dead_limit = self._options.dead_limit
        return await self._store.settle(leased, settlement, dead_limit=dead_limit)

    def _count(self, settlement: Settlement, *, ours: bool) -> None:
        counts = self._counts
        if not ours:
            counts.lost += 1
            return
        match settlement.action:
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
        """Prolong the leases in use, and cancel handlers whose lease is lost."""
        while True:
            await asyncio.sleep(self._options.lease / 3)
            # 4a. A delivery that settles ends its lease by itself.
            deliveries = [each for each in self._deliveries if not each.settling]
            if not deliveries:
                continue
            leases = [each.leased for each in deliveries]
            try:
                kept = await self._store.renew(self._options.lease, leases)
            except OddswireError as error:
                if not self._is_transient(error):
                    return
                continue
            for each, lease, ours in zip(deliveries, leases, kept, strict=True):
                # 4b. During the request it may have begun to settle, or got a lease.
                if ours or each.settling or each.leased is not lease:
                    continue
                if each.task is not None:
                    each.lost = True
                    each.task.cancel()


def _reason_text(error: BaseException) -> str:
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - one message must not end its worker, and each after it
        said = "its text raises"
    # An error may hold any text; the server stores UTF-8.
    text = f"{type(error).__name__}: {said}"[:_REASON_LENGTH]
    return text.encode(errors="replace").decode()


def _bounded_delay(seconds: object) -> float:
    # Above 0, so that the user waits at all; what is no number becomes the shortest.
    if not is_number(seconds, -inf, inf):
        return _SHORTEST_WAIT
    return min(max(_SHORTEST_WAIT, seconds), _LONGEST_WAIT)
