"""A server that comes back with older data: what was invalidated stays so."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.cache import Cache
from oddswire.errors import OddswireError
from oddswire.testing import FaultProxy
from support import eventually

pytestmark = [pytest.mark.errors, pytest.mark.requirement("K2", "K4")]

AT_ONCE = ("--repl-diskless-sync-delay", "0")
RIGHTS = {
    "all": (),
    "without INFO": ("-info",),
    "without INFO and tracking": ("-info", "-client|tracking"),
}


@pytest.mark.parametrize("rights", RIGHTS)
@pytest.mark.parametrize("how", ["tag", "namespace", "key"])
async def test_what_was_invalidated_does_not_come_back_with_an_older_dump(how, rights):
    """Entries of a dump are from before what was acknowledged after it: none serves."""
    # In its configuration: rights that were set at run time end with the process.
    user = ("--user", "few", "on", ">pw", "+@all", "~*", "&*", *RIGHTS[rights])
    async with (
        EmbeddedServer(args=user) as server,
        Client.from_url(server.url) as admin,
    ):
        url = f"redis://few:pw@127.0.0.1:{server.port}"
        async with (
            Client.from_url(url, reconnect_delay=0.01) as client,
            Cache(client, prefix="x:", timeout=5.0) as cache,
        ):
            for number in range(5):
                await cache.set(f"m:{number}", number, tags=("t",))
                await cache.set(f"other:{number}", number)
            await admin.execute_command("SAVE")
            match how:
                case "tag":
                    await cache.invalidate_tags("t")
                case "namespace":
                    await cache.clear("m")
                case "key":
                    await cache.delete(*(f"m:{number}" for number in range(5)))
            server.kill()
            await server.wait_exit()
            await server.restart()
            await eventually(lambda: _answers(client))
            found = [await cache.get(f"m:{number}") for number in range(5)]
            assert found == [None] * 5
            # And the cache goes on: what is stored now is found.
            await cache.set("m:1", 7, tags=("t",))
            assert await cache.get("m:1") == 7


@pytest.mark.parametrize("rights", RIGHTS)
async def test_a_lost_connection_alone_empties_nothing(own, rights):
    """The same server process has the same data: a new connection finds it."""
    async with Client.from_url(own.url) as admin:
        await admin.execute_command(
            *("ACL", "SETUSER", "few", "on", ">pw", "+@all", "~*", "&*"),
            *RIGHTS[rights],
        )
        url = f"redis://few:pw@127.0.0.1:{own.port}"
        async with (
            Client.from_url(url) as client,
            Cache(client, prefix="x:", timeout=5.0) as cache,
        ):
            await cache.set("m:1", 1)
            await admin.client_kill_filter(skipme=True)
            await eventually(lambda: _answers(client))
            assert await cache.get("m:1") == 1
        async with (
            Client.from_url(url) as client,
            Cache(client, prefix="x:", timeout=5.0) as cache,
        ):
            assert await cache.get("m:1") == 1


async def _answers(client):
    with suppress(OddswireError):
        return await client.ping()


@pytest.mark.parametrize("rights", RIGHTS)
async def test_a_primary_that_was_one_before_brings_nothing_back(rights):
    """What was invalidated on the primary between, and is not on this one, stays so."""
    user = ("--user", "few", "on", ">pw", "+@all", "~*", "&*", *RIGHTS[rights])
    async with (
        EmbeddedServer(args=(*user, *AT_ONCE)) as first,
        EmbeddedServer(args=(*user, *AT_ONCE)) as second,
        FaultProxy(first.url) as proxy,
        Client.from_url(first.url) as one,
        Client.from_url(second.url) as two,
        Client.from_url(
            f"redis://few:pw@127.0.0.1:{proxy.port}", reconnect_delay=0.01
        ) as client,
        Cache(client, prefix="x:", timeout=2.0) as cache,
    ):

        async def follow(admin, server):
            await admin.config_set("masterauth", urlsplit(server.url).password)
            await admin.replicaof("127.0.0.1", server.port)

            async def linked():
                return (await admin.info("replication"))["master_link_status"] == "up"

            await eventually(linked)

        async def move(server):
            proxy.redirect("127.0.0.1", server.port)
            proxy.cut()
            await eventually(lambda: _answers(client))

        await cache.set("m:1", 1)
        await follow(two, first)
        await two.replicaof("NO", "ONE")
        await move(second)
        await cache.set("m:1", 2)
        await follow(one, second)
        # From here on the first one does not hear of the second.
        await one.replicaof("NO", "ONE")
        await cache.delete("m:1")
        await move(first)
        assert await cache.get("m:1") is None
