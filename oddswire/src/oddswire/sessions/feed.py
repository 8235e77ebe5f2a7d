"""Changes of sessions that other processes made: `Feed`, and the log behind it."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from oddswire._text import text
from oddswire.errors import ClosedError, NoPermission, OddswireError
from oddswire.events import Degradation
from oddswire.sessions._scripts import ENTRIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from oddswire.client import Client, ReadLease
    from oddswire.clock import Clock

BATCH = 500
_BLOCK = 0.75
"""Seconds; two in a row, and the asking, are less than what memory is believed for."""
_PAUSE = 0.2
_REFUSED = 60.0
_LOOK_BACK = 100
_FIELDS = frozenset("pxuvojl")
_NUMBER = re.compile(r"[0-9]{1,19}")


class Change(msgspec.Struct, frozen=True):
    """One change of one session.

    Attributes:
        name: Of the user.
        version: The session's now; 0 when it was deleted.
        on: Whether it is active.
        index_adds: Index entries that it got.
        index_removes: Index entries that it lost.
    """

    name: str
    version: int
    on: bool
    index_adds: tuple[tuple[str, str], ...] = ()
    index_removes: tuple[tuple[str, str], ...] = ()


class Changes(msgspec.Struct, frozen=True):
    """All changes up to a moment.

    Attributes:
        at: By the clock's `boottime`: no change from before it is missing.
        changes: In their order; none when nothing changed.
        more: Whether there are more, not read yet.
    """

    at: float
    changes: tuple[Change, ...] = ()
    more: bool = False


class Reset(msgspec.Struct, frozen=True):
    """Changes may have been missed: forget what was kept. It is also the first item.

    Attributes:
        reason: One line.
    """

    reason: str


class Feed(Protocol):
    """Changes of sessions, from the moment of the last `Reset` on."""

    def follow(self) -> AsyncIterator[Changes | Reset]:
        """Yield for ever; first `Reset`, then `Changes` at least once a second.

        Nobody asks for the next item while memory is not read: what changes in such a
        pause comes after it, or a `Reset` instead.
        """


class LogFeed:
    """The changes that the session scripts append to a stream, in their own slot.

    Each entry names a random link of the entry before it. By the links the reader
    notices that the log was trimmed, or that a server lost entries of it.

    The exclusive connection on which it waits may still lead to a primary that was
    deposed. So it only wakes: what counts is read on the command connection, together
    with the write that proves that its server may still write.

    Args:
        client: Where; it lends an exclusive connection.
        log: The key of the stream.
        clock: Of this process.
        reads: Whether the server is believed.

    Attributes:
        foreign: Entries that were no changes.
    """

    def __init__(
        self, client: Client, log: str, clock: Clock, reads: ReadLease
    ) -> None:
        self.foreign = 0
        self._client = client
        self._log = log
        self._clock = clock
        self._reads = reads
        self._degraded = Degradation(client.events, "sessions", "stale", clock.boottime)

    async def follow(self) -> AsyncIterator[Changes | Reset]:
        """Yield for ever; while the server cannot be asked, nothing."""
        reason: str | None = "start"
        position, link = "0-0", ""
        more = woken = False
        while True:
            try:
                if reason is not None:
                    position, link = await self._newest()
                    yield Reset(reason)
                    reason = None
                    at = float("-inf")
                before, at = at, self._clock.boottime()
                # At the start and after a pause, what is there now comes first.
                if at - before < 2 * _BLOCK and not more:
                    woken = await self._wait(position)
                    at = self._clock.boottime()
                entries = await self._reads.read(
                    partial(self._read, position), renew=True
                )
                # Nothing is missing of the time before the write that was acknowledged.
                at = min(at, self._reads.until - self._reads.length)
                more = len(entries) == BATCH
                if woken and not entries:
                    # Another server has more than the one that is believed.
                    await self._clock.sleep(_PAUSE)
                woken = False
                if entries:
                    changes = []
                    for position, fields in entries:  # noqa: B007 - the last one stays
                        change = _to_change(fields)
                        if change is None:
                            # Somebody else's. Nothing of ours is missed by that: the
                            # next change names the last one.
                            self.foreign += 1
                            continue
                        if fields["p"] != link:
                            reason = "the log was cut, or is another one"
                            break
                        link = fields["x"]
                        if change.name:  # else a log that was emptied goes on
                            changes.append(change)
                    else:
                        self._degraded.end()
                        yield Changes(at, tuple(changes), more=more)
                    continue
                if (await self._newest())[0] == position:
                    self._degraded.end()
                    yield Changes(at)
                elif not await self._read(position):
                    # The newest entry is older than what was read: a log lost its end.
                    reason = "the log went back"
            except ClosedError:
                raise
            except NoPermission as error:
                self._degraded.begin(error)
                await self._clock.sleep(_REFUSED)
            except OddswireError as error:
                self._degraded.begin(error)
                await self._clock.sleep(_PAUSE)

    async def _newest(self) -> tuple[str, str]:
        # Nearly always the newest entry is a change; behind somebody else's, the last
        # change is looked for.
        newest: Any = []
        for count in (1, _LOOK_BACK):
            newest = await self._client.xrevrange(self._log, count=count)
            for _, fields in newest:
                entry = _texts(fields)
                if _to_change(entry) is not None:
                    return text(newest[0][0]), entry["x"]
            if not newest:
                break
        return text(newest[0][0]) if newest else "0-0", ""

    async def _wait(self, position: str) -> bool:
        """Wait until there is a change, or for a moment; whether there is one."""
        return bool(
            await self._client.xread(
                {self._log: position}, count=1, block=round(_BLOCK * 1e3)
            )
        )

    async def _read(self, position: str) -> list[tuple[str, dict[str, str]]]:
        reply: Any = await self._client.xread({self._log: position}, count=BATCH)
        if not reply:
            return []
        if isinstance(reply, dict):  # RESP3
            entries = next(iter(reply.values()))[0]
        else:
            entries = reply[0][1]
        return [(text(each), _texts(fields)) for each, fields in entries]


def _texts(fields: dict[Any, Any]) -> dict[str, str]:
    return {text(name): text(value) for name, value in fields.items()}


def _to_change(fields: dict[str, str]) -> Change | None:
    """Return a change; None for what is none."""
    if not fields.keys() >= _FIELDS or _NUMBER.fullmatch(fields["v"]) is None:
        return None
    try:
        index_adds, index_removes = _entries(fields["j"]), _entries(fields["l"])
    except (msgspec.DecodeError, UnicodeError):
        return None
    return Change(
        name=fields["u"],
        version=int(fields["v"]),
        on=fields["o"] == "1",
        index_adds=index_adds,
        index_removes=index_removes,
    )


def _entries(data: str) -> tuple[tuple[str, str], ...]:
    return tuple(ENTRIES.decode(data)) if data else ()
