"""`Near`: sessions in this process's memory, believed while changes are followed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from oddswire.sessions._form import Snapshot
from oddswire.sessions.record import Record

if TYPE_CHECKING:
    from oddswire.clock import Clock

T = TypeVar("T", bound=Record)


class Reading:
    """A read under way: what was announced of its session since it began.

    Attributes:
        seen: The newest version that was announced.
    """

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = 0.0


class _Entry(msgspec.Struct, frozen=True):
    snapshot: Snapshot
    body: bytes
    until: float


class Near(Generic[T]):
    """The newest sessions that were read or written here.

    Nothing may be changed by what is in it alone: a save names the version it read, so
    an entry that is out of date costs a retry.

    Args:
        decoder: Of the type.
        size: Most sessions; 0 keeps none.
        clock: What tells when a conversation has ended.

    Attributes:
        hits: Reads that were answered here.
        following: Whether changes are followed; nothing is kept otherwise.
        trusted_until: By the clock's `boottime`; past it nothing is answered.
    """

    def __init__(
        self, decoder: msgspec.msgpack.Decoder[T], size: int, clock: Clock
    ) -> None:
        self.hits = 0
        self.following = False
        self.trusted_until = 0.0
        self._decode = decoder.decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._size = size
        self._clock = clock
        self._entries: dict[int, _Entry] = {}
        self._readings: dict[int, list[Reading]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, user_id: int) -> T | None:
        """Return a session of the caller's own; None when it is not here for sure."""
        entry = self._entries.get(user_id)
        if entry is None:
            return None
        now = self._clock.boottime()
        if now >= entry.until or now >= self.trusted_until:
            return None
        self.hits += 1
        return self._decode(entry.body)

    def snapshot(self, user_id: int) -> Snapshot | None:
        """Return what a change may begin with."""
        entry = self._entries.get(user_id)
        if entry is None:
            return None
        now = self._clock.boottime()
        if now >= entry.until or now >= self.trusted_until:
            return None
        return entry.snapshot

    def begin(self, user_id: int) -> Reading:
        """Note that a session is being read: changes meanwhile are not missed."""
        reading = Reading()
        self._readings.setdefault(user_id, []).append(reading)
        return reading

    def end(self, user_id: int, reading: Reading) -> None:
        """Note that the read has ended, whether it succeeded or not."""
        left = [each for each in self._readings[user_id] if each is not reading]
        if left:
            self._readings[user_id] = left
        else:
            del self._readings[user_id]

    def put(
        self, user_id: int, snapshot: Snapshot, value: T, now: int, reading: Reading
    ) -> None:
        """Keep what was read or written.

        Args:
            user_id: Whose.
            snapshot: As it is stored.
            value: The same, decoded.
            now: The server's time of that, in milliseconds.
            reading: What `begin` returned before it was asked for.
        """
        if not self.following or snapshot.header.version < reading.seen:
            return
        left = (snapshot.header.expiry - now) / 1e3
        if left <= 0:
            return
        self._entries.pop(user_id, None)
        if not self._size:
            return
        while len(self._entries) >= self._size:
            del self._entries[next(iter(self._entries))]
        self._entries[user_id] = _Entry(
            snapshot, self._encode(value), self._clock.boottime() + left
        )

    def drop(self, user_id: int) -> None:
        """Forget a session."""
        self._entries.pop(user_id, None)
        for reading in self._readings.get(user_id, ()):
            reading.seen = float("inf")

    def announced(self, user_id: int, version: int) -> None:
        """Note that a session has this version now; 0: that it was deleted."""
        entry = self._entries.get(user_id)
        if version == 0 or (entry and entry.snapshot.header.version < version):
            self._entries.pop(user_id, None)
        for reading in self._readings.get(user_id, ()):
            reading.seen = max(reading.seen, version or float("inf"))

    def clear(self) -> None:
        """Forget everything: changes may have been missed."""
        self._entries.clear()
        for readings in self._readings.values():
            for reading in readings:
                reading.seen = float("inf")
