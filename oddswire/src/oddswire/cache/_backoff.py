"""Pauses after refreshes that failed."""

from __future__ import annotations

_FIRST = 1.0
_LAST = 30.0
_REMEMBERED = 10_000


class Backoff:
    """Keys whose refresh failed: each is left alone for a while, longer each time."""

    def __init__(self) -> None:
        # (when to try again, pause before that)
        self._failing: dict[str, tuple[float, float]] = {}

    def failed(self, key: str, now: float) -> None:
        """Leave a key alone for twice as long as last time."""
        _, pause = self._failing.get(key, (0.0, _FIRST / 2))
        pause = min(pause * 2, _LAST)
        if len(self._failing) >= _REMEMBERED:
            self._failing = {
                name: each for name, each in self._failing.items() if each[0] > now
            }
            if len(self._failing) >= _REMEMBERED:
                return
        self._failing[key] = (now + pause, pause)

    def succeeded(self, key: str) -> None:
        """Forget that a key ever failed."""
        self._failing.pop(key, None)

    def holds(self, key: str, now: float) -> bool:
        """Whether a key failed so lately that it is not tried now."""
        failing = self._failing.get(key)
        return failing is not None and now < failing[0]
