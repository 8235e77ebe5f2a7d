"""A hosted Redis: counted commands, few connections, few rights, and it sleeps."""

from __future__ import annotations

import asyncio
import logging
import signal
from time import monotonic

import pytest
import redis.asyncio as aredis
from redis.maint_notifications import MaintNotificationsConfig

from oddswire import Client, EmbeddedServer, connect
from oddswire.errors import (
    CircuitOpen,
    NoPermission,
    Outcome,
    SettingsError,
    Unavailable,
)
from oddswire.events import (
    CircuitClosed,
    CircuitOpened,
    Connected,
    Connecting,
    Disconnected,
    Ready,
    Reconnecting,
)
from oddswire.health import Status
from oddswire.pubsub import Topic
from oddswire.settings import Settings
from oddswire.testing import FaultProxy
from support import eventually

# --- commands


async def _commands(admin):
    """Return how often the server ran each command, without the asking itself."""
    stats = await admin.info("commandstats")
    return {name: each["calls"] for name, each in stats.items() if "info" not in name}


@pytest.mark.requirement("C14")
@pytest.mark.performance
async def test_an_idle_wire_sends_at_most_four_commands_a_minute(own):
    """Nothing is read and nobody subscribed: at the server 4 a minute are counted.

    The heartbeat is the one thing that recurs, so it goes 120 times as fast and 1.5 s
    stand for three minutes; what does not follow the heartbeat would be counted 120
    times too seldom, so that anything else at all is a failure.
    """
    faster = 120
    async with aredis.Redis.from_url(own.url) as admin:
        usual = Settings().heartbeat
        async with connect(url=own.url, heartbeat=usual / faster) as wire:
            before, began = await _commands(admin), monotonic()
            await asyncio.sleep(3 * 60 / faster)

            async def some():
                found = await _commands(admin)
                return found["cmdstat_ping"] >= before.get("cmdstat_ping", 0) + 3 and (
                    found
                )

            after = await eventually(some)
            minutes = (monotonic() - began) * faster / 60
            assert wire.client.stats().connects == 1
    sent = {
        name: calls - before.get(name, 0)
        for name, calls in after.items()
        if calls != before.get(name, 0)
    }

    assert set(sent) == {"cmdstat_ping"}, sent
    assert sent["cmdstat_ping"] <= 4 * minutes, sent


# --- rights

# What an application needs, and nothing that a provider keeps for itself.
_LEAST = (
    "on >secret resetchannels -@all ~app:* "
    "+hello +auth +ping +select +get +set +del +incrby +incr +mget +rpush +lpop +blpop "
    "+watch +unwatch +multi +exec +discard +evalsha +eval +script|load"
)


@pytest.mark.requirement("C14", "C1")
@pytest.mark.integration
async def test_everything_but_the_management_works_without_rights_to_it(own, caplog):
    """CONFIG, INFO, CLIENT and the like are forbidden: nothing of ours needs them."""
    caplog.set_level(logging.DEBUG, logger="oddswire")
    async with aredis.Redis.from_url(own.url, decode_responses=True) as admin:
        await admin.execute_command("ACL", "SETUSER", "app", *_LEAST.split())
        url = f"redis://app:secret@{own.host}:{own.port}"
        async with Client.from_url(url) as client:
            assert await client.set("app:k", "v", ex=60)
            assert await client.get("app:k") == b"v"
            pipe = client.pipeline()
            assert await pipe.incr("app:n").get("app:k").execute() == [1, b"v"]
            async with client.pipeline() as pipe:
                await pipe.watch("app:n")
                pipe.multi()
                assert await pipe.incr("app:n").execute() == [2]
            await client.rpush("app:list", "x")
            assert await client.blpop("app:list", 1) == (b"app:list", b"x")
            assert await client.eval("return ARGV[1]", 1, "app:k", "a") == b"a"
            for forbidden in (
                client.config_get("maxmemory"),
                client.execute_command("INFO"),
                client.client_list(),
                client.flushall(),
                client.get("other"),
            ):
                with pytest.raises(NoPermission) as refused:
                    await forbidden
                assert refused.value.outcome is Outcome.REJECTED
            # One that the server has to refuse is no reason to give the connection up.
            assert client.stats().connects == 1
            assert client.stats().failures == {"NoPermission": 5}
            assert await client.bounded(1.0).get("app:k") == b"v"

    said = [each.getMessage() for each in caplog.records if each.levelname != "INFO"]
    assert said == []


