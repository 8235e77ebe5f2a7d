"""`LatestInbox`: the newest value of each key; what came in between is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from oddswire.errors import OddswireError
from oddswire.pubsub._chain import epoch_begun
from oddswire.pubsub._inbox import Inbox
from oddswire.pubsub._publish import send_latest
from oddswire.scripts import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.client import Client
    from oddswire.pubsub._chain import Head
    from oddswire.pubsub._line import Line
    from oddswire.pubsub.messages import Gap, Message
    from oddswire.pubsub.topic import Selection


class Value(NamedTuple):
    """A version of a key's value, as it is stored."""

    version: int
    link: bytes
    payload: bytes

    @classmethod
    def parse(cls, data: bytes) -> Value:
        """Read a field of the hash of newest values.

        Raises:
            ValueError: It is none.
        """
        version, link, payload = data.split(b" ", 2)
        return cls(int(version), link, payload)


class LatestInbox(Inbox):
    """Bounded by the number of keys: a newer value takes the place of the waiting one.

    Args:
        line: The topic.
        selection: Which of its keys.
        wake: Called when there is something to take.
        client: Reads all values after an interruption.
    """

    def __init__(
        self,
        line: Line,
        selection: Selection,
        wake: Callable[[], None],
        *,
        client: Client,
    ) -> None:
        super().__init__(line, selection, wake)
        self._client = client
        # The newest of each key, whether it waits or was taken: none older is let in.
        self._newest: dict[bytes, Value] = {}
        self._waiting: dict[bytes, None] = {}
        self._link = b""
        self._epoch = b""
        # Another chain: what it does not have was deleted, not lost.
        self._anew = True

    @property
    def depth(self) -> int:
        return len(self._waiting)

    def _begin(self, head: Head) -> None:
        self._link, self._epoch = head.link, head.epoch
        self.behind = True
        self._wake()

    def push(self, data: bytes) -> None:
        try:
            _, link, prev, key, version, payload = data.split(b" ", 5)
            value = Value(int(version), link, payload)
        except ValueError:
            self.line.counts.foreign += 1
            return
        if prev != self._link:
            self.behind = True
            if (epoch := epoch_begun(prev)) is not None:
                self._epoch, self._anew = epoch, True
        self._link = link
        self._offer(key, value)
        self._wake()

    def mark(self, head: Head) -> None:
        if head.epoch != self._epoch:
            self._epoch, self._anew = head.epoch, True
        if head.link != self._link:
            self._link, self.behind = head.link, True
            self._wake()

    def interrupted(self) -> None:
        """The head says whether anything was missed."""

    def take(self) -> Message[Any] | Gap | None:
        for key in self._waiting:
            del self._waiting[key]
            _, link, payload = self._newest[key]
            return self.line.event(link, link, key, payload)
        return None

    def _offer(self, key: bytes, value: Value) -> None:
        if not self.selection.takes(key):
            return
        held = self._newest.get(key)
        if held is not None and value.version <= held.version:
            self.line.counts.outdated += 1
            return
        if key in self._waiting:
            self.line.counts.conflated += 1
        self._newest[key] = value
        self._waiting[key] = None

    async def recover(self) -> None:
        counts = self.line.counts
        before, anew = dict(self._newest), self._anew
        self.behind = self._anew = False
        try:
            stored = await read_latest(self._client, self.line)
            for key, value in stored.items():
                held = self._newest.get(key)
                if held is None or held.version < value.version:
                    counts.recovered += 1
                    self._offer(key, value)
            if stored and not anew:
                await self._give_back(before, stored)
        except BaseException:
            self.behind, self._anew = True, self._anew or anew
            raise
        counts.recoveries += 1

    async def _give_back(
        self, before: dict[bytes, Value], stored: dict[bytes, Value]
    ) -> None:
        """Store what a failover lost and we still have.

        Or a new reader would be told an older value than we were.
        """
        for key, value in before.items():
            there = stored.get(key)
            if there is not None and there.version >= value.version:
                continue
            try:
                await send_latest(
                    self._client, self.line, key, value.payload, value.version
                )
            except OddswireError:
                # A reader need not be allowed to write; then it is as it was.
                return


async def read_latest(client: Client, line: Line) -> dict[bytes, Value]:
    """Return the newest value of each key; what is no value is left out and counted.

    Raises:
        OddswireError: As from any command.
    """
    reply = await _VALUES(client, [line.newest])
    values = {}
    for key, data in zip(reply[::2], reply[1::2], strict=True):
        try:
            values[key] = Value.parse(data)
        except ValueError:
            line.counts.foreign += 1
    return values


_VALUES = load("topic_values")
