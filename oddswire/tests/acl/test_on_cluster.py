"""On a cluster each part needs what its entry says there: no less, and no more."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager

import pytest
from redis.crc import key_slot

from oddswire import Client, acl
from oddswire.cli._permissions import CommandTable, denied
from oddswire.embedded import EmbeddedCluster
from oddswire.errors import (
    CommandRejected,
    NoPermission,
    OddswireError,
    ScriptFailed,
)
from oddswire.health import Health
from oddswire.keys import CACHE, TOPIC_HEAD, KeySpace
from oddswire.pubsub import PubSub
from oddswire.testing.fixtures import on_its_own_thread
from support import eventually
from support.hooks import ask

from .uses import LIVE, USES

pytestmark = pytest.mark.requirement("X2", "C16")

PREFIX = "oddswire:"
READER = acl.Component(
    name="made-up", commands=("get", "incrby", "blpop"), families=(CACHE,)
)


@pytest.fixture(scope="module")
def cluster():
    """Two primaries, each with a replica; the tests leave the slots as they are."""
    with on_its_own_thread(lambda: EmbeddedCluster(2, 1)) as started:
        yield started


@pytest.fixture
def url(cluster):
    """The URL of the restricted user."""
    return cluster.cluster_url.replace(f":{cluster.password}@", "part:pw@")


async def _make_user(cluster, rules):
    """Give the user `part` these rights on each node, and nothing else."""
    for server in cluster.servers:
        await ask(server.url, "ACL", "SETUSER", "part", "reset", "on", ">pw", *rules)
        await ask(server.url, "ACL", "LOG", "RESET")
        await ask(server.url, "CONFIG", "RESETSTAT")
    for server in cluster.primaries:
        await ask(server.url, "FLUSHALL")
        await ask(server.url, "SCRIPT", "FLUSH")


async def _refused(cluster):
    """Return what the nodes refused to `part`."""
    logs = [await ask(server.url, "ACL", "LOG") for server in cluster.servers]
    return {entry["object"] for log in logs for entry in log}


async def _use_client(cluster, url, within):
    """Use a client of a cluster in each way that needs a right of its own."""
    key = _key()
    async with Client.from_url(url, client_name="part") as client:
        assert await client.incr(key) == 1
        with pytest.raises(CommandRejected, match="unknown command"):
            await client.execute_command("NOSUCHCOMMAND", key)
        replicas = client.reading_from("replica")

        async def is_read():
            assert await replicas.get(key) in (b"1", None)
            calls = [
                await ask(each.url, "INFO", "commandstats") for each in cluster.replicas
            ]
            return any("cmdstat_get:" in each for each in calls)

        await eventually(is_read, within)
        async with _on_its_way(cluster, key):
            assert await client.get(f"{key}:empty") is None
            assert await client.blpop(f"{key}:empty", 0.1) is None


@asynccontextmanager
async def _on_its_way(cluster, key):
    """Have the slot of a key on its way to the other primary, its keys not."""
    slot = key_slot(key.encode())
    source, target = cluster.primaries[:: 1 if slot < 8192 else -1]
    old, new = [await ask(each.url, "CLUSTER", "MYID") for each in (source, target)]
    await ask(target.url, "CLUSTER", "SETSLOT", slot, "IMPORTING", old)
    await ask(source.url, "CLUSTER", "SETSLOT", slot, "MIGRATING", new)
    try:
        yield
    finally:
        for server in cluster.primaries:
            await ask(server.url, "CLUSTER", "SETSLOT", slot, "STABLE")


def _key():
    """Return a key of the cache in a slot of the first primary."""
    keys = (KeySpace(PREFIX).key(CACHE, "n", f"{each}") for each in itertools.count())
    return next(each for each in keys if key_slot(each.encode()) < 8192)


async def _use(name, cluster, url, within=20.0):
    """Use a part there, and everything that only a cluster needs of it."""
    if name == "client":
        await _use_client(cluster, url, within)
    else:
        await USES[name](url, PREFIX)


def _parts(name):
    return [acl.component(name), *([READER] if name == "client" else [])]


@pytest.mark.integration
@pytest.mark.parametrize("name", USES)
async def test_a_part_works_on_a_cluster_with_its_entry_and_nothing_else(
    cluster, url, name
):
    """As a user with just these rights the part does all it does, refused nothing."""
    parts = _parts(name)
    rules = acl.rules(parts, PREFIX, revealing=True, cluster=True)
    await _make_user(cluster, rules)
    await _use(name, cluster, url)
    assert await _refused(cluster) == set(parts[0].administering)


@pytest.mark.integration
async def test_one_user_runs_every_part_on_a_cluster(cluster, url):
    """The line for all parts is enough for all of them, and doctor finds no lack."""
    rules = acl.rules([*acl.COMPONENTS, READER], PREFIX, revealing=True, cluster=True)
    await _make_user(cluster, rules)
    for name in USES:
        await _use(name, cluster, url)
    assert await _refused(cluster) == {"config|get"}
    async with Client.from_url(cluster.primaries[0].url) as admin:
        for part in acl.COMPONENTS:
            names = acl.commands([part], cluster=True)
            table = await CommandTable.of(admin, names)
            assert table.missing() == ()


# Refused these, a part goes on without, and says so at its place: primaries are read,
# the server says what is unknown, a channel stays subscribed, a check is unknown.
DONE_WITHOUT = {"readonly", "command|getkeys", "sunsubscribe", "cluster|info"}


@pytest.mark.errors
@pytest.mark.parametrize(
    ("name", "lacks"),
    [(part.name, each) for part in acl.COMPONENTS for each in part.cluster],
)
async def test_no_entry_of_a_cluster_has_more_than_its_part_sends(
    cluster, url, name, lacks
):
    """Without one command the part is refused it, and what fails names it."""
    parts = _parts(name)
    rules = acl.rules(parts, PREFIX, without=[lacks], revealing=True, cluster=True)
    await _make_user(cluster, rules)
    failed = None
    try:
        await _use(name, cluster, url, within=1.0)
    except (OddswireError, AssertionError) as error:
        failed = error
    assert lacks in await _refused(cluster)
    if lacks in DONE_WITHOUT:
        assert not isinstance(failed, OddswireError)
    else:
        assert isinstance(failed, NoPermission | ScriptFailed)
        assert f"'{lacks}'" in str(failed)
    # What doctor says of that user.
    async with Client.from_url(cluster.cluster_url) as admin:
        node = (await admin.primaries())[0]
        table = await CommandTable.of(node, acl.commands(parts, cluster=True))
        found = await denied(node, "part", parts[0], table, PREFIX)
    assert found
    assert all(lacks in each for each in found)


@pytest.mark.errors
async def test_health_on_a_cluster_names_the_right_that_it_lacks(cluster, url):
    """Without CLUSTER INFO the check is unknown and says what to type."""
    rules = acl.rules([acl.HEALTH], PREFIX, without=["cluster|info"], cluster=True)
    await _make_user(cluster, rules)
    async with Client.from_url(url) as client:
        check = (await Health(client).check())["cluster"]
    assert check.status == "unknown"
    assert "+cluster|info" in check.fix


@pytest.mark.errors
async def test_what_a_slot_on_its_way_needs_is_named(cluster, url):
    """A reader that may not ask for such a slot fails with the right that it lacks."""
    parts = [acl.PUBSUB]
    rules = acl.rules(parts, PREFIX, without=["asking"], cluster=True)
    await _make_user(cluster, rules)
    key = KeySpace(PREFIX).key(TOPIC_HEAD, LIVE.name, "")
    async with (
        _on_its_way(cluster, key),
        Client.from_url(url) as client,
        PubSub(client, prefix=PREFIX) as pubsub,
    ):
        with pytest.raises(NoPermission, match="'asking'"):
            async with pubsub.subscribe(LIVE):
                pass
