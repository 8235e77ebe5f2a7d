"""Waiting for a condition, in place of waiting for a time."""

from __future__ import annotations

import asyncio
import inspect


async def eventually(condition, within=20.0, *, holds=bool, pause=0.005):
    """Wait until a condition holds, and return the value that it gave.

    Args:
        condition: Called without arguments; what it returns may be awaitable.
        within: Seconds after which the test fails.
        holds: Says of a value that it is the one waited for.
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
                if holds(found):
                    return found
                await asyncio.sleep(pause)
    except TimeoutError:
        raise AssertionError(
            f"not within {within:g} s: {condition!r} gave {found!r} last"
        ) from None
