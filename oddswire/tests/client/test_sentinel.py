"""The primary changes: the client follows, and writes to nobody else."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
import redis.asyncio as aredis
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

from oddswire import Client, EmbeddedServer
from oddswire.client import _sentinel
from oddswire.client._sentinel import Named, Primary
from oddswire.embedded import EmbeddedSentinels
from oddswire.errors import (
    ConnectionLost,
    NoReplicas,
    ReadOnly,
    SettingsError,
    Unavailable,
)
from oddswire.events import (
    Connected,
    Connecting,
    DataReset,
    Disconnected,
    Failover,
    Ready,
    Reconnecting,
)
from oddswire.testing import FaultProxy
from support import eventually, failover
from support.hooks import answer_as_sentinels, sentinels_of


async def _port(client):
    """Return the port of the server that a client's commands reach."""
    return (await client.info("server"))["tcp_port"]


@asynccontextmanager
async def _client(group, **options):
    hosts = ",".join(f"{each.host}:{each.port}" for each in group.sentinels)
    async with Client.from_url(
        f"redis://:{group.password}@{group.name}/0",
        sentinels=hosts,
        sentinel_password=group.password,
        reconnect_delay=0.02,
        **options,
    ) as client:
        yield client


@pytest.mark.requirement("C12", "C8")
@pytest.mark.integration
@pytest.mark.parametrize("how", ["command", "kill", "freeze"])
async def test_client_follows_the_primary(how):
    """Once the new primary is announced, no acknowledged write is anywhere else."""
    async with (
        EmbeddedSentinels() as group,
        _client(group, command_timeout=1.0) as client,
    ):
        seen = []
        client.events.subscribe(seen.append)
        found = await failover.fail_over(group, lambda key: client.set(key, "v"), how)
        old, new = group.primary, group.replicas[0]
        moved = [event for event in seen if isinstance(event, Failover)]
        assert (moved[-1].old, moved[-1].new) == (
            f"{old.host}:{old.port}",
            f"{new.host}:{new.port}",
        )
        told = [type(event) for event in seen[seen.index(moved[-1]) - 2 :]]
        assert told[:5] == [Connecting, Connected, Failover, DataReset, Ready]
        assert found.lost_later == 0
        assert found.acknowledged > 200
        # The exclusive connections have moved too.
        await client.rpush("list", "x")
        assert await client.blpop("list", 1) == (b"list", b"x")


@pytest.mark.requirement("C12")
@pytest.mark.integration
async def test_min_replicas_to_write_keeps_what_was_acknowledged():
    """With the server's own safeguard a stopped primary acknowledges nothing alone."""
    safe = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
    async with (
        EmbeddedSentinels(replicas=2, args=safe) as group,
        _client(group, command_timeout=1.0) as client,
    ):
        found = await failover.fail_over(
            group, lambda key: client.set(key, "v"), "freeze"
        )
        assert found.lost_later == 0
        # Replication stays asynchronous: what had not left yet can be lost, no more.
        assert found.lost < 10, found
        assert found.failed


@pytest.mark.requirement("C12")
@pytest.mark.errors
async def test_a_demoted_primary_is_left_at_once(monkeypatch):
    """READONLY ends the connection; the write reaches the primary in its deadline."""
    never = asyncio.Event()
    monkeypatch.setattr(Primary, "watch", lambda self, moved: never.wait())
    async with EmbeddedSentinels() as group, _client(group) as client:
        await client.set("k", 1)
        await failover.switch(group, "command")
        # The old one becomes a replica a moment later, and says so.
        async with asyncio.timeout(10):
            while await _port(client) == group.primary.port:
                await client.set("k", 2)
        assert await client.set("k", 3)


@pytest.mark.requirement("C12")
@pytest.mark.errors
async def test_a_replica_named_as_the_primary_is_not_taken(monkeypatch):
    """Sentinels that are behind name a replica: it is left, they are asked again."""
    async with EmbeddedSentinels(sentinels=1) as group, _client(group) as client:
        replica, right = group.replicas[0], Primary.address
        asked = []

        async def behind(primary):
            asked.append(primary)
            if len(asked) < 3:
                return replica.host, replica.port
            return await right(primary)

        monkeypatch.setattr(Primary, "address", behind)
        assert await client.set("k", "v")
        assert len(asked) >= 3
        assert await _port(client) == group.primary.port
        assert client.stats().connects == 1


