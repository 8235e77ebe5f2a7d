"""`Upstream`: calls to a service of others, within its limits.

The adapters of aiohttp, aiogram and python-telegram-bot send through it. Use it alone
where calls are neither: it needs no extra.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, TypeVar

from oddswire._numbers import check_duration, check_int, is_number, shown
from oddswire.adapters._arguments import check_callable, check_limiter
from oddswire.clock import SystemClock
from oddswire.errors import OddswireError, RuleError, SettingsError
from oddswire.logs import LogLines
from oddswire.ratelimit import Priority

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.clock import Clock
    from oddswire.ratelimit import RateLimiter

R = TypeVar("R")

LONGEST = 31 * 86_400.0
"""Seconds that a refusal may stop the calls at most."""

_log = logging.getLogger("oddswire.adapters")


class Upstream:
    """Each call waits for its rules; a refusal of the service stops all processes.

    Args:
        limiter: Has the rules.
        retry_after: Called with the exception that a call raised: the seconds that the
            service asks to wait, or None when it is no refusal.
        timeout: Seconds that one call waits at most, all its tries together; None: for
            ever.
        retries: How often a call that was refused is sent again.
        longest: Seconds that a refusal may stop the calls at most.
        clock: The time.

    Raises:
        SettingsError: A number is out of range, or an argument of another type.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        retry_after: Callable[[Exception], float | None],
        timeout: float | None = 60.0,
        retries: int = 0,
        longest: float = 600.0,
        clock: Clock | None = None,
    ) -> None:
        check_duration("longest", longest, 0.001, LONGEST, SettingsError)
        if timeout is not None:
            check_duration("timeout", timeout, 0.0, inf, SettingsError)
        check_int("retries", retries, 0, 1_000_000, SettingsError)
        check_limiter(limiter)
        check_callable("retry_after", retry_after)
        self._limiter = limiter
        self._retry_after = retry_after
        self._timeout = timeout
        self._retries = retries
        self._longest = longest
        self._clock = clock or SystemClock()
        self._lines = LogLines(_log)

    async def call(
        self,
        fetch: Callable[[], Awaitable[R]],
        *rules: str,
        cost: int | dict[str, int] = 1,
        priority: Priority = Priority.NORMAL,
        retries: int | None = None,
        blocks: str | None = None,
        **subjects: int | str,
    ) -> R:
        """Call when the rules admit it; what the last try raises is raised.

        Cancelled while it waits, nothing was sent.

        Args:
            fetch: Makes the call.
            *rules: Names of rules, all of which have to admit it. None: the call goes
                out at once, and a refusal stops the calls of the rule `blocks`.
            cost: What it costs each of the rules, or the cost by the rule's name.
            priority: Of the waiting calls of this process, the highest goes first.
            retries: Instead of the declared ones.
            blocks: The rule that a refusal stops; by default the first. A call
                without this rule waits for its own refusal alone.
            **subjects: What the rules count by.

        Raises:
            RateLimited: It would have to wait for longer than the timeout.
            RuleError: `retry_after` returned what is no number; its cause is what the
                call raised.
            OddswireError: As `RateLimiter.acquire`.
        """
        check_callable("fetch", fetch)
        left = self._retries if retries is None else retries
        until = None
        if self._timeout is not None:
            until = self._clock.monotonic() + self._timeout
        blocks = blocks or (rules[0] if rules else None)
        while True:
            if rules:
                await self._limiter.acquire(
                    *rules,
                    cost=cost,
                    timeout=self._left(until),
                    priority=priority,
                    **subjects,
                )
            try:
                return await fetch()
            except Exception as error:
                asked = self._retry_after(error)
                if asked is None:
                    raise
                if not is_number(asked, -inf, inf):
                    # None of this process' calls would wait for what it means.
                    raise RuleError(
                        f"retry_after returned {shown(asked)}: accepted are seconds as "
                        "a number, or None"
                    ) from error
                seconds = min(asked, self._longest)
                if blocks is not None:
                    await self._hold_back(blocks, seconds, subjects)
                wait = self._left(until)
                held = blocks in rules
                if left == 0 or (not held and wait is not None and seconds > wait):
                    raise
                left -= 1
            if not held:  # none of its rules makes it wait
                await self._clock.sleep(max(0.0, seconds))

    def _left(self, until: float | None) -> float | None:
        return None if until is None else max(0.0, until - self._clock.monotonic())

    async def _hold_back(
        self, rule: str, seconds: float, subjects: dict[str, int | str]
    ) -> None:
        if not seconds > 0:  # at once; or a date that has passed
            return
        try:
            await self._limiter.penalize(rule, seconds, **subjects)
        except OddswireError as error:
            # This process keeps to it all the same.
            self._lines.write(
                logging.WARNING,
                "refusal_not_shared",
                rule=rule,
                duration=float(seconds),
                reason=error,
            )
