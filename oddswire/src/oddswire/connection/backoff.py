"""When to try to connect again, as data: `now` and the dice are passed in.

The shape is psycopg_pool's `AttemptWithBackoff`: no clock, no sleeping, nothing to
patch in a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable


class BackoffPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How attempts to connect are spaced; all durations in seconds.

    Attributes:
        base: Delay before the second attempt, doubled each time; the first is
            immediate.
        cap: The longest delay while the circuit is closed.
        attempts: Failures in a row after which the circuit opens.
        probe: Delay between attempts while the circuit is open, for ever.
        steady: How long a connection must have lasted for the count to start over, so
            that a server that accepts and drops is not hammered.
    """

    base: float = 0.05
    cap: float = 5.0
    attempts: int = 10
    probe: float = 15.0
    steady: float = 10.0


class Backoff:
    """The state of one connection's attempts."""

    def __init__(self, policy: BackoffPolicy, dice: Callable[[], float]) -> None:
        """Start with no failures.

        Args:
            policy: The spacing.
            dice: Returns a float in [0, 1); `random.random` outside tests.
        """
        self.policy = policy
        self.failures = 0
        self._dice = dice
        self._ready_at: float | None = None

    @property
    def circuit_open(self) -> bool:
        """Whether so many attempts failed in a row that callers should not wait."""
        return self.failures >= self.policy.attempts

    def succeeded(self, now: float) -> None:
        """A connection is ready. Closes the circuit; the count waits to be `steady`."""
        self._ready_at = now
        # One success ends the outage for callers, though not yet for the spacing.
        self.failures = min(self.failures, self.policy.attempts - 1)

    def lost(self, now: float) -> None:
        """A ready connection ended: start over if it had lasted long enough.

        If not, it counts like a failed attempt for the spacing. It does not open the
        circuit: the server can be reached.
        """
        if self._ready_at is not None and now - self._ready_at >= self.policy.steady:
            self.failures = 0
        else:
            self.failures = min(self.failures + 1, self.policy.attempts - 1)
        self._ready_at = None

    def forget(self) -> None:
        """The server is elsewhere now: what failed before says nothing of it."""
        if not self.circuit_open:
            self.failures = 0

    def failed(self) -> None:
        """An attempt failed."""
        self.failures += 1

    def delay(self) -> float:
        """Return the seconds to wait before the next attempt.

        Between half and the whole of base * 2^n, so that the clients of a restarted
        server do not come back together.
        """
        if self.failures == 0:
            return 0.0
        spread = 0.5 + 0.5 * self._dice()
        if self.circuit_open:
            return self.policy.probe * spread
        # The exponent is bounded: 2.0**1100 is an OverflowError.
        doubled = self.policy.base * 2.0 ** min(self.failures - 1, 64)
        return min(self.policy.cap, doubled) * spread
