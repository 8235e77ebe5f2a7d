"""Waiting for a condition, in place of waiting for a time."""

from __future__ import annotations

import asyncio
import inspect


async def eventually(condition, within=20.0, *, pause=0.005):
    """Wait until a condition holds, and return the true value that it gave.

    Args:
        condition: Called without arguments; what it returns may be awaitable.
        within: Seconds after which the test fails.
        pause: Seconds between two looks.

    Raises:
        AssertionError: The condition never held; the message has its last value.
    """
    found = None
    try:
        async with asyncio.timeout(within):
            while True:
                found = condition()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(pause)
    except TimeoutError:
        raise AssertionError(
            f"not within {within:g} s: {condition!r} gave {found!r} last"
        ) from None