@pytest.mark.requirement("C12")
@pytest.mark.basic
async def test_redis_pys_sentinel_makes_our_client():
    """`Sentinel.master_for` with our class gives a client that asks the sentinels."""
    async with EmbeddedSentinels(sentinels=1) as group:
        manager = Sentinel(
            [(group.sentinels[0].host, group.sentinels[0].port)],
            sentinel_kwargs={"password": group.password},
            password=group.password,
        )
        async with manager.master_for(group.name, redis_class=Client) as client:
            assert await client.set("k", "v")
            assert (await client.role())[0] == b"master"
        for sentinel in manager.sentinels:
            await sentinel.aclose()


@pytest.mark.errors
async def test_what_redis_pys_sentinels_refuse_is_said():
    """Sentinels that refuse are named with their words, though redis-py asks again."""
    async with EmbeddedSentinels(replicas=0, sentinels=1) as group:
        manager = Sentinel(
            [(group.sentinels[0].host, group.sentinels[0].port)],
            sentinel_kwargs={"password": "wrong"},
            password=group.password,
        )
        async with manager.master_for(group.name, redis_class=Client) as client:
            with pytest.raises(Unavailable, match="invalid username-password"):
                await client.get("k")
        for sentinel in manager.sentinels:
            await sentinel.aclose()


@pytest.mark.errors
async def test_replicas_of_redis_pys_sentinel_are_read_as_the_error_says():
    """`slave_for` names the call that reads from replicas, and that call does."""
    async with EmbeddedSentinels(replicas=1, sentinels=1) as group:
        manager = Sentinel(
            [(group.sentinels[0].host, group.sentinels[0].port)],
            sentinel_kwargs={"password": group.password},
        )
        with pytest.raises(SettingsError, match=r"is_master=False\), transport='pool'"):
            manager.slave_for(group.name, redis_class=Client)
        pool = SentinelConnectionPool(
            group.name, manager, is_master=False, password=group.password
        )
        async with Client(connection_pool=pool, transport="pool") as client:
            assert (await client.role())[0] == b"slave"
        await pool.disconnect()
        for sentinel in manager.sentinels:
            await sentinel.aclose()


@pytest.mark.errors
async def test_nobody_knows_the_name():
    """An unknown name and sentinels that are away are typed, with what to look at."""
    async with EmbeddedSentinels(replicas=0, sentinels=1) as group:
        hosts = f"{group.sentinels[0].host}:{group.sentinels[0].port}"
        async with Client.from_url(
            f"redis://:{group.password}@nobody/0",
            sentinels=hosts,
            sentinel_password=group.password,
            command_timeout=0.5,
        ) as client:
            with pytest.raises(Unavailable, match="name no primary 'nobody'"):
                await client.get("k")


@pytest.mark.requirement("C1", "C12")
@pytest.mark.advanced
async def test_sentinels_and_primary_have_users_of_their_own():
    """Sentinels whose default user is off are asked as the user of the settings."""
    async with EmbeddedSentinels(replicas=0, sentinels=1) as group:
        async with aredis.Redis.from_url(group.primary.url) as admin:
            await admin.execute_command(
                *("ACL", "SETUSER", "bot", "on", ">bp", "~*", "&*", "+@all")
            )
        sentinel = group.sentinels[0]
        async with aredis.Redis.from_url(sentinel.url) as admin:
            for words in (("su", "on", ">sp", "&*", "+@all"), ("default", "off")):
                await admin.execute_command("ACL", "SETUSER", *words)
        async with Client.from_url(
            f"redis://bot:bp@{group.name}/0",
            sentinels=f"{sentinel.host}:{sentinel.port}",
            sentinel_username="su",
            sentinel_password="sp",
        ) as client:
            assert await client.set("k", "v")
            assert await client.execute_command("ACL WHOAMI") in {"bot", b"bot"}
            assert await client.blpop("none", timeout=0.01) is None


