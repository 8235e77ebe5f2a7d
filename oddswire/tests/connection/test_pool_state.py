"""The books of the pool: no connection is lost, lent twice, or one too many."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oddswire.connection.pool import PoolState

MOST, KEEP, IDLE, LIFETIME = 4, 1, 10.0, 100.0


class Pool(RuleBasedStateMachine):
    """A pool's user, its clock and its connections, against a model."""

    def __init__(self):
        super().__init__()
        self.jitter = 0.0
        self.state = PoolState(
            max_size=MOST,
            min_idle=KEEP,
            idle=IDLE,
            lifetime=LIFETIME,
            rng=lambda: self.jitter,
        )
        self.now = 0.0
        self.waiting: list[int] = []
        self.leased: dict[int, int] = {}  # connection: waiter
        self.idle: dict[int, float] = {}  # connection: since when
        self.expires: dict[int, float] = {}
        self.opening = 0
        self.waiters = self.connections = 0
        self.closed = False

    def _took(self, work):
        """What the state wants done must follow from what the model knows."""
        for connection in work.close:
            if connection in self.idle:
                old = self.now >= self.expires[connection]
                stale = self.now - self.idle.pop(connection) >= IDLE
                assert old or stale
                if not old:
                    assert len(self.idle) >= KEEP
            assert connection not in self.leased
        for waiter, connection in work.assign:
            assert waiter == self.waiting.pop(0)  # first come, first served
            assert connection in self.idle
            assert self.idle.pop(connection) >= max(self.idle.values(), default=0.0)
            self.leased[connection] = waiter
        self.opening += work.open
        assert not (self.closed and work.open)

    @rule()
    def ask(self):
        """Somebody wants a connection."""
        if self.closed:
            return
        self.waiters += 1
        self.waiting.append(self.waiters)
        self._took(self.state.acquire(self.waiters, self.now))

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def leave(self, data):
        """Somebody gives up."""
        waiter = data.draw(st.integers(1, self.waiters))
        assert self.state.cancel(waiter) == (waiter in self.waiting)
        if waiter in self.waiting:
            self.waiting.remove(waiter)

    @precondition(lambda self: self.opening)
    @rule(jitter=st.floats(0, 1, exclude_max=True))
    def opened(self, jitter):
        """A connection is open."""
        self.jitter = jitter
        self.opening -= 1
        self.connections += 1
        self.idle[self.connections] = self.now
        self.expires[self.connections] = self.now + LIFETIME * (1 - 0.1 * jitter)
        self._took(self.state.opened(self.connections, self.now))

    @precondition(lambda self: self.opening)
    @rule()
    def failed(self):
        """A connection cannot be opened: the one in front is told, the others go on."""
        self.opening -= 1
        told, work = self.state.failed(self.now)
        assert told == (self.waiting.pop(0) if self.waiting else None)
        self._took(work)

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), usable=st.booleans())
    def back(self, data, usable):
        """A connection comes back, and only once."""
        connection = data.draw(st.sampled_from(sorted(self.leased)))
        del self.leased[connection]
        stays = usable and not self.closed and self.now < self.expires[connection]
        if stays:
            self.idle[connection] = self.now
        work = self.state.release(connection, self.now, usable=usable)
        assert (connection in work.close) == (not stays)
        self._took(work)
        if connection not in self.leased:  # it was not handed on at once
            with pytest.raises(KeyError):
                self.state.release(connection, self.now, usable=True)

    @rule(seconds=st.sampled_from([0.5, 5.0, 11.0, 60.0]))
    def time_passes(self, seconds):
        """Time passes and the books are looked through."""
        self.now += seconds
        self._took(self.state.reap(self.now))
        fresh = [w for w, since in self.idle.items() if self.now - since < IDLE]
        assert len(self.idle) <= max(KEEP, len(fresh))
        assert all(self.now < self.expires[connection] for connection in self.idle)

    @rule()
    def empty(self):
        """All idle connections are taken off the books."""
        assert sorted(self.state.remove_idle()) == sorted(self.idle)
        self.idle.clear()

    @precondition(lambda self: self.waiters > 8)
    @rule()
    def close(self):
        """The pool closes: everybody who waits is named."""
        idle, waiting = self.state.close()
        assert sorted(idle) == sorted(self.idle)
        assert waiting == self.waiting
        self.idle.clear()
        self.waiting.clear()
        self.closed = True

    @invariant()
    def books_agree(self):
        """The counts are the model's, and nobody waits beside an idle connection."""
        state = self.state
        assert state.leased == len(self.leased)
        assert state.idle == len(self.idle)
        assert state.opening == self.opening
        assert state.waiting == len(self.waiting)
        assert state.size <= MOST
        if self.waiting:
            assert not self.idle
            assert state.opening == min(
                len(self.waiting), MOST - state.leased
            ) or state.opening >= len(self.waiting)


class TestPool(Pool.TestCase):
    """The machine, as a test."""

    pytestmark = pytest.mark.advanced

    def runTest(self):  # noqa: N802 - unittest's name
        """No order of events loses a connection, leases it twice, or opens too many."""
        super().runTest()


@pytest.mark.basic
def test_lifetimes_are_spread():
    """Connections opened together do not end together."""
    throws = iter([0.0, 0.999])
    state = PoolState(
        max_size=2, min_idle=2, idle=1e9, lifetime=100, rng=lambda: next(throws)
    )
    state.acquire("a", 0.0)
    state.acquire("b", 0.0)
    state.opened("one", 0.0)
    state.opened("two", 0.0)
    state.release("one", 0.0, usable=True)
    state.release("two", 0.0, usable=True)

    assert state.reap(90.0).close == []
    assert state.reap(91.0).close == ["two"]
    assert state.reap(100.0).close == ["one"]
