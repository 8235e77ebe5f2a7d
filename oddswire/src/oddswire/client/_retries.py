"""When a call is sent again, inside its one deadline."""

from __future__ import annotations

import asyncio
import random
from time import monotonic
from typing import TYPE_CHECKING, Any

from oddswire.errors import ConnectionLost, OddswireError, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def again(
    error: OddswireError,
    attempt: Callable[[], Awaitable[Any]],
    deadline: float,
    *,
    most: int,
    repeatable: bool,
) -> Any:
    """Try again for as long as that is safe and the deadline lasts.

    Args:
        error: Why the first attempt failed.
        attempt: Sends it and returns the reply.
        deadline: By `time.monotonic`.
        most: Attempts to make.
        repeatable: Whether a second run would leave and reply what one leaves.

    Raises:
        OddswireError: `error`, or that of the last attempt.
    """
    for number in range(most):
        pause = _pause(number)
        if (
            not (repeatable or error.outcome is Outcome.NOT_SENT)
            # What else there is was final, would break the next connection too, or has
            # used up the deadline.
            or not isinstance(error, ConnectionLost)
            or monotonic() + pause >= deadline
        ):
            break
        await asyncio.sleep(pause)
        try:
            return await attempt()
        except OddswireError as failure:
            error = failure
    raise error


def _pause(attempt: int) -> float:
    """Return the seconds before another attempt: 20 ms, doubling, with jitter."""
    return random.uniform(0.5, 1.0) * min(0.5, 0.02 * 2.0**attempt)  # noqa: S311 - no secret
