"""When a call is sent again, inside its one deadline."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

from oddswire.connection.backoff import Backoff
from oddswire.errors import ConnectionLost, OddswireError, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def retry(
    error: OddswireError,
    attempt: Callable[[], Awaitable[Any]],
    deadline: float,
    *,
    attempts: int,
    repeatable: bool,
    on_retry: Callable[[OddswireError], None],
) -> Any:
    """Try again for as long as that is safe and the deadline lasts.

    Args:
        error: Why the first attempt failed.
        attempt: Sends it and returns the reply.
        deadline: By `time.monotonic`.
        attempts: How many more to make.
        repeatable: Whether a second run would leave and reply what one leaves.
        on_retry: Is called with the reason before each further attempt.

    Raises:
        OddswireError: `error`, or that of the last attempt.
    """
    backoff = Backoff(base=0.02, cap=0.5)
    for _ in range(attempts):
        pause = backoff.failed()
        if (
            not (repeatable or error.outcome is Outcome.NOT_SENT)
            # What else there is was final, would break the next connection too, or has
            # used up the deadline.
            or not isinstance(error, ConnectionLost)
            or monotonic() + pause >= deadline
        ):
            break
        await asyncio.sleep(pause)
        on_retry(error)
        try:
            return await attempt()
        except OddswireError as failure:
            error = failure
    raise error
