"""A client of a whole cluster, beside one server that gets the same commands."""

from __future__ import annotations

import asyncio
import random

import pytest
from redis.crc import key_slot
from redis.exceptions import WatchError

from oddswire import Client, EmbeddedServer, Settings
from oddswire.client import ClusterClient, SimpleClient
from oddswire.embedded import EmbeddedCluster
from oddswire.errors import (
    ClusterDown,
    CommandRejected,
    CrossSlot,
    NotOnCluster,
    NotShared,
    Outcome,
    SettingsError,
    Unavailable,
    WrongType,
)
from oddswire.health import Health
from oddswire.testing.fixtures import on_its_own_thread
from support import eventually
from support.hooks import ask, keys_in_table


@pytest.fixture(scope="module")
def cluster():
    """Three primaries, for the tests that leave them as they are."""
    with on_its_own_thread(lambda: EmbeddedCluster(primaries=3)) as started:
        yield started


@pytest.fixture
async def whole(cluster):
    """A client of the empty cluster."""
    async with Client.from_url(cluster.cluster_url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def single(own):
    """A client of one empty server."""
    async with Client.from_url(own.url) as client:
        yield client


async def _outcome(call):
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - compared
        return type(error)


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_replies_are_those_of_one_server(whole, single):
    """Commands of every kind reply on a cluster what they reply on one server."""
    names = [f"n{number}" for number in range(40)]
    calls = [
        lambda c: c.set("text", "ü", ex=100),
        lambda c: c.get("text"),
        lambda c: c.get(b"\xff\x00"),
        lambda c: c.set("text", "x", nx=True),
        lambda c: c.hset("hash", mapping={"a": 1, "b": 2}),
        lambda c: c.hgetall("hash"),
        lambda c: c.zadd("sorted", {"a": 1, "b": 2}),
        lambda c: c.zrange("sorted", 0, -1, withscores=True),
        lambda c: c.rpush("list", 1, 2, 3),
        lambda c: c.blpop("list", 1),
        lambda c: c.blmpop(1, 1, "list", direction="LEFT"),
        lambda c: c.incrbyfloat("number", 1.5),
        lambda c: c.get("hash"),
        lambda c: c.xadd("stream", {"f": 1}, id="1-1"),
        lambda c: c.xread({"stream": "0"}),
        lambda c: c.xgroup_create("stream", "group", "0"),
        lambda c: c.xinfo_groups("stream"),
        lambda c: c.eval("return {KEYS[1], ARGV[1]}", 1, "k", "v"),
        lambda c: c.eval("return 7", 0),
        lambda c: c.evalsha("f" * 40, 1, "k"),
        lambda c: c.sadd("{tag}a", 1, 2),
        lambda c: c.sadd("{tag}b", 2, 3),
        lambda c: c.sinterstore("{tag}c", "{tag}a", "{tag}b"),
        lambda c: c.rename("{tag}c", "{tag}d"),
        lambda c: c.zunionstore("{s}1", ["{s}2", "{s}3"]),
        lambda c: c.object("encoding", "text"),
        lambda c: c.memory_usage("no such key"),
        lambda c: c.execute_command("get", "text"),
        lambda c: c.execute_command("GET"),
        lambda c: c.execute_command("NOSUCHCOMMAND", "a"),
        lambda c: c.ping(),
        lambda c: c.echo("x"),
        lambda c: c.mget(names),
        lambda c: c.mset({"{t}1": 1, "{t}2": 2}),
        lambda c: asyncio.gather(*[c.set(name, name) for name in names]),
        lambda c: c.mget(names),
        lambda c: c.execute_command("MGET", *names),
        lambda c: c.exists(*names, names[0], "absent"),
        lambda c: c.touch(*names),
        lambda c: c.dbsize(),
        lambda c: c.delete(*names[:10], "absent"),
        lambda c: c.unlink(*names[10:20]),
        lambda c: c.script_load("return 1"),
        lambda c: c.script_exists("e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0" * 40),
        lambda c: c.publish("nobody", "hears"),
    ]
    for number, call in enumerate(calls):
        here, there = await _outcome(call(whole)), await _outcome(call(single))
        assert here == there, number
    assert sorted(await whole.keys("*")) == sorted(await single.keys("*"))
    found = [key async for key in whole.scan_iter(count=3)]
    assert sorted(found) == sorted(await single.keys("*"))
    assert whole.stats().total >= len(calls)
    assert whole.stats().connections.shared == 3


@pytest.mark.advanced
@pytest.mark.requirement("C16")
async def test_a_pipeline_has_its_results_in_place(whole, single):
    """A batch over all nodes replies, error by error, as on one server."""
    dice = random.Random(16)
    for size in (1, 7, 400, 1500):
        batches = [client.pipeline(transaction=False) for client in (whole, single)]
        for _ in range(size):
            key, other = dice.choices([f"k{number}" for number in range(60)], k=2)
            which = dice.randrange(6)
            for batch in batches:
                if which == 0:
                    batch.set(key, f"{key}={size}")
                elif which == 1:
                    batch.get(key)
                elif which == 2:
                    batch.lpush(key, 1)  # of a text: an error in its place
                elif which == 3:
                    batch.hgetall(f"hash:{other}")
                elif which == 4:
                    batch.hset(f"hash:{other}", key, 1)
                else:
                    batch.execute_command("PING")
        here, there = [await batch.execute(raise_on_error=False) for batch in batches]
        assert [_shape(each) for each in here] == [_shape(each) for each in there]


def _shape(reply):
    return type(reply) if isinstance(reply, Exception) else reply


@pytest.mark.advanced
@pytest.mark.requirement("C16")
async def test_transactions_of_one_slot(whole):
    """MULTI and WATCH work within a slot: of concurrent counts none is lost."""
    async with whole.pipeline() as batch:
        batch.set("{t}a", 1).incr("{t}a").get("{t}a")
        assert await batch.execute() == [True, 2, b"2"]

    async def count(batch):
        now = int(await batch.get("counter") or 0)
        batch.multi()
        batch.set("counter", now + 1)

    await asyncio.gather(*[whole.transaction(count, "counter") for _ in range(8)])
    assert await whole.get("counter") == b"8"
    async with whole.pipeline() as batch:
        await batch.watch("{t}a")
        await whole.set("{t}a", "changed")
        batch.multi()
        batch.set("{t}a", "lost")
        with pytest.raises(WatchError):
            await batch.execute()
    assert await whole.get("{t}a") == b"changed"


@pytest.mark.errors
@pytest.mark.requirement("C16", "C7")
async def test_keys_of_several_slots_are_named(whole):
    """A command that cannot be split says which keys are apart, and nothing runs."""
    async with whole.pipeline() as batch:
        batch.set("a", 1).set("b", 2)
        several = batch.execute
        for call in (
            lambda: whole.mset({"a": 1, "b": 2}),
            lambda: whole.rename("a", "b"),
            lambda: whole.sinterstore("a", "b", "c"),
            lambda: whole.eval("return 1", 2, "a", "b"),
            several,
        ):
            with pytest.raises(CrossSlot, match=r"'a' \(slot 15495\), 'b' \(slot 3300"):
                await call()
    assert await whole.dbsize() == 0
    async with whole.pipeline(transaction=False) as batch:
        batch.set("a", 1).mget(["a", "b"])
        with pytest.raises(CrossSlot, match="MGET"):
            await batch.execute()
    assert await whole.dbsize() == 0
    assert await whole.mset_nonatomic({"a": 1, "b": 2})
    assert await whole.mget("a", "b") == [b"1", b"2"]
    with pytest.raises(WrongType):
        await whole.execute_command("hgetall", "a")
    with pytest.raises(WrongType):
        await whole.hgetall("a")
    # Each failed call counts once.
    assert whole.stats().failures["WrongType"] == 2


@pytest.mark.errors
@pytest.mark.requirement("C16", "C7")
async def test_what_is_of_one_node_is_refused(whole):
    """What would speak of one node alone is a typed error that says where to ask."""
    for call in (
        whole.info,
        whole.client_list,
        whole.randomkey,
        lambda: whole.wait(1, 10),
        lambda: whole.config_get("maxmemory"),
    ):
        with pytest.raises(NotOnCluster, match="primaries"):
            await call()
    for call in (lambda: whole.select(1), whole.readonly, lambda: whole.auth("x")):
        with pytest.raises(NotShared, match=r"client\(\)`.* is one of .*primaries"):
            await call()
    with pytest.raises(NotShared, match=r"use `client\.pipeline\(\)`$"):
        await whole.execute_command("MULTI")
    for refuse in (whole.pubsub, whole.client, whole.monitor):
        with pytest.raises(NotOnCluster, match="primaries"):
            refuse()
    nodes = await whole.primaries()
    assert (await Health(nodes[0]).check()).checks[0].status == "pass"
    assert len({(await node.info("server"))["tcp_port"] for node in nodes}) == 3


@pytest.mark.advanced
@pytest.mark.requirement("C16")
async def test_the_table_of_keys_is_the_servers(single):
    """Where the keys of a command stand is what the server's own table says."""
    movable = {
        "EVAL": ["EVAL", "return 1", 2, "a", "b", "c"],
        "FCALL": ["FCALL", "f", 1, "a", "b"],
        "XREAD": ["XREAD", "COUNT", 1, "STREAMS", "a", "b", "0", "0"],
        "XREADGROUP": ["XREADGROUP", "GROUP", "g", "c", "STREAMS", "a", ">"],
        "ZUNIONSTORE": ["ZUNIONSTORE", "a", 2, "b", "c"],
        "ZUNION": ["ZUNION", 2, "a", "b"],
        "LMPOP": ["LMPOP", 2, "a", "b", "LEFT"],
        "BLMPOP": ["BLMPOP", 0, 2, "a", "b", "LEFT"],
    }
    for words in movable.values():
        theirs = await single.execute_command("COMMAND GETKEYS", *words)
        assert theirs == keys_in_table(words)
    table = await single.command()
    wrong = []
    for name, entry in table.items():
        first, last, step = (
            entry[place] for place in ("first_key_pos", "last_key_pos", "step_count")
        )
        flags = entry["flags"]
        if "movablekeys" in flags or "subcommands" in flags:
            continue
        words = [name.upper(), *"abcdefgh"]
        end = last + 1 if last >= 0 else len(words) + last + 1
        expected = words[first:end:step] if first else []
        if keys_in_table(words) not in (expected, None):
            wrong.append((name, keys_in_table(words), expected))
    assert not wrong
    # A command that the table has not is asked about, and never guessed.
    assert keys_in_table(["NOSUCHCOMMAND", "a"]) is None


# --- bad input


@pytest.mark.errors
@pytest.mark.requirement("C16")
async def test_one_seed_of_many_is_alive(cluster):
    """Dead seeds cost nothing but their names, as long as one of them answers."""
    port = cluster.primaries[1].port
    url = f"cluster://:{cluster.password}@127.0.0.1:1,127.0.0.2:2,127.0.0.1:{port}"
    async with Client.from_url(url, command_timeout=5.0) as client:
        assert await client.set("key", "value")
        assert await client.get("key") == b"value"


@pytest.mark.errors
@pytest.mark.requirement("C16", "C7")
async def test_no_seed_is_alive():
    """With every seed dead a call ends within its deadline, and names them."""
    url = "cluster://127.0.0.1:1,127.0.0.1:2"
    async with Client.from_url(url, command_timeout=0.6) as client:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1,127\.0\.0\.1:2") as e:
            await client.get("key")
        assert client.stats().failures == {"Unavailable": 1}
    assert e.value.outcome is Outcome.NOT_SENT


@pytest.mark.errors
@pytest.mark.requirement("C16", "C7")
async def test_the_wrong_scheme_says_so(own, cluster):
    """A server behind cluster:// and a cluster behind redis:// say what they are."""
    url = f"cluster://:{own.password}@{own.host}:{own.port}"
    async with Client.from_url(url) as client:
        with pytest.raises(SettingsError, match="connect with redis://"):
            await client.set("key", "value")
    async with Client.from_url(cluster.primaries[0].url) as client:
        with pytest.raises(CommandRejected, match="cluster://host:port follows"):
            await asyncio.gather(*[client.get(name) for name in "abcdef"])
    with pytest.raises(SettingsError, match=r"Client\.from_url"):
        Client(settings=Settings(url=cluster.cluster_url))
    with pytest.raises(SettingsError, match=r"Client\.from_url"):
        SimpleClient.from_url(cluster.cluster_url)
    with pytest.raises(SettingsError, match="database 0 alone"):
        Client.from_url("cluster://host:1/3")
    settings = Settings(url=cluster.cluster_url)
    assert type(Client.from_settings(settings)) is ClusterClient
    assert cluster.password not in repr(settings)


@pytest.mark.errors
@pytest.mark.requirement("C16", "C7")
async def test_wrong_password(cluster):
    """A password that the nodes refuse ends the first call at once."""
    url = f"cluster://:wrong@127.0.0.1:{cluster.primaries[0].port}"
    async with Client.from_url(url, command_timeout=20.0) as client:
        with pytest.raises(Exception, match=r"WRONGPASS|invalid username"):
            await asyncio.wait_for(client.get("key"), 10)


@pytest.mark.errors
@pytest.mark.requirement("C16", "C7")
async def test_half_of_the_slots_are_served():
    """Keys of served slots work; others are ClusterDown within the deadline."""
    args = ("--cluster-require-full-coverage", "no")
    async with EmbeddedCluster(primaries=2, args=args) as cluster:
        left, right = cluster.primaries
        url = f"cluster://:{cluster.password}@127.0.0.1:{left.port}"
        for server in (left, right):
            await ask(server.url, "CLUSTER", "DELSLOTSRANGE", 8192, 16383)

        async def forgotten():
            maps = [await ask(each.url, "CLUSTER", "SLOTS") for each in (left, right)]
            return all(each[1] < 8192 for ranges in maps for each in ranges)

        # A node may have heard of the slots from the other one in between.
        await eventually(forgotten)
        async with Client.from_url(url, command_timeout=1.0) as client:
            names = [f"k{number}" for number in range(20)]
            low = [name for name in names if key_slot(name.encode()) < 8192]
            for name in names:
                if name in low:
                    assert await client.set(name, name)
                    continue
                with pytest.raises(ClusterDown) as caught:
                    await client.bounded(0.3).set(name, name)
                assert caught.value.outcome is Outcome.REJECTED
            assert await client.mget(low) == [name.encode() for name in low]
            async with client.pipeline(transaction=False) as batch:
                for name in names:
                    batch.get(name)
                results = await batch.execute(raise_on_error=False)
        for name, result in zip(names, results, strict=True):
            expected = name.encode() if name in low else ClusterDown
            assert _shape(result) == expected


@pytest.mark.errors
@pytest.mark.requirement("C16", "C7")
async def test_a_cluster_that_is_down():
    """Where a primary died without a replica, calls are refused within the deadline."""
    async with (
        EmbeddedCluster(primaries=3) as cluster,
        Client.from_url(cluster.cluster_url, command_timeout=1.0) as client,
    ):
        assert await client.set("a", 1)
        cluster.primaries[0].kill()
        await cluster.primaries[0].wait_exit()

        async def is_down():
            # Each node finds it out for itself, and refuses from then on.
            others = [server.url for server in cluster.primaries[1:]]
            said = [await ask(url, "CLUSTER", "INFO") for url in others]
            return all("state:fail" in each for each in said)

        await eventually(is_down)
        with pytest.raises(ClusterDown):
            await client.get("a")
        await cluster.primaries[0].restart()
        reader = client.bounded(20.0)
        assert await reader.get("a") == b"1"


@pytest.mark.errors
@pytest.mark.requirement("C16", "C7")
async def test_a_node_that_names_a_wrong_address():
    """An address that leads nowhere ends the call in time and names the setting."""
    async with EmbeddedCluster(primaries=3) as cluster:
        first, liar, _ = cluster.primaries
        lie = ("CONFIG", "SET", "cluster-announce-port", 1)
        await ask(liar.url, *lie)

        async def believed():
            nodes = [await ask(s.url, "CLUSTER", "NODES") for s in cluster.primaries]
            return all(":1@" in each for each in nodes)

        await eventually(believed)
        url = f"cluster://:{cluster.password}@127.0.0.1:{first.port}"
        async with Client.from_url(url, command_timeout=0.8) as client:
            results = await asyncio.gather(
                *[client.set(f"k{number}", 1) for number in range(30)],
                return_exceptions=True,
            )
        failures = [each for each in results if each is not True]
        assert 0 < len(failures) < 30
        for failure in failures:
            assert isinstance(failure, Unavailable)
            assert failure.outcome is Outcome.NOT_SENT
            assert "cluster-announce-ip" in str(failure)


@pytest.mark.errors
@pytest.mark.requirement("C16", "C7")
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_node_that_names_the_address_of_another_server(protocol):
    """A server of its own at the address of a node gets no key; the call says so."""
    async with EmbeddedCluster(primaries=2) as cluster:
        first, liar = cluster.primaries
        async with EmbeddedServer(password=cluster.password) as stranger:
            lie = ("CONFIG", "SET", "cluster-announce-port", stranger.port)
            await ask(liar.url, *lie)

            async def believed():
                return f":{stranger.port}@" in await ask(first.url, "CLUSTER", "NODES")

            await eventually(believed)
            url = f"cluster://:{cluster.password}@127.0.0.1:{first.port}"
            options = {"command_timeout": 0.8, "protocol": protocol}
            async with Client.from_url(url, **options) as client:
                results = await asyncio.gather(
                    *[client.set(f"k{number}", 1) for number in range(30)],
                    return_exceptions=True,
                )
            assert await ask(stranger.url, "DBSIZE") == 0
        failures = [each for each in results if each is not True]
        assert 0 < len(failures) < 30
        for failure in failures:
            assert isinstance(failure, Unavailable)
            assert "no node of a cluster" in str(failure)
            assert "cluster-announce-ip" in str(failure)


@pytest.mark.errors
@pytest.mark.requirement("C16")
async def test_nodes_that_point_at_each_other():
    """Two nodes that each name the other end in an error, not in a circle."""
    async with (
        EmbeddedServer(args=("--cluster-enabled", "yes")) as server,
        _Liars(server.password) as url,
        Client.from_url(url, command_timeout=1.0) as client,
    ):
        with pytest.raises(Unavailable, match="disagree about slot"):
            await client.get("key")


class _Liars:
    """Two listeners that speak enough RESP to redirect every call to one another."""

    def __init__(self, password):
        self._password = password
        self._ports = []
        self._listeners = []

    async def __aenter__(self):
        for number in range(2):
            listener = await asyncio.start_server(
                lambda r, w, number=number: self._serve(r, w, number), "127.0.0.1", 0
            )
            self._listeners.append(listener)
            self._ports.append(listener.sockets[0].getsockname()[1])
        return f"cluster://127.0.0.1:{self._ports[0]}"

    async def __aexit__(self, *_):
        for listener in self._listeners:
            listener.close()

    async def _serve(self, reader, writer, number):
        here, there = self._ports[number], self._ports[1 - number]
        while data := await reader.read(65536):
            for command in data.split(b"*")[1:]:
                if b"SLOTS" in command:
                    node = f"*2\r\n$9\r\n127.0.0.1\r\n:{here}\r\n"
                    reply = f"*1\r\n*3\r\n:0\r\n:16383\r\n{node}"
                elif b"GET" in command:
                    reply = f"-MOVED 12539 127.0.0.1:{there}\r\n"
                elif b"HELLO" in command:
                    reply = "%1\r\n$5\r\nproto\r\n:3\r\n"
                else:
                    reply = "+OK\r\n"
                writer.write(reply.encode())
        writer.close()


@pytest.mark.errors
@pytest.mark.parametrize("keys", [[], ["k"]])
@pytest.mark.parametrize("redirection", ["MOVED", "ASK"])
async def test_a_redirection_that_a_script_makes_up(whole, keys, redirection):
    """It is an error of the script, which runs once; nobody else gets the password."""
    came = []

    async def take(reader, writer):
        came.append(await reader.read(1_000))
        writer.close()

    stranger = await asyncio.start_server(take, "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    words = f"redis.error_reply('{redirection} 1 127.0.0.1:{port}')"
    script = f"if KEYS[1] then redis.call('incr', KEYS[1]) end return {words}"
    async with stranger:
        with pytest.raises(CommandRejected):
            await whole.eval(script, len(keys), *keys)
        pipe = whole.pipeline(transaction=False).eval(script, len(keys), *keys)
        (result,) = await pipe.execute(raise_on_error=False)
        assert isinstance(result, CommandRejected)
        assert await whole.get("k") == (b"2" if keys else None)
    assert came == []
