"""`Queue`: enqueue messages for users, consume them, pause, purge and replay."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from oddswire._numbers import check_int, check_user, shown
from oddswire._tasks import check_function
from oddswire.client import keyspace
from oddswire.codec import Codec
from oddswire.erasure import Erased
from oddswire.errors import CodecError, OtherServer, QueueError
from oddswire.queue._arguments import (
    EnqueueOptions,
    check_label,
    check_seconds,
    pause_label,
)
from oddswire.queue._store import QueueStore
from oddswire.queue._worker import Worker, WorkerOptions
from oddswire.queue.messages import DeadLetter, Message
from oddswire.queue.statistics import QueueCounts, QueueStats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.client import Client
    from oddswire.clock import Clock

T = TypeVar("T")

# Messages that one script adds: some milliseconds of the server.
_CHUNK = 500
_MOST = 1_000_000


class Queue(Generic[T]):
    """Messages for users that wait in Redis until they were handled.

    A message is handled at least once, and those of one user one after the other, in
    the order in which they were enqueued, whatever fails: a message that is to be tried
    again holds up its user and nobody else. Any number of processes may enqueue and
    consume. All of a queue is in one slot of a cluster.

    Args:
        client: Where.
        name: Of this queue; a queue of the same name and prefix is the same queue.
        type: The type of the values: a `msgspec.Struct`, or what msgspec decodes.
        prefix: What its keys begin with; None: as its settings say.
        codec: How values are stored, for one that compresses or seals otherwise.
        dedup_window: Seconds for which a `dedup_id` is remembered.
        max_attempts: Failures of a handler after which a message is a dead letter.
        retry_base: Seconds before the second attempt, at most; doubled each time.
        retry_cap: The longest of these waits, in seconds.
        lease: Seconds after which the messages of a worker that renews no lease are
            free. A live worker renews three times within.
        timeout: Seconds that a handler may take for one message.
        poll: Seconds after which an idle worker looks without a wake-up.
        dead_limit: Dead letters that are kept; then the oldest are dropped.
        clock: None for the server's time, which all processes share. One of your own
            decides what is due and expired; waiting still takes real time.

    Attributes:
        client: As given.
        name: As given.
        counts: What this process did.

    Raises:
        QueueError: A duration or a number is not above 0, the name is empty or no text,
            or the codec is none.
        TypeError: msgspec does not support the type.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        type: type[T],  # noqa: A002 - the word that the codec uses
        *,
        prefix: str | None = None,
        codec: Codec[T] | None = None,
        dedup_window: float = 86_400.0,
        max_attempts: int = 8,
        retry_base: float = 1.0,
        retry_cap: float = 300.0,
        lease: float = 10.0,
        timeout: float = 60.0,
        poll: float = 1.0,
        dead_limit: int = 10_000,
        clock: Clock | None = None,
    ) -> None:
        self._options = WorkerOptions(
            max_attempts=max_attempts,
            retry_base=check_seconds("retry_base", retry_base),
            retry_cap=check_seconds("retry_cap", retry_cap),
            lease=check_seconds("lease", lease),
            timeout=check_seconds("timeout", timeout),
            poll=check_seconds("poll", poll),
            dead_limit=dead_limit,
        )
        check_int("max_attempts", max_attempts, 1, _MOST, QueueError)
        check_int("dead_limit", dead_limit, 1, _MOST, QueueError)
        if codec is not None and not isinstance(codec, Codec):
            raise QueueError(f"codec is an oddswire.codec.Codec, not {shown(codec)}")
        self.client = client
        self.name = check_label("name", name)
        self.counts = QueueCounts()
        self._dedup_window = check_seconds("dedup_window", dedup_window)
        self._codec = Codec(type) if codec is None else codec
        self._store = QueueStore(client, keyspace(client, prefix), name, clock)

    # --- enqueue

    async def enqueue(
        self,
        user_id: int,
        value: T,
        *,
        dedup_id: str | None = None,
        ttl: float | None = None,
        at: float | None = None,
        kind: str = "",
        key: str = "",
        identity: str | None = None,
        uncertain: bool = False,
    ) -> str | None:
        """Add a message for a user.

        Returns when the server has it. With a `dedup_id` it may be repeated after an
        error, and after a cancellation, which leaves it added or not.

        Args:
            user_id: The user who gets it.
            value: What to deliver.
            dedup_id: The same id for the same user is taken in once per
                `dedup_window`.
            ttl: Seconds after which it is not worth delivering any more, counted from
                when it is due.
            at: When it is due, seconds since 1970; at once when that is past. When it
                is, it goes before what was enqueued after it and still waits.
            kind: What it can be paused and purged by, such as ``"price"``.
            key: The same for its subject, such as a market.
            identity: Add it only to the server of this `identity`.
            uncertain: Mark it as one that may have been delivered before, as by a
                server that was lost; its `Message` has the same mark.

        Returns:
            Its id; None for a duplicate.

        Raises:
            QueueError: An argument is out of range.
            OtherServer: The server has another `identity`; nothing was added.
            CodecError: The value is not of the queue's type, or too large.
            OutOfMemory: The server is full; nothing was added.
            OddswireError: As from any command, with its `outcome`.
        """
        options = EnqueueOptions(dedup_id, ttl, at, kind, key, identity, uncertain)
        check_user(user_id, QueueError)
        added = await self._add({user_id: value}, options)
        return added[0] or None

    async def enqueue_many(
        self,
        values: Mapping[int, T],
        *,
        dedup_id: str | None = None,
        ttl: float | None = None,
        at: float | None = None,
        kind: str = "",
        key: str = "",
        identity: str | None = None,
        uncertain: bool = False,
    ) -> int:
        """Add a message for each of many users; the rest is as for `enqueue`.

        After an error some may have been added. With a `dedup_id`, which counts for
        each user by itself, the whole call may be repeated.

        Args:
            values: Users and what to deliver to them; the same object for all is
                encoded once.
            dedup_id: This and the others as for `enqueue`.
            ttl: See there.
            at: See there.
            kind: See there.
            key: See there.
            identity: See there.
            uncertain: See there.

        Returns:
            How many were added; the others were duplicates.
        """
        options = EnqueueOptions(dedup_id, ttl, at, kind, key, identity, uncertain)
        added = await self._add(values, options)
        return sum(1 for each in added if each)

    async def _add(self, values: Mapping[int, T], options: EnqueueOptions) -> list[str]:
        # Encode everything before anything is sent: a wrong value adds no half batch.
        if not isinstance(values, Mapping):
            raise QueueError(
                f"values must be a dict of values by user, not {shown(values)}"
            )
        flat: list[int | bytes] = []
        last: tuple[T, bytes] | None = None
        for user_id, value in values.items():
            check_user(user_id, QueueError)
            if last is None or last[0] is not value:
                last = (value, self._codec.encode(value))
            flat += (user_id, last[1])
        added: list[str] = []
        for first in range(0, len(flat), 2 * _CHUNK):
            ids = await self._store.enqueue(
                flat[first : first + 2 * _CHUNK], options, self._dedup_window
            )
            if ids is None:
                raise OtherServer(
                    "the server or its data is not what identity= names: ask for "
                    "Queue.identity() and enqueue again, what may have been delivered "
                    "with uncertain=True"
                )
            added += ids
            new = sum(1 for each in ids if each)
            self.counts.enqueued += new
            self.counts.duplicates += len(ids) - new
        return added

    async def identity(self) -> str:
        """Name the server process that has the queue, and the data in it.

        Another name means that messages may be gone: the server was restarted, emptied,
        or replaced in a failover. A caller may keep the name with each message that it
        enqueues, and enqueue with `identity`. Then it knows which messages to enqueue
        again, under the same `dedup_id`: one that is still there is a duplicate. Where
        INFO is not allowed, a restart and a failover keep the name.

        Raises:
            OddswireError: As from any command.
        """
        return await self._store.identity()

    # --- consume

    async def consume(
        self,
        handler: Callable[[Message[T]], Awaitable[object] | object],
        *,
        concurrency: int = 8,
        stop: asyncio.Event | None = None,
    ) -> None:
        """Hand messages to `handler`, for ever or until `stop` is set.

        When the handler returns, the message is done. What it raises decides:

        - `RateLimited`: the user waits `retry_after` seconds; it is no failure.
        - `Undeliverable`: a dead letter at once.
        - Anything else, or no end within `timeout`: tried again later, `max_attempts`
          times in all, then a dead letter.

        Waits while Redis is away. A handler whose lease went to another worker, since
        this process or its link stood still for too long, is cancelled.

        Args:
            handler: Gets one message at a time for each user; what it returns is
                awaited if it can be.
            concurrency: Handlers at the same time, each for another user.
            stop: Once set, nothing more is taken, what is being handled is finished,
                and the call returns.

        Cancelled, handlers are cancelled and their messages given back, `uncertain`,
        which takes a second at most. What was on its way to this worker then, and all
        that a killed process had, comes to others when its lease has run out.

        Raises:
            QueueError: `concurrency` is below 1 or above 10,000, `handler` is no
                function or a generator, or `stop` is no event.
            OddswireError: A refusal that waiting does not mend.
        """
        check_int("concurrency", concurrency, 1, 10_000, QueueError)
        check_function("handler", handler, QueueError)
        if stop is not None and not isinstance(stop, asyncio.Event):
            raise QueueError(f"stop is an asyncio.Event, not {shown(stop)}")
        worker = Worker(
            self._store,
            self._codec,
            handler,
            self._options,
            self.counts,
            concurrency=concurrency,
            stop=stop,
        )
        await worker.run()

    # --- pause, purge, erase

    async def pause(self, *, kind: str | None = None, key: str | None = None) -> bool:
        """Stop handing out a kind, a key, or, with neither, everything.

        Once it returns, no worker takes such a message; those that were taken before
        are finished. Messages of other kinds overtake the paused ones of their user.

        Returns:
            False when it was paused already.

        Raises:
            QueueError: Both were given, or an empty text.
        """
        return await self._store.pause(pause_label(kind, key))

    async def resume(self, *, kind: str | None = None, key: str | None = None) -> bool:
        """End a pause; the messages go back to their places in their users' lines.

        Returns:
            False when it was not paused.

        Raises:
            QueueError: Both were given, or an empty text.
        """
        return await self._store.resume(pause_label(kind, key))

    async def purge(
        self,
        *,
        user_id: int | None = None,
        kind: str | None = None,
        key: str | None = None,
    ) -> int:
        """Remove the messages of a user, a kind, a key; several mean all of them.

        It removes what waits, is delayed, paused or dead, but not what is being
        handled, nor, for certain, what is enqueued meanwhile: pause first. Ids stay
        known to the deduplication. Cancelled, a part is removed.

        Returns:
            How many were removed.

        Raises:
            QueueError: No filter was given, or an empty text.
        """
        if user_id is None and kind is None and key is None:
            raise QueueError("say what to purge: user_id, kind or key")
        if user_id is not None:
            check_user(user_id, QueueError)
        return await self._store.purge(
            "" if user_id is None else str(user_id),
            "" if kind is None else check_label("kind", kind),
            "" if key is None else check_label("key", key),
        )

    async def erase(self, user_id: int) -> Erased:
        """Remove all that the queue holds of a user, and look again.

        Messages in every state, also one being handled, whose handler is cancelled
        when its lease is next renewed; dead letters; ids of the deduplication, so that
        a repeated `enqueue` is a new one. What is enqueued meanwhile may be left, and
        is then in the receipt. Cancelled, a part is removed.
        """
        check_user(user_id, QueueError)
        name = str(user_id)
        removed = await self._store.erase(name)
        return Erased("queue", removed, await self._store.traces(name))

    # --- dead letters

    async def dead(self, *, after: str = "", limit: int = 100) -> list[DeadLetter[T]]:
        """Return dead letters, the oldest message first.

        Args:
            after: The id of the last one that was read, for the next page.
            limit: How many at most.

        Raises:
            QueueError: An argument is not as above.
        """
        check_int("limit", limit, 1, _MOST, QueueError)
        if after:
            check_label("after", after)
        return [self._letter(each) for each in await self._store.dead(after, limit)]

    def _letter(self, fields: list[Any]) -> DeadLetter[T]:
        id_, user, kind, key, due, attempts, uncertain, reason, died, data = fields
        try:
            value = self._codec.decode(data)
        except CodecError:
            value = None
        return DeadLetter(
            id=id_.decode(errors="replace"),
            user_id=int(user),
            value=value,
            data=data,
            kind=kind.decode(errors="replace"),
            key=key.decode(errors="replace"),
            attempts=attempts,
            uncertain=bool(uncertain),
            reason=reason.decode(errors="replace"),
            due_at=due / 1000,
            died_at=died / 1000,
        )

    async def replay(self, *ids: str, ttl: float | None = None) -> int:
        """Put dead letters back to their places, with all their attempts before them.

        Args:
            *ids: Of the dead letters.
            ttl: Seconds from now after which they expire; None: never, also if they
                had a ttl.

        Returns:
            How many of the ids were dead letters, and are replayed.
        """
        if not ids:
            return 0
        if ttl is not None:
            check_seconds("ttl", ttl)
        for each in ids:
            check_label("an id", each)
        return await self._store.replay(ids, ttl)

    # --- statistics

    async def stats(self) -> QueueStats:
        """Return exact counts of the whole queue, of all processes together.

        `counts` has those of this process.

        Raises:
            OddswireError: As from any command.
        """
        return await self._store.stats()
