"""A primary with a replica, and the moment when they change places."""

from __future__ import annotations

from contextlib import asynccontextmanager

import redis.asyncio as aredis

from oddswire import EmbeddedServer
from oddswire.testing import FaultProxy
from support.waiting import eventually


class Pair:
    """Two servers; clients reach the one behind `name`."""

    def __init__(self, primary, replica, name):
        self.primary = primary
        self.replica = replica
        self.name = name

    async def follow(self):
        """Have the replica follow the primary, and wait until it does."""
        async with aredis.Redis.from_url(self.replica.url) as admin:
            await admin.config_set("masterauth", self.primary.password)
            await admin.replicaof("127.0.0.1", self.primary.port)

            async def linked():
                info = await admin.info("replication")
                return info["master_link_status"] == "up"

            await eventually(linked)

    async def demote(self):
        """Have the primary follow the other; no client is told or cut.

        What was written before is at the other one by then.
        """
        async with (
            aredis.Redis.from_url(self.primary.url) as old,
            aredis.Redis.from_url(self.replica.url) as admin,
        ):
            written = (await old.info("replication"))["master_repl_offset"]

            async def copied():
                info = await admin.info("replication")
                return info["slave_repl_offset"] >= written

            await eventually(copied)
            await admin.replicaof("NO", "ONE")
        async with aredis.Redis.from_url(self.primary.url) as admin:
            await admin.config_set("masterauth", self.replica.password)
            await admin.replicaof("127.0.0.1", self.replica.port)

    def move(self):
        """Have the name lead to the other; open connections stay where they are."""
        self.name.redirect(self.replica.host, self.replica.port)


@asynccontextmanager
async def pair(program=None):
    """Yield a `Pair` whose replica is in step."""
    # The server waits five seconds for further replicas otherwise.
    options = {
        "binary": program,
        "password": "secret",
        "args": ("--repl-diskless-sync-delay", "0"),
    }
    async with (
        EmbeddedServer(**options) as primary,
        EmbeddedServer(**options) as replica,
        FaultProxy(primary.url) as name,
    ):
        found = Pair(primary, replica, name)
        await found.follow()
        yield found
