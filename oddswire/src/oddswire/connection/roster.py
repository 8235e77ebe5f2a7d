"""`Roster`: which exclusive wires exist, who has them, who waits. No I/O, no clock.

Every method changes the state and returns what the caller must now do: hand a wire to
a waiter, open one, close some. httpcore's pool is cut the same way; it makes every
order of events testable without a loop.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Wire = TypeVar("Wire")
Waiter = TypeVar("Waiter")


class Work(NamedTuple, Generic[Wire, Waiter]):
    """What to do now.

    Attributes:
        hand: Wires to give to waiters.
        open: How many wires to open; report each by `opened` or `failed`.
        close: Wires that are the roster's no more.
    """

    hand: list[tuple[Waiter, Wire]]
    open: int
    close: list[Wire]


class _Idle(NamedTuple, Generic[Wire]):
    wire: Wire
    since: float
    expires: float


class Roster(Generic[Wire, Waiter]):
    """The books of a pool.

    Args:
        most: Wires that may exist at once.
        keep: Idle wires that are never closed for being idle.
        idle: Seconds after which other idle wires are closed.
        lifetime: Seconds after which a wire is closed when it comes back, shortened by
            up to a tenth by chance, so that wires opened together do not end together.
        dice: Returns a float in [0, 1).
    """

    def __init__(
        self,
        *,
        most: int,
        keep: int,
        idle: float,
        lifetime: float,
        dice: Callable[[], float],
    ) -> None:
        self.most = most
        self.keep = keep
        self._idle_for = idle
        self._lifetime = lifetime
        self._dice = dice
        self._idle: list[_Idle[Wire]] = []  # used last at the end
        self._leased: dict[Wire, float] = {}
        self._opening = 0
        self._waiters: deque[Waiter] = deque()
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<Roster {len(self._leased)} leased, {len(self._idle)} idle, "
            f"{self._opening} opening of {self.most}; {len(self._waiters)} waiting>"
        )

    @property
    def leased(self) -> int:
        """Wires somebody has."""
        return len(self._leased)

    @property
    def idle(self) -> int:
        """Wires nobody has."""
        return len(self._idle)

    @property
    def opening(self) -> int:
        """Wires on their way."""
        return self._opening

    @property
    def waiting(self) -> int:
        """Callers without a wire."""
        return len(self._waiters)

    @property
    def size(self) -> int:
        """All wires, those on their way included."""
        return len(self._leased) + len(self._idle) + self._opening

    def ask(self, waiter: Waiter, now: float) -> Work[Wire, Waiter]:
        """Somebody wants a wire; they are served in order of asking."""
        self._waiters.append(waiter)
        return self._work(now)

    def take(self, now: float, make: Callable[[], Wire]) -> Wire | None:
        """Lease at once: the wire used last, or a new one; None: neither is free.

        Those who wait come first.
        """
        if self._closed or self._waiters:
            return None
        if self._idle:
            entry = self._idle.pop()
            self._leased[entry.wire] = entry.expires
            return entry.wire
        if self.size >= self.most:
            return None
        wire = make()
        self._leased[wire] = now + self._lifetime * (1.0 - 0.1 * self._dice())
        return wire

    def leave(self, waiter: Waiter) -> bool:
        """Somebody gave up waiting. False: they have been handed a wire already."""
        try:
            self._waiters.remove(waiter)
        except ValueError:
            return False
        return True

    def opened(self, wire: Wire, now: float) -> Work[Wire, Waiter]:
        """A wire that was asked for is open."""
        self._opening -= 1
        expires = now + self._lifetime * (1.0 - 0.1 * self._dice())
        self._idle.append(_Idle(wire, now, expires))
        return self._work(now)

    def failed(self, now: float) -> tuple[Waiter | None, Work[Wire, Waiter]]:
        """A wire that was asked for could not be opened; return who is to be told.

        Only the waiter in front hears of it: the others' wires may still come.
        """
        self._opening -= 1
        told = self._waiters.popleft() if self._waiters else None
        return told, self._work(now)

    def back(self, wire: Wire, now: float, *, usable: bool) -> Work[Wire, Waiter]:
        """A leased wire comes back.

        Raises:
            KeyError: It was not leased from here, or came back before.
        """
        expires = self._leased.pop(wire)
        if usable and not self._closed and now < expires:
            self._idle.append(_Idle(wire, now, expires))
            return self._work(now)
        work = self._work(now)
        return work._replace(close=[wire, *work.close])

    def reap(self, now: float) -> Work[Wire, Waiter]:
        """Time has passed: close what was idle for too long or has become too old."""
        return self._work(now)

    def lend_idle(self) -> list[Wire]:
        """Lease every idle wire at once, to look after it; each is to come `back`."""
        for entry in self._idle:
            self._leased[entry.wire] = entry.expires
        return self.empty()

    def empty(self) -> list[Wire]:
        """Take the idle wires off the books and return them, to be closed."""
        wires = [entry.wire for entry in self._idle]
        self._idle.clear()
        return wires

    def close(self) -> tuple[list[Wire], list[Waiter]]:
        """Lend nothing any more; return the idle wires and everybody who waits."""
        self._closed = True
        waiters = list(self._waiters)
        self._waiters.clear()
        return self.empty(), waiters

    def _work(self, now: float) -> Work[Wire, Waiter]:
        close = self._expired(now)
        hand: list[tuple[Waiter, Wire]] = []
        while self._waiters and self._idle:
            # The wire used last: the others get idle enough to be closed.
            entry = self._idle.pop()
            self._leased[entry.wire] = entry.expires
            hand.append((self._waiters.popleft(), entry.wire))
        wanted = len(self._waiters) - self._opening
        room = self.most - self.size
        grow = 0 if self._closed else max(0, min(wanted, room))
        self._opening += grow
        return Work(hand, grow, close)

    def _expired(self, now: float) -> list[Wire]:
        young = [entry for entry in self._idle if now < entry.expires]
        # Oldest use first, so that `keep` spares the ones used last.
        surplus = young[: max(0, len(young) - self.keep)]
        stale = sum(now - entry.since >= self._idle_for for entry in surplus)
        close = [entry.wire for entry in self._idle if now >= entry.expires]
        close += [entry.wire for entry in young[:stale]]
        self._idle = young[stale:]
        return close
