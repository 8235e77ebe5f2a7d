"""A group of sentinels whose primary is deposed again and again, in four ways.

For the audit of the cache and the proof of the source of record: `Toppled` is a primary
with two replicas that writes only with one of them, as guides/operations.md advises.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Self

import redis.asyncio as aredis
from redis.exceptions import RedisError

from oddswire.embedded import EmbeddedSentinels

if TYPE_CHECKING:
    from types import TracebackType

    from oddswire.embedded import EmbeddedServer

How = Literal["command", "kill", "freeze", "partition"]
HOWS: tuple[How, ...] = ("command", "kill", "freeze", "partition")
SAFE = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
_SETTLED = 60.0


class Toppled:
    """The servers. ``async with Toppled() as toppled``.

    Args:
        safe: Whether a primary needs one of its replicas to write.

    Attributes:
        group: The servers.
    """

    def __init__(self, *, safe: bool = True) -> None:
        self.group = self._group = EmbeddedSentinels(
            replicas=2, args=SAFE if safe else ()
        )
        self._secret = secrets.token_hex(8)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        # Users of their own, so that replicas and sentinels can be cut off from a
        # server that goes on for clients.
        for server in self._group.servers:
            async with aredis.Redis.from_url(server.url) as client:
                for user in ("replica", "sentinel"):
                    await client.execute_command(
                        *("ACL", "SETUSER", user, "on", f">{self._secret}"),
                        *("~*", "&*", "+@all"),
                    )
                await client.config_set("masteruser", "replica")
                await client.config_set("masterauth", self._secret)
        async with aredis.Redis.from_url(self.group.primary.url) as client:
            # So that the replicas come back as that user.
            await client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        for sentinel in self._group.sentinels:
            async with aredis.Redis.from_url(sentinel.url) as client:
                for option, value in (
                    ("auth-user", "sentinel"),
                    ("auth-pass", self._secret),
                ):
                    await client.execute_command(
                        "SENTINEL", "SET", self._group.name, option, value
                    )
        await self.settle()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._group.__aexit__(exc_type, exc, tb)

    @property
    def sentinels(self) -> list[EmbeddedServer]:
        """Those that watch."""
        return self._group.sentinels

    @property
    def password(self) -> str:
        """Of servers and sentinels, for clients."""
        return self._group.password

    @property
    def url(self) -> str:
        """Names the primary, not its address."""
        return f"redis://:{self._group.password}@{self._group.name}/0"

    async def primary(self) -> EmbeddedServer:
        """Return the server that most sentinels name."""
        named = []
        for sentinel in self._group.sentinels:
            with suppress(RedisError, OSError, TimeoutError):
                async with (
                    aredis.Redis.from_url(sentinel.url) as client,
                    asyncio.timeout(2),
                ):
                    found = await client.sentinel_get_master_addr_by_name(
                        self._group.name
                    )
                    named.append(int(found[1]))
        port = max(named, key=named.count)
        return next(each for each in self._group.servers if each.port == port)

    async def settle(self) -> None:
        """Wait until the primary has both replicas, and the sentinels know it."""
        async with asyncio.timeout(_SETTLED):
            while not await self._is_settled():  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.1)

    async def _is_settled(self) -> bool:
        try:
            primary = await self.primary()
            async with aredis.Redis.from_url(primary.url) as client:
                info = await client.info("replication")
            online = sum(
                info.get(f"slave{at}", {}).get("state") == "online" for at in range(2)
            )
            if info["role"] != "master" or online != 2:
                return False
            for sentinel in self._group.sentinels:
                async with aredis.Redis.from_url(sentinel.url) as client:
                    state = await client.sentinel_master(self._group.name)
                    replicas = await client.sentinel_slaves(self._group.name)
                good = [each for each in replicas if each["flags"] == "slave"]
                if state["flags"] != "master" or state["port"] != primary.port:
                    return False
                if len(good) != 2:
                    return False
        except (RedisError, OSError, ValueError):
            return False
        return True

    async def depose(self, how: How) -> EmbeddedServer:
        """Have another server become the primary; return the old one.

        A frozen one is frozen still, a killed one is gone, a partitioned one goes on
        for clients and for nobody else.
        """
        old = await self.primary()
        if how == "command":
            await self._command()
        elif how == "kill":
            old.kill()
        elif how == "freeze":
            old.kill(signal.SIGSTOP)
        else:
            await self.cut_off(old)
        async with asyncio.timeout(_SETTLED):
            while (await self.primary()) is old:  # noqa: ASYNC110 - asked of all of them
                await asyncio.sleep(0.05)
        return old

    async def restore(self, old: EmbeddedServer, how: How) -> None:
        """Bring the old primary back, as a replica of the new one."""
        if how == "kill":
            await old.wait_exit()
            await old.restart()
            async with asyncio.timeout(_SETTLED):
                while True:
                    # Sentinels end its connections when they make it a replica.
                    with suppress(RedisError, OSError):
                        await self._let_in(old)
                        break
        elif how == "freeze":
            old.kill(signal.SIGCONT)
        elif how == "partition":
            await self._let_in(old)
            # The sentinels would do it, in half a minute.
            new = await self.primary()
            async with aredis.Redis.from_url(old.url) as client:
                await client.replicaof(new.host, new.port)
        await self.settle()

    async def _command(self) -> None:
        for sentinel in self._group.sentinels:
            async with aredis.Redis.from_url(sentinel.url) as client:
                with suppress(RedisError):
                    await client.execute_command(
                        "SENTINEL", "FAILOVER", self._group.name
                    )
                    return

    async def cut_off(self, server: EmbeddedServer) -> None:
        """Let neither replicas nor sentinels reach a server; clients do."""
        async with aredis.Redis.from_url(server.url) as client:
            for user in ("replica", "sentinel"):
                await client.execute_command("ACL", "SETUSER", user, "off")
                await client.execute_command("CLIENT", "KILL", "USER", user)

    async def _let_in(self, server: EmbeddedServer) -> None:
        """Let replicas and sentinels in again, who were refused or are unknown."""
        async with aredis.Redis.from_url(server.url) as client:
            for user in ("replica", "sentinel"):
                await client.execute_command(
                    *("ACL", "SETUSER", user, "on", f">{self._secret}"),
                    *("~*", "&*", "+@all"),
                )
            await client.config_set("masteruser", "replica")
            await client.config_set("masterauth", self._secret)
            # Sentinels that were refused stay on their connections for half a minute.
            for kind in ("normal", "pubsub"):
                await client.execute_command("CLIENT", "KILL", "TYPE", kind)
