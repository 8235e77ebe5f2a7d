"""`Courier`: takes alerts out of the outbox and sees each of them delivered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

from oddswire.codec import Codec
from oddswire.counters import Histogram
from oddswire.errors import CodecError, CommandRejected, OddswireError

from .outage import Outage
from .outbox import DEAD_LETTERS, FIELD, OUTBOX, Entry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddsbot.alerts import Alert
    from oddswire import Client
    from oddswire.clock import Clock
    from oddswire.keys import KeySpace

_MINE = "0"  # entries already handed to this consumer and not acknowledged
_NEW = ">"
_READ_COUNT = 64
_DEAD_LETTERS_KEPT = 10_000

_Id = tuple[int, int]


class Courier:
    """The one consumer of an outbox; `run` it in a task.

    An entry is acknowledged after its delivery, so a crash of this process between the
    two delivers it again: at least once. A crash of the server does not: this process
    remembers up to where it delivered.

    Args:
        client: Where the stream is.
        keys: Names the stream, and the one for entries that cannot be decoded.
        deliver: Called with one alert after the other, in the order of the outbox. If
            it raises, `run` ends with that error and the entry stays in the outbox.
        clock: Tells when an alert was delivered, and sleeps.
        group: The consumer group.
        block: Seconds that one read waits at the server for entries.

    Attributes:
        delivered: Alerts delivered.
        repeats: Entries that came again after they were delivered, and were only
            acknowledged.
        dead: Entries moved to the dead letters.
        latency: Seconds from when an alert's tick was seen to its delivery.
    """

    def __init__(
        self,
        client: Client,
        keys: KeySpace,
        deliver: Callable[[Alert], Awaitable[None]],
        clock: Clock,
        *,
        group: str = "delivery",
        block: float = 1.0,
    ) -> None:
        self.delivered = 0
        self.repeats = 0
        self.dead = 0
        self.latency = Histogram()
        self.group = group
        self._client = client
        self._stream = keys.key(OUTBOX)
        self._dead_letters = keys.key(DEAD_LETTERS)
        self._deliver = deliver
        self._clock = clock
        # Always the same name: what it was handed before a crash stays its own.
        self._consumer = "courier"
        self._block_ms = int(block * 1000)
        self._codec = Codec(Entry)
        self._outage = Outage("courier", clock)
        self._handed: _Id = (0, 0)
        self._delivered: _Id = (0, 0)
        self._acknowledged: _Id = (0, 0)
        self._progress = asyncio.Condition()

    async def run(self) -> NoReturn:
        """Deliver for ever; waits through outages.

        Cancelled, what was delivered and not acknowledged yet comes again to the next
        courier.

        Raises:
            OddswireError: A refusal that waiting does not mend.
        """
        position = None
        while True:
            try:
                if position is None:
                    await self._make_group()
                    position = _MINE
                entries = await self._read(position)
                for entry, fields in entries:
                    await self._handle(entry, fields)
                if position == _MINE and not entries:
                    # Nothing handed to us is open: an acknowledgement whose reply was
                    # lost did arrive.
                    await self._advance(self._handed)
                    position = _NEW
                self._outage.over()
            except OddswireError as error:
                # The lost reply may have handed us entries, an acknowledgement may not
                # have arrived, and the server may have lost its data: start over.
                position = None
                if "NOGROUP" not in str(error):
                    await self._outage.wait(error)

    async def wait_acknowledged(self, entry: str) -> None:
        """Wait until this process has acknowledged an entry, or a later one."""
        wanted = _parse(entry.encode())
        async with self._progress:
            await self._progress.wait_for(lambda: self._acknowledged >= wanted)

    async def _make_group(self) -> None:
        try:
            # From 0: what was put before there was a group is to be delivered too.
            await self._client.xgroup_create(
                self._stream, self.group, id="0", mkstream=True
            )
        except CommandRejected as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _read(self, position: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        reply = await self._client.xreadgroup(
            self.group,
            self._consumer,
            {self._stream: position},
            count=_READ_COUNT,
            block=self._block_ms,
        )
        return _entries(reply)

    async def _handle(self, entry: bytes, fields: dict[bytes, bytes]) -> None:
        entry_id = _parse(entry)
        # One consumer is handed entries in order, so one id stands for all that was
        # delivered. An entry up to it comes again when its acknowledgement was lost,
        # or the server's memory of it.
        if entry_id <= self._delivered:
            self.repeats += 1
            await self._settle(entry)
            return
        first_time = entry_id > self._handed
        self._handed = max(self._handed, entry_id)
        try:
            alert = self._codec.decode(fields[FIELD]).alert
        except (CodecError, KeyError) as error:
            self.dead += first_time
            await self._settle(entry, fields, f"{type(error).__name__}: {error}")
            return
        await self._deliver(alert)
        self.delivered += 1
        self.latency.observe(self._clock.now() - alert.seen_at)
        self._delivered = entry_id
        await self._settle(entry)

    async def _settle(
        self,
        entry: bytes,
        fields: dict[bytes, bytes] | None = None,
        reason: str | None = None,
    ) -> None:
        """Acknowledge an entry, after making it a dead letter if there is a reason."""
        # A transaction: a dead letter must not be written without being acknowledged,
        # or a lost reply would write it twice.
        batch = self._client.pipeline(transaction=True)
        if reason is not None:
            letter: dict[Any, Any] = {
                **(fields or {}),
                "entry": entry,
                "reason": reason,
            }
            batch.xadd(self._dead_letters, letter, maxlen=_DEAD_LETTERS_KEPT)
        batch.xack(self._stream, self.group, entry)
        # Everything before this entry is acknowledged. The entry itself stays, since
        # the producer may still have to ask whether it arrived.
        batch.xtrim(self._stream, minid=entry, approximate=False)
        await batch.execute()
        await self._advance(_parse(entry))

    async def _advance(self, entry_id: _Id) -> None:
        async with self._progress:
            self._acknowledged = max(self._acknowledged, entry_id)
            self._progress.notify_all()


def _parse(entry: bytes) -> _Id:
    milliseconds, _, sequence = entry.partition(b"-")
    return int(milliseconds), int(sequence)


def _entries(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return the entries of the one stream, in each form that redis-py has."""
    if not reply:
        return []
    if isinstance(reply, dict):
        (entries,) = reply.values()
        # redis-py 7 wraps them in one more list under RESP3.
        if entries and isinstance(entries[0], list):
            (entries,) = entries
    else:
        ((_, entries),) = reply
    return list(entries)