@pytest.mark.requirement("C14")
@pytest.mark.errors
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_user_without_ping_is_refused_it_once(own, protocol):
    """Idle for long and connected again, one entry is in ACL LOG; silence is found."""
    async with aredis.Redis.from_url(own.url, decode_responses=True) as admin:
        rules = "reset on >secret ~* -@all +get +blpop"
        await admin.execute_command("ACL", "SETUSER", "app", *rules.split())
        async with Client.from_url(
            f"redis://app:secret@{own.host}:{own.port}",
            heartbeat=0.1,
            heartbeat_answer=0.5,
            protocol=protocol,
        ) as client:
            for connects in (1, 2, 3):
                await client.get("k")
                await client.blpop("none", 0.3)  # meanwhile the other one is idle
                await admin.client_kill_filter(_type="normal", skipme=True)
                await eventually(lambda: client.stats().connects, holds=connects.__lt__)
            await client.blpop("none", 0.3)
            noted = {each["object"]: each["count"] for each in await admin.acl_log()}
            assert noted == {"info": 1, "ping": 1}
            lost = asyncio.Event()
            client.events.subscribe(lambda _: lost.set(), Disconnected)
            own.kill(signal.SIGSTOP)
            try:
                async with asyncio.timeout(10):
                    await lost.wait()
            finally:
                own.kill(signal.SIGCONT)


@pytest.mark.errors
async def test_a_refused_ping_is_known_to_the_other_connections(own):
    """One connection was refused PING: another that is open already does not ask."""
    async with aredis.Redis.from_url(own.url, decode_responses=True) as admin:
        rules = "reset on >secret ~* -@all +get +client"
        await admin.execute_command("ACL", "SETUSER", "app", *rules.split())
        url = f"redis://app:secret@{own.host}:{own.port}"
        async with Client.from_url(url, heartbeat=2.0) as client:
            await client.get("k")
            await asyncio.sleep(1.0)  # so that the two are never due at once
            tracked = client.tracked(lambda _: None)
            await tracked.get("k")

            async def noted():
                log = await admin.acl_log()
                return {each["object"]: each["count"] for each in log}.get("ping")

            await eventually(noted)
            await asyncio.sleep(2.5)
            assert await noted() == 1
            await tracked.aclose()


# What providers leave to their customers, and a server that forbids to track.
_CUSTOMER = "on >secret ~* &* +@all -@admin -@dangerous -client|tracking"


@pytest.mark.requirement("C14")
@pytest.mark.integration
async def test_a_whole_wire_works_where_config_and_tracking_are_forbidden(own):
    """Sessions, cache, topics, limits, queue and locks do without management."""
    topic = Topic("prices", int)
    async with aredis.Redis.from_url(own.url, decode_responses=True) as admin:
        await admin.execute_command("ACL", "SETUSER", "app", *_CUSTOMER.split())
        url = f"redis://app:secret@{own.host}:{own.port}"
        async with connect(url=url, queue=int, topics=[topic]) as wire:
            for forbidden in (wire.client.config_get("maxmemory"), wire.client.info()):
                with pytest.raises(NoPermission):
                    await forbidden
            await wire.sessions.update(
                7, lambda session: session.metadata.update(a="b"), create=True
            )
            assert (await wire.sessions.get(7)).metadata == {"a": "b"}
            assert await wire.cache.get_or_set("plain:k", lambda: 5) == 5
            assert await wire.cache.get("plain:k") == 5
            async with wire.pubsub.subscribe(topic) as events:
                await wire.pubsub.publish(topic, 3)
                assert (await anext(aiter(events))).value == 3
            assert (await wire.limiter.hit("default", user=1)).allowed
            await wire.queue.enqueue(1, 2)
            async with wire.lock("settle", 5.0) as lock:
                assert lock.fence > 0
            assert (await wire.health.check()).status is Status.WARN


