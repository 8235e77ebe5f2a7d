"""The limits of Polymarket and Telegram, and `Upstream`, which keeps within them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from oddsbot.polymarket import RateLimitedUpstream
from oddswire.adapters import upstream
from oddswire.ratelimit import Priority, Rule, SlidingWindow, TokenBucket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddsbot.polymarket import Clob, Found, OrderBook
    from oddswire.ratelimit import RateLimiter

T = TypeVar("T")

# Requests are counted when they leave; they arrive a little earlier or later than that,
# so a tenth of what is allowed stays unused.
_USED = 0.9


def _per_10_s(name: str, published: int) -> Rule:
    return Rule(name, SlidingWindow(int(published * _USED), 10.0))


POLYMARKET = (
    _per_10_s("gamma", 4_000),
    _per_10_s("gamma.events", 500),
    _per_10_s("gamma.markets", 300),
    _per_10_s("gamma.search", 350),
    _per_10_s("data", 1_000),
    _per_10_s("data.trades", 200),
    _per_10_s("data.positions", 150),
    _per_10_s("data.pnl", 200),
    _per_10_s("clob", 9_000),
    _per_10_s("clob.book", 1_500),
    _per_10_s("clob.books", 500),
    _per_10_s("clob.history", 1_000),
)
"""Requests in 10 s by address, as docs.polymarket.com published them in 2026, less a
tenth. Every request counts for its endpoint and for its host."""


class SendRules(NamedTuple):
    """The rules of what a bot sends, by the names that `SendLimits` takes them by."""

    overall: Rule
    chat: Rule
    group: Rule


TELEGRAM = SendRules(
    overall=Rule("telegram", SlidingWindow(28, 1.0), key="bot", reserve=0.2),
    chat=Rule("telegram.chat", TokenBucket(1.0, 3), key="chat"),
    group=Rule("telegram.group", SlidingWindow(20, 60.0), key="chat"),
)
"""Messages of one bot: about 30 a second in all, one a second to a chat with a short
burst, 20 a minute to a group: ``SendLimits(limiter, **TELEGRAM._asdict())``. Telegram
does not say how exactly it counts: a 429 is obeyed whatever these say. `Priority.LOW`,
the broadcasts, leaves a fifth to replies."""

COMMANDS = (Rule("commands", SlidingWindow(20, 60.0), key="user"),)
"""What one user may ask of the bot."""


class Upstream:
    """Calls Polymarket within its limits; a 429 holds every process back.

    Args:
        limiter: With the rules of `POLYMARKET`.
        timeout: Seconds that a call may wait for its turn.
    """

    def __init__(self, limiter: RateLimiter, *, timeout: float = 5.0) -> None:
        self._calls = upstream.Upstream(
            limiter, retry_after=_retry_after, timeout=timeout
        )

    async def call(
        self,
        host: str,
        endpoint: str,
        fetch: Callable[[], Awaitable[T]],
        *,
        priority: Priority = Priority.NORMAL,
    ) -> T:
        """Wait for a turn, call, and return what the call returns.

        Args:
            host: The rule of the host, such as ``"gamma"``.
            endpoint: The rule of the endpoint; ``""`` where there is none.
            fetch: Makes the call.
            priority: Who goes first when several wait.

        Raises:
            RateLimited: There would be no turn in time; nothing was sent.
            RateLimitedUpstream: Polymarket refused all the same. Until its retry-after,
                at most ten minutes, nobody asks it for this again.
            PolymarketError: As the call.
        """
        # The first of the rules is the one that a 429 blocks.
        rules = (f"{host}.{endpoint}", host) if endpoint else (host,)
        return await self._calls.call(fetch, *rules, priority=priority)


def _retry_after(error: Exception) -> float | None:
    if not isinstance(error, RateLimitedUpstream):
        return None
    return error.retry_after or 1.0


def books(
    clob: Clob, upstream: Upstream
) -> Callable[[tuple[str, ...]], Awaitable[Found[OrderBook]]]:
    """Return what a `StreamPool` asks for books with, within the limits."""

    async def ask(asset_ids: tuple[str, ...]) -> Found[OrderBook]:
        return await upstream.call("clob", "books", lambda: clob.books(*asset_ids))

    return ask
