"""The fixtures that the tests of both distributions share."""

from __future__ import annotations

import shutil

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.embedded.server import free_port
from support.waiting import eventually


@pytest.fixture(scope="session")
def program(request):
    """The server's program; None: the one that comes along."""
    name = getattr(request, "param", None)
    return None if name is None else shutil.which(name)


@pytest.fixture
def unused_tcp_port():
    """A port that nobody listens on.

    The plugin's comes from the range of outgoing connections: a test beside this one
    may get the same before it is used.
    """
    return free_port()


@pytest.fixture
async def own(program):
    """A server of the test's own, to flush, count, configure or kill."""
    async with EmbeddedServer(binary=program) as server:
        yield server


@pytest.fixture
async def client(server):
    """A client of the server that the whole run shares."""
    async with Client.from_url(server.url) as client:
        yield client


class Pair:
    """A primary with one replica, where the primary writes only with its replica."""

    def __init__(self, primary, replica):
        self.primary = primary
        self.replica = replica

    async def depose(self):
        """Promote the replica; nobody says so to the primary, which refuses writes."""
        async with Client.from_url(self.replica.url) as admin:
            await admin.replicaof("NO", "ONE")
        async with Client.from_url(self.primary.url) as admin:
            await eventually(lambda: _replicas(admin), holds=lambda count: count == 0)

    async def restore(self):
        """Make it a replica again: the primary acknowledges writes."""
        async with Client.from_url(self.replica.url) as admin:
            await admin.replicaof(self.primary.host, self.primary.port)
        async with Client.from_url(self.primary.url) as admin:
            await eventually(lambda: _replicas(admin))


async def _replicas(client):
    return (await client.info("replication"))["min_slaves_good_slaves"]


@pytest.fixture
async def pair(program):
    """A primary that can be deposed, with min-replicas-to-write as the docs advise."""
    safe = (
        *("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2"),
        *("--repl-diskless-sync-delay", "0"),
    )
    async with EmbeddedServer(binary=program, args=safe) as primary:
        address = (primary.host, str(primary.port))
        async with EmbeddedServer(
            binary=program,
            password=primary.password,
            args=(*safe, "--replicaof", *address, "--masterauth", primary.password),
        ) as replica:
            made = Pair(primary, replica)
            async with Client.from_url(primary.url) as admin:
                await admin.config_set("masterauth", primary.password)
                await eventually(lambda: _replicas(admin))
            yield made
