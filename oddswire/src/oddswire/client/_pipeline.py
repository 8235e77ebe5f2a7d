"""`Pipeline`: many commands in one write, as one call on the command connection."""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from redis.asyncio.client import Pipeline as RedisPipeline
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import ExecAbortError, RedisError, ResponseError, WatchError

from oddswire.client import _hooks
from oddswire.client._commands import OF_EARLIER_WRITES, Retry, Route
from oddswire.client._exclusive import (
    blocking_deadline,
    cover_earlier_writes,
    refused_by_replica,
    wait_refused,
)
from oddswire.client._retries import retry
from oddswire.connection.deadline import Deadline
from oddswire.connection.errors import from_redis
from oddswire.connection.packing import MOST_BITS, pack, unencodable
from oddswire.errors import CommandTimeout, NotShared, OddswireError

if TYPE_CHECKING:
    from oddswire.client._client import Client
    from oddswire.client._commands import CommandSpec

# More than this would hold up the callers behind it on the command connection.
_SHARED_AT_MOST = 1_000
_SHARED_BYTES = 256 * 1024

# They end a transaction and leave nothing behind on the connection.
_ENDINGS = frozenset({"EXEC", "DISCARD", "UNWATCH"})

# Commands packed before other tasks get a turn.
_PACK_AT_ONCE = 500

_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"

_Stack = list[Any]  # of (arguments, options), as redis-py keeps them


