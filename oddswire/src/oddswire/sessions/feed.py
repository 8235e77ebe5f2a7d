"""What tells a process of changes that others made: a protocol, and a log for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from oddswire.errors import ClosedError, NoPermission, OddswireError
from oddswire.events import Degradation
from oddswire.sessions._scripts import text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from oddswire.client import Client
    from oddswire.clock import Clock

BATCH = 500
_BLOCK = 0.75
"""Seconds; two in a row, and the asking, are less than what memory is believed for."""
_PAUSE = 0.2
_REFUSED = 60.0
_ENTRIES = msgspec.json.Decoder(list[tuple[str, str]])


class Announced(msgspec.Struct, frozen=True):
    """One change of one session.

    Attributes:
        name: Of the user.
        version: The session's now; 0 when it was deleted.
        on: Whether it is active.
        joins: Index entries that it got.
        leaves: Index entries that it lost.
    """

    name: str
    version: int
    on: bool
    joins: tuple[tuple[str, str], ...] = ()
    leaves: tuple[tuple[str, str], ...] = ()


class Heard(msgspec.Struct, frozen=True):
    """Every change up to a moment.

    Attributes:
        at: By the clock's `boottime`: nothing that happened before it is missing.
        changes: In their order; none when nothing changed.
        more: Whether there are more that were not read yet.
    """

    at: float
    changes: tuple[Announced, ...] = ()
    more: bool = False


class Missed(msgspec.Struct, frozen=True):
    """Changes may have been missed: what was kept is void. It is also the first item.

    Attributes:
        reason: One line.
    """

    reason: str


class Feed(Protocol):
    """Changes of sessions, from the moment of the last `Missed` on."""

    def follow(self) -> AsyncIterator[Heard | Missed]:
        """Yield for ever; first `Missed`, then `Heard` at least once a second.

        Nobody asks for the next item while memory is not read: what changes in such a
        pause comes after it, or a `Missed` instead.
        """


class LogFeed:
    """The changes that the session scripts append to a stream, in their own slot.

    Each entry names a random link of the one before it, so that trimming, a server that
    came back without its data and a failover that lost some are noticed.

    Args:
        client: Where; it lends an exclusive wire.
        log: The key of the stream.
        clock: Of this process.
    """

    def __init__(self, client: Client, log: str, clock: Clock) -> None:
        self._client = client
        self._log = log
        self._clock = clock
        self._degraded = Degradation(client.events, "sessions", "stale", clock.boottime)

    async def follow(self) -> AsyncIterator[Heard | Missed]:
        """Yield for ever; while the server cannot be asked, nothing."""
        reason: str | None = "start"
        position, link = "0-0", ""
        while True:
            try:
                if reason is not None:
                    position, link = await self._newest()
                    yield Missed(reason)
                    reason = None
                    at = float("-inf")
                before, at = at, self._clock.boottime()
                # At the start and after a pause, what is there now comes first.
                entries = await self._read(position, block=at - before < 2 * _BLOCK)
                if entries:
                    changes = []
                    for position, fields in entries:  # noqa: B007 - the last one stays
                        if fields["p"] != link:
                            reason = "the log was cut, or is another one"
                            break
                        link = fields["x"]
                        changes.append(_announced(fields))
                    else:
                        self._degraded.end()
                        yield Heard(at, tuple(changes), more=len(entries) == BATCH)
                    continue
                at = self._clock.boottime()
                if (await self._newest())[0] == position:
                    self._degraded.end()
                    yield Heard(at)
                elif not await self._read(position, block=False):
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
        newest: Any = await self._client.xrevrange(self._log, count=1)
        if not newest:
            return "0-0", ""
        position, fields = newest[0]
        return text(position), _texts(fields)["x"]

    async def _read(
        self, position: str, *, block: bool
    ) -> list[tuple[str, dict[str, str]]]:
        reply: Any = await self._client.xread(
            {self._log: position},
            count=BATCH,
            block=round(_BLOCK * 1e3) if block else None,
        )
        if not reply:
            return []
        if isinstance(reply, dict):  # RESP3
            entries = next(iter(reply.values()))[0]
        else:
            entries = reply[0][1]
        return [(text(each), _texts(fields)) for each, fields in entries]


def _texts(fields: dict[Any, Any]) -> dict[str, str]:
    return {text(name): text(value) for name, value in fields.items()}


def _announced(fields: dict[str, str]) -> Announced:
    return Announced(
        name=fields["u"],
        version=int(fields["v"]),
        on=fields["o"] == "1",
        joins=_entries(fields["j"]),
        leaves=_entries(fields["l"]),
    )


def _entries(data: str) -> tuple[tuple[str, str], ...]:
    return tuple(_ENTRIES.decode(data)) if data else ()