@pytest.mark.requirement("C14")
@pytest.mark.errors
async def test_a_forbidden_question_is_asked_once(own):
    """Who may not ask INFO is refused once, however often it connects."""
    async with aredis.Redis.from_url(own.url, decode_responses=True) as admin:
        await admin.execute_command("ACL", "SETUSER", "app", *_LEAST.split())
        async with Client(
            host=own.host, port=own.port, username="app", password="secret"
        ) as client:
            for connects in range(1, 5):
                await client.ping()
                assert client.stats().connects == connects
                lost = asyncio.Event()
                end = client.events.subscribe(lambda _, lost=lost: lost.set(), Ready)
                await admin.client_kill_filter(skipme=True, user="app")
                async with asyncio.timeout(5):
                    await lost.wait()
                end()
        log = await admin.acl_log()

    assert [(each["object"], each["count"]) for each in log] == [("info", 1)]


@pytest.mark.requirement("C7", "C14")
@pytest.mark.errors
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_what_the_acl_forbids_names_the_command_and_the_user(own, transport):
    """NOPERM says who may not do what, was rejected, and costs no connection."""
    async with aredis.Redis.from_url(own.url) as admin:
        await admin.execute_command("ACL", "SETUSER", "app", *_LEAST.split())
    async with Client(
        host=own.host,
        port=own.port,
        username="app",
        password="secret",
        transport=transport,
    ) as client:
        errors = [
            await _refusal(client.flushall()),
            await _refusal(client.config_get("*")),
            await _refusal(client.get("other")),
            await _refusal(client.brpop("app:l", 1)),
            await _refusal(client.pipeline().lpush("app:l", 1).execute()),
            *await client.pipeline(transaction=False)
            .get("other")
            .execute(raise_on_error=False),
        ]
        async with client.pipeline() as pipe:
            errors.append(await _refusal(pipe.watch("other")))
        names = [
            "FLUSHALL:",
            "CONFIG GET:",
            "GET:",
            "BRPOP:",
            "LPUSH ",
            "GET:",
            "WATCH:",
        ]
        for name, error in zip(names, errors, strict=True):
            assert name in str(error)
            assert "(user 'app')" in str(error)
            assert error.outcome is Outcome.REJECTED
        assert await client.set("app:k", 1)


@pytest.mark.requirement("C14", "C7")
@pytest.mark.errors
async def test_where_tracking_is_forbidden_the_cache_is_told_and_the_client_works(own):
    """A connection that may not track is refused in one attempt, with the reason."""
    async with aredis.Redis.from_url(own.url) as admin:
        await admin.execute_command("ACL", "SETUSER", "app", *_LEAST.split())

        async def seen():
            return (await admin.info("stats"))["total_connections_received"]

        async with Client(
            host=own.host, port=own.port, username="app", password="secret"
        ) as client:
            await client.ping()
            before = await seen()
            tracked = client.tracked(lambda _: None)
            for _ in range(5):
                with pytest.raises(Unavailable, match="CLIENT TRACKING ON") as refused:
                    await tracked.get("app:k")
                assert refused.value.outcome is Outcome.REJECTED
            assert await seen() - before == 1
            await tracked.aclose()
            assert await client.get("app:k") is None
            assert client.stats().connects == 1


async def _refusal(call):
    with pytest.raises(NoPermission) as refused:
        await call
    return refused.value


# --- connections


@pytest.mark.requirement("C14")
@pytest.mark.integration
async def test_two_wires_keep_within_twenty_connections():
    """Under any load a `Wire` has at most `pool_max` connections, 10 by default."""
    async with (
        EmbeddedServer(args=("--maxclients", "20")) as server,
        connect(url=server.url) as one,
        connect(url=server.url) as other,
    ):
        stopped = False

        async def work(client, number):
            number = (id(client), number)
            while not stopped:
                await client.set(f"k{number}", 1)
                await client.blpop(f"none{number}", 0.01)
                async with client.pipeline() as pipe:
                    await pipe.watch(f"k{number}")
                    pipe.multi()
                    await pipe.incr(f"n{number}").execute()

        most = 0
        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(work(one.client, number))
                group.create_task(work(other.client, number))
            for _ in range(40):
                seen = await one.client.info("clients")
                most = max(most, seen["connected_clients"])
                await asyncio.sleep(0.02)
            stopped = True
        refused = (await one.client.info("stats"))["rejected_connections"]

    assert refused == 0
    assert 4 < most <= 20


# --- sleep

