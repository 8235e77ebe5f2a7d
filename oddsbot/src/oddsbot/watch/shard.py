"""`Shard`: the rules of some markets, judged and committed by one process at a time.

Up to three processes that run a shard follow its feed, and each keeps the last ticks in
its ring; more wait for a seat. A lock says which of them works, the owner. Only economy
rests on lock and seats: who may write is decided in SQL (see `commit`).

1. The owner takes the shard over and judges what its ring has beyond the last committed
   tick of each asset. From then on it judges ticks as they come.
2. What a tick changes goes into a batch. While one round is on its way to the database,
   the next batch collects.
3. Alerts that are committed are handed on. Without a commit nobody is told anything.
4. When a round fails, when its outcome is not known, or when another process took over,
   what was judged in memory is dropped. The ring still has the ticks.
"""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

import msgspec

from oddsbot.polymarket import (
    Connected,
    Disconnected,
    Gap,
    MarketResolved,
    NewMarket,
    Tick,
)
from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.errors import OddswireError, SourceError
from oddswire.plain import plain

from ._order import QuoteOrder
from .commit import Deposed
from .judge import Heard, Judge
from .peers import BEAT_SECONDS, Peers
from .ring import KEPT_SECONDS, Ring
from .ring import Gap as RingGap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from decimal import Decimal

    from oddsbot.polymarket import FeedEvent, Quote
    from oddsbot.store import SqlRules
    from oddswire.clock import Clock
    from oddswire.locks import Locks

    from .commit import Batch, Committed, Rounds, Standing, Tenure
    from .ring import Cut

LOCK_SECONDS = 1.0
SEATS = 3
"""Processes that follow a shard at once, the owner among them; others wait."""

_LOOK_EVERY = 10.0
"""Seconds between two looks for rules that changed; a bell makes it sooner."""
_NOTE_EVERY = 10.0
"""Seconds between two notes of how far quiet assets were judged."""
_AGAIN = 0.2
_PATIENCE = 5.0
"""Seconds without a connection or a database after which another process may try."""
_GIVE_WAY = 30.0
"""Seconds after which a process that lacks ticks waits no longer for one that has
them: it lives, and something else keeps it from taking the shard over."""
_SAY_EVERY = 1.0
"""Seconds between two rounds of an owner that others wait for, if nothing happens."""
_SKEW = 1_000
"""Milliseconds by which the feed may tell of one asset later than of another."""
_RESOLVED = 1_000
"""Resolutions that are remembered for the next owner."""

_log = logging.getLogger("oddsbot.watch")


class MarketFeed(Protocol):
    """Where events of assets come from, such as a `StreamPool`."""

    def __aiter__(self) -> AsyncIterator[FeedEvent]:
        """Return the events, those of an asset in order."""

    @property
    def down_for(self) -> float:
        """For how many seconds a connection has been away; 0 while all are there."""

    async def subscribe(self, *asset_ids: str) -> None:
        """Follow these assets too."""

    async def unsubscribe(self, *asset_ids: str) -> None:
        """Follow these assets no more."""


class Outgoing(Protocol):
    """Where committed alerts go on to."""

    @property
    def home(self) -> str:
        """The Redis that alerts are queued in now."""

    def put(self, committed: Sequence[Committed]) -> None:
        """Have alerts queued soon, in their order; never waits."""

    def resume(self, shard: str) -> None:
        """Have all that a shard has due queued first; never waits."""


class ShardHooks(NamedTuple):
    """What else wants to know of the owner's feed; none of them may block.

    Attributes:
        on_tick: Called with each tick.
        on_resolved: Called with each resolution.
        on_new_market: Called with each new market.
    """

    on_tick: Callable[[Quote], object] = lambda _: None
    on_resolved: Callable[[MarketResolved], object] = lambda _: None
    on_new_market: Callable[[NewMarket], object] = lambda _: None