class Pipeline(RedisPipeline):
    """redis-py's pipeline, contiguous on the command connection.

    It runs on an exclusive connection, with the same results, if it has a WATCH, more
    than 1,000 commands or 256 KiB, or a command that needs a connection for itself.
    """

    def __init__(self, client: Client, transaction: bool, shard_hint: Any) -> None:  # noqa: FBT001 - redis-py's signature
        super().__init__(
            client.connection_pool, client.response_callbacks, transaction, shard_hint
        )
        self._client = client
        self._altered = False  # as `Client._altered`, of the connection that it leases
        # redis-py's limit for one read on that connection, while ours for the whole
        # holds.
        self._usual: tuple[float | None] | None = None
        # The results of a batch on that connection whose first error was raised.
        self._failed: list[Any] = []

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - redis-py's signature
        """Send what was collected; one result or, in its place, one error per command.

        Cancelled after it was sent, the commands may still run.

        Raises:
            OddswireError: The first error among the results if `raise_on_error`, or
                what ended the whole pipeline.
            WatchError: A watched key changed.
        """
        stack: _Stack = self.command_stack
        if not stack and not self.watching:
            return []
        try:
            results = await self._results(stack, raise_on_error=raise_on_error)
        except OddswireError as error:
            self._client.count_failure(error, self._client.command_spec("EXEC"))
            raise
        except UnicodeEncodeError as error:
            raise unencodable(error) from None
        except (RedisError, OSError) as error:
            command = self._client.command_spec("EXEC")
            raise self._client.count_failure(from_redis(error), command) from error
        finally:
            await self.reset()
        failed = [r for r in enumerate(results) if isinstance(r[1], Exception)]
        for position, failure in failed:
            name = stack[position][0][0]
            self._client.count_failure(failure, self._client.command_spec(name))
        if failed and raise_on_error:
            position, first = failed[0]
            self.annotate_exception(first, position + 1, stack[position][0])
            raise first
        return results

    async def _results(
        self, stack: _Stack, *, raise_on_error: bool = False
    ) -> list[Any]:
        """Return a result, or an error in its place, for each command.

        With `raise_on_error` instrumentation sees the first error raised.
        """
        if (
            self.connection is None
            and not self.watching
            and self._client.multiplexed
            and len(stack) <= _SHARED_AT_MOST
        ):
            atomic = bool(self.is_transaction or self.explicit_transaction)
            commands: list[CommandSpec] = []
            parts = await self._pack(stack, commands, atomic=atomic)
            if parts is not None:
                data = b"".join(parts)
                if len(data) <= _SHARED_BYTES:
                    run = partial(
                        self._execute_shared,
                        stack,
                        commands,
                        data,
                        len(parts),
                        atomic=atomic,
                    )
                    if _hooks.pipelines_are_instrumented():
                        return await _hooks.pipeline(
                            self, run, raise_on_error=raise_on_error
                        )
                    return await run()
        atomic = bool(self.is_transaction or self.explicit_transaction)
        repeatable = atomic and self.connection is None and not self.watching
        before = self.explicit_transaction, set(self.scripts)
        sent = monotonic()
        try:
            return await self._execute_exclusive(
                stack, atomic=atomic, raise_on_error=raise_on_error
            )
        except ResponseError as error:
            # Nothing of a transaction ran that a demoted primary refused.
            if not (repeatable and await self._client.leave_demoted(error, sent)):
                raise
        self.command_stack = stack
        self.explicit_transaction, self.scripts = before
        return await self._execute_exclusive(
            stack, atomic=atomic, raise_on_error=raise_on_error
        )

    async def _execute_exclusive(
        self, stack: _Stack, *, atomic: bool, raise_on_error: bool
    ) -> list[Any]:
        """Run it on a connection of its own, as redis-py does."""
        limit = self._client.timeout
        for args, _ in stack:
            self._note(args)
            if not atomic:  # within MULTI nothing blocks
                limit += self._client.command_spec(args[0]).blocking_timeout(args)
        try:
            async with Deadline(limit):
                if self.connection is None:
                    self.connection = await self.connection_pool.get_connection()
                # redis-py's own limit is for each read, so that a batch of many never
                # ends, and one that blocks may take longer.
                self._usual = (self.connection.socket_timeout,)
                self.connection.socket_timeout = None
                if not atomic:
                    await self._cover_earlier_writes(stack)
                results = await super().execute(raise_on_error=raise_on_error)
        except ResponseError as error:
            results, self._failed = self._failed, []
            if all(error is not result for result in results):
                raise
        except TimeoutError:
            raise CommandTimeout(
                f"a batch of {len(stack)} commands: no reply within {limit:g} s; "
                "send fewer at once, or allow more time: client.bounded(60)"
            ) from None
        return [from_redis(r) if isinstance(r, Exception) else r for r in results]

    def raise_first_error(self, commands: Any, response: Any) -> None:
        """Raise it for instrumentation to see (redis-py's), and keep all results."""
        del commands
        self._failed = list(response)
        for result in self._failed:
            if isinstance(result, ResponseError):
                raise result

    async def _cover_earlier_writes(self, stack: _Stack) -> None:
        """Have WAIT in a batch speak of the writes before the batch too.

        Raises:
            NotShared: What that takes was refused, and the batch begins with WAIT.
        """
        commands = [self._client.command_spec(args[0]) for args, _ in stack]
        if not OF_EARLIER_WRITES.isdisjoint(each.name for each in commands):
            why = await cover_earlier_writes(self.connection)
            if why is not None and commands[0].name in OF_EARLIER_WRITES:
                raise wait_refused(commands[0], why) from why

    def _note(self, args: tuple[Any, ...]) -> None:
        command = self._client.command_spec(args[0])
        if command.name in {"WATCH", "UNWATCH"}:
            return  # `reset` undoes them
        if command.route_for(args) is Route.REFUSED:
            self._altered = True

    async def reset(self) -> None:  # type: ignore[override]
        """Forget the commands and give the connection back (redis-py's)."""
        if self._usual is not None and self.connection is not None:
            (self.connection.socket_timeout,) = self._usual
        self._usual = None
        if self._altered and self.connection is not None:
            # The next one to lease it would have this one's database or user.
            self.connection.mark_for_reconnect()
        self._altered = False
        await super().reset()

    async def _pack(
        self, stack: _Stack, commands: list[CommandSpec], *, atomic: bool
    ) -> list[bytes] | None:
        """Return the commands packed, and fill `commands`; None: it cannot be shared.

        One pass: it is most of what a pipeline costs.
        """
        client = self._client
        parts = [_MULTI] if atomic else []
        for args, options in stack:
            command = client.command_spec(args[0])
            if not command.is_fast_path and not _may_share(command, args):
                return None
            if NEVER_DECODE in options and client.decodes:
                return None
            commands.append(command)
            if not (atomic and EMPTY_RESPONSE in options):
                try:
                    plain = command.is_fast_path
                    for each in args:
                        kind = each.__class__
                        if kind is not str and (
                            kind is memoryview
                            or (kind is int and each.bit_length() > MOST_BITS)
                        ):
                            plain = False
                    parts.append(pack(args) if plain else client.pack(command, args))
                except (TypeError, ValueError):
                    parts.append(client.pack(command, args))
            if len(commands) % _PACK_AT_ONCE == 0:
                await asyncio.sleep(0)
        if atomic:
            parts.append(_EXEC)
        return parts

    async def _execute_shared(
        self,
        stack: _Stack,
        commands: list[CommandSpec],
        data: bytes,
        count: int,
        *,
        atomic: bool,
    ) -> list[Any]:
        if self.scripts:
            await self.load_scripts()
        for command in commands:
            command.calls += 1
        # Reads alone may be repeated together. Of [GET, SET] a second run would read
        # what the first wrote, although each of the two could go twice.
        reads = not atomic and all(command.retry is Retry.READ for command in commands)
        # What the batch is called in errors, and where a slow one is counted.
        label = self._client.command_spec("MULTI" if atomic else "PIPELINE")
        deadline = monotonic() + self._client.timeout
        sent = monotonic()
        replies = await self._send(data, count, label, deadline, reads=reads)
        # Nothing of a transaction ran that a demoted primary refused.
        while (
            atomic
            and _refused_transaction(replies)
            and self._client.leave_if_demoted(sent)
        ):
            sent = monotonic()
            replies = await self._send(data, count, label, deadline, reads=reads)
        results = self._from_exec(stack, replies) if atomic else replies
        # Before errors are looked for: some commands take one for an empty answer.
        for position, (result, command, (_, options)) in enumerate(
            zip(results, commands, stack, strict=True)
        ):
            if isinstance(result, Exception):
                if isinstance(result, OddswireError):
                    self._client.on_refused_write(result, sent)
                if EMPTY_RESPONSE in options and isinstance(result, ResponseError):
                    results[position] = options[EMPTY_RESPONSE]
            elif command.callback is None:
                pass
            elif options or command.awaits:
                results[position] = await self._client.parse_reply(
                    result, command, options
                )
            else:
                results[position] = command.callback(result)
        return results

    async def _send(
        self,
        data: bytes,
        count: int,
        label: CommandSpec,
        deadline: float,
        *,
        reads: bool,
    ) -> list[Any]:
        client = self._client

        async def attempt() -> Any:
            return await client.send_once(data, deadline, label, count=count)

        try:
            reply = await attempt()
        except OddswireError as error:
            reply = await retry(
                error,
                attempt,
                deadline,
                attempts=client.retries,
                repeatable=reads,
                on_retry=client.count_retry,
            )
        return reply if count > 1 else [reply]

    def _from_exec(self, stack: _Stack, replies: list[Any]) -> list[Any]:
        """Return one result per command from the replies of MULTI ... EXEC."""
        queued = iter(replies[1:-1])
        errors: list[tuple[int, Exception]] = []
        if isinstance(replies[0], Exception):
            errors.append((0, replies[0]))
        for position, (args, options) in enumerate(stack):
            if EMPTY_RESPONSE in options:
                errors.append((position, options[EMPTY_RESPONSE]))
                continue
            answer = next(queued)
            if isinstance(answer, Exception):
                self.annotate_exception(answer, position + 1, args)
                errors.append((position, answer))
        results = replies[-1]
        if isinstance(results, ExecAbortError):
            raise errors[0][1] if errors else results
        if isinstance(results, Exception):
            raise results
        if results is None:
            raise WatchError("Watched variable changed.")
        for position, error in errors:
            results.insert(position, error)
        if len(results) != len(stack):
            raise ResponseError(
                "Wrong number of response items from pipeline execution"
            )
        return list(results)

    async def load_scripts(self) -> None:
        """Make sure the server knows the scripts of this pipeline."""
        if self.connection is not None:
            await super().load_scripts()
            return
        scripts = list(self.scripts)
        execute = self._client.execute_command
        known = await execute("SCRIPT EXISTS", *(script.sha for script in scripts))
        for script, there in zip(scripts, known, strict=True):
            if not there:
                script.sha = await execute("SCRIPT LOAD", script.script)

    async def parse_response(
        self, connection: Any, command_name: str | bytes, **options: Any
    ) -> Any:
        """Read a reply on this pipeline's own connection (redis-py's)."""
        try:
            return await super().parse_response(connection, command_name, **options)
        except ResponseError as error:
            if refused_by_replica(error) and self._client.leave_if_demoted(monotonic()):
                self._altered = True  # the pool must not lease it again
            raise

    async def _send_command_parse_response(
        self, conn: Any, command_name: Any, *args: Any, **options: Any
    ) -> Any:
        """Send while watching (redis-py's); what blocks has the time it asks for."""
        command = self._client.command_spec(args[0])
        send = super()._send_command_parse_response
        if not command.blocking_timeout(args):
            return await send(conn, command_name, *args, **options)
        async with blocking_deadline(conn, command, args, self._client.timeout):
            if command.name in OF_EARLIER_WRITES and (
                why := await cover_earlier_writes(conn)
            ):
                raise wait_refused(command, why) from why
            return await send(conn, command_name, *args, **options)

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """WATCH, and what is read while watching, on this pipeline's own connection."""
        self._note(args)
        try:
            return await super().immediate_execute_command(*args, **options)
        except OddswireError as error:
            self._client.count_failure(error)
            raise
        except (RedisError, OSError) as error:
            command = self._client.command_spec(args[0])
            raise self._client.count_failure(from_redis(error), command) from error


def _refused_transaction(replies: list[Any]) -> bool:
    """Whether the server refused a transaction because it is a replica."""
    return isinstance(replies[-1], ExecAbortError) and any(
        isinstance(reply, Exception) and refused_by_replica(reply) for reply in replies
    )


def _may_share(command: CommandSpec, args: tuple[Any, ...]) -> bool:
    """Whether a command that is not plain may go on the shared connection in a batch.

    Raises:
        NotShared: It would change the connection for everybody.
    """
    if command.name in _ENDINGS:
        return False
    route = command.route_for(args)
    if route is Route.REFUSED:
        raise NotShared(
            f"{' '.join(command.words).upper()} in a pipeline would change the "
            "connection it runs on; use `client.client()`"
        )
    # Within MULTI nothing blocks, but what is not EXECuted there might.
    return route is not Route.EXCLUSIVE