_QUICK = {
    "command_timeout": 3.0,
    "connect_timeout": 0.3,
    "reconnect_delay": 0.01,
    "reconnect_cap": 0.02,
    "reconnect_attempts": 3,
    "reconnect_probe": 0.2,
    "heartbeat": 0.1,
    "heartbeat_answer": 1.0,  # the disk may hold up the server
}


async def _failing_fast(client, over):
    """Call until it is over; return the longest call, and the errors."""
    longest, errors = 0.0, []
    async with asyncio.timeout(15):
        while not over():
            began = monotonic()
            try:
                await client.incr("n")
            except Unavailable as error:
                errors.append(error)
            longest = max(longest, monotonic() - began)
            await asyncio.sleep(0.01)
    return longest, errors


@pytest.mark.requirement("C14", "C3", "C8")
@pytest.mark.integration
@pytest.mark.parametrize("how", ["refuses", "is silent", "is gone"])
async def test_a_server_that_sleeps_is_waited_for_and_found_awake(how):
    """The circuit opens, calls fail at once, probes go on, and it is back by itself."""
    # A server that is killed has written what it answered.
    always = ("--appendfsync", "always")
    async with (
        EmbeddedServer(aof=True, args=always) as server,
        FaultProxy(server.url) as proxy,
    ):
        url = server.url if how == "is gone" else proxy.url
        async with connect(url=url, **_QUICK) as wire:
            client, events = wire.client, []
            opened, back = asyncio.Event(), asyncio.Event()

            def note(event):
                # The cache's connection goes through the same on its own.
                if event.connection == "command":
                    events.append(event)
                    if isinstance(event, CircuitOpened):
                        opened.set()
                    if isinstance(event, Ready):
                        back.set()

            wire.events.subscribe(note)
            assert await client.incr("n") == 1

            if how == "is gone":
                server.kill()
                await server.wait_exit()
            else:
                (proxy.refuse if how == "refuses" else proxy.stall)()
                proxy.reset()
            async with asyncio.timeout(10):
                await opened.wait()
            asleep, began = len(events), monotonic()

            def probes():
                return sum(isinstance(each, Connecting) for each in events[asleep:])

            longest, errors = await _failing_fast(client, lambda: probes() >= 3)
            # One each 0.1 to 0.2 s, and as long as the attempt itself takes.
            assert probes() <= 1 + (monotonic() - began) / 0.1

            if how == "is gone":
                await server.restart()
            else:
                proxy.heal()
            async with asyncio.timeout(10):
                await back.wait()  # nobody asked for anything
            assert await client.incr("n") == 2
            assert client.stats().connects == 2

    assert len(errors) > 3
    assert {type(error) for error in errors} == {CircuitOpen}
    assert all(0 <= e.retry_after <= _QUICK["reconnect_probe"] for e in errors)
    assert all(error.outcome is Outcome.NOT_SENT for error in errors)
    # Fast is: without waiting for anything. A call that waits takes its 3 s.
    assert longest < 3.0
    kinds = [type(event) for event in events]
    assert kinds[:3] == [Disconnected, Reconnecting, Connecting]
    assert kinds.count(CircuitOpened) == kinds.count(CircuitClosed) == 1
    circuit = kinds.index(CircuitOpened)
    # The connection was young: its loss counts as the first failure.
    assert kinds[:circuit].count(Connecting) == _QUICK["reconnect_attempts"] - 1
    between = kinds[circuit + 1 : kinds.index(CircuitClosed) - 1]
    assert set(zip(between[::2], between[1::2], strict=True)) == {
        (Reconnecting, Connecting)
    }
    rest = [kind.__name__ for kind in kinds[kinds.index(CircuitClosed) - 1 :]]
    assert rest[:2] == [Connected.__name__, CircuitClosed.__name__]


@pytest.mark.errors
@pytest.mark.needs(redis_py="8")
async def test_maintenance_notices_are_refused_where_they_are_relied_on(own):
    """Who asks for maintenance notices is told that they are honoured nowhere."""
    asked = MaintNotificationsConfig(enabled=True)
    with pytest.raises(SettingsError, match="maint_notifications_config"):
        Client.from_url(own.url, maint_notifications_config=asked)
    not_asked = MaintNotificationsConfig(enabled=False)
    async with Client.from_url(own.url, maint_notifications_config=not_asked) as client:
        assert await client.ping()
