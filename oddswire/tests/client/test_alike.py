"""Every kind of connection of a client shakes hands alike, and asks just once."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio as aredis

from oddswire import Client
from oddswire.events import Ready

pytestmark = [pytest.mark.requirement("C1"), pytest.mark.advanced]

RIGHTS = (
    *("~*", "&*", "-@all", "+get", "+set", "+blpop", "+ping", "+select"),
    *("+multi", "+exec", "+watch", "+unwatch", "+subscribe", "+unsubscribe"),
)


@pytest.fixture
async def admin(own):
    """Somebody else, who makes users and reads the ACL LOG."""
    async with aredis.Redis.from_url(own.url) as admin:
        await admin.execute_command("ACL", "SETUSER", "few", "on", ">p", *RIGHTS)
        yield admin


async def _use(client, admin):
    """Open every kind of connection, several of each, and lose them, three times."""
    for _ in range(3):
        await client.set("k", "v")
        await asyncio.gather(*(client.blpop("none", timeout=0.05) for _ in range(4)))
        async with client.pipeline() as pipe:
            await pipe.watch("k")
            pipe.multi()
            assert await pipe.set("k", 1).execute()
        raw = client.pubsub()
        await raw.subscribe("c")
        await raw.aclose()
        back = asyncio.get_running_loop().create_future()
        unsubscribe = client.events.subscribe(back.set_result, Ready)
        await admin.client_kill_filter(_type="normal", skipme=True)
        await back
        unsubscribe()


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("named", [{}, {"client_name": "bot"}], ids=["", "named"])
async def test_what_is_refused_is_asked_once(own, admin, protocol, named):
    """A user with few rights leaves at most one entry for each thing in the ACL LOG."""
    async with Client(
        host=own.host,
        port=own.port,
        username="few",
        password="p",
        protocol=protocol,
        db=1,
        **named,
    ) as client:
        await _use(client, admin)
        log = {each["object"]: each["count"] for each in await admin.acl_log()}
    # With HELLO the name needs no right of its own; the library sends no name of its
    # own, so that nothing has to be refused.
    allowed = {"info"} | ({"client|setname"} if named and protocol == 2 else set())
    assert set(log) <= allowed
    assert set(log.values()) <= {1}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("protocol", [2, 3])
async def test_the_same_is_told_on_every_connection(own, admin, protocol):
    """Name, user, database and the library's name are those of each connection."""
    options = {"client_name": "bot", "lib_name": "mine", "lib_version": "1.2"}
    async with Client(
        host=own.host,
        port=own.port,
        password=own.password,
        db=2,
        protocol=protocol,
        **options,
    ) as client:
        await client.ping()
        await client.blpop("none", timeout=0.01)
        raw = client.pubsub()
        await raw.subscribe("c")
        seen = [
            (each["name"], each["user"], each["db"], each["lib-name"], each["lib-ver"])
            for each in await admin.client_list()
            if each["name"] == "bot"
        ]
        await raw.aclose()
    assert len(seen) == 2  # the subscription has the connection that BLPOP gave back
    assert set(seen) == {("bot", "default", "2", "mine", "1.2")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_library_name_that_is_refused_is_asked_once(own, admin):
    """CLIENT SETINFO that the user may not run is asked on one connection."""
    async with Client(
        host=own.host, port=own.port, username="few", password="p", lib_name="mine"
    ) as client:
        await _use(client, admin)
        log = {each["object"]: each["count"] for each in await admin.acl_log()}
    assert log == {"info": 1, "client|setinfo": 1}
