"""`Maintenance`: removes ended sessions, counts sessions, and drops keys."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from oddswire._text import text
from oddswire.codec import AesGcm
from oddswire.errors import CodecError, SessionDamaged, SessionError, SourceError
from oddswire.sessions._codec import INDEX
from oddswire.sessions._scripts import HEADER, SessionHeader
from oddswire.sessions.source import SealedSource
from oddswire.sessions.statistics import SessionStats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddswire.sessions._local import Follower, LocalCache
    from oddswire.sessions._store import SessionStore
    from oddswire.sessions._write_through import WriteThrough


_PAGE = 200
_COUNT = re.compile(rb"-?[0-9]{1,19}")


class Maintenance:
    """The sweeper, and what looks at all sessions.

    Args:
        store: The sessions in Redis.
        local: The sessions in memory.
        follower: Follows the changes.
        write_through: To the source of record, if there is one.

    Attributes:
        failures: Sweeps that failed.
    """

    def __init__(
        self,
        store: SessionStore,
        local: LocalCache[Any],
        follower: Follower,
        write_through: WriteThrough | None,
    ) -> None:
        self.failures = 0
        self._store = store
        self._local = local
        self._follower = follower
        self._write_through = write_through

    async def keep_sweeping(self, pause: float) -> None:
        """Sweep for ever, with so many seconds between."""
        while True:
            await self._store.clock.sleep(pause)
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - the next round is the repair
                self.failures += 1

    async def sweep(self) -> int:
        """Remove ended sessions; any number of sweeps may run at once, or be killed."""
        removed, more = 0, True
        while more:
            found, more = await self._store.ended(_PAGE)
            if self._write_through is None:
                if found:
                    removed += await self._store.reap(name for name, _ in found)
                continue
            # At the source too, so one after the other.
            for _, user_id in found:
                removed += await self._write_through.end(user_id)
        return removed

    async def stats(self, windows: Sequence[float]) -> SessionStats:
        """Count, after a sweep."""
        # What cannot be removed at the source now is removed later, and counted here.
        with suppress(SourceError):
            await self.sweep()
        reply = await self._store.count([round(each * 1e3) for each in windows])
        now, total, off, pairs, conversations, within = reply
        names = [text(name) for name in pairs[::2]]
        counters = dict(zip(names, map(_number, pairs[1::2]), strict=True))
        age = now - counters.get("created", 0) / total if total else 0.0
        return SessionStats(
            total=total,
            active=total - off,
            inactive=off,
            conversations=conversations,
            having={
                name: counters.get(f"with:{name}", 0)
                for name in self._store.codec.schema.collections
            },
            mean_age=age / 1e3,
            active_within=dict(zip(windows, within, strict=True)),
            created=counters.get("creations", 0),
            local_hits=self._local.hits,
            replica_rebuilds=self._follower.replica.rebuilds,
            maintenance_failures=self.failures,
            foreign=self._store.foreign + self._follower.foreign,
        )

    async def retire(self, number: int) -> None:
        """Drop a key that nothing is sealed under."""
        sealer = self._store.codec.sealer
        if not isinstance(sealer, AesGcm):
            raise SessionError("only the keys of a Keyring can be retired here")
        keyring = sealer.keyring.without(number)
        used = 0
        async for page in self._store.everybody():
            for _, user_id in page:
                used += await self._uses(sealer, user_id, number)
        if used:
            raise SessionError(
                f"{used} sessions are sealed under key {number}: run reencrypt first"
            )
        if (source := self.sealed_source()) is not None:
            await source.retire(number)
        sealer.use(keyring)

    def sealed_source(self) -> SealedSource | None:
        """Return the source of record, if it is one that seals."""
        source = self._write_through and self._write_through.source
        return source if isinstance(source, SealedSource) else None

    async def _uses(self, sealer: AesGcm, user_id: int, number: int) -> bool:
        stored = await self._store.get(user_id)
        if stored is None:
            return False
        fields = {**stored.main, **(stored.expiring or {})}
        header = fields.pop(HEADER.encode(), b"")
        fields.pop(INDEX.encode(), None)
        sealed = list(fields.values())
        with suppress(SessionDamaged):
            sealed.append(SessionHeader.parse(header).seal)
        return any(_key_number(sealer, data) == number for data in sealed)


def _key_number(sealer: AesGcm, data: bytes) -> int | None:
    try:
        return sealer.key_number(data)
    except CodecError:
        return None


def _number(value: bytes) -> int:
    """Return a counter; 0 for what is none."""
    return int(value) if _COUNT.fullmatch(value) else 0
