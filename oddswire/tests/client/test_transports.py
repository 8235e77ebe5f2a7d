"""The multiplexed transport and redis-py's own give the same results."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddswire import Client
from oddswire.errors import OddswireError

pytestmark = [pytest.mark.requirement("C5"), pytest.mark.integration]

KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.one_of(
    st.binary(max_size=8),
    st.text(max_size=8),
    st.integers(-100, 100),
    st.floats(allow_nan=False, allow_infinity=False, width=16),
)
FIELDS = st.sampled_from(["f", "g"])
SMALL = st.integers(-3, 3)


def _call(name, *arguments, **options):
    return st.tuples(
        st.just(name), st.tuples(*arguments), st.fixed_dictionaries(options)
    )


CALLS = st.one_of(
    _call("get", KEYS),
    _call("set", KEYS, VALUES),
    _call("set", KEYS, VALUES, nx=st.booleans(), get=st.booleans()),
    _call("getset", KEYS, VALUES),
    _call("append", KEYS, VALUES),
    _call("incr", KEYS, SMALL),
    _call("incrbyfloat", KEYS, SMALL),
    _call("getrange", KEYS, SMALL, SMALL),
    _call("setbit", KEYS, st.integers(0, 20), st.integers(0, 1)),
    _call("mget", KEYS, KEYS),
    _call("mset", st.dictionaries(KEYS, VALUES, min_size=1)),
    _call("delete", KEYS, KEYS),
    _call("exists", KEYS, KEYS),
    _call("type", KEYS),
    _call("persist", KEYS),
    _call("ttl", KEYS),
    _call("rename", KEYS, KEYS),
    _call("hset", KEYS, FIELDS, VALUES),
    _call("hget", KEYS, FIELDS),
    _call("hgetall", KEYS),
    _call("hmget", KEYS, st.lists(FIELDS, min_size=1)),
    _call("hincrby", KEYS, FIELDS, SMALL),
    _call("hdel", KEYS, FIELDS),
    _call("lpush", KEYS, VALUES, VALUES),
    _call("rpop", KEYS, st.none() | st.integers(0, 3)),
    _call("lrange", KEYS, SMALL, SMALL),
    _call("lpos", KEYS, VALUES, rank=st.sampled_from([1, -1])),
    _call("sadd", KEYS, VALUES),
    _call("smembers", KEYS),
    _call("sismember", KEYS, VALUES),
    _call("sinter", KEYS, KEYS),
    _call("zadd", KEYS, st.dictionaries(FIELDS, SMALL, min_size=1), nx=st.booleans()),
    _call("zincrby", KEYS, SMALL, FIELDS),
    _call("zrange", KEYS, SMALL, SMALL, withscores=st.booleans()),
    _call("zscore", KEYS, FIELDS),
    _call("zpopmin", KEYS),
    _call("xadd", KEYS, st.dictionaries(FIELDS, VALUES, min_size=1), st.just("9-*")),
    _call("xlen", KEYS),
    _call("pfadd", KEYS, VALUES),
    _call("pfcount", KEYS),
    _call("geoadd", KEYS, st.just((13.3, 38.1, "p"))),
    _call("geopos", KEYS, st.just("p")),
    _call("object", st.just("encoding"), KEYS),
    _call("dump", KEYS),
    _call(
        "eval", st.just("return {KEYS[1], ARGV[1], 1, {2}}"), st.just(1), KEYS, VALUES
    ),
    _call("eval", st.just("return redis.call('INCR', KEYS[1])"), st.just(1), KEYS),
    _call("blpop", KEYS, st.just(0.001)),
    _call("execute_command", st.sampled_from(["NO-SUCH", "GET", "CONFIG GET"]), KEYS),
    _call("scan", st.just(0)),
    _call("set", KEYS, st.sampled_from([None, object(), "\ud800"])),
)


async def _outcome(call):
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - what it is, is compared
        kind = type(error)
        outcome = error.outcome if isinstance(error, OddswireError) else None
        return kind.__name__, str(error), outcome


async def _run(client, calls, how):
    await client.flushdb()
    results = []
    if how == "one by one":
        for name, args, options in calls:
            call = getattr(client, name)(*args, **options)
            results += [await _outcome(call)]
    else:
        pipe = client.pipeline(transaction=how == "transaction")
        for name, args, options in calls:
            try:
                getattr(pipe, name)(*args, **options)
            except Exception as error:  # noqa: BLE001 - what it is, is compared
                results.append(type(error))
        outcome = await _outcome(pipe.execute(raise_on_error=False))
        results.append(
            [
                (type(r).__name__, str(r)) if isinstance(r, Exception) else r
                for r in outcome
            ]
            if isinstance(outcome, list)
            else outcome
        )
    for key in ("a", "b", "c"):
        results.append(await client.dump(key))
    return repr(results)


@pytest.mark.parametrize("how", ["one by one", "pipeline", "transaction"])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
def test_any_sequence_of_commands_gives_the_same(how, decode):
    """Any sequence of commands has the same results and errors on both transports."""
    from oddswire import EmbeddedServer

    with asyncio.Runner() as runner:
        server = EmbeddedServer()
        runner.run(server.__aenter__())
        clients = [
            Client.from_url(server.url, transport=transport, decode_responses=decode)
            for transport in ("multiplexed", "pool")
        ]

        @settings(max_examples=60)
        @given(st.lists(CALLS, max_size=25))
        def compare(calls):
            ours, theirs = (runner.run(_run(client, calls, how)) for client in clients)
            if how == "pipeline" and "UnicodeDecodeError" in theirs:
                # redis-py fails the batch as a whole; ours tells the error in the place
                # of the reply, and the other results.
                assert "UnicodeDecodeError" in ours
                return
            assert ours == theirs

        try:
            compare()
        finally:
            for client in clients:
                runner.run(client.aclose())
            runner.run(server.__aexit__(None, None, None))