@pytest.mark.errors
async def test_replica_on_purpose_stays_connected():
    """A write to a replica that the URL names is refused; the connection stays."""
    async with (
        EmbeddedSentinels(sentinels=1) as group,
        Client.from_url(group.replicas[0].url) as client,
    ):
        await client.ping()
        with pytest.raises(ReadOnly):
            await client.set("k", "v")
        assert client.stats().connects == 1


@pytest.mark.errors
@pytest.mark.parametrize("sentinels", ["", "a:b", "a:1;b:2", "a:1,,b:2"])
def test_malformed_sentinels_are_refused(sentinels):
    """What is no list of addresses is refused with the form of one."""
    with pytest.raises(SettingsError, match="host:port of each sentinel"):
        Client.from_url("redis://name/0", sentinels=sentinels)


@pytest.fixture
async def demoted():
    """A client of a primary that has just been made a replica of another."""
    async with (
        EmbeddedSentinels(sentinels=1) as group,
        Client.from_url(group.primary.url) as client,
        Client.from_url(group.primary.url) as admin,
    ):
        await client.ping()
        replica = group.replicas[0]
        await admin.replicaof(replica.host, replica.port)
        yield client


@pytest.mark.errors
async def test_refusals_of_a_demoted_primary_stay_refusals(demoted):
    """Of many writes that were all refused none ends as unknown."""
    failures = await asyncio.gather(
        *(demoted.incr("n") for _ in range(200)), return_exceptions=True
    )
    assert {type(failure) for failure in failures} == {ReadOnly}


@pytest.mark.errors
async def test_a_pipeline_leaves_a_demoted_primary_too(demoted):
    """A client that sends nothing but pipelines does not stay on a replica."""
    with pytest.raises(ReadOnly):
        await demoted.pipeline(transaction=False).set("k", 1).execute()
    await demoted.ping()
    assert demoted.stats().connects == 2


@pytest.mark.errors
async def test_a_script_that_was_refused_half_way_is_not_repeated(demoted):
    """A script that told somebody before its write was refused tells once."""
    script = "redis.call('PUBLISH', 'told', 1); redis.call('SET', KEYS[1], 1)"
    async with demoted.pubsub() as pubsub:
        await pubsub.subscribe("told")
        assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
        with pytest.raises(ReadOnly):
            await demoted.eval(script, 1, "k")
        await demoted.publish("told", "end")
        told = [(await pubsub.get_message(timeout=5))["data"] for _ in range(2)]
    assert told == [b"1", b"end"]


@pytest.mark.errors
async def test_asking_at_the_same_time_loses_no_sentinel():
    """With the first sentinel away, several who ask at once still know all of them."""
    async with EmbeddedSentinels(replicas=0) as group, _client(group) as client:
        primary = client.connection_pool.primary
        addresses = {
            each.connection_pool.connection_kwargs["port"]
            for each in sentinels_of(client)
        }
        first = sentinels_of(client)[0].connection_pool.connection_kwargs["port"]
        away = next(each for each in group.sentinels if each.port == first)
        away.kill(signal.SIGKILL)
        await away.wait_exit()
        await asyncio.gather(*(primary.address() for _ in range(5)))
        left = [
            each.connection_pool.connection_kwargs["port"]
            for each in sentinels_of(client)
        ]
        assert sorted(left) == sorted(addresses)


@pytest.mark.errors
@pytest.mark.parametrize("tls", [True, False])
def test_tls_goes_to_the_sentinels_and_the_primary(tls):
    """Asked for TLS, however it was said, no password leaves in plaintext."""
    scheme = "rediss" if tls else "redis"
    by_url = Client.from_url(f"{scheme}://:x@mymaster/0", sentinels="h1,h2:1")
    by_argument = Client(host="mymaster", password="x", ssl=tls, sentinels="h1,h2:1")
    for client in (by_url, by_argument):
        pool = client.connection_pool
        assert issubclass(pool.connection_class, SSLConnection) is tls
        for sentinel in sentinels_of(client):
            kind = sentinel.connection_pool.connection_class
            assert issubclass(kind, SSLConnection) is tls


