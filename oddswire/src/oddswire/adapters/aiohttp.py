"""aiohttp's client kept within the limits of whom it asks.

Needs the extra ``oddswire[web]``: aiohttp 3.12 or newer, which has client middlewares.
"""

from __future__ import annotations

import logging
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from oddswire.clock import SystemClock
from oddswire.errors import OddswireError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

    from oddswire.clock import Clock
    from oddswire.ratelimit import RateLimiter, Rule

_log = logging.getLogger("oddswire.adapters")

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})


class UpstreamLimits:
    """A client middleware: each request waits for its rules, a 429 stops all processes.

    ``ClientSession(middlewares=[UpstreamLimits(limiter, pick)])``. A redirect is a
    request of its own, with the rules of its own address.

    Args:
        limiter: Keeps the rules, which are added to it when they are first picked.
        pick: Returns the rules of a request, such as by ``request.url.host`` and
            ``.path``; none: it passes. The first of them is the one that a 429 blocks.
            Rules have no key: what varies is another rule.
        timeout: Seconds that one request waits at most, all its tries together; None:
            for ever.
        retries: How often GET, HEAD and OPTIONS are sent again after a 429; what else
            got one is the caller's to repeat.
        pause: Seconds to hold back after a 429 that does not say for how long.
        longest: Seconds that a 429 may block at most, whatever it says.
        clock: For a Retry-After that is a date.

    Raises:
        SettingsError: A number is out of range.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        pick: Callable[[ClientRequest], Sequence[Rule]],
        *,
        timeout: float | None = 60.0,
        retries: int = 0,
        pause: float = 1.0,
        longest: float = 600.0,
        clock: Clock | None = None,
    ) -> None:
        if not 0 < pause <= longest <= 31 * 86_400.0:
            raise SettingsError(
                f"pause {pause!r} and longest {longest!r}: accepted are seconds above "
                "0, the pause at most the longest, that at most 31 days"
            )
        self._limiter = limiter
        self._pick = pick
        self._timeout = timeout
        self._retries = retries
        self._pause = pause
        self._longest = longest
        self._clock = clock or SystemClock()

    async def __call__(
        self, request: ClientRequest, handler: ClientHandlerType
    ) -> ClientResponse:
        """Send a request when its rules admit it.

        Raises:
            RateLimited: It would have to wait for longer than the timeout.
            RuleError: A picked rule counts by a subject, or another of that name is
                there.
        """
        rules = self._pick(request)
        if not rules:
            return await handler(request)
        self._limiter.add(*rules)
        names = [rule.name for rule in rules]
        until = None
        if self._timeout is not None:
            until = self._clock.monotonic() + self._timeout
        left = self._retries if request.method in _REPEATABLE else 0
        while True:
            wait = None
            if until is not None:
                wait = max(0.0, until - self._clock.monotonic())
            await self._limiter.acquire(*names, timeout=wait)
            response = await handler(request)
            if response.status != 429:
                return response
            await self._hold_back(names[0], response)
            if left == 0:
                return response
            left -= 1
            response.release()

    async def _hold_back(self, rule: str, response: ClientResponse) -> None:
        seconds = self._seconds(response)
        if not seconds > 0:  # at once; or a date that has passed
            return
        try:
            await self._limiter.penalize(rule, min(seconds, self._longest))
        except OddswireError as error:
            # This process keeps to it all the same.
            _log.warning("other processes were not told of a 429: %r", error)

    def _seconds(self, response: ClientResponse) -> float:
        """Return what Retry-After (RFC 9110, 10.2.3) says, or our own pause."""
        text = response.headers.get("Retry-After", "").strip()
        # Whole seconds by the RFC; fractions are sent all the same.
        if text.replace(".", "", 1).isdecimal():
            return float(text)
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return self._pause
        if at.tzinfo is None:  # "-0000": UTC, and nothing is said of the zone
            at = at.replace(tzinfo=UTC)
        try:
            # By the upstream's own clock, where it tells it.
            now = parsedate_to_datetime(response.headers.get("Date", ""))
            now = now if now.tzinfo else now.replace(tzinfo=UTC)
            return (at - now).total_seconds()
        except ValueError:
            return at.timestamp() - self._clock.now()
