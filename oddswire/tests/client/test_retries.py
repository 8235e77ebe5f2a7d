"""What is sent twice and what never is, when the answer was lost."""

from __future__ import annotations

import asyncio

import pytest

from oddswire import Client
from oddswire.client._commands import _RETRIES, CommandSpec, Retry, Route
from oddswire.errors import (
    CommandTimeout,
    ConnectionLost,
    Outcome,
    ProtocolBroken,
    Unavailable,
)
from oddswire.events import Disconnected
from oddswire.testing import LoopLag
from support.hooks import drop_connection


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "call",
    [
        lambda c, k: c.incr(k),
        lambda c, k: c.rpush(k, "x"),
        lambda c, k: c.append(k, "x"),
        lambda c, k: c.set(k, "x", nx=True),
        lambda c, k: c.set(k, "x", get=True),
        lambda c, k: c.eval("return redis.call('INCR', KEYS[1])", 1, k),
        lambda c, k: c.execute_command("UNHEARD-OF", k),
        lambda c, k: c.zadd(k, {"a": 1}, incr=True),
        lambda c, k: c.xadd(k, {"a": 1}),
        lambda c, k: c.publish(k, "x"),
        lambda c, k: c.sadd(k, "x"),
        lambda c, k: c.hset(k, "f", "v"),
        lambda c, k: c.delete(k),
    ],
    ids=[
        "incr",
        "rpush",
        "append",
        "set-nx",
        "set-get",
        "eval",
        "unknown",
        "zadd-incr",
        "xadd",
        "publish",
        "sadd",
        "hset",
        "delete",
    ],
)
@pytest.mark.errors
async def test_lost_answer_of_what_counts_is_unknown(
    through, cutter, client, prefix, call, when
):
    """What must not run twice is never sent twice; its outcome is unknown."""
    key = f"{prefix}k"
    one = through()
    await one.ping()
    cutter.plan = [(key.encode(), when)]
    with pytest.raises(ConnectionLost) as caught:
        await call(one, key)
    assert caught.value.outcome is Outcome.UNKNOWN
    length = {
        b"string": client.strlen,
        b"list": client.llen,
        b"stream": client.xlen,
        b"zset": client.zcard,
        b"set": client.scard,
        b"hash": client.hlen,
    }.get(await client.type(key))
    times = 0 if length is None else await length(key)
    await client.delete(key)

    assert times <= (when == "after")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda c, k: c.get(k), b"v"),
        (lambda c, k: c.mget(k, k), [b"v", b"v"]),
        (lambda c, k: c.set(k, "x", ex=60), True),
        (lambda c, k: c.expire(k, 60), True),
        (lambda c, k: c.exists(k), 1),
        (lambda c, k: c.type(k), b"string"),
    ],
    ids=["get", "mget", "set", "expire", "exists", "type"],
)
@pytest.mark.errors
async def test_lost_answer_of_what_may_repeat_is_asked_for_again(
    through, cutter, client, prefix, call, expected, when
):
    """Reads and idempotent writes are sent again within the deadline and succeed."""
    key = f"{prefix}k"
    await client.set(key, "v")
    one = through()
    await one.ping()
    cutter.plan = [(key.encode(), when)]

    assert await call(one, key) == expected
    assert cutter.plan == []
    assert one.stats().connects == 2
    await client.delete(key)


@pytest.mark.errors
async def test_retries_are_bounded(through, cutter, prefix):
    """After the set number of attempts the last error is raised."""
    one = through(retries=2)
    await one.ping()
    cutter.plan = [(prefix.encode(), "before")] * 10
    with pytest.raises(ConnectionLost):
        await one.get(prefix)

    assert len(cutter.plan) == 10 - 3


@pytest.mark.errors
async def test_no_retries_when_there_are_none(through, cutter, prefix):
    """With `retries=0` even a read is sent once."""
    one = through(retries=0)
    await one.ping()
    cutter.plan = [(prefix.encode(), "before")] * 2
    with pytest.raises(ConnectionLost):
        await one.get(prefix)

    assert len(cutter.plan) == 1


@pytest.mark.errors
async def test_retries_and_waiting_share_one_deadline(through, cutter, prefix):
    """However often it is tried again, a call ends within its one deadline."""
    one = through(retries=100)
    await one.ping()
    cutter.plan = [(prefix.encode(), "before")] * 1_000
    with (
        LoopLag() as lag,
        pytest.raises((ConnectionLost, Unavailable, CommandTimeout)),
    ):
        await one.bounded(0.3).get(prefix)

    assert lag.free < 0.3 * 1.1 + 0.1


@pytest.mark.errors
async def test_timeouts_are_not_retried(through, cutter, client, prefix):
    """The deadline is for all attempts together, so a timeout is the end."""
    one = through()
    await one.ping()
    cutter.plan = [(prefix.encode(), "mute")] * 2
    with pytest.raises(CommandTimeout) as caught:
        await one.bounded(0.2).get(prefix)

    assert caught.value.outcome is Outcome.UNKNOWN
    assert len(cutter.plan) == 1