@pytest.fixture
def announced(monkeypatch):
    """Where followers wait for an announcement, and the address that sentinels give."""
    announce, here = [], []

    async def watch(primary, moved):
        announce.append(moved)
        await asyncio.Event().wait()

    async def address(primary):
        return here[0]

    monkeypatch.setattr(Primary, "watch", watch)
    monkeypatch.setattr(Primary, "address", address)
    return announce, here


@pytest.mark.requirement("C12")
@pytest.mark.errors
async def test_blocked_callers_move_though_the_command_connection_did_first(announced):
    """The command connection was replaced before the announcement: others follow."""
    announce, here = announced
    async with (
        EmbeddedServer(password="same") as old,
        EmbeddedServer(password="same") as new,
        Client.from_url(
            "redis://:same@mymaster/0", sentinels="127.0.0.1:1", reconnect_delay=0.01
        ) as client,
    ):
        here[:] = [(old.host, old.port)]
        await client.ping()
        await client.blpop("list", 0.01)
        announce[0](here[0])
        blocked = asyncio.get_running_loop().create_task(client.blpop("list", 0))
        async with Client.from_url(old.url) as admin, asyncio.timeout(5):
            while not (await admin.info("clients"))["blocked_clients"]:
                pass
            back = asyncio.Event()
            client.events.subscribe(lambda _: back.set(), Ready)
            here[:] = [(new.host, new.port)]
            await admin.client_kill_filter(_id=await client.client_id())
            await back.wait()
        assert await _port(client) == new.port
        assert not blocked.done()
        announce[0](here[0])
        with pytest.raises(ConnectionLost):
            async with asyncio.timeout(5):
                await blocked
        await client.rpush("list", "x")
        assert await client.blpop("list", 1) == (b"list", b"x")


@pytest.mark.requirement("C12")
@pytest.mark.errors
async def test_a_connection_that_is_opening_moves_at_the_announcement(announced):
    """Announced while it opens to the old primary, the new one has the caller."""
    announce, here = announced
    async with (
        EmbeddedServer(password="same") as old,
        EmbeddedServer(password="same") as new,
        FaultProxy(old.url) as link,
        Client.from_url(
            "redis://:same@mymaster/0", sentinels="127.0.0.1:1", connect_timeout=20.0
        ) as client,
    ):
        here[:] = [(link.host, link.port)]
        await client.ping()
        announce[0](here[0])
        link.stall()
        blocked = asyncio.get_running_loop().create_task(client.blpop("list", 0))
        await eventually(lambda: link.accepted == 2)
        here[:] = [(new.host, new.port)]
        announce[0](here[0])
        assert await _port(client) == new.port
        link.accept()
        await client.rpush("list", "x")
        async with asyncio.timeout(10):
            assert await blocked == (b"list", b"x")


@pytest.mark.requirement("C12", "C3")
@pytest.mark.errors
@pytest.mark.parametrize("lost", [True, False])
async def test_an_announcement_is_followed_without_a_pause(announced, lost):
    """Attempts that failed elsewhere do not hold up the connection to a new primary."""
    announce, here = announced
    async with (
        EmbeddedServer(password="same") as old,
        EmbeddedServer(password="same") as new,
        Client.from_url(
            "redis://:same@mymaster/0",
            sentinels="127.0.0.1:1",
            reconnect_delay=60.0,
            reconnect_cap=60.0,
        ) as client,
    ):
        here[:] = [(old.host, old.port)]
        await client.ping()
        announce[0](here[0])
        ready = []
        client.events.subscribe(ready.append, Ready)
        if lost:
            pausing = []
            client.events.subscribe(pausing.append, Reconnecting)
            old.kill()
            await eventually(lambda: pausing and pausing[-1].delay > 20.0)
        here[:] = [(new.host, new.port)]
        announce[0](here[0])
        await eventually(lambda: ready)
        assert (await client.info("server"))["tcp_port"] == new.port
        if lost:
            return
        # Back at once, and again: each move counts as one, and not as a loss.
        for server in (old, new, old):
            here[:] = [(server.host, server.port)]
            del ready[:]
            announce[0](here[0])
            await eventually(lambda: ready)


