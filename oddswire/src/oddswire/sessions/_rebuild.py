"""`Rebuild`: sessions from the source of record, when Redis is not what it was.

It notices that Redis lost data, restores it, and finishes what a killed process left.
Notes in Redis say for which server process everything was built, how far a run has
come, and when all is to be compared again. So any process goes on where another one was
killed, and one process makes each comparison.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import msgspec

from oddswire._text import text
from oddswire.errors import (
    ClosedError,
    CodecError,
    NoPermission,
    OddswireError,
    SessionDamaged,
    SessionError,
)
from oddswire.events import DataReset, Failover
from oddswire.sessions import _scripts as scripts
from oddswire.sessions._scripts import random_id
from oddswire.sessions.source import RebuildProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oddswire.events import Event
    from oddswire.sessions._store import SessionStore
    from oddswire.sessions._write_through import IntentLog, WriteThrough


PAGE = 200
_AT_ONCE = 16
_PAUSE = 1.0
# Seconds without a lookup or a change after which this process looks after the others'
# leftovers less often: an idle program costs a hosted server nothing.
_IDLE = 5.0
_IDLE_PAUSE = 120.0

# Seconds after which a primary that was deposed acknowledges nothing any more: where it
# needs its replicas for that, their max-lag (10 s unless set) and 5; else nobody knows.
_BOUNDED, _UNBOUNDED = 15.0, 60.0

_CLAIMED = 60  # seconds for which a comparison is one process's own
_SKEW = 5.0  # seconds by which the clock of a process may differ from the server's
_NUMBER = re.compile(r"[0-9]{1,19}")
_USER = re.compile(r"-?[0-9]{1,19}")

_UNNAMED = "by it, sessions with a source see that Redis came back with other data"


class Rebuild:
    """Builds everything when Redis lost data; looks after abandoned intents.

    Args:
        write_through: What restores one session.
        store: The sessions in Redis.

    Attributes:
        intents: Of the write-through.
        due: Whether Redis may not be as the source is.
        failures: Repairs that failed, and are tried again.
        runs: How often this process built everything.
    """

    def __init__(self, write_through: WriteThrough, store: SessionStore) -> None:
        self.intents: IntentLog = write_through.intents
        self.due = False
        self.failures = 0
        self.runs = 0
        self._write_through = write_through
        self._store = store
        self._clock = store.clock
        self._resets = 0
        # Times that changes went to another server, and those that were hastened for.
        self._moves = self._hastened = 0
        self._running = asyncio.Lock()
        self._mending = asyncio.Lock()
        self._mended = self._clock.boottime()
        self._used = self._mended - _IDLE  # not yet
        self._intents_seen = 0
        self._unsubscribe: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Build everything if it is due, and watch from then on."""
        # Before the look: a reset between the two is not missed.
        self._unsubscribe = self._store.client.events.subscribe(
            self._reset, DataReset, Failover
        )
        try:
            await self._look()
            await self.ensure()
        except BaseException:
            self._unsubscribe()
            raise

    def stop(self) -> None:
        """Watch no more."""
        self._unsubscribe()

    # --- noticing that Redis lost data

    def _reset(self, event: Event) -> None:
        # Of another connection that comes later, too: changes go by the command one.
        if event.connection.startswith("command"):
            self._moves += 1
        self.lost()

    def lost(self) -> None:
        """Note that Redis may have lost data."""
        self._resets += 1
        self.due = True

    async def _look(self) -> None:
        """Compare the server that answers with the one that everything was built in."""
        resets = self._resets
        built, _ = await self.built()
        process = await self._process()
        await self._hasten_if_moved()
        if built != process:
            self.lost()
        elif resets == self._resets:
            self.due = False

    async def _hasten_if_moved(self) -> None:
        """Have everything compared if this process has another server now.

        Others were here before, and built it or are building. Their run does not have
        what the old server acknowledged to this process meanwhile.
        """
        moves = self._moves
        if moves != self._hastened:
            await self._hasten()
            # As it was before: one that came meanwhile is another server's.
            self._hastened = moves

    async def _process(self) -> str:
        try:
            server: Any = await self._store.client.info("server")
        except NoPermission as error:
            raise NoPermission(f"{error}: {_UNNAMED}; grant +info") from error
        run_id = server.get("run_id")
        if not run_id:
            raise SessionError(
                f"INFO server has no run_id: {_UNNAMED}; connect to the server itself, "
                "not to a proxy that answers INFO"
            )
        return text(run_id)

    # --- mending

    async def keep_mending(self) -> None:
        """Mend for ever, what is due and what killed processes left."""
        while True:
            await self._clock.sleep(_PAUSE)
            try:
                if self._is_time():
                    await self.mend()
            except ClosedError:
                return
            except Exception:  # noqa: BLE001 - the next round is the repair
                self.failures += 1

    def _is_time(self) -> bool:
        now = self._clock.boottime()
        begun = self.intents.begun
        if begun != self._intents_seen:
            self._intents_seen, self._used = begun, now
        pause = _PAUSE if now - self._used < _IDLE else _IDLE_PAUSE
        return self.due or now - self._mended >= pause

    def use(self) -> None:
        """Note a lookup: abandoned intents are looked for each second."""
        self._used = self._clock.boottime()

    async def wake(self) -> None:
        """Note a lookup; after a pause, first mend what was left in it.

        A failure is tried again in the background: a session that cannot be mended now
        keeps nobody else from being found.
        """
        self.use()
        async with self._mending:
            if self._clock.boottime() - self._mended > 2 * _PAUSE:
                try:
                    await self.mend()
                except OddswireError:
                    self.failures += 1

    async def mend(self) -> None:
        """Restore what was lost, and finish what killed processes left."""
        self._mended = self._clock.boottime()
        await self.catch_up()
        for user_id in await self.intents.abandoned():
            try:
                await self._write_through.reconcile(user_id)
            except (SessionDamaged, CodecError):
                self.failures += 1

    async def catch_up(self) -> None:
        """Build everything, if Redis is not the one that it was built in.

        And compare everything when that is due: see `session_rebuilt`.
        """
        built, due = await self.built()
        if self.due or built is None:
            await self._look()
            await self.ensure()
        elif await self._claim(due):
            async with self._running:
                await self._run(None)

    async def ensure(self) -> None:
        """Build everything if that is due; one task does it, the others wait.

        Raises:
            OddswireError: Redis or the source cannot be asked; it stays due.
        """
        async with self._running:
            if self.due:
                await self._run(None)

    # --- a run over all records

    async def run(
        self, on_progress: Callable[[RebuildProgress], object] | None
    ) -> RebuildProgress:
        """Build everything, due or not."""
        async with self._running:
            return await self._run(on_progress)

    async def _run(
        self, on_progress: Callable[[RebuildProgress], object] | None
    ) -> RebuildProgress:
        report = on_progress or (lambda _: None)
        while True:
            resets = self._resets
            # 1. Begin a run for this server process, or join the one under way.
            process = await self._process()
            await self._hasten_if_moved()
            run, after = await self._begin(process)
            state = RebuildProgress(after=after)
            # 2. Restore the records that Redis does not have in this version, page by
            #    page. Each page is noted: another process goes on behind it.
            while page := await self._page(state.after):
                state = await self._restore(state, page)
                # Emptied meanwhile, Redis does not know of this run: from the start.
                if not await self._note(run, state.after):
                    break
                report(state)
            else:
                # 3. Remove sessions without a record, and note that all is built.
                state = await self._remove(state)
                if await self._note(run, state.after, process, await self._pause()):
                    state = msgspec.structs.replace(state, done=True)
                    report(state)
                    self.runs += 1
                    # A reset during the run: what was restored first may be lost again.
                    if resets == self._resets:
                        self.due = False
                        return state

    async def _pause(self) -> float:
        replication: Any = await self._store.client.info("replication")
        return _BOUNDED if "min_slaves_good_slaves" in replication else _UNBOUNDED

    async def _page(self, after: int | None) -> dict[int, int]:
        through = self._write_through
        found = await through.ask(through.source.scan(after, PAGE))
        return {record.user_id: record.version for record in found}

    async def _restore(
        self, state: RebuildProgress, page: dict[int, int]
    ) -> RebuildProgress:
        known = await self.intents.known_versions(list(page))
        other = [user for user, version in page.items() if known.get(user) != version]
        damaged = await self._reconcile(other)
        return msgspec.structs.replace(
            state,
            seen=state.seen + len(page),
            restored=state.restored + len(other) - damaged,
            damaged=state.damaged + damaged,
            after=max(page),
        )

    async def _remove(self, state: RebuildProgress) -> RebuildProgress:
        """Remove sessions without a record: Redis went back to before a deletion."""
        through, removed = self._write_through, 0
        async for page in self.intents.everybody():
            users = [user_id for _, user_id, _ in page]
            found = await through.ask(through.source.load(users)) if users else []
            gone = set(users) - {record.user_id for record in found}
            await self._reconcile(sorted(gone))
            removed += len(gone)
        return msgspec.structs.replace(state, removed=removed)

    async def _reconcile(self, users: Sequence[int]) -> int:
        """Reconcile some at a time; return how many could not be read."""
        damaged = 0
        for at in range(0, len(users), _AT_ONCE):
            some = users[at : at + _AT_ONCE]
            results = await asyncio.gather(
                *(
                    self._write_through.reconcile(each, make_room=False)
                    for each in some
                ),
                return_exceptions=True,
            )
            for result in results:
                if isinstance(result, (SessionDamaged, CodecError)):
                    damaged += 1
                elif isinstance(result, BaseException):
                    raise result
        return damaged

    # --- the notes in Redis

    async def built(self) -> tuple[str | None, float]:
        """Return the server process for which everything was built.

        And when it is to be compared again, in seconds of the server's clock.
        """
        source, due = await self._store.client.hmget(
            self._store.stats, ["source", "due"]
        )
        when = _NUMBER.fullmatch(text(due)) if due is not None else None
        return None if source is None else text(source), float(when[0]) if when else 0.0

    async def _begin(self, process: str) -> tuple[str, int | None]:
        """Begin a run, or join the one under way; return it, and the last user done."""
        stats = self._store.stats
        found: Any = await self._store.client.hget(stats, "rebuild")
        if found is not None and not text(found).startswith(f"{process}:"):
            await self._store.client.hdel(stats, "rebuild")
            found = None
        if found is None:
            await self._store.client.hsetnx(
                stats, "rebuild", f"{process}:{random_id()} "
            )
            found = await self._store.client.hget(stats, "rebuild")
        run, _, after = text(found or f"{process}: ").partition(" ")
        return run, int(after) if _USER.fullmatch(after) else None

    async def _note(
        self, run: str, after: int | None, process: str = "", pause: float = 0.0
    ) -> bool:
        """Note how far a run is; with a process: all is done. False: begin again.

        Args:
            run: Which.
            after: The last user done.
            process: The server process, when all are done.
            pause: Seconds until all is compared again, if it is another process now.
        """
        args = (
            run, "" if after is None else after, process,
            self._store.clock_offset, round(pause), _CLAIMED,
        )  # fmt: skip
        keys = (self._store.stats,)
        return bool(await scripts.REBUILT.run(self._store.client, keys, args))

    async def _claim(self, due: float) -> bool:
        """Whether the comparison that is due is this process's to make."""
        offset = self._store.clock_offset
        # This process's clock spares most questions.
        if self._clock.now() + offset / 1e6 < due - _SKEW:
            return False
        keys, args = (self._store.stats,), (offset, _CLAIMED)
        return bool(await scripts.DUE.run(self._store.client, keys, args))

    async def _hasten(self) -> None:
        """Have everything compared at once, from the start."""
        await self._store.client.hset(self._store.stats, "due", "0")
        # After it: a run that goes on where another was begins from the start.
        await self._store.client.hdel(self._store.stats, "rebuild")
