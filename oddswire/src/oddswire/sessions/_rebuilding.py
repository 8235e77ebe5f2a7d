"""`Rebuilding`: indexes from the source, when Redis is not what it was."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from oddswire._tasks import spawn
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
from oddswire.sessions.record import Record
from oddswire.sessions.source import Rebuilt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.events import Event
    from oddswire.sessions._backing import Backing
    from oddswire.sessions._store import Store

T = TypeVar("T", bound=Record)

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

_UNNAMED = "by it, sessions with a source see that Redis came back with other data"


class Rebuilding(Generic[T]):
    """Notices that Redis lost data, and restores it; mends what a killed process left.

    Args:
        backing: What restores one session.
        store: Of the sessions.
        clock: Of this process.

    Attributes:
        backing: As given.
        due: Whether Redis may not be as the source is.
        failures: Repairs that failed, and are tried again.
        rebuilt: How often this process built everything.
    """

    def __init__(self, backing: Backing[T], store: Store, clock: Clock) -> None:
        self.due = False
        self.failures = 0
        self.rebuilt = 0
        self._resets = 0
        self._moved = False
        self.backing = backing
        self._store = store
        self._client: Client = store.client
        self._clock = clock
        self._turn = asyncio.Lock()
        self._mending = asyncio.Lock()
        self._mended = clock.boottime()
        self._used = self._mended - _IDLE  # not yet
        self._marks = 0
        self._unsubscribe: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Build what has to be built, and watch from then on."""
        # Before the look: what happens between the two is not missed.
        self._unsubscribe = self._client.events.subscribe(
            self._reset, DataReset, Failover
        )
        try:
            await self._look()
            await self.ensure()
        except BaseException:
            self._unsubscribe()
            raise
        self._task = spawn(self._keep_mending(), name="sessions: mender")

    async def stop(self) -> None:
        """End the task and wait for it."""
        self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _reset(self, event: Event) -> None:
        # Of another connection that comes later, too: changes go by the command one.
        if event.connection == "command":
            self._moved = True
        self.lost()

    def lost(self) -> None:
        """Note that Redis may have lost data."""
        self._resets += 1
        self.due = True

    async def _look(self) -> None:
        """Compare the server that answers with the one that everything was built in."""
        resets = self._resets
        built, _ = await self.backing.ledger.built()
        process = await self._process()
        if self._moved:
            # Others were here before, and built it or are building. What this process
            # was acknowledged meanwhile, by the server that it has left, is not in it.
            await self.backing.ledger.hasten()
            self._moved = False
        if built != process:
            self.lost()
        elif resets == self._resets:
            self.due = False

    async def _process(self) -> str:
        try:
            server: Any = await self._client.info("server")
        except NoPermission as error:
            raise NoPermission(f"{error}: {_UNNAMED}; grant +info") from error
        run_id = server.get("run_id")
        if not run_id:
            raise SessionError(
                f"INFO server has no run_id: {_UNNAMED}; connect to the server itself, "
                "not to a proxy that answers INFO"
            )
        return text(run_id)

    async def _keep_mending(self) -> None:
        while True:
            await self._clock.sleep(_PAUSE)
            try:
                if self._is_due():
                    await self.mend()
            except ClosedError:
                return
            except Exception:  # noqa: BLE001 - the next round is the repair
                self.failures += 1

    def _is_due(self) -> bool:
        now = self._clock.boottime()
        marks = self.backing.ledger.marks
        if marks != self._marks:
            self._marks, self._used = marks, now
        pause = _PAUSE if now - self._used < _IDLE else _IDLE_PAUSE
        return self.due or now - self._mended >= pause

    def use(self) -> None:
        """Note a lookup: what killed processes left is looked after each second."""
        self._used = self._clock.boottime()

    async def wake(self) -> None:
        """Note a lookup; after a pause, first do what was not done in it.

        What fails here is tried again in the background: a session that cannot be
        mended now keeps nobody else from being found.
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
        for user_id in await self.backing.ledger.abandoned():
            try:
                await self.backing.reconcile(user_id)
            except (SessionDamaged, CodecError):
                self.failures += 1

    async def catch_up(self) -> None:
        """Build everything, if Redis is not the one that it was built in.

        And compare everything when that is due: see `session_rebuilt`.
        """
        built, due = await self.backing.ledger.built()
        if self.due or built is None:
            await self._look()
            await self.ensure()
        elif await self.backing.ledger.claim(due, self._clock.now()):
            async with self._turn:
                await self._run(None)

    async def ensure(self) -> None:
        """Build everything if that is due; one task does it, the others wait.

        Raises:
            OddswireError: Redis or the source cannot be asked; it stays due.
        """
        async with self._turn:
            if self.due:
                await self._run(None)

    async def run(self, on_progress: Callable[[Rebuilt], object] | None) -> Rebuilt:
        """Build everything, due or not."""
        async with self._turn:
            return await self._run(on_progress)

    async def _run(self, on_progress: Callable[[Rebuilt], object] | None) -> Rebuilt:
        ledger = self.backing.ledger
        tell = on_progress or (lambda _: None)
        while True:
            resets = self._resets
            process = await self._process()
            run, after = await ledger.begin(process)
            state = Rebuilt(after=after)
            while page := await self._page(state.after):
                state = await self._restore(state, page)
                # Emptied meanwhile, Redis does not know of this run: from the start.
                if not await ledger.progress(run, state.after):
                    break
                tell(state)
            else:
                state = await self._remove(state)
                pause = await self._pause()
                if await ledger.progress(run, state.after, process, pause):
                    state = msgspec.structs.replace(state, done=True)
                    tell(state)
                    self.rebuilt += 1
                    if resets == self._resets:
                        self.due = False
                        return state

    async def _pause(self) -> float:
        replication: Any = await self._client.info("replication")
        return _BOUNDED if "min_slaves_good_slaves" in replication else _UNBOUNDED

    async def _page(self, after: int | None) -> dict[int, int]:
        backing = self.backing
        found = await backing.ask(backing.source.scan(after, PAGE))
        return {kept.user_id: kept.version for kept in found}

    async def _restore(self, state: Rebuilt, page: dict[int, int]) -> Rebuilt:
        noted = await self.backing.ledger.noted(list(page))
        other = [user for user, version in page.items() if noted.get(user) != version]
        damaged = await self._reconcile(other)
        return msgspec.structs.replace(
            state,
            seen=state.seen + len(page),
            restored=state.restored + len(other) - damaged,
            damaged=state.damaged + damaged,
            after=max(page),
        )

    async def _remove(self, state: Rebuilt) -> Rebuilt:
        """Remove sessions without a record: Redis went back to before a deletion."""
        backing, removed = self.backing, 0
        async for page in backing.ledger.everybody():
            users = [user_id for _, user_id, _ in page]
            kept = await backing.ask(backing.source.load(users)) if users else []
            gone = set(users) - {each.user_id for each in kept}
            await self._reconcile(sorted(gone))
            removed += len(gone)
        return msgspec.structs.replace(state, removed=removed)

    async def _reconcile(self, users: Sequence[int]) -> int:
        """Reconcile some at a time; return how many could not be read."""
        damaged = 0
        for at in range(0, len(users), _AT_ONCE):
            some = users[at : at + _AT_ONCE]
            results = await asyncio.gather(
                *(self.backing.reconcile(each, make_room=False) for each in some),
                return_exceptions=True,
            )
            for result in results:
                if isinstance(result, (SessionDamaged, CodecError)):
                    damaged += 1
                elif isinstance(result, BaseException):
                    raise result
        return damaged