@pytest.mark.requirement("C12")
@pytest.mark.errors
async def test_who_calls_while_a_watch_ends_is_told_of_announcements(monkeypatch):
    """The pool is disconnected and used again at once: somebody watches for it."""
    watches, ended, here = [], asyncio.Event(), []

    async def watch(primary, moved):
        watches.append(moved)
        try:
            await asyncio.Event().wait()
        finally:
            while not ended.is_set():  # as redis-py may swallow a cancellation
                with suppress(asyncio.CancelledError):
                    await ended.wait()

    async def address(primary):
        return here[0]

    monkeypatch.setattr(Primary, "watch", watch)
    monkeypatch.setattr(Primary, "address", address)
    manager = Sentinel([("127.0.0.1", 1)], password="same")
    pool = SentinelConnectionPool("mymaster", manager, password="same")
    async with (
        EmbeddedServer(password="same") as server,
        Client(connection_pool=pool) as client,
    ):
        here[:] = [(server.host, server.port)]
        await client.ping()
        await eventually(lambda: watches)
        lost = asyncio.Event()
        client.events.subscribe(lambda _: lost.set(), Disconnected)
        leaving = asyncio.get_running_loop().create_task(pool.disconnect())
        await lost.wait()
        await client.ping()
        ended.set()
        await leaving
        await eventually(lambda: len(watches) == 2)
    await pool.disconnect()
    await manager.sentinels[0].aclose()


@asynccontextmanager
async def _watched(servers, monkeypatch):
    """The questions that a watch of these sentinels asks."""
    monkeypatch.setattr(_sentinel, "_ASK_AGAIN", 1000.0)
    monkeypatch.setattr(_sentinel, "_ASK_AT_MOST", 0.0)
    asked = []

    async def address(primary):
        asked.append(primary)
        return "host", 1

    monkeypatch.setattr(Primary, "address", address)
    async with AsyncExitStack() as stack:
        sentinels = [
            await stack.enter_async_context(aredis.Redis.from_url(server.url))
            for server in servers
        ]
        primary = Primary(SimpleNamespace(sentinels=sentinels), "mymaster")
        token = primary.follow(lambda _: None)
        for sentinel in sentinels:
            await eventually(lambda each=sentinel: _subscribed(each))
        await eventually(lambda: asked)
        yield primary, sentinels, asked
        primary.unfollow(token)
        await primary.rest()


async def _subscribed(sentinel):
    return dict(await sentinel.pubsub_numsub("+switch-master"))[b"+switch-master"]


@pytest.mark.requirement("C12")
@pytest.mark.errors
async def test_an_announcement_of_any_sentinel_is_heard(monkeypatch):
    """Each sentinel is listened to, for the new primary and for a promotion."""
    async with (
        EmbeddedServer() as first,
        EmbeddedServer() as second,
        _watched([first, second], monkeypatch) as (_, sentinels, asked),
    ):
        for sentinel in sentinels:
            for channel, text in (
                ("+switch-master", "mymaster a 1 b 2"),
                ("+promoted-slave", "slave b:2 b 2 @ mymaster a 1"),
            ):
                before = len(asked)
                assert await sentinel.publish(channel, text) == 1
                await eventually(lambda before=before: len(asked) > before)


@pytest.mark.requirement("C12")
@pytest.mark.errors
async def test_whatever_a_sentinel_says_the_watch_goes_on(monkeypatch):
    """Foreign names, missing words and bytes that are no text: the next one counts."""
    async with (
        EmbeddedServer() as server,
        _watched([server], monkeypatch) as (_, [sentinel], asked),
    ):
        before = len(asked)
        for message in ("", "other a 1 b 2", b"\xff\xff 1 b port", "\u00b2 mymaster1"):
            assert await sentinel.publish("+switch-master", message) == 1
        assert await sentinel.publish("+switch-master", "mymaster right 7000") == 1
        await eventually(lambda: len(asked) > before)


