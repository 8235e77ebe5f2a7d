"""Every error of the tree, provoked on a real server where the server says it."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions as redis_errors

import oddswire.errors
from oddswire import Client, EmbeddedServer
from oddswire.connection.errors import from_redis, reply_error
from oddswire.errors import (
    AuthFailed,
    Busy,
    CircuitOpen,
    ClosedError,
    ClusterDown,
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    Loading,
    Misconfigured,
    NoPermission,
    NoReplicas,
    NotShared,
    OddswireError,
    Outcome,
    OutOfMemory,
    Overloaded,
    PoolTimeout,
    ProtocolBroken,
    ReadOnly,
    ScriptFailed,
    Unavailable,
    WrongType,
)
from oddswire.testing import FaultProxy

CLASSES = sorted(
    (
        cls
        for _, cls in inspect.getmembers(oddswire.errors, inspect.isclass)
        if issubclass(cls, OddswireError)
    ),
    key=lambda cls: cls.__name__,
)
MORE = {"CircuitOpen": "retry_after", "RateLimited": "retry_after"}


@pytest.mark.requirement("C7")
@pytest.mark.errors
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_is_under_one_root_with_an_outcome(cls):
    """Each class can be made, is caught by the root, and has an outcome."""
    if cls.__name__ in MORE:
        error = cls("why", retry_after=1.5)
        assert error.retry_after == 1.5
    elif cls.__name__ == "CodecError":
        error = cls("why", reason="damaged")
    else:
        error = cls("why")
    with pytest.raises(OddswireError) as caught:
        raise error

    assert caught.value.outcome in set(Outcome)
    assert str(caught.value) == "why"
    assert cls.__doc__
    assert isinstance(cls("x", outcome=Outcome.UNKNOWN), cls) if cls in (
        ConnectionLost, CommandTimeout, Unavailable,
    ) else True  # fmt: skip


@pytest.mark.requirement("C7")
@pytest.mark.errors
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("ClosedError", redis_errors.ConnectionError),
        ("NotShared", redis_errors.DataError),
        ("Unavailable", redis_errors.ConnectionError),
        ("CircuitOpen", redis_errors.ConnectionError),
        ("Overloaded", redis_errors.ConnectionError),
        ("PoolTimeout", redis_errors.MaxConnectionsError),
        ("ConnectionLost", redis_errors.ConnectionError),
        ("CommandTimeout", redis_errors.TimeoutError),
        ("ProtocolBroken", redis_errors.InvalidResponse),
        ("AuthFailed", redis_errors.AuthenticationError),
        ("NoPermission", redis_errors.NoPermissionError),
        ("CommandRejected", redis_errors.ResponseError),
        ("OutOfMemory", redis_errors.OutOfMemoryError),
        ("ReadOnly", redis_errors.ReadOnlyError),
        ("Loading", redis_errors.BusyLoadingError),
        ("ClusterDown", redis_errors.ClusterDownError),
        ("WrongType", redis_errors.ResponseError),
        ("LockLost", redis_errors.LockError),
        ("WrongLoop", RuntimeError),
        ("SettingsError", ValueError),
    ],
)
def test_code_written_for_redis_py_still_catches_it(ours, theirs):
    """An error is also redis-py's class of the same meaning."""
    assert issubclass(getattr(oddswire.errors, ours), theirs)


@pytest.mark.errors
@given(st.text(max_size=60))
def test_any_error_reply_is_one_of_ours(text):
    """Whatever a server says in an error reply, it becomes an error of the tree."""
    error = reply_error(text)

    assert isinstance(error, OddswireError)
    assert error.outcome in (Outcome.REJECTED, Outcome.UNKNOWN)
    assert from_redis(error) is error


