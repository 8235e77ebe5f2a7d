"""`LatestBuffer`: the newest value of each key; older ones are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from oddswire.errors import OddswireError
from oddswire.pubsub._buffer import Buffer
from oddswire.pubsub._chain import new_epoch
from oddswire.pubsub._publish import send_latest
from oddswire.scripts import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.client import Client
    from oddswire.pubsub._chain import Head
    from oddswire.pubsub._topic_state import TopicState
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


class LatestBuffer(Buffer):
    """Bounded by the number of keys: a newer value takes the place of the waiting one.

    Args:
        state: The topic.
        selection: Which of its keys.
        wake: Called when there is something to take.
        client: Reads all values after an interruption.
    """

    def __init__(
        self,
        state: TopicState,
        selection: Selection,
        wake: Callable[[], None],
        *,
        client: Client,
    ) -> None:
        super().__init__(state, selection, wake)
        self._client = client
        # The newest of each key, whether it waits or was taken: none older is let in.
        self._newest: dict[bytes, Value] = {}
        self._waiting: dict[bytes, None] = {}
        self._link = b""
        self._epoch = b""
        # Another chain has begun: a key that it lacks was deleted, not lost.
        self._new_chain = True

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
            self.state.counts.foreign += 1
            return
        if prev != self._link:
            self.behind = True
            if (epoch := new_epoch(prev)) is not None:
                self._epoch, self._new_chain = epoch, True
        self._link = link
        self._offer(key, value)
        self._wake()

    def on_head(self, head: Head) -> None:
        if head.epoch != self._epoch:
            self._epoch, self._new_chain = head.epoch, True
        if head.link != self._link:
            self._link, self.behind = head.link, True
            self._wake()

    def on_disconnect(self) -> None:
        """The head says whether anything was missed."""

    def take(self) -> Message[Any] | Gap | None:
        for key in self._waiting:
            del self._waiting[key]
            _, link, payload = self._newest[key]
            return self.state.event(link, link, key, payload)
        return None

    def _offer(self, key: bytes, value: Value) -> None:
        if not self.selection.takes(key):
            return
        held = self._newest.get(key)
        if held is not None and value.version <= held.version:
            self.state.counts.outdated += 1
            return
        if key in self._waiting:
            self.state.counts.conflated += 1
        self._newest[key] = value
        self._waiting[key] = None

    async def recover(self) -> None:
        counts = self.state.counts
        before, new_chain = dict(self._newest), self._new_chain
        self.behind = self._new_chain = False
        try:
            stored = await read_latest(self._client, self.state)
            for key, value in stored.items():
                held = self._newest.get(key)
                if held is None or held.version < value.version:
                    counts.recovered += 1
                    self._offer(key, value)
            if stored and not new_chain:
                await self._restore_lost(before, stored)
        except BaseException:
            self.behind, self._new_chain = True, self._new_chain or new_chain
            raise
        counts.recoveries += 1

    async def _restore_lost(
        self, before: dict[bytes, Value], stored: dict[bytes, Value]
    ) -> None:
        """Store what a failover lost and we still have.

        Otherwise a new reader would get an older value than this one got.
        """
        for key, value in before.items():
            there = stored.get(key)
            if there is not None and there.version >= value.version:
                continue
            try:
                await send_latest(
                    self._client, self.state, key, value.payload, value.version
                )
            except OddswireError:
                # A reader need not be allowed to write; then it is as it was.
                return


async def read_latest(client: Client, state: TopicState) -> dict[bytes, Value]:
    """Return the newest value of each key; what is no value is left out and counted.

    Raises:
        OddswireError: As from any command.
    """
    reply = await _VALUES.run(client, [state.newest])
    values = {}
    for key, data in zip(reply[::2], reply[1::2], strict=True):
        try:
            values[key] = Value.parse(data)
        except ValueError:
            state.counts.foreign += 1
    return values


_VALUES = load("topic_values")
