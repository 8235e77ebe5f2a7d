"""How long to wait before another attempt: one backoff, and the two that stand on it.

`Backoff` spaces attempts. `ReconnectBackoff` adds what connecting needs: the circuit,
and connections that end as soon as they are open. `OutageBackoff` waits while Redis is
away. Time and randomness are passed in (psycopg_pool's `AttemptWithBackoff` has this
shape), so a test needs no clock and no patch.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import msgspec

from oddswire.connection.errors import TRANSIENT_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.errors import OddswireError
    from oddswire.events import Degradation

# The exponent is bounded: 2.0**1100 is an OverflowError.
_MOST_DOUBLINGS = 64


class Backoff:
    """Pauses that double from `base` to `cap` while attempts fail.

    Each pause is between half and the whole of its length, by chance, so that the
    clients of a restarted server do not come back together.

    Args:
        base: Seconds after the first failure.
        cap: Seconds at most.
        rng: Returns a float in [0, 1); `random.random` outside tests.

    Attributes:
        failures: Attempts that failed in a row.
    """

    def __init__(
        self, base: float, cap: float, rng: Callable[[], float] = random.random
    ) -> None:
        self.failures = 0
        self._base = base
        self._cap = cap
        self._rng = rng

    def failed(self) -> float:
        """Count a failure, and return the seconds to wait before the next attempt."""
        self.failures += 1
        return self.delay()

    def reset(self) -> None:
        """Start over: an attempt succeeded."""
        self.failures = 0

    def delay(self) -> float:
        """Return the seconds to wait before the next attempt; 0 before the first."""
        if not self.failures:
            return 0.0
        doubled = self._base * 2.0 ** min(self.failures - 1, _MOST_DOUBLINGS)
        return self.spread(min(self._cap, doubled))

    def spread(self, seconds: float) -> float:
        """Return between half and the whole of a pause, by chance."""
        return seconds * (0.5 + 0.5 * self._rng())


class ReconnectPolicy(msgspec.Struct, frozen=True, kw_only=True):
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


class ReconnectBackoff:
    """The state of one connection's attempts: their spacing, and the circuit.

    Args:
        policy: The spacing.
        rng: As for `Backoff`.
    """

    def __init__(self, policy: ReconnectPolicy, rng: Callable[[], float]) -> None:
        self.policy = policy
        self._backoff = Backoff(policy.base, policy.cap, rng)
        self._ready_at: float | None = None

    @property
    def failures(self) -> int:
        """Attempts that failed in a row."""
        return self._backoff.failures

    @property
    def circuit_open(self) -> bool:
        """Whether so many attempts failed in a row that callers should not wait."""
        return self.failures >= self.policy.attempts

    def succeeded(self, now: float) -> None:
        """A connection is ready. Closes the circuit; the count waits to be `steady`."""
        self._ready_at = now
        # One success ends the outage for callers, though not yet for the spacing.
        self._count(self.failures)

    def lost(self, now: float) -> None:
        """A ready connection ended: start over if it had lasted long enough.

        If not, it counts like a failed attempt for the spacing. It does not open the
        circuit: the server can be reached.
        """
        if self._ready_at is not None and now - self._ready_at >= self.policy.steady:
            self._backoff.reset()
        else:
            self._count(self.failures + 1)
        self._ready_at = None

    def _count(self, failures: int) -> None:
        """Set the count, below what opens the circuit."""
        self._backoff.failures = min(failures, self.policy.attempts - 1)

    def server_moved(self) -> None:
        """Forget the failures: they happened where the server is no more."""
        if not self.circuit_open:
            self._backoff.reset()

    def failed(self) -> None:
        """Count an attempt that failed."""
        self._backoff.failed()

    def delay(self) -> float:
        """Return the seconds to wait before the next attempt."""
        if self.circuit_open:
            return self._backoff.spread(self.policy.probe)
        return self._backoff.delay()


class OutageBackoff:
    """Waits between attempts while Redis is away.

    Args:
        degradation: Begins with the first failure and ends with the next success;
            None, where another attempt of the same part reports it already.
    """

    def __init__(self, degradation: Degradation | None = None) -> None:
        self._degradation = degradation
        # Short, since something waits behind it.
        self._backoff = Backoff(base=0.02, cap=0.25)

    async def wait(self, error: OddswireError) -> None:
        """Sleep before the next attempt.

        Raises:
            OddswireError: `error` itself, when it does not pass by waiting.
        """
        if not isinstance(error, TRANSIENT_ERRORS):
            raise error
        if self._degradation is not None:
            self._degradation.begin(error)
        await asyncio.sleep(self._backoff.failed())

    def over(self) -> None:
        """An attempt succeeded."""
        if self._degradation is not None:
            self._degradation.end()
        self._backoff.reset()