@pytest.mark.errors
@pytest.mark.parametrize(
    ("theirs", "ours", "outcome"),
    [
        (redis_errors.ConnectionError("x"), ConnectionLost, Outcome.UNKNOWN),
        (redis_errors.TimeoutError("x"), CommandTimeout, Outcome.UNKNOWN),
        (redis_errors.MaxConnectionsError("x"), PoolTimeout, Outcome.NOT_SENT),
        (redis_errors.InvalidResponse("x"), ProtocolBroken, Outcome.UNKNOWN),
        (redis_errors.AuthenticationError("x"), AuthFailed, Outcome.REJECTED),
        (redis_errors.AuthenticationWrongNumberOfArgsError("x"), CommandRejected,
         Outcome.REJECTED),
        (redis_errors.ResponseError("x"), CommandRejected, Outcome.REJECTED),
        (redis_errors.ExecAbortError("x"), CommandRejected, Outcome.REJECTED),
        (redis_errors.NoScriptError("x"), CommandRejected, Outcome.REJECTED),
        (redis_errors.ConnectionError("max number of clients reached"), Unavailable,
         Outcome.REJECTED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)  # fmt: skip
def test_redis_pys_errors_have_one_of_ours(theirs, ours, outcome):
    """What redis-py's own connections raise is translated and stays catchable."""
    error = from_redis(theirs)

    assert isinstance(error, ours)
    assert error.outcome is outcome
    assert str(error) == str(theirs)
    assert isinstance(error, redis_errors.RedisError)


@pytest.mark.errors
@pytest.mark.parametrize(
    "error",
    [
        redis_errors.DataError("x"),
        redis_errors.WatchError("x"),
        redis_errors.PubSubError("x"),
        redis_errors.LockError("x"),
        ValueError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_about_no_connection_and_no_reply_stay_as_they_are(error):
    """redis-py's errors about arguments, WATCH, pub/sub and locks are not replaced."""
    assert from_redis(error) is error


# --- said by a real server


async def _refused(call):
    with pytest.raises(OddswireError) as caught:
        await call
    return caught.value


@pytest.mark.requirement("C7")
@pytest.mark.integration
async def test_refusals_of_an_ordinary_server(own):
    """Type, memory, script, permission and argument errors, each its own class."""
    async with Client.from_url(own.url) as client:
        await client.rpush("list", 1)
        wrong_type = await _refused(client.incr("list"))
        number = await _refused(client.incrby("number", "many"))
        no_script = await _refused(client.evalsha("0" * 40, 0))
        script = await _refused(client.eval("return redis.call('NO-SUCH')", 0))
        passed_on = await _refused(client.eval("return redis.call('INCR','list')", 0))
        compiling = await _refused(client.eval("return ~", 0))
        unknown = await _refused(client.execute_command("NO-SUCH"))
        await client.acl_setuser(
            "bob", enabled=True, nopass=True, keys=["b*"], commands=["+get", "+hello"]
        )
        bob = Client(host=own.host, port=own.port, username="bob", password="x")
        forbidden = await _refused(bob.set("b", 1))
        other_key = await _refused(bob.get("a"))
        await bob.aclose()
        await client.config_set("maxmemory", 1)
        memory = await _refused(client.set("k", "v"))
        in_multi = await _refused(client.pipeline().set("k", "v").execute())
        await client.config_set("maxmemory", 0)
        await client.replicaof("127.0.0.1", 1)
        read_only = await _refused(client.set("k", "v"))
        await client.replicaof("NO", "ONE")
        await client.config_set("min-replicas-to-write", 1)
        no_replicas = await _refused(client.set("k", "v"))
        await client.config_set("min-replicas-to-write", 0)
        await client.config_set("maxclients", 3)
        crowd = [Client.from_url(own.url) for _ in range(3)]
        many = await asyncio.gather(
            *(one.bounded(0.5).ping() for one in crowd), return_exceptions=True
        )
        for one in crowd:
            await one.aclose()

    assert type(wrong_type) is WrongType
    assert type(passed_on) is WrongType
    assert isinstance(no_script, redis_errors.NoScriptError)
    assert isinstance(no_script, CommandRejected)
    assert type(script) is type(compiling) is ScriptFailed
    assert type(number) is type(unknown) is CommandRejected
    assert type(forbidden) is type(other_key) is NoPermission
    assert type(memory) is OutOfMemory
    assert isinstance(in_multi, OutOfMemory)
    assert type(read_only) is ReadOnly
    assert type(no_replicas) is NoReplicas
    for error in (wrong_type, number, no_script, unknown, forbidden, memory, read_only):
        assert error.outcome is Outcome.REJECTED
    # A script may have written before it failed.
    for error in (script, passed_on):
        assert error.outcome is Outcome.UNKNOWN
    refused = [error for error in many if isinstance(error, Exception)]
    assert {type(error) for error in refused} == {Unavailable}
    assert "max number of clients" in str(refused[0])


@pytest.mark.requirement("C7")
@pytest.mark.integration
async def test_errors_of_a_connection(server, prefix):
    """Each class that a broken, full, closed or refused link has, and its outcome."""
    key = f"{prefix}k"
    at = {"host": server.host, "port": server.port}
    found = {}
    async with FaultProxy(server.url) as proxy:
        quick = {
            "command_timeout": 1.0,
            "connect_timeout": 1.0,
            "reconnect_delay": 0.01,
            "reconnect_cap": 0.02,
            "reconnect_attempts": 20,
        }
        client = Client.from_url(proxy.url, pool_max=3, inflight_commands=2, **quick)
        found["timeout"] = await _lost(client, proxy, proxy.blackhole)
        found["lost"] = await _lost(client, proxy, proxy.reset)
        found["broken"] = await _lost(client, proxy, lambda: proxy.inject(b"!?\r\n"))
        await client.ping()
        found["shared"] = await _refused(client.select(1))
        async with client.client() as alone:
            await alone.ping()
            found["pool"] = await _refused(client.blpop(key, 0.01))
        proxy.down.hold = True
        calls = [client.incr(key) for _ in range(3)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        found["full"] = ends[2]
        proxy.refuse()
        proxy.reset()
        async with asyncio.timeout(5):
            while type(await _refused(client.ping())) is not CircuitOpen:
                pass
        found["circuit"] = await _refused(client.ping())
        await client.aclose()
        found["closed"] = await _refused(client.ping())
    async with Client(**at, password="wrong") as wrong:
        found["password"] = await _refused(wrong.ping())
    async with Client(**at, password=server.password, db=99_999) as wrong:
        found["database"] = await _refused(wrong.ping())
    async with Client.from_url(server.url) as admin:
        await admin.delete(key, "test-errors")

    assert {name: (type(e), e.outcome) for name, e in found.items()} == {
        "timeout": (CommandTimeout, Outcome.UNKNOWN),
        "lost": (ConnectionLost, Outcome.UNKNOWN),
        "broken": (ProtocolBroken, Outcome.UNKNOWN),
        "shared": (NotShared, Outcome.NOT_SENT),
        "pool": (PoolTimeout, Outcome.NOT_SENT),
        "full": (Overloaded, Outcome.NOT_SENT),
        "circuit": (CircuitOpen, Outcome.NOT_SENT),
        "closed": (ClosedError, Outcome.NOT_SENT),
        "password": (AuthFailed, Outcome.REJECTED),
        "database": (Unavailable, Outcome.REJECTED),
    }


async def _lost(client, proxy, fault):
    """Return the error of a call whose answer was on the way when the fault came."""
    await client.ping()
    proxy.down.hold = True
    call = asyncio.get_running_loop().create_task(client.incr("test-errors"))
    await asyncio.sleep(0.05)
    fault()
    error = await _refused(call)
    proxy.heal()
    proxy.reset()
    return error


@pytest.mark.requirement("C7")
@pytest.mark.integration
async def test_server_that_cannot_persist():
    """MISCONF refuses writes and not reads."""
    args = ("--save", "3600 1", "--stop-writes-on-bgsave-error", "yes")
    async with (
        EmbeddedServer(args=args) as server,
        Client.from_url(server.url) as client,
    ):
        await client.set("k", "v")
        await _fail_a_save(server, client)
        error = await _refused(client.set("k", "w"))
        assert await client.get("k") == b"v"
        server.kill()  # it would not end in order without saving

    assert type(error) is Misconfigured
    assert error.outcome is Outcome.REJECTED


async def _fail_a_save(server, client):
    # Where its file should go there is a directory that cannot be replaced by one.
    folder = Path((await client.config_get("dir"))["dir"])
    (folder / "dump.rdb").mkdir()
    (folder / "dump.rdb" / "full").touch()
    await client.bgsave()
    async with asyncio.timeout(20):
        while (await client.info("persistence"))["rdb_last_bgsave_status"] == "ok":
            pass


@pytest.mark.requirement("C7")
@pytest.mark.integration
async def test_server_busy_with_a_script(own):
    """While a script runs for too long calls are refused as busy."""
    async with Client.from_url(own.url) as client, Client.from_url(own.url) as other:
        await client.config_set("busy-reply-threshold", 50)
        await other.ping()
        endless = asyncio.get_running_loop().create_task(
            client.eval("while true do end", 0)
        )
        async with asyncio.timeout(15):
            while True:
                try:
                    await other.bounded(3.0).get("k")
                except OddswireError as error:
                    busy = error
                    break
        await other.script_kill()
        killed = await _refused(endless)
        assert await other.get("k") is None

    assert type(busy) is Busy
    assert busy.outcome is Outcome.REJECTED
    assert killed.outcome is Outcome.UNKNOWN
    assert type(killed) is ScriptFailed


@pytest.mark.requirement("C7")
@pytest.mark.integration
async def test_server_that_loads_its_data():
    """While data is loaded calls wait for their deadline, then are refused."""
    args = ("--enable-debug-command", "yes", "--save", "3600 1000000")
    # It answers between two keys: each is 1,024 bytes of the file at least.
    args += ("--rdbcompression", "no")
    value = b"x" * 1_100
    async with (
        EmbeddedServer(args=args) as server,
        Client.from_url(server.url) as client,
        Client.from_url(server.url) as other,
    ):
        pipe = client.pipeline(transaction=False)
        for n in range(1_000):
            pipe.set(f"k{n}", value)
        await pipe.execute()
        await client.config_set("key-load-delay", 2000)
        await client.config_set("loading-process-events-interval-bytes", 1024)
        reloading = asyncio.get_running_loop().create_task(
            client.execute_command("DEBUG", "RELOAD")
        )
        async with asyncio.timeout(5):
            while not (await other.info("persistence"))["loading"]:
                pass
        refused = await _refused(other.bounded(0.8).get("k0"))
        blocked = await _refused(other.blpop("k0", 1))
        in_batch = await _refused(other.pipeline().get("k0").execute())
        assert await other.bounded(30.0).get("k0") == value
        assert await reloading

    assert type(refused) is type(blocked) is Loading
    assert isinstance(in_batch, Loading)
    assert refused.outcome is Outcome.REJECTED


@pytest.mark.requirement("C7")
@pytest.mark.integration
async def test_cluster_without_an_owner_for_the_slot():
    """A cluster node whose slots nobody owns refuses as cluster down."""
    args = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf")
    async with (
        EmbeddedServer(args=args) as server,
        Client.from_url(server.url) as client,
    ):
        error = await _refused(client.get("k"))

    assert type(error) is ClusterDown
    assert error.outcome is Outcome.REJECTED


@pytest.mark.requirement("C7")
@pytest.mark.errors
def test_the_page_of_errors_is_the_tree(pytestconfig):
    """Each class is on the page of errors, with its outcome."""
    page = (pytestconfig.rootpath / "docs" / "guides" / "errors.md").read_text(
        encoding="utf-8"
    )
    rows = re.findall(r"^\| (?:— )*`(\w+)` \| (\w+(?: sent)?) \|", page, re.MULTILINE)

    assert dict(rows) == {
        cls.__name__: cls.outcome.value.replace("_", " ")
        for cls in CLASSES
        if cls is not OddswireError
    }


@pytest.mark.errors
@pytest.mark.requirement("X3")
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_arguments_of_an_unknown_command_are_not_repeated(server, transport):
    """They may be a password or a value, and an error ends up in logs."""
    async with Client.from_url(server.url, transport=transport) as client:
        with pytest.raises(CommandRejected) as caught:
            await client.execute_command("NOSUCH", "canary", "canary")
    assert str(caught.value) == "unknown command 'NOSUCH'"
    assert "canary" not in repr(caught.value)


@pytest.mark.errors
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_a_key_of_another_type_is_named(server, prefix, transport):
    """WRONGTYPE says which command and which keys, behind redis-py's words."""
    text, other = f"{prefix}text\n", f"{prefix}other"
    async with Client.from_url(server.url, transport=transport) as client:
        await client.set(text, "x", ex=60)
        for call, what in (
            (client.hget(text, "f"), f"HGET {prefix}text"),
            (client.blpop([other, text], 1), f"BLPOP {other}, {prefix}text"),
            (
                client.eval("return redis.call('HLEN', KEYS[2])", 2, other, text),
                f"EVAL {other}, {prefix}text",
            ),
        ):
            with pytest.raises(WrongType) as caught:
                await call
            said = str(caught.value)
            assert said.startswith("WRONGTYPE Operation against a key")
            assert f"({what}" in said
            assert said.isprintable()


@pytest.mark.errors
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_client_name_with_a_blank_is_refused(server, transport, protocol):
    """As with redis-py the first call fails, whatever the protocol; it says why."""
    async with Client.from_url(
        server.url, client_name="my bot", transport=transport, protocol=protocol
    ) as client:
        with pytest.raises(Unavailable, match=r"client_name='my bot' was refused: "):
            await client.ping()
