"""A command on a wire of its own, leased from the pool for one call."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import ResponseError

from oddswire.client._commands import TAKES_OVER, Command
from oddswire.errors import CommandTimeout, PoolTimeout

if TYPE_CHECKING:
    import redis.asyncio as aredis
    from redis.asyncio.connection import AbstractConnection

# Seconds that a blocking command's answer may take beyond what it asked to block for.
_BLOCKING_GRACE = 1.0

# Seconds: redis-py's own limit for one read is not to end it before ours does. redis-py
# 7 knows no infinity here, and uvloop none anywhere.
_FOREVER = 1e9


async def exclusively(
    pool: aredis.ConnectionPool,
    command: Command,
    args: tuple[Any, ...],
    options: dict[str, Any],
    timeout: float,
) -> Any:
    """Run a command on a wire of its own; cancelled, that wire is closed.

    Args:
        pool: Leases the wire.
        command: What is known of it.
        args: Its name and arguments.
        options: redis-py's.
        timeout: Seconds beyond what the command itself may block for.

    Raises:
        PoolTimeout: No wire became free in time.
        CommandTimeout: No reply in time.
    """
    blocks_for = command.longest(args)
    limit = max(timeout, blocks_for + _BLOCKING_GRACE)
    wire = await _lease(pool, timeout + blocks_for)
    if command.name in TAKES_OVER:
        # What comes on it from now on is no answer to whoever leases it next.
        wire.mark_for_reconnect()
    # redis-py's own limit, also for writing, is off meanwhile: ours may be longer.
    usual, wire.socket_timeout = wire.socket_timeout, None
    try:
        async with asyncio.timeout(None if math.isinf(limit) else limit):
            await wire.send_command(*args)
            return await wire.read_response(
                disable_decoding=NEVER_DECODE in options, timeout=_FOREVER
            )
    except ResponseError:
        if EMPTY_RESPONSE in options:
            return options[EMPTY_RESPONSE]
        raise
    except TimeoutError:
        raise CommandTimeout(f"{command.name}: no reply within {limit:g} s") from None
    finally:
        wire.socket_timeout = usual
        await asyncio.shield(pool.release(wire))


async def _lease(pool: aredis.ConnectionPool, seconds: float) -> AbstractConnection:
    """Return an exclusive wire; neither the pool nor the caller waits longer."""
    scope = asyncio.timeout(None if math.isinf(seconds) else seconds)
    wire: AbstractConnection
    try:
        async with scope:
            wire = await pool.get_connection()
    except TimeoutError:
        if not scope.expired():
            raise
        raise PoolTimeout(f"no exclusive wire within {seconds:g} s") from None
    return wire
