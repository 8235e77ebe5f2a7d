"""`Export`: everything that is kept of a person, as files of JSON."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from oddsbot.delivery import File

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Mapping,
        Sequence,
    )

    from oddsbot.store import AlertLog, AlertRow, StoredRule
    from oddsbot.telegram.people import People
    from oddswire.clock import Clock

_IN_A_FILE = 10_000


class Export:
    """Makes files of what ``/erase`` would delete.

    Counters of limits, which end by themselves within an hour, are left out.

    Args:
        people: Have the sessions.
        rules: Returns the alerts that a person has set.
        log: Has the alerts that were due.
        conversation: Returns where a person's dialogue with the bot stands.
        clock: Tells when the file was made.
        most: Alerts that were due, in one file.
    """

    def __init__(
        self,
        people: People,
        rules: Callable[[int], Awaitable[Sequence[StoredRule]]],
        log: AlertLog,
        conversation: Callable[[int], Awaitable[Mapping[str, Any]]],
        clock: Clock,
        *,
        most: int = _IN_A_FILE,
    ) -> None:
        self._people = people
        self._rules = rules
        self._log = log
        self._conversation = conversation
        self._clock = clock
        self._most = most

    async def files(self, person: int) -> AsyncIterator[File]:
        """Yield one file, and more where one would be too large for Telegram.

        Args:
            person: Whose.

        Raises:
            OddswireError: Redis or the database could not be asked.
        """
        at = datetime.fromtimestamp(self._clock.now(), UTC)
        content: dict[str, Any] = {
            "person": person,
            "made": f"{at:%Y-%m-%dT%H:%M:%SZ}",
            "settings": None,
            "conversation": dict(await self._conversation(person)),
            "alerts": [_rule(each) for each in await self._rules(person)],
        }
        if await self._people.knows(person):
            content["settings"] = await self._people.get(person)
        number, after = 1, ""
        while True:
            rows = await self._log.page(person, after=after, limit=self._most)
            content["history"] = [_row(each) for each in rows]
            data = await asyncio.to_thread(_encoded, content)
            yield File(f"oddsbot-{person}-{number}.json", data)
            if len(rows) < self._most:
                return
            number, after = number + 1, rows[-1].id
            content = {"person": person, "made": content["made"]}


def _rule(stored: StoredRule) -> dict[str, Any]:
    return {"kind": stored.kind, "asked": stored.rule, "state": stored.state}


def _row(row: AlertRow) -> dict[str, Any]:
    # What is damaged is given as it is kept.
    try:
        data = msgspec.json.decode(row.data)
    except msgspec.DecodeError:
        data = row.data
    return {**msgspec.structs.asdict(row), "data": data}


def _encoded(content: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=1)
