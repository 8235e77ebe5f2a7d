"""`ClusterPipeline`: a batch whose commands go to their nodes, results in place."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import MovedError, ResponseError

from oddswire.client._cluster_keys import (
    Scope,
    by_slot,
    cross_slot,
    keys_of,
    scope_of,
    slot_of,
    slot_of_all,
)
from oddswire.client._commands import Retry
from oddswire.client._pipeline import Pipeline
from oddswire.connection.backoff import Backoff
from oddswire.connection.errors import clone_error, from_redis
from oddswire.errors import ConnectionLost, NotOnCluster, OddswireError, Outcome

if TYPE_CHECKING:
    from oddswire.client._client import Client
    from oddswire.client._cluster_node import Node
    from oddswire.client._cluster_router import Router

_Stack = list[Any]  # of (arguments, options), as redis-py keeps them


class ClusterPipeline(Pipeline):
    """redis-py's pipeline over many nodes.

    Not as a transaction, it is split: the commands of one node go there together and in
    order, the nodes work at the same time. As a transaction, or with WATCH, all keys
    have to be in one slot.
    """

    def __init__(
        self,
        client: Client,
        router: Router,
        transaction: bool,  # noqa: FBT001 - redis-py's signature
        shard_hint: Any,
    ) -> None:
        super().__init__(client, transaction, shard_hint)
        self._whole, self._router = client, router
        # Where the watched keys are; None: nothing is watched.
        self._watching: Node | None = None

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command at once, on the node of the watched keys (redis-py's)."""
        if self._watching is None:
            words = (*str(args[0]).split(), *args[1:])
            slot = slot_of(keys_of(words) or [], "WATCH")
            if slot is None:
                raise NotOnCluster(f"{args[0]} has no key that says which node to ask")
            deadline = monotonic() + self._whole.timeout
            node = await self._router.owner(slot, deadline)
            self._watching = await self._router.connected(node, slot, deadline)
            self.connection_pool = self._watching.client.connection_pool
        try:
            return await super().immediate_execute_command(*args, **options)
        except ResponseError as error:
            if isinstance(error, MovedError):
                self._router.read_soon()
            ours = from_redis(error)
            if ours is error:
                raise
            raise ours from error

    async def reset(self) -> None:  # type: ignore[override]
        """Forget the commands and give the connection back (redis-py's)."""
        await super().reset()
        self._watching = None
        self.connection_pool = self._whole.connection_pool

    async def _results(
        self, stack: _Stack, *, raise_on_error: bool = False
    ) -> list[Any]:
        deadline = monotonic() + self._whole.timeout
        if self._watching is not None:
            return await super()._results(stack, raise_on_error=raise_on_error)
        if self.is_transaction or self.explicit_transaction:
            return await self._run_transaction(
                stack, deadline, raise_on_error=raise_on_error
            )
        return await self._run_split(stack, deadline, raise_on_error=raise_on_error)

    def _words(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*self._whole.command_spec(args[0]).words, *args[1:])

    async def _run_transaction(
        self, stack: _Stack, deadline: float, *, raise_on_error: bool
    ) -> list[Any]:
        """Run it on the one node; again if that node says it ran nothing of it."""
        router = self._router
        keys = [key for args, _ in stack for key in keys_of(self._words(args)) or ()]
        places = by_slot(keys)
        if len(places) > 1:
            raise cross_slot("MULTI", keys)
        if not places:
            raise NotOnCluster("a transaction without a key: no node is the one to ask")
        [slot] = places
        backoff = Backoff(base=0.02, cap=0.25)
        while True:
            node = await router.owner(slot, deadline)
            node = await router.connected(node, slot, deadline)
            try:
                return await self._on(
                    node,
                    stack,
                    deadline,
                    transaction=True,
                    raise_on_error=raise_on_error,
                )
            except (ResponseError, ConnectionLost) as failure:
                error = from_redis(failure)
                unsent = getattr(error, "outcome", "") is Outcome.NOT_SENT
                if not unsent and not (
                    isinstance(error, ResponseError)
                    and router.takes(error, self._whole.command_spec("EXEC"), ())
                ):
                    raise
                pause = backoff.failed()
                if monotonic() + 2 * pause >= deadline:
                    raise
            if isinstance(error, MovedError):
                router.redirect(error, node)
            router.read_soon()
            await asyncio.sleep(pause)

    async def _on(
        self,
        node: Node,
        stack: _Stack,
        deadline: float,
        *,
        transaction: bool,
        raise_on_error: bool,
    ) -> list[Any]:
        """Run commands on one node, in one write."""
        left = max(0.0, deadline - monotonic())
        batch = Pipeline(node.client.bounded(left), transaction, None)
        # A copy: redis-py's own way empties it.
        batch.command_stack = list(stack)
        batch.scripts = set(self.scripts)
        try:
            return await batch._results(  # noqa: SLF001 - the same class's
                batch.command_stack, raise_on_error=raise_on_error
            )
        finally:
            await batch.reset()

    async def _run_split(
        self, stack: _Stack, deadline: float, *, raise_on_error: bool
    ) -> list[Any]:
        """Run the commands of each node together, then what has to go elsewhere."""
        router = self._router
        slots = [self._slot_of_command(args) for args, _ in stack]
        groups: dict[Node | int | None, list[int]] = {}
        for position, slot in enumerate(slots):
            # By node where it is known; the others wait for the map slot by slot.
            node = None if slot is None else router.slots[slot]
            groups.setdefault(node or slot, []).append(position)
        results: list[Any] = [None] * len(stack)

        async def run(of: Node | int | None, at: list[int]) -> None:
            try:
                if of is None:
                    of = await router.any_primary(deadline)
                elif isinstance(of, int):
                    of = await router.owner(of, deadline)
            except OddswireError as error:
                for position in at:
                    results[position] = clone_error(error, error.outcome)
                return
            await self._run_group(
                of, at, stack, slots, results, deadline, raise_on_error=raise_on_error
            )

        # Errors are among the results: none is raised.
        await asyncio.gather(*[run(of, at) for of, at in groups.items()])
        return results

    def _slot_of_command(self, args: tuple[Any, ...]) -> int | None:
        slot = slot_of_all(args)
        if slot is not None:
            return slot
        words = self._words(args)
        keys = keys_of(words)
        name = self._whole.command_spec(args[0]).name
        if keys is None or (not keys and scope_of(words) is not Scope.ANY):
            raise NotOnCluster(
                f"{name} in a pipeline over a cluster: no key says which node it is "
                "for; send it by itself"
            )
        return slot_of(keys, name)

    async def _run_group(
        self,
        node: Node,
        at: list[int],
        stack: _Stack,
        slots: list[int | None],
        results: list[Any],
        deadline: float,
        *,
        raise_on_error: bool,
    ) -> None:
        """Fill in the results of one node's commands.

        Where the node sends some of them elsewhere, those are sent again one by one,
        the commands of a slot in their order.
        """
        router = self._router
        part = [stack[position] for position in at]
        commands = [self._whole.command_spec(args[0]) for args, _ in part]
        reads = all(command.retry is Retry.READ for command in commands)
        try:
            slot = slots[at[0]]
            there = await router.connected(node, slot, deadline)
            answers = await self._on(
                there,
                part,
                deadline,
                transaction=False,
                raise_on_error=raise_on_error,
            )
        except OddswireError as error:
            answers = [clone_error(error, error.outcome) for _ in part]
        resent: dict[int | None, list[int]] = {}
        for position, command, answer in zip(at, commands, answers, strict=True):
            results[position] = answer
            lost = isinstance(answer, ConnectionLost) and (
                reads or answer.outcome is Outcome.NOT_SENT
            )
            if lost or (
                isinstance(answer, ResponseError)
                and router.takes(answer, command, stack[position][0])
            ):
                resent.setdefault(slots[position], []).append(position)
        await asyncio.gather(
            *[
                self._send_again(node, places, stack, results, deadline, reads=reads)
                for places in resent.values()
            ]
        )

    async def _send_again(
        self,
        node: Node,
        places: list[int],
        stack: _Stack,
        results: list[Any],
        deadline: float,
        *,
        reads: bool,
    ) -> None:
        whole = self._whole
        for position in places:
            args, options = stack[position]
            command = whole.command_spec(args[0])
            raw = whole.decodes and NEVER_DECODE in options
            try:
                reply = await self._router.run(
                    node,
                    command,
                    args,
                    whole.pack(command, args),
                    deadline,
                    raw=raw,
                    seen=results[position],
                    repeatable=reads,
                )
            except OddswireError as error:
                results[position] = error
                continue
            if not isinstance(reply, Exception):
                reply = await whole.parse_reply(reply, command, options)
            elif EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
                reply = options[EMPTY_RESPONSE]
            results[position] = reply