@pytest.mark.errors
async def test_what_never_left_is_sent_whatever_it_is(through, cutter, client, prefix):
    """A call that finds no connection waits for the next one, INCR too."""
    one = through()
    await one.ping()
    drop_connection(one)

    assert await one.incr(f"{prefix}n") == 1
    assert await client.getdel(f"{prefix}n") == b"1"


@pytest.mark.requirement("C7")
@pytest.mark.errors
async def test_the_three_outcomes(through, cutter, client, prefix):
    """Not sent, rejected and unknown are told apart on the same client."""
    one = through(retries=0)
    await one.lpush(f"{prefix}list", 1)
    with pytest.raises(Exception, match="WRONGTYPE") as rejected:
        await one.incr(f"{prefix}list")
    cutter.plan = [(f"{prefix}n".encode(), "after")]
    with pytest.raises(ConnectionLost) as unknown:
        await one.incr(f"{prefix}n")
    await one.ping()  # connected again
    lost = asyncio.Event()
    one.events.subscribe(lambda _: lost.set(), Disconnected)
    await cutter.close()
    await lost.wait()  # before, a call would be on its way with an unknown outcome
    bounded = one.bounded(0.05)
    with pytest.raises(Unavailable) as not_sent:
        await bounded.incr(f"{prefix}n")

    assert rejected.value.outcome is Outcome.REJECTED
    assert unknown.value.outcome is Outcome.UNKNOWN
    assert not_sent.value.outcome is Outcome.NOT_SENT
    assert await client.getdel(f"{prefix}n") == b"1"
    await client.delete(f"{prefix}list")


@pytest.mark.errors
async def test_increments_are_counted_through_any_number_of_cuts(
    through, cutter, client, prefix
):
    """The counter ends between what was acknowledged and that plus what is unknown."""
    one = through(retries=3)
    key = f"{prefix}n"
    await one.ping()
    cutter.plan = [(b"INCR", when) for when in ("after", "before") * 4]
    acknowledged = unknown = 0
    for _ in range(20):
        for result in await asyncio.gather(
            *(one.incr(key) for _ in range(10)), return_exceptions=True
        ):
            if isinstance(result, int):
                acknowledged += 1
            else:
                assert result.outcome is Outcome.UNKNOWN
                unknown += 1
    total = int(await client.getdel(key))

    assert cutter.plan == []
    assert unknown
    assert acknowledged <= total <= acknowledged + unknown
    assert acknowledged + unknown == 200


@pytest.mark.parametrize(
    ("args", "retry"),
    [
        (("GET", "k"), True),
        (("get", "k"), True),
        ((b"GET", "k"), True),
        (("SET", "k", "v"), True),
        (("SET", "k", "v", "EX", 5), True),
        (("SET", "k", "v", "NX"), False),
        (("SET", "k", "v", "EX", 5, "xx"), False),
        (("SET", "k", "v", b"get"), False),
        (("SET", "k", "NX"), True),
        (("ZADD", "k", 1, "a"), False),
        (("DEL", "k"), False),
        (("SADD", "k", "a"), False),
        (("HSET", "k", "f", "v"), False),
        (("EXPIRE", "k", 60), True),
        (("EXPIRE", "k", 60, "nx"), False),
        (("EXPIRE", "k", 0), False),
        (("EXPIRE", "k", -1), False),
        (("EXPIRE", "k", "soon"), False),
        (("EXPIREAT", "k", 4_102_444_800), False),
        (("ZADD", "k", "NX", 1, "a"), False),
        (("ZADD", "k", "INCR", 1, "a"), False),
        (("INCR", "k"), False),
        (("XREAD", "STREAMS", "s", "0"), True),
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"), False),
        (("EVALSHA", "sha", 0), False),
        (("EVALSHA_RO", "sha", 0), True),
        (("CONFIG SET", "a", "b"), False),
        (("SCRIPT KILL",), False),
        (("ACL WHOAMI",), False),
        (("LTRIM", "k", 1, -1), False),
        (("ZREMRANGEBYRANK", "k", 0, 0), False),
        (("ZUNIONSTORE", "k", 2, "k", "l"), False),
        (("BITOP", "XOR", "k", "k", "l"), False),
        (("GEOADD", "k", "NX", 1, 1, "a"), False),
        (("ACL SETUSER", "x"), False),
        (("ACL DELUSER", "x"), False),
        (("LATENCY RESET",), False),
        (("SLOWLOG RESET",), False),
        (("MEMORY PURGE",), False),
        (("XINFO STREAM", "s"), True),
        (("LATENCY", "RESET"), False),
    ],
    ids=str,
)
@pytest.mark.errors
def test_class_of_retry(args, retry):
    """Every command has one class; options that look at what was take it away."""
    name = args[0].decode() if isinstance(args[0], bytes) else args[0]
    command = CommandSpec(name, None, is_fast_path=True)

    assert command.may_repeat(args) is retry


