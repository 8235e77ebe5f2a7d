"""redis-py's client of a cluster, with our client sending its commands."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import redis
from redis.asyncio.cluster import RedisCluster

from oddswire.client._cluster import ClusterClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

# What redis-py passes on to its connections, and our client takes too.
_PASSED_ON = (
    "username", "password", "client_name", "protocol", "legacy_responses",
    "encoding", "encoding_errors", "decode_responses",
)  # fmt: skip
# A test with one of these looks at redis-py's own nodes, connections and map, or puts
# something else in their place: there is nothing to compare.
_INNER = re.compile(
    r"mock|nodes_manager|NodesManager|\._free|slots_cache|LoadBalanc|startup_nodes"
    r"|moved_redirection|_execution_strategy|connection_kwargs|reinitialize|_retry|commands_parser|node_flags|command_flags"
)


class OnCluster(RedisCluster):
    """redis-py's class, as its tests want it, whose commands our client sends.

    What a test asks of nodes that it names (`target_nodes`) redis-py sends: our client
    has `primaries()` for that. What it asks redis-py about nodes is redis-py's answer.

    Attributes:
        calls: Commands and pipelines that our client was given, of all instances.
        on_command_connections: What the servers counted there.
    """

    calls = 0
    on_command_connections = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        node = self.startup_nodes[0]
        passed = {name: options[name] for name in _PASSED_ON if name in options}
        self._ours = ClusterClient(url=f"cluster://{node.host}:{node.port}", **passed)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command by our client, unless it names nodes."""
        if options.get("target_nodes") is not None:
            return await super().execute_command(*args, **options)
        options.pop("target_nodes", None)
        OnCluster.calls += 1
        return await self._ours.execute_command(*args, **options)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> Any:
        """Return a pipeline of our client."""
        OnCluster.calls += 1
        return self._ours.pipeline(bool(transaction), shard_hint)

    async def mget_nonatomic(self, keys: Any, *args: Any) -> Any:
        """Return values of keys in any slots: our `mget`."""
        OnCluster.calls += 1
        return await self._ours.mget(keys, *args)

    async def mset_nonatomic(self, mapping: Mapping[Any, Any]) -> Any:
        """Set keys in any slots."""
        OnCluster.calls += 1
        return await self._ours.mset_nonatomic(mapping)

    async def delete(self, *keys: Any) -> Any:
        """Delete keys in any slots."""
        OnCluster.calls += 1
        return await self._ours.delete(*keys)

    async def exists(self, *keys: Any) -> Any:
        """Count keys in any slots."""
        OnCluster.calls += 1
        return await self._ours.exists(*keys)

    async def touch(self, *keys: Any) -> Any:
        """Touch keys in any slots."""
        OnCluster.calls += 1
        return await self._ours.touch(*keys)

    async def unlink(self, *keys: Any) -> Any:
        """Unlink keys in any slots."""
        OnCluster.calls += 1
        return await self._ours.unlink(*keys)

    async def aclose(self) -> None:
        """Count what came by our command connections, and close both clients."""
        for node in self._ours.router.in_use:
            connection = node.client.command_connection()
            if connection is None:
                continue
            host, port = connection._transport.get_extra_info("sockname")
            with redis.Redis(host=node.host, port=node.port) as server:
                for each in server.client_list():
                    if each["addr"] == f"{host}:{port}":
                        # Without the two of the handshake.
                        OnCluster.on_command_connections += int(each["tot-cmds"]) - 2
        await self._ours.aclose()
        await super().aclose()


def looks_inside(item: pytest.Item) -> bool:
    """Whether a test is about what only redis-py's client of a cluster has in it."""
    function = getattr(item, "function", None)
    return function is not None and bool(_INNER.search(inspect.getsource(function)))
