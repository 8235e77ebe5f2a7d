"""`Judge`: the rules of a shard in memory, and what ticks make of them. No I/O."""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from oddsbot.alerts import Alerts, VolumeRule

from ._order import AHEAD_MS
from .commit import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from oddsbot.alerts import QuoteRule
    from oddsbot.polymarket import MarketResolved
    from oddsbot.store import RuleChanges, StoredRule

    from .commit import Seen, Standing
    from .ring import Cut, Ring, Tick

SLICE = 400
"""Ticks that are judged, and rules that are begun, before other tasks run."""
MOST_CHANGES = 5_000
"""Rules that one round writes, beyond those of its last tick: a larger one would hold
up whoever is told by the next."""


class _Known(NamedTuple):
    user_id: int
    asset_id: str
    revision: int


class _Fresh(NamedTuple):
    rule: QuoteRule
    revision: int
    n: int


class Heard(NamedTuple):
    """When a process heard of a rule.

    Attributes:
        revision: Of the rule.
        place: The place of the first tick that came after that.
    """

    revision: int
    place: int


class Judge:
    """Judges the ticks of a ring, each once, and collects what they change.

    As a standby it only follows the rules: `apply` takes where they stand from the
    database. `begin` makes it the owner's, and from then on its own states count.

    A rule that no owner has begun to judge begins at the place of the ring at which
    this process heard of it, so that an owner that dies with it costs it no tick.

    Args:
        ring: The ticks.
        heard: Where this process heard of a rule, by its id; it outlives this object.
        mine: Whether a market, by its condition id, is of this shard.
        followers: Pairs of user id and market: who is told of which resolution.

    Attributes:
        batch: What the next round is going to write.
        cursor: The place of the next tick to judge.
        judged: Ticks that were judged.
        revision: The newest revision of the rules that is known.
    """

    def __init__(
        self,
        ring: Ring,
        heard: dict[str, Heard],
        mine: Callable[[str], bool],
        followers: Iterable[tuple[int, str]] = (),
    ) -> None:
        self.batch = Batch(0)
        self.cursor = 0
        self.judged = 0
        self.revision = 0
        self._ring = ring
        self._heard = heard
        self._mine = mine
        self._alerts = Alerts(followers=followers, keep_changes=True)
        self._known: dict[str, _Known] = {}
        self._watched: Counter[str] = Counter()
        # Rules that no owner has begun to judge, and the place where the next begins.
        self._fresh: dict[str, _Fresh] = {}
        self._begin_at = 0
        # The last tick of each asset that was judged, or that an owner before judged.
        self._last: dict[str, Tick] = {}
        # The market's time up to which this owner has judged what came.
        self._judged_until = 0
        self._behind: dict[str, Seen] = {}
        self._owning = False
        # What came before this owner and is not judged, in the market's order.
        self._backlog: deque[_Waiting] = deque()
        # Assets of which a round has a last tick: without one nobody can tell a gap.
        self._noted: set[str] = set()
        # The last tick of each asset since the last note, where it changed nothing.
        self._unnoted: dict[str, Tick] = {}

    @property
    def assets(self) -> set[str]:
        """The assets that have rules."""
        return {asset for asset, rules in self._watched.items() if rules}

    # --- the rules

    def apply(self, changes: RuleChanges) -> None:
        """Take over what people changed, and, as a standby, where rules stand."""
        for rule_id in changes.removed:
            self._forget(rule_id)
        for stored in changes.rules:
            known = self._known.get(stored.rule.id)
            # What the owner has judged since is newer than what the database has.
            if not (self._owning and known and known.revision == stored.revision):
                self._forget(stored.rule.id)
                self.learn(stored)
        self.revision = max(self.revision, changes.revision)

    def learn(self, stored: StoredRule) -> None:
        """Watch a rule that is not watched yet, unless it has ended or is paused.

        A volume is no quote: `MarketNews` judges it.
        """
        rule = stored.rule
        if isinstance(rule, VolumeRule):
            return
        if stored.state.ended or rule.paused or not self._mine(rule.market):
            return
        self._known[rule.id] = _Known(rule.user_id, rule.asset_id, stored.revision)
        self._watched[rule.asset_id] += 1
        if stored.round is not None:
            self._heard.pop(rule.id, None)
            self._alerts.add(rule, stored.state)
            return
        heard = self._heard.get(rule.id)
        if heard is None or heard.revision != stored.revision:
            self._heard[rule.id] = Heard(stored.revision, self._ring.end)
        self._fresh[rule.id] = _Fresh(rule, stored.revision, stored.state.n)
        self._begin_at = min(self._begin_at, self._heard[rule.id].place)

    def _forget(self, rule_id: str) -> None:
        known = self._known.pop(rule_id, None)
        if known is None:
            return
        if self._fresh.pop(rule_id, None) is None:
            self._alerts.remove(known.user_id, rule_id)
        self.batch.states.pop(rule_id, None)
        self._watched[known.asset_id] -= 1

    # --- the ticks

    def begin(self, cut: Cut, standing: Standing) -> None:
        """Judge as the owner, from where the owner before stopped.

        What came before is judged in the order of the market's time: a connection
        begins with the books of its assets in any order.

        Args:
            cut: Where, in the places of this process.
            standing: Where, as the database has it. The feed of this process may be
                behind the last ticks that it has: what comes later up to there was
                judged.
        """
        noted = standing.seen
        self._owning = True
        self.cursor = self._begin_at = self._judged_until = 0
        self._last.clear()
        self._noted = set(noted)
        self._behind = dict(noted)
        self._backlog = _waiting(self._ring, cut.places)
        self.batch = Batch(self.revision)
        self._unnoted.clear()
        self._alerts.restore(standing.histories, standing.judged or 0)
        for tick in cut.late:
            # Those before it were forgotten.
            self._judge(tick, held=0)

    def end(self) -> None:
        """Be a standby's again."""
        self._owning = False
        self.batch = Batch(self.revision)

    @property
    def full(self) -> bool:
        """Whether the batch has to be taken before more is judged."""
        return len(self.batch.states) >= MOST_CHANGES

    def judge_some(self) -> bool:
        """Judge some ticks; return whether there are more."""
        if self._backlog:
            self._judge_backlog()
            return True
        stop = None
        for tick in self._ring.since(self.cursor):
            stop = tick.place + SLICE if stop is None else stop
            if tick.place >= stop or self.full:
                return True
            if not self._see(tick, tick.place, judged=False):
                return True
            self.cursor = tick.place + 1
        return bool(self._fresh) and not self._begin(self._ring.end)

    def _judge_backlog(self) -> None:
        end = 0
        for _ in range(min(SLICE, len(self._backlog))):
            waiting = self._backlog[0]
            end = waiting.end
            if self.full or not self._see(
                waiting.tick, waiting.from_place, judged=waiting.judged
            ):
                return
            self._backlog.popleft()
        if not self._backlog:
            # Not before: the ring keeps what is not judged.
            self.cursor = end

    def _see(self, tick: Tick, from_place: int, *, judged: bool) -> bool:
        """Take the next tick, and judge it unless an owner before has.

        Args:
            tick: The tick.
            from_place: No tick that is to come has a place before it.
            judged: Whether an owner before has judged it.

        Returns:
            False, and the tick was not taken: rules have to begin before it, and some
            of them have.
        """
        if self._fresh and from_place >= self._begin_at and not self._begin(from_place):
            return False
        self._last[tick.quote.asset_id] = tick
        if not (judged or self._was_judged(tick)):
            self.judged += 1
            self._judge(tick)
        if tick.quote.at is not None:
            # A time that is yet to come says nothing about other assets.
            at = min(tick.quote.at, int(tick.seen_at * 1000))
            self._judged_until = max(self._judged_until, at)
        return True

    def _was_judged(self, tick: Tick) -> bool:
        """Whether an owner before has judged a tick that came here after it."""
        last, at = self._behind.get(tick.quote.asset_id), tick.quote.at
        if last is None or last.at is None or at is None:
            return False
        if at < last.at or tick.seen() == last:
            return True
        del self._behind[tick.quote.asset_id]
        return False

    def _judge(self, tick: Tick, held: int | None = None) -> None:
        asset = tick.quote.asset_id
        held = tick.held if held is None else held
        found = self._alerts.on_quote(tick.quote, tick.seen_at, held)
        changed = self._alerts.take_changes()
        if not (found or changed):
            if asset in self._noted:
                self._unnoted[asset] = tick
            if asset in self._noted or not self._watched[asset]:
                return
        self._noted.add(asset)
        for rule, state in changed:
            known = self._known[rule.id]
            self.batch.states[rule.id] = rule, known.revision, state
        for alert in found:
            known = self._known[alert.rule_id]
            self.batch.alerts.append((alert, known.revision))
        self._note(tick)
        self._unnoted.pop(asset, None)

    def _note(self, tick: Tick) -> None:
        """Have the round write the last tick of an asset, and what its prices were.

        They belong together: a next owner judges from behind this tick, by the prices
        up to it.
        """
        asset = tick.quote.asset_id
        self.batch.seen[asset] = tick.seen()
        self.batch.histories[asset] = self._alerts.history(asset)

    def _begin(self, place: int) -> bool:
        """Begin to judge some of the rules that this process heard of before a place.

        A new bot may have all of its rules to begin: at once they would hold the loop
        for longer than the lock is held.

        Each begins with the last quote of its asset: what crossed since the person
        looked fires. Where they stand is committed with the place of that quote, so a
        later owner judges them by no tick from before.

        Returns:
            Whether all of them have begun.
        """
        if self.full:
            return False
        due = (
            fresh
            for rule_id, fresh in self._fresh.items()
            if self._heard[rule_id].place <= place
        )
        begun = list(islice(due, SLICE))
        for rule, revision, n in begun:
            del self._fresh[rule.id]
            self._alerts.begin(rule, n)
            state = self._alerts.state(rule.user_id, rule.id)
            if state is not None:
                self.batch.states[rule.id] = rule, revision, state
        done = len(begun) < SLICE
        if done:
            places = (self._heard[rule_id].place for rule_id in self._fresh)
            self._begin_at = min(places, default=self._ring.end)
        for asset in {fresh.rule.asset_id for fresh in begun}:
            # It was judged: it changes none of the rules that were there.
            tick = self._last.get(asset) or self._ring.last.get(asset)
            if tick is not None and tick.place < place:
                self._judge(tick)
                self._note(tick)
        return done

    def resolve(self, event: MarketResolved, seen_at: float) -> None:
        """Tell the followers of a market, once while this lives.

        The alerts have the same ids in every process, so the database takes each once.
        """
        for alert in self._alerts.on_resolved(event, seen_at):
            self.batch.alerts.append((alert, None))

    # --- the rounds

    def note(self) -> None:
        """Have the next round say how far quiet assets were judged."""
        for tick in self._unnoted.values():
            self._note(tick)
        self._unnoted.clear()

    def take_batch(self) -> Batch:
        """Return what a round is to write, and begin with the next one."""
        batch, self.batch = self.batch, Batch(self.revision)
        batch.applied = self.revision
        batch.judged = self._judged_until or None
        return batch


class _Waiting(NamedTuple):
    """A tick of the ring that was there before the owner.

    Attributes:
        tick: The tick.
        judged: Whether an owner before has judged it.
        from_place: The first place of this tick and those that are to come.
        end: The place behind all of them.
    """

    tick: Tick
    judged: bool
    from_place: int
    end: int


def _waiting(ring: Ring, judged: Mapping[str, int]) -> deque[_Waiting]:
    """Return the ticks of a ring in the order of the market's time.

    Those of an asset stay in their order, and so does one whose time is not known or
    cannot be: it stays behind the one before it.
    """
    now, timed = 0, []
    for tick in ring.since(0):
        at = tick.quote.at
        if at is not None and at <= tick.seen_at * 1000 + AHEAD_MS:
            now = at
        timed.append((now, tick))
    timed.sort(key=lambda each: each[0])
    found: deque[_Waiting] = deque()
    from_place = end = ring.end
    for _, tick in reversed(timed):
        from_place = min(from_place, tick.place)
        done = tick.place <= judged.get(tick.quote.asset_id, -1)
        found.appendleft(_Waiting(tick, done, from_place, end))
    return found
