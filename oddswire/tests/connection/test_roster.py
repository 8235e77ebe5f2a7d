"""The books of the pool: no wire is lost, lent twice, or one too many."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oddswire.connection.roster import Roster

MOST, KEEP, IDLE, LIFETIME = 4, 1, 10.0, 100.0


class Pool(RuleBasedStateMachine):
    """A pool's user, its clock and its wires, against a model."""

    def __init__(self):
        super().__init__()
        self.jitter = 0.0
        self.roster = Roster(
            most=MOST, keep=KEEP, idle=IDLE, lifetime=LIFETIME, dice=lambda: self.jitter
        )
        self.now = 0.0
        self.waiting: list[int] = []
        self.leased: dict[int, int] = {}  # wire: waiter
        self.idle: dict[int, float] = {}  # wire: since when
        self.expires: dict[int, float] = {}
        self.opening = 0
        self.waiters = self.wires = 0
        self.closed = False

    def _took(self, work):
        """What the roster wants done must follow from what the model knows."""
        for wire in work.close:
            if wire in self.idle:
                old = self.now >= self.expires[wire]
                stale = self.now - self.idle.pop(wire) >= IDLE
                assert old or stale
                if not old:
                    assert len(self.idle) >= KEEP
            assert wire not in self.leased
        for waiter, wire in work.hand:
            assert waiter == self.waiting.pop(0)  # first come, first served
            assert wire in self.idle
            assert self.idle.pop(wire) >= max(self.idle.values(), default=0.0)
            self.leased[wire] = waiter
        self.opening += work.open
        assert not (self.closed and work.open)

    @rule()
    def ask(self):
        """Somebody wants a wire."""
        if self.closed:
            return
        self.waiters += 1
        self.waiting.append(self.waiters)
        self._took(self.roster.ask(self.waiters, self.now))

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def leave(self, data):
        """Somebody gives up."""
        waiter = data.draw(st.integers(1, self.waiters))
        assert self.roster.leave(waiter) == (waiter in self.waiting)
        if waiter in self.waiting:
            self.waiting.remove(waiter)

    @precondition(lambda self: self.opening)
    @rule(jitter=st.floats(0, 1, exclude_max=True))
    def opened(self, jitter):
        """A wire is open."""
        self.jitter = jitter
        self.opening -= 1
        self.wires += 1
        self.idle[self.wires] = self.now
        self.expires[self.wires] = self.now + LIFETIME * (1 - 0.1 * jitter)
        self._took(self.roster.opened(self.wires, self.now))

    @precondition(lambda self: self.opening)
    @rule()
    def failed(self):
        """A wire cannot be opened: the one in front is told, the others go on."""
        self.opening -= 1
        told, work = self.roster.failed(self.now)
        assert told == (self.waiting.pop(0) if self.waiting else None)
        self._took(work)

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), usable=st.booleans())
    def back(self, data, usable):
        """A wire comes back, and only once."""
        wire = data.draw(st.sampled_from(sorted(self.leased)))
        del self.leased[wire]
        stays = usable and not self.closed and self.now < self.expires[wire]
        if stays:
            self.idle[wire] = self.now
        work = self.roster.back(wire, self.now, usable=usable)
        assert (wire in work.close) == (not stays)
        self._took(work)
        if wire not in self.leased:  # it was not handed on at once
            with pytest.raises(KeyError):
                self.roster.back(wire, self.now, usable=True)

    @rule(seconds=st.sampled_from([0.5, 5.0, 11.0, 60.0]))
    def time_passes(self, seconds):
        """Time passes and the books are looked through."""
        self.now += seconds
        self._took(self.roster.reap(self.now))
        fresh = [w for w, since in self.idle.items() if self.now - since < IDLE]
        assert len(self.idle) <= max(KEEP, len(fresh))
        assert all(self.now < self.expires[wire] for wire in self.idle)

    @rule()
    def empty(self):
        """All idle wires are taken off the books."""
        assert sorted(self.roster.empty()) == sorted(self.idle)
        self.idle.clear()

    @precondition(lambda self: self.waiters > 8)
    @rule()
    def close(self):
        """The pool closes: everybody who waits is named."""
        idle, waiting = self.roster.close()
        assert sorted(idle) == sorted(self.idle)
        assert waiting == self.waiting
        self.idle.clear()
        self.waiting.clear()
        self.closed = True

    @invariant()
    def books_agree(self):
        """The counts are the model's, and nobody waits beside an idle wire."""
        roster = self.roster
        assert roster.leased == len(self.leased)
        assert roster.idle == len(self.idle)
        assert roster.opening == self.opening
        assert roster.waiting == len(self.waiting)
        assert roster.size <= MOST
        if self.waiting:
            assert not self.idle
            assert roster.opening == min(
                len(self.waiting), MOST - roster.leased
            ) or roster.opening >= len(self.waiting)


class TestPool(Pool.TestCase):
    """The machine, as a test."""

    pytestmark = pytest.mark.advanced

    def runTest(self):  # noqa: N802 - unittest's name
        """No order of events loses a wire, lends it twice, or opens one too many."""
        super().runTest()


@pytest.mark.basic
def test_lifetimes_are_spread():
    """Wires opened together do not end together."""
    throws = iter([0.0, 0.999])
    roster = Roster(most=2, keep=2, idle=1e9, lifetime=100, dice=lambda: next(throws))
    roster.ask("a", 0.0)
    roster.ask("b", 0.0)
    roster.opened("one", 0.0)
    roster.opened("two", 0.0)
    roster.back("one", 0.0, usable=True)
    roster.back("two", 0.0, usable=True)

    assert roster.reap(90.0).close == []
    assert roster.reap(91.0).close == ["two"]
    assert roster.reap(100.0).close == ["one"]