@pytest.mark.requirement("C12")
@pytest.mark.errors
async def test_a_sentinel_that_is_lost_is_subscribed_to_again(monkeypatch):
    """After its connection was cut the next announcement is heard."""
    async with (
        EmbeddedServer() as server,
        _watched([server], monkeypatch) as (_, [sentinel], asked),
    ):
        before = len(asked)
        await sentinel.client_kill_filter(_type="pubsub")
        await eventually(lambda: len(asked) > before)  # asked, for what it missed
        before = len(asked)
        await sentinel.publish("+switch-master", "mymaster a 1 b 2")
        await eventually(lambda: len(asked) > before)


@pytest.mark.requirement("C12")
@pytest.mark.errors
async def test_a_refused_write_asks_the_sentinels_at_once(monkeypatch):
    """NOREPLICAS may come from a primary that was deposed: nobody waits for 5 s."""
    monkeypatch.setattr(_sentinel, "_ASK_AGAIN", 1000.0)
    async with (
        EmbeddedSentinels(replicas=0, sentinels=1) as group,
        _client(group) as client,
        Client.from_url(group.primary.url) as admin,
    ):
        await client.set("k", 1)
        asked, right = [], Primary.address

        async def address(primary):
            asked.append(primary)
            return await right(primary)

        monkeypatch.setattr(Primary, "address", address)
        await admin.config_set("min-replicas-to-write", 1)

        async def refused():
            with pytest.raises(NoReplicas):
                await client.set("k", 2)
            return asked

        await eventually(refused, pause=0.1)
        del asked[:]

        async def batch_refused():
            async with client.pipeline(transaction=False) as pipe:
                pipe.set("k", 2)
                with pytest.raises(NoReplicas):
                    await pipe.execute()
            return asked

        await eventually(batch_refused, pause=0.1)


@pytest.mark.requirement("C12")
@pytest.mark.errors
@given(
    known=st.none() | st.integers(0, 4),
    answers=st.lists(st.none() | st.integers(0, 4), min_size=1, max_size=5),
)
async def test_a_sentinel_that_is_behind_is_outvoted(known, answers):
    """The newest epoch counts; an older one only when a majority knows no newer one."""
    primary = Primary(SimpleNamespace(sentinels=answers), "mymaster")

    async def ask(epoch):
        if epoch is None:
            raise Unavailable("away")
        return Named(epoch, (f"h{epoch}", 1))

    last = None if known is None else Named(known, (f"h{known}", 1))
    answer_as_sentinels(primary, last, ask)
    epochs = [epoch for epoch in answers if epoch is not None]
    if not epochs:
        with pytest.raises(Unavailable, match="name no primary 'mymaster'"):
            await primary.address()
        return
    found = int((await primary.address())[0][1:])
    majority = len(answers) // 2 + 1
    if known is None:
        known = -1
    assert found in {*epochs, known}
    if len(epochs) < majority:
        assert found == max(known, *epochs)
    elif max(epochs) < known:
        assert found == max(epochs)  # they were set up again
    else:
        assert found >= known
        # A majority was asked, and the newest of those counts.
        assert sum(epoch <= found for epoch in epochs) >= majority


@pytest.mark.requirement("C12")
@pytest.mark.integration
async def test_every_connection_moves_at_the_announcement():
    """Command, tracking and blocked connections leave the old primary together."""
    safe = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
    async with (
        EmbeddedSentinels(replicas=2, args=safe) as group,
        _client(group) as client,
    ):
        moved = set()
        client.events.subscribe(lambda event: moved.add(event.connection), Failover)
        tracked = client.tracked(lambda _: None)
        await client.set("k", 1)
        await tracked.get("k")
        loop = asyncio.get_running_loop()
        blocked = loop.create_task(client.blpop("list", 0))
        await eventually(lambda: _blocked(client))
        await failover.switch(group, "command")
        with pytest.raises(ConnectionLost):
            await blocked
        await eventually(lambda: moved == {"command", "tracked"})

        async def written():
            try:
                return await client.set("k", 2)
            except NoReplicas:  # the new primary waits for the other replica
                return False

        await eventually(written)
        await tracked.aclose()


async def _blocked(client):
    return (await client.info("clients"))["blocked_clients"]