ONCE = {
    "SETEX": [("SETEX", "k", 60, "v")],
    "PSETEX": [("PSETEX", "k", 60_000, "v")],
    "SET": [
        ("SET", "k", "v"),
        ("SET", "k", "v", "KEEPTTL"),
        ("SET", "k", "v", "EX", 60),
        ("SET", "k", "v", "PXAT", 1),
    ],
    "MSET": [("MSET", "k", "v", "l", "w"), ("MSET", "k", "v", "k", "w")],
    "SETRANGE": [("SETRANGE", "k", 3, "v"), ("SETRANGE", "new", 3, "v")],
    "EXPIRE": [("EXPIRE", "k", 60), ("EXPIRE", "none", 60)],
    "PEXPIRE": [("PEXPIRE", "k", 60_000)],
    "TOUCH": [("TOUCH", "k", "none")],
    "HMSET": [("HMSET", "hash", "f", "v", "new", "w")],
    "HEXPIRE": [("HEXPIRE", "hash", 60, "FIELDS", 2, "f", "none")],
    "HPEXPIRE": [("HPEXPIRE", "hash", 60_000, "FIELDS", 1, "f")],
    "SINTERSTORE": [
        ("SINTERSTORE", "set", "set", "other"),
        ("SINTERSTORE", "set", "set", "none"),
    ],
    "SUNIONSTORE": [("SUNIONSTORE", "set", "set", "other")],
    "LSET": [("LSET", "list", 0, "x"), ("LSET", "list", -1, "x")],
    "PFMERGE": [("PFMERGE", "hll", "hll"), ("PFMERGE", "hll", "hll", "hll2")],
}


@pytest.mark.integration
async def test_what_counts_as_idempotent_is(own):
    """Run again, what may be repeated leaves and replies what it did the first time."""
    names = {name for name, retry in _RETRIES.items() if retry is Retry.IDEMPOTENT}
    assert names == ONCE.keys()
    async with Client.from_url(own.url) as client:
        for command in (command for commands in ONCE.values() for command in commands):
            await client.flushdb()
            await client.mset({"k": "abc", "l": "def"})
            await client.hset("hash", mapping={"f": 1, "g": 2})
            await client.sadd("set", "a", "b", "c")
            await client.sadd("other", "b", "d")
            await client.rpush("list", 1, 2, 3)
            await client.pfadd("hll", "a")
            await client.pfadd("hll2", "b")
            assert CommandSpec(command[0], None, is_fast_path=True).may_repeat(command)
            left = []
            for _ in range(2):
                reply = await client.execute_command(*command)
                # Without lifetimes: those that begin now begin again.
                for key in await client.keys():
                    await client.persist(key)
                await client.hpersist("hash", "f", "g")
                keys = sorted(await client.keys())
                values = [await client.dump(key) for key in keys]
                left.append((reply, keys, values))
            assert left[0] == left[1], command


@pytest.mark.errors
def test_what_is_not_listed_is_never_repeated():
    """An unknown command goes on the command connection and is never sent again."""
    command = CommandSpec("UNHEARD-OF", None, is_fast_path=True)

    assert (command.route, command.retry) == (Route.SHARED, Retry.NEVER)


@pytest.mark.errors
async def test_reply_that_breaks_the_connection_is_not_asked_for_again(server, prefix):
    """A reply that the parser refuses fails its call once; its neighbours go on."""
    # A map whose key is a list: RESP3 allows it, a dict does not.
    script = (
        f"redis.setresp(3) redis.call('GET', '{prefix}'); "
        "return {map={[{map={a=1}}]=1}}"
    )
    # redis-py 7 asks for RESP2 if nothing else is said.
    options = {"retries": 3, "reconnect_delay": 0.01, "protocol": 3}
    async with Client.from_url(server.url, **options) as client:
        await client.set(prefix, "v", ex=60)
        results = await asyncio.gather(
            client.execute_command("EVAL_RO", script, 0),
            *(client.get(prefix) for _ in range(5)),
            return_exceptions=True,
        )
        pipe = client.pipeline(transaction=False)
        with pytest.raises(ProtocolBroken):
            await pipe.execute_command("EVAL_RO", script, 0).execute()
        await client.delete(prefix)
        connects = client.stats().connects

    assert isinstance(results[0], ProtocolBroken)
    assert results[1:] == [b"v"] * 5
    assert connects == 3  # the first, and one after each of the two calls


@pytest.mark.errors
async def test_set_callback_keeps_what_was_counted(client, prefix):
    """A callback that is set later applies at once, and the statistics stay."""
    await client.get(prefix)
    client.set_response_callback("get", lambda reply: (reply, "seen"))

    assert await client.get(prefix) == (None, "seen")
    assert client.stats().calls["GET"] == 2