class Shard:
    """Follows a feed, and judges it while this process owns the shard; `run` it.

    Args:
        rounds: Writes what changes.
        rules: All rules; those of other shards are left out.
        feed: The events, in order; this is the only one to read it.
        locks: Say which process works.
        outgoing: Gets the alerts that are committed.
        clock: Tells when a tick was seen.
        mine: Whether a market, by its condition id, is of this shard; None: all are.
        followers: Pairs of user id and market: who is told of which resolution.
        hooks: What else wants to know.
        lock_seconds: For how long a killed owner keeps others away.

    Attributes:
        ring: The last ticks.
        ticks: Quotes that differed from their asset's last one.
        outdated: Quotes that were older than their asset's last one.
        rounds: Rounds that this process committed.
        takeovers: How often it became the owner.
        deposed: How often somebody else had taken over when it wanted to write.
        failed: Rounds that failed, or whose outcome is not known.
        gaps: What was missing after a takeover.
        feed_gaps: What the feed may have missed itself.
        seen_until: The latest market time of an event so far, ms.
        judging: Set while this process is the owner and has judged all that came, by
            all rules that were there.
    """

    def __init__(
        self,
        rounds: Rounds,
        rules: SqlRules,
        feed: MarketFeed,
        locks: Locks,
        outgoing: Outgoing,
        clock: Clock,
        *,
        mine: Callable[[str], bool] | None = None,
        followers: Iterable[tuple[int, str]] = (),
        hooks: ShardHooks | None = None,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        self.ring = Ring()
        self.ticks = 0
        self.outdated = 0
        self.rounds = 0
        self.takeovers = 0
        self.deposed = 0
        self.failed = 0
        self.gaps: list[RingGap] = []
        self.feed_gaps = 0
        self.seen_until = 0
        self.judging = asyncio.Event()
        self._rounds = rounds
        self._rules = rules
        self._feed = feed
        self._locks = locks
        self._outgoing = outgoing
        self._clock = clock
        self._mine = mine or (lambda _: True)
        self._followers = list(followers)
        self._hooks = hooks or ShardHooks()
        self._lock_seconds = lock_seconds
        # --- the feed
        self._tops: dict[str, tuple[Decimal | None, Decimal | None]] = {}
        self._order = QuoteOrder()
        self._resolved: dict[str, tuple[MarketResolved, float]] = {}
        self._subscribed: set[str] = set()
        # Infinite while a connection is lost, as far as its events say.
        self._up_since = math.inf
        # Assets without a quote since their connection came up, each with the market's
        # time up to which the one before told of it; and the latest market time of
        # those first quotes: from there on the ring is whole.
        self._awaited: dict[str, int] = {}
        self._first_quotes_at = 0
        self._progress = asyncio.Condition()
        # --- the rules: None until they are loaded, and after a round that failed
        self._judge: Judge | None = None
        self._heard: dict[str, Heard] = {}
        # The shard's round up to which the rules' states were read.
        self._n = 0
        # Held by whoever brings the rules up to date.
        self._updating = asyncio.Lock()
        self._bell = asyncio.Event()
        # Until when ticks are kept that somebody may not have committed; infinite: the
        # database does not answer.
        self._keep_until = 0.0
        # --- the work
        self._seated = asyncio.Event()
        self._tenure: Tenure | None = None
        self._committed = 0
        self._finishing = False
        self._stopped = False
        self._holding = False
        self._peers = Peers(rounds.engine, rounds.shard, clock)
        self._giving_way_since: float | None = None
        # Something happened: a tick, a rule or the end of a round for the owner's
        # work; the link, the lock, the rules or the stop for whoever takes over.
        self._stir = asyncio.Event()
        self._turn = asyncio.Event()

    @property
    def owning(self) -> bool:
        """Whether this process is the owner, as far as it knows."""
        return self._tenure is not None

    def stop(self) -> None:
        """Read no more; `run` commits what was judged, gives the shard up and ends."""
        self._stopped = True
        self._turn.set()
        self._stir.set()

    def look(self) -> None:
        """Have rules that changed read now, and not at the next look."""
        self._bell.set()

    async def wait_seen(self, at: int) -> None:
        """Wait until an event of this market time (ms), or a later one, was seen."""
        async with self._progress:
            await self._progress.wait_for(lambda: self.seen_until >= at)

    async def run(self) -> None:
        """Follow the feed, and work while this process is the owner, until `stop`.

        It ends too when the feed ends. Cancelled, what was judged and not committed is
        judged by the next owner.

        Raises:
            OddswireError: Redis or the database refuse for good.
        """
        async with asyncio.TaskGroup() as tasks:
            sitting = tasks.create_task(self._sit(), name="shard: seat")
            reading = tasks.create_task(self._read(), name="shard: read the feed")
            following = tasks.create_task(self._follow(), name="shard: follow rules")
            owning = tasks.create_task(self._own(tasks), name="shard: own")
            beating = tasks.create_task(self._beat(), name="shard: beat")
            await self._until(lambda: self._stopped)
            # It may wait for the lock for ever; what it holds it gives up by itself.
            if not self._holding:
                owning.cancel()
            for each in (sitting, reading, following, beating):
                each.cancel()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._turn.clear()
            await self._turn.wait()

    # --- the feed

    async def _read(self) -> None:
        async for event in self._feed:
            self._take(event)
            async with self._progress:
                self._progress.notify_all()
        self.stop()

    def _take(self, event: FeedEvent) -> None:
        now = self._clock.now()
        match event:
            case Connected():
                self._up_since = self._clock.monotonic()
                self._await_quotes(event.assets or self._subscribed)
                self._turn.set()
                return
            case Disconnected():
                self._up_since = math.inf
                self._await(event.assets or self._subscribed)
                return
            case Gap():
                self.feed_gaps += 1
                _say_gap(len(event.assets), event.ended - event.began, event.reason)
                return
            case Tick():
                self._take_tick(event, now)
                at = event.quote.at
            case _:
                if isinstance(event, MarketResolved):
                    self._take_resolved(event, now)
                elif isinstance(event, NewMarket) and self.owning:
                    self._hooks.on_new_market(event)
                at = event.timestamp
        self.ring.trim(now, self._needed_from())
        self.seen_until = max(self.seen_until, at or 0)
        self._stir.set()

    def _take_tick(self, tick: Tick, now: float) -> None:
        quote = tick.quote
        asset = quote.asset_id
        held = self._awaited.pop(asset, None)
        if held is not None:
            self._first_quotes_at = max(self._first_quotes_at, quote.at or 0)
        if self._order.is_outdated(quote, now):
            self.outdated += 1
        elif self._tops.get(asset) != (quote.bid, quote.ask):
            if tick.late:
                # The stream did not tell of it: what else it did not tell is unknown.
                self.ring.interrupt((asset,))
                self._first_quotes_at = max(self._first_quotes_at, quote.at or 0)
                held = held or 0
            self._tops[asset] = quote.bid, quote.ask
            self.ticks += 1
            self.ring.add(quote, now, held)
            if self.owning:
                self._hooks.on_tick(quote)

    def _await_quotes(self, assets: Iterable[str]) -> None:
        """Note that ticks of assets may be missing up to the next quote of each."""
        self.ring.interrupt(assets)
        self._await(assets)
        # Those of a connection that tells nothing are whole from now on at the best.
        self._first_quotes_at = max(self._first_quotes_at, self.seen_until)

    def _await(self, assets: Iterable[str]) -> None:
        for asset in assets:
            self._awaited.setdefault(asset, self.seen_until)

    def _whole_from(self) -> float:
        """Return the market's time from which on the ring has each tick."""
        waited = self._clock.monotonic() - self._up_since
        # An asset without a book is not waited for, for ever.
        awaiting = bool(self._awaited) and waited < _PATIENCE
        if self._feed.down_for or awaiting or not self._first_quotes_at:
            return math.inf
        return self._first_quotes_at

    def _needed_from(self) -> int:
        """Return the place from which on a tick is kept, however old it becomes."""
        if self._tenure is not None:
            return self._committed
        return 0 if self._clock.monotonic() < self._keep_until else self.ring.end

    def _note_answer(self, *, answers: bool) -> None:
        """Note whether the database answers.

        While it does not, nobody commits. Once it does, the owner needs a while to, and
        may die in it.
        """
        if not answers:
            self._keep_until = math.inf
        elif self._keep_until == math.inf:
            self._keep_until = self._clock.monotonic() + KEPT_SECONDS

    def _take_resolved(self, event: MarketResolved, now: float) -> None:
        self._resolved[event.market] = event, now
        while len(self._resolved) > _RESOLVED:
            del self._resolved[next(iter(self._resolved))]
        if self.owning and self._judge is not None:
            self._hooks.on_resolved(event)
            self._judge.resolve(event, now)

    # --- the rules

    async def _follow(self) -> None:
        """Load the rules, then keep up with their changes."""
        await self._seated.wait()
        while True:
            try:
                async with self._updating:
                    await self._update(await self._loaded())
            except SourceError as error:
                self._note_answer(answers=False)
                _say("rules_unread", error)
                await self._clock.sleep(_AGAIN)
                continue
            self._note_answer(answers=True)
            self._turn.set()
            try:
                async with asyncio.timeout(_LOOK_EVERY):
                    await self._bell.wait()
            except TimeoutError:
                pass
            self._bell.clear()

    async def _loaded(self) -> Judge:
        """Return the rules, read from the database unless they are there."""
        if self._judge is None:
            # The position first: what changes while the rules are read comes again.
            revision, n = await self._rounds.position()
            judge = Judge(self.ring, self._heard, self._mine, self._followers)
            async for stored in self._rules.all():
                judge.learn(stored)
            judge.revision, self._n = revision, n
            self._judge = judge
            await self._subscribe(judge)
        return self._judge

    async def _update(self, judge: Judge) -> None:
        if self.owning:
            judge.apply(await self._rules.changes_after(judge.revision))
            self._stir.set()
        else:
            _, n = await self._rounds.position()
            judge.apply(await self._rules.changes_after(judge.revision, self._n))
            self._n = n
        await self._subscribe(judge)

    async def _subscribe(self, judge: Judge) -> None:
        before, now = self._subscribed, judge.assets
        self._subscribed = now
        if not before:
            self._await_quotes(now)
        if now - before:
            await self._feed.subscribe(*sorted(now - before))
        if before - now:
            for asset in before - now:
                self._awaited.pop(asset, None)
            await self._feed.unsubscribe(*sorted(before - now))

    async def _beat(self) -> None:
        """Tell other processes that this one lives, and how far its ring reaches."""
        await self._seated.wait()
        try:
            while True:
                # An outage is said by whoever reads the rules.
                with suppress(SourceError):
                    await self._peers.beat(self._whole_from(), owning=self.owning)
                if self._feed.down_for:  # whether this process may work depends on time
                    self._turn.set()
                await self._clock.sleep(BEAT_SECONDS)
        finally:
            with suppress(OddswireError):
                await self._peers.leave()

    # --- owning the shard

    async def _sit(self) -> NoReturn:
        """Hold one of the seats of those that follow.

        Who follows goes on, whatever becomes of its seat: others may lack its ticks.
        Where Redis cannot be asked nobody waits; too many that follow cost economy.
        """
        while True:
            lost = asyncio.Event()
            seat = self._locks.lock(
                f"watch.{self._rounds.shard}.seats",
                self._lock_seconds,
                seats=SEATS,
                on_lost=lost.set,
            )
            try:
                async with seat:
                    self._seated.set()
                    await lost.wait()
            except OddswireError as error:
                if not isinstance(error, TRANSIENT_ERRORS):
                    raise
                self._seated.set()
            await self._clock.sleep(_AGAIN)

    def _ready(self) -> bool:
        """Whether this process could work now.

        Without a connection it lets others go first; one that nobody has is no reason
        to judge what the other connections tell no more.
        """
        down = self._feed.down_for
        return self._judge is not None and (
            not down or (down >= _PATIENCE and not self._peers.has_elder(math.inf))
        )

    def _cut_off(self) -> bool:
        """Whether a connection has been down for long, and another process has it."""
        return self._feed.down_for >= _PATIENCE and self._peers.has_whole()

    async def _own(self, tasks: asyncio.TaskGroup) -> None:
        """Wait for the lock, work while it is held, again and again."""
        working: asyncio.Task[None] | None = None
        while not self._stopped:
            await self._until(lambda: self._ready() or self._stopped)
            lost = asyncio.Event()

            def lose(lost: asyncio.Event = lost) -> None:
                lost.set()
                self._turn.set()

            lock = self._locks.lock(
                f"watch.{self._rounds.shard}", self._lock_seconds, on_lost=lose
            )
            try:
                async with lock:
                    self._holding = True
                    # Work went on without the lock; others may have written since.
                    await self._finish(working)
                    working = await self._hold(tasks, lost)
                if self._giving_way_since is not None:
                    await self._clock.sleep(BEAT_SECONDS)
            except OddswireError as error:
                if not isinstance(error, TRANSIENT_ERRORS):
                    raise
                _say("shard_unlocked", error)
                await self._clock.sleep(_AGAIN)
            finally:
                self._holding = False
        await self._finish(working)

    async def _hold(
        self, tasks: asyncio.TaskGroup, lost: asyncio.Event
    ) -> asyncio.Task[None] | None:
        """Work until the lock is lost, the link is down, or the shard stops.

        Returns:
            The work that goes on without the lock: Redis is away, and until another
            process takes over, the shard is still this one's.
        """
        failing_since: float | None = None
        while not (lost.is_set() or self._stopped or self._cut_off()):
            try:
                tenure = await self._take_over()
                if tenure is None:
                    return None
            except SourceError as error:
                self._note_answer(answers=False)
                _say("takeover_failed", error)
                now = self._clock.monotonic()
                failing_since = now if failing_since is None else failing_since
                if now - failing_since > _PATIENCE:
                    return None
                await self._clock.sleep(_AGAIN)
                continue
            self._note_answer(answers=True)
            failing_since = None
            working = tasks.create_task(self._work(tenure), name="shard: work")
            working.add_done_callback(lambda _: self._turn.set())

            def over(working: asyncio.Task[None] = working) -> bool:
                return working.done() or lost.is_set()

            await self._until(lambda: over() or self._stopped or self._cut_off())
            if lost.is_set():
                return working
            await self._finish(working)
        return None

    async def _finish(self, working: asyncio.Task[None] | None) -> None:
        """Have everything that was seen judged and committed, if it can be."""
        if working is None or working.done():
            return
        self._finishing = True
        self._stir.set()
        await asyncio.wait([working])
        self._finishing = False

    async def _take_over(self) -> Tenure | None:
        """Become the owner; None: a process whose ring reaches further goes first.

        A process that has just started may get the lock although another one lives that
        has the ticks it lacks: that one waits behind it, or is the owner itself, whose
        lock Redis has lost.
        """
        now = self._clock.monotonic()
        since = self._giving_way_since
        patient = since is None or now - since < _GIVE_WAY

        def accept(standing: Standing) -> bool:
            whole_from = self._whole_from()
            # A process that was told no prices yet has an empty ring, and no gap in it.
            told = standing.first or whole_from < math.inf
            whole = told and self._cut(standing).gap is None
            return whole or not (patient and self._peers.has_elder(whole_from))

        async with self._updating:
            judge = await self._loaded()
            tenure = await self._rounds.take_over(judge.revision, self._n, accept)
            if tenure is None:
                if since is None:
                    self._giving_way_since = now
                    _log.info("shard_passed", extra={"event": "shard_passed"})
                return None
            self._giving_way_since = None
            # No await from here on: each tick is either in the ring, or comes later.
            judge.apply(tenure.changes)
            cut = self._cut(tenure.standing)
            judge.begin(cut, tenure.standing)
            self._n = tenure.n
            self._committed = 0
            self._tenure = tenure
            for event, seen_at in self._resolved.values():
                judge.resolve(event, seen_at)
        self.takeovers += 1
        _log.info(
            "shard_owned shard=%s epoch=%d",
            self._rounds.shard,
            tenure.epoch,
            extra={"event": "shard_owned"},
        )
        if cut.gap is not None:
            self.gaps.append(cut.gap)
            _say_gap(cut.gap.assets, cut.gap.longest, "takeover")
        self._outgoing.resume(self._rounds.shard)
        self._bell.set()
        return tenure

    def _cut(self, standing: Standing) -> Cut:
        """Return where the owner before stopped; without a gap if none is possible.

        An asset that stands still since its last round, or never had one, says nothing
        about what lies between. There is no gap if the owner before has judged all
        assets beyond the time from which on this ring is whole.
        """
        cut = self.ring.cut(standing.seen)
        whole_from = max(self._whole_from(), self.ring.forgotten_until)
        judged = standing.judged
        if standing.first or (judged is not None and whole_from + _SKEW <= judged):
            return msgspec.structs.replace(cut, gap=None)
        silent = len(self.ring.last.keys() - standing.seen.keys())
        if cut.gap is None and silent:
            return msgspec.structs.replace(cut, gap=RingGap(silent, 0.0))
        return cut

    # --- the owner's work

    async def _work(self, tenure: Tenure) -> None:
        """Judge and commit until somebody else took over, or a round failed."""
        written = False
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._serve(tenure, tasks)
            written = True
        except* Deposed:
            self.deposed += 1
            _log.info("shard_lost", extra={"event": "shard_lost"})
        except* SourceError as errors:
            self.failed += 1
            self._note_answer(answers=False)
            _say("round_failed", errors.exceptions[0])
        finally:
            self._tenure = None
            self.judging.clear()
            if self._judge is not None:
                self._judge.end()
            if not written:
                # What was judged and is not in the database never happened.
                self._judge = None
                self._bell.set()

    async def _serve(self, tenure: Tenure, tasks: asyncio.TaskGroup) -> None:
        judge = self._judge
        assert judge is not None  # noqa: S101 - it was there when the shard was taken
        clock = self._clock
        noted = said = clock.monotonic()
        round_: asyncio.Task[None] | None = None
        while True:
            self._stir.clear()
            behind = judge.judge_some()
            now = clock.monotonic()
            if now - noted >= _NOTE_EVERY:
                noted = now
                judge.note()
            if round_ is None or round_.done():
                # Others learn from it that their rings reach back.
                silent = self._peers.others and now - said >= _SAY_EVERY
                if judge.batch or (silent and self._committed < judge.cursor):
                    said = now
                    batch, until = judge.take_batch(), judge.cursor
                    round_ = tasks.create_task(self._commit(tenure, batch, until))
                    round_.add_done_callback(lambda _: self._stir.set())
                else:
                    round_ = None
                    self._committed = judge.cursor
            if not behind:
                self.judging.set()
            if behind and not judge.full:
                await asyncio.sleep(0)
            elif not behind and round_ is None and (self._finishing or self._stopped):
                return
            else:
                await self._stir.wait()

    async def _commit(self, tenure: Tenure, batch: Batch, until: int) -> None:
        committed = await self._rounds.commit(tenure, batch, self._outgoing.home)
        self._committed = until
        self.rounds += 1
        if committed:
            self._outgoing.put(committed)


def _say(name: str, error: BaseException) -> None:
    _log.warning("%s error=%s", name, plain(error), extra={"event": name})


def _say_gap(assets: int, seconds: float, reason: str) -> None:
    _log.warning(
        "feed_gap assets=%d seconds=%.1f reason=%s",
        assets,
        seconds,
        plain(reason),
        extra={"event": "feed_gap"},
    )
