"""`Peers`: the processes that follow a shard, and whose ring reaches back furthest.

When an owner dies, each process that follows may lack some of its ticks. The one that
has followed for longest lacks the fewest, so the others give way to it.

1. Every process says each `BEAT_SECONDS` that it lives, and from when on its ring is
   whole. That moment is one of the market's time, which all of them share.
2. A process lives as long as what it says changes, by the clock of the reader.
3. Redis may lose the list. A process then finds its own entry gone, and believes the
   list again once the others had the time to come back.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, NamedTuple

from oddswire.keys import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oddswire.clock import Clock
    from oddswire.locks import Locks

BEAT_SECONDS = 0.3
SILENT_SECONDS = 2.0
"""Seconds without a new beat after which a process counts as dead."""
_BACK_SECONDS = 1.5
_FORGET_SECONDS = 20.0

_FAMILY = Family("watch-peers", str)
_NEVER = math.inf


class _Peer(NamedTuple):
    beat: str
    whole_from: float
    changed_at: float


class Peers:
    """The processes that follow a shard, as this one knows them.

    Args:
        locks: Of the same Redis.
        shard: The name of the shard.
        clock: Of this process; no clocks of two processes are compared.
    """

    def __init__(self, locks: Locks, shard: str, clock: Clock) -> None:
        self._client = locks.client
        self._key = locks.space.key(_FAMILY, shard)
        self._clock = clock
        self._id = secrets.token_hex(8)
        self._beats = 0
        self._own = ""
        self._others: dict[str, _Peer] = {}
        self._complete_at = _NEVER

    async def beat(self, whole_from: float) -> None:
        """Say that this process lives, and read which others do.

        Args:
            whole_from: The market's time, ms, from which on this process has each tick;
                infinite: it has not.

        Raises:
            OddswireError: The server cannot be asked.
        """
        self._beats += 1
        value = f"{self._beats}:{whole_from}"
        found = {
            _text(name): _text(said)
            for name, said in (await self._client.hgetall(self._key)).items()
        }
        await self._client.hset(self._key, self._id, value)
        now = self._clock.monotonic()
        if not self._own or found.pop(self._id, None) != self._own:
            self._complete_at = now + _BACK_SECONDS
        self._own = value
        for name, said in found.items():
            known = self._others.get(name)
            if known is None or known.beat != said:
                self._others[name] = _Peer(said, _whole_from(said), now)
        gone = [
            name
            for name, each in self._others.items()
            if now - each.changed_at > _FORGET_SECONDS
        ]
        for name in gone:
            del self._others[name]
        if gone:
            await self._client.hdel(self._key, *gone)

    async def leave(self) -> None:
        """Say that this process follows no more."""
        await self._client.hdel(self._key, self._id)

    def has_elder(self, whole_from: float) -> bool:
        """Whether a process that lives may have ticks that this one lacks.

        Args:
            whole_from: Of this process, as in `beat`.
        """
        own = whole_from, self._id
        return self._clock.monotonic() < self._complete_at or any(
            (each.whole_from, name) < own for name, each in self._alive()
        )

    def has_whole(self) -> bool:
        """Whether a process that lives has each tick of its feed."""
        return any(each.whole_from < _NEVER for _, each in self._alive())

    def _alive(self) -> Iterator[tuple[str, _Peer]]:
        oldest = self._clock.monotonic() - SILENT_SECONDS
        return (each for each in self._others.items() if each[1].changed_at >= oldest)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _whole_from(said: str) -> float:
    try:
        return float(said.partition(":")[2])
    except ValueError:
        return _NEVER
