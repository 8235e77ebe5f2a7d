"""A command on a connection of its own, leased from the pool for one call."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import ExecAbortError, ReadOnlyError, ResponseError

from oddswire.client._commands import OF_EARLIER_WRITES, CommandSpec
from oddswire.connection.deadline import Deadline
from oddswire.errors import CommandTimeout, NotShared, PoolTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis.asyncio as aredis
    from redis.asyncio.connection import AbstractConnection

BLOCKING_GRACE = 1.0
"""Seconds that a blocking command's answer may take beyond what it asked to block."""

# No program subscribes to it.
_WAIT_CHANNEL = "oddswire:wait"
COVERING_COMMANDS = (("SPUBLISH", _WAIT_CHANNEL, ""), ("PUBLISH", _WAIT_CHANNEL, ""))


async def run_exclusively(
    pool: aredis.ConnectionPool,
    command: CommandSpec,
    args: tuple[Any, ...],
    options: dict[str, Any],
    timeout: float,
    *,
    asking: bool = False,
) -> Any:
    """Run a command on a connection of its own; cancelled, that connection is closed.

    Args:
        pool: Leases the connection.
        command: What is known of it.
        args: Its name and arguments.
        options: redis-py's.
        timeout: Seconds beyond what the command itself may block for.
        asking: Say ASKING first: the node of a cluster is taking over the slot.

    Raises:
        PoolTimeout: No connection became free in time.
        CommandTimeout: No reply in time.
    """
    connection = await _lease(pool, timeout + command.blocking_timeout(args))
    try:
        async with blocking_deadline(connection, command, args, timeout):
            if command.name in OF_EARLIER_WRITES and (
                why := await cover_earlier_writes(connection)
            ):
                raise wait_refused(command, why) from why
            if asking:
                await connection.send_command("ASKING")
                await connection.read_response()
            await connection.send_command(*args)
            return await connection.read_response(
                disable_decoding=NEVER_DECODE in options
            )
    except ResponseError as error:
        if refused_by_replica(error):
            connection.mark_for_reconnect()
        if EMPTY_RESPONSE in options:
            return options[EMPTY_RESPONSE]
        raise
    finally:
        await asyncio.shield(pool.release(connection))


async def _lease(pool: aredis.ConnectionPool, seconds: float) -> AbstractConnection:
    """Return an exclusive connection; neither the pool nor the caller waits longer."""
    scope = Deadline(seconds)
    connection: AbstractConnection
    try:
        async with scope:
            connection = await pool.get_connection()
    except TimeoutError:
        if not scope.expired():
            raise
        failure = getattr(pool, "failure", None)
        why = "" if failure is None else f": {failure}"
        raise PoolTimeout(
            f"no exclusive connection within {seconds:g} s{why}"
        ) from None
    return connection


async def cover_earlier_writes(connection: Any) -> ResponseError | None:
    """Have WAIT on this connection speak of every write that was answered so far.

    The server answers it for the newest write of the connection that asks. The caller's
    writes went over another one, or over one that was lost since. A message on a shard
    channel stands in the replication log like a write, behind theirs, and no pattern
    hears it.

    Returns:
        Why it was refused; then WAIT speaks of what was written on this connection
        alone.
    """
    refusal = None
    for send in COVERING_COMMANDS:
        try:
            await connection.send_command(*send)
            await connection.read_response()
        except ResponseError as error:
            refusal = error
            if "unknown command" in str(error):
                continue  # before Redis 7; where a pattern may hear the other one
            return error
        return None
    return refusal


def wait_refused(command: CommandSpec, why: ResponseError) -> NotShared:
    """Return the error of WAIT on a server that refuses what WAIT needs."""
    return NotShared(
        f"{command.name} speaks of its own connection, and to have it speak of "
        f"yours this client sends SPUBLISH {_WAIT_CHANNEL}, which was refused "
        f"({why}); put the writes and {command.name} in one "
        "`client.pipeline(transaction=False)`, or on `client.client()`"
    )


@asynccontextmanager
async def blocking_deadline(
    connection: AbstractConnection,
    command: CommandSpec,
    args: tuple[Any, ...],
    timeout: float,
) -> AsyncIterator[None]:
    """Give a command the time that it may block for; redis-py's own limit is off.

    Args:
        connection: Where it is sent; when its time is over it is closed.
        command: What is known of it.
        args: Its name and arguments.
        timeout: Seconds for one that does not block.

    Raises:
        CommandTimeout: Its time is over.
    """
    limit = max(timeout, command.blocking_timeout(args) + BLOCKING_GRACE)
    scope = Deadline(limit)
    # Also for writing: ours may be longer.
    usual, connection.socket_timeout = connection.socket_timeout, None
    try:
        async with scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise CommandTimeout(f"{command.name}: no reply within {limit:g} s") from None
    finally:
        connection.socket_timeout = usual


def refused_by_replica(error: Exception) -> bool:
    """Whether the server refused, or ended, a command because it is a replica now.

    A transaction says so in the error of EXEC, and what blocks when the server is
    demoted is ended with UNBLOCKED.
    """
    if isinstance(error, ReadOnlyError):
        return True
    text = str(error)
    if isinstance(error, ExecAbortError):
        return "READONLY" in text
    return "instance state changed" in text
