"""aiohttp's client kept within the limits of the services that it asks.

Needs the extra ``oddswire[web]``: aiohttp 3.12 or newer, which has client middlewares.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from oddswire._numbers import check_duration
from oddswire.adapters._arguments import check_callable
from oddswire.adapters.upstream import LONGEST, Upstream
from oddswire.clock import SystemClock
from oddswire.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

    from oddswire.clock import Clock
    from oddswire.ratelimit import RateLimiter, Rule

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})


class _Refused(Exception):
    """A 429, with the seconds to hold back."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def _seconds_of(error: Exception) -> float | None:
    return error.seconds if isinstance(error, _Refused) else None


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
        longest: Seconds that a 429 may block at most, also if it asks for more.
        clock: For a Retry-After that is a date.

    Raises:
        SettingsError: A number is out of range, or an argument of another type.
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
        check_duration("longest", longest, 0.001, LONGEST, SettingsError)
        check_callable("pick", pick)
        check_duration("pause", pause, 0.001, longest, SettingsError)
        self._limiter = limiter
        self._pick = pick
        self._pause = pause
        self._clock = clock or SystemClock()
        self._upstream = Upstream(
            limiter,
            retry_after=_seconds_of,
            timeout=timeout,
            retries=retries,
            longest=longest,
            clock=self._clock,
        )

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
        refused: ClientResponse | None = None

        async def fetch() -> ClientResponse:
            nonlocal refused
            if refused is not None:
                refused.release()
                refused = None
            response = await handler(request)
            if response.status == 429:
                refused = response
                raise _Refused(self._seconds(response))
            return response

        try:
            return await self._upstream.call(
                fetch,
                *(rule.name for rule in rules),
                retries=None if request.method in _REPEATABLE else 0,
            )
        except _Refused:
            assert refused is not None  # noqa: S101 - it was raised with it
            return refused
        except BaseException:
            if refused is not None:
                refused.release()
            raise

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
