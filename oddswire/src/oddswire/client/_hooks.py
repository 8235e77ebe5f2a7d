"""Instrumentation of redis-py sees the commands that go another way here.

OpenTelemetry, Sentry and others replace methods of redis-py's classes. `Client`
overrides those methods, so what was put in their place would never run. Where a method
was replaced, a call is made through the replacement: with a copy of the client, or of
the pipeline, on which redis-py's own method finds a connection that leads back to here.
"""

from __future__ import annotations

import copy
from types import FunctionType
from typing import TYPE_CHECKING, Any

import redis.asyncio as aredis
from redis.asyncio.client import Pipeline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def _is_redis_pys(method: Any) -> bool:
    home = "redis.asyncio.client"
    return type(method) is FunctionType and method.__globals__["__name__"] == home


# redis-py's class, also after a program put `Client` in its place in `redis.asyncio`.
REDIS = aredis.Redis

# What the fast path compares with; None: it was replaced before we were imported.
ORIGINAL: Any = REDIS.execute_command
if not _is_redis_pys(ORIGINAL):
    ORIGINAL = None


def commands_are_instrumented() -> bool:
    """Whether a program replaced redis-py's `execute_command`."""
    return not _is_redis_pys(REDIS.execute_command)


def pipelines_are_instrumented() -> bool:
    """Whether a program replaced redis-py's `Pipeline.execute`."""
    return not _is_redis_pys(Pipeline.execute)


class _Retry:
    async def call_with_retry(
        self, do: Callable[[], Awaitable[Any]], *_: Any, **__: Any
    ) -> Any:
        return await do()


class _Connection:
    """As much of a connection as redis-py's methods touch."""

    retry = _Retry()

    def __init__(self, pool: aredis.ConnectionPool) -> None:
        self.host = pool.connection_kwargs.get("host")
        self.port = pool.connection_kwargs.get("port")
        self.db = pool.connection_kwargs.get("db", 0)

    def should_reconnect(self) -> bool:
        return False


async def _nothing(*_: Any, **__: Any) -> None:
    return None


async def command(
    client: aredis.Redis,
    args: tuple[Any, ...],
    options: dict[str, Any],
    run: Callable[[], Awaitable[Any]],
) -> Any:
    """Run a command so that what replaced redis-py's method sees it, once."""
    view: Any = copy.copy(client)

    async def send(*_: Any, **__: Any) -> Any:
        return await run()

    view.connection = _Connection(client.connection_pool)
    view.single_connection_client = False
    view.initialize = _nothing
    view._send_command_parse_response = send  # noqa: SLF001 - redis-py's own step
    try:
        return await REDIS.execute_command(view, *args, **options)
    finally:
        view.connection = None  # or redis-py warns that it was not closed


async def pipeline(
    batch: Pipeline, run: Callable[[], Awaitable[list[Any]]], *, raise_on_error: bool
) -> list[Any]:
    """Run a batch so that what replaced redis-py's method sees it, once.

    Where the first error among the results is to be raised, it is seen raised; the
    caller gets all results, and raises it. What the replacement returns or raises in
    their place is what the caller gets.
    """
    view: Any = copy.copy(batch)
    results: list[Any] = []

    async def send(*_: Any, **__: Any) -> list[Any]:
        results.extend(await run())
        if raise_on_error:
            for result in results:
                if isinstance(result, Exception):
                    raise result
        return results

    view.connection = _Connection(batch.connection_pool)
    view.scripts = set()
    view.reset = _nothing
    view._execute_transaction = view._execute_pipeline = send  # noqa: SLF001 - redis-py's own steps
    try:
        return await Pipeline.execute(view, raise_on_error=raise_on_error)
    except Exception as error:
        if all(error is not result for result in results):
            raise
        return results
    finally:
        view.connection = None
