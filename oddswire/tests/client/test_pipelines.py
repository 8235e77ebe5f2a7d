"""Batches: contiguous, each result in its place, errors where they happened."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import WatchError

from oddswire.errors import (
    CommandRejected,
    ConnectionLost,
    NotShared,
    Outcome,
    WrongType,
)


@pytest.mark.requirement("C6")
@pytest.mark.basic
@pytest.mark.parametrize("transaction", [True, False], ids=["multi", "plain"])
async def test_results_stand_in_the_order_of_the_commands(client, prefix, transaction):
    """Every command has its result in its place, shaped as the single command's."""
    pipe = client.pipeline(transaction=transaction)
    pipe.set(f"{prefix}a", 1, ex=60).incr(f"{prefix}a").hset(f"{prefix}h", "f", "v")
    pipe.hgetall(f"{prefix}h").config_get("maxmemory").get(f"{prefix}none")
    results = await pipe.execute()
    await client.delete(f"{prefix}a", f"{prefix}h")

    assert results == [True, 2, 1, {b"f": b"v"}, {"maxmemory": "0"}, None]
    assert await pipe.execute() == []
    assert client.stats().connections.leased == client.stats().connections.idle == 0


@pytest.mark.requirement("C6")
@pytest.mark.advanced
async def test_transactions_are_contiguous_among_a_thousand_calls(client, prefix):
    """Nothing of other callers runs between MULTI and EXEC on the shared connection."""
    key = f"{prefix}n"

    async def transaction():
        return await client.pipeline().incr(key).incr(key).incr(key).execute()

    async def single():
        return await client.incr(key)

    calls = [transaction() if n % 3 else single() for n in range(900)]
    results = await asyncio.gather(*calls)
    total = int(await client.getdel(key))

    triples = [result for result in results if isinstance(result, list)]
    assert len(triples) == 600
    assert all(c == b + 1 == a + 2 for a, b, c in triples)
    assert total == 300 + 3 * 600


@pytest.mark.requirement("C6")
@pytest.mark.errors
@pytest.mark.parametrize("transaction", [True, False], ids=["multi", "plain"])
@pytest.mark.parametrize("size", [3, 1_500], ids=["shared", "exclusive"])
async def test_error_in_the_middle_stands_in_its_place(
    client, prefix, transaction, size
):
    """A wrong type in the middle fails its command alone; the others have run."""
    await client.rpush(f"{prefix}list", 1)

    def filled():
        pipe = client.pipeline(transaction=transaction)
        for _ in range(size // 3):
            pipe.incr(f"{prefix}n")
            pipe.incr(f"{prefix}list")
            pipe.incr(f"{prefix}n")
        return pipe

    results = await filled().execute(raise_on_error=False)
    with pytest.raises(
        WrongType, match=r"Command # 2 .INCRBY .*list 1. of pipeline"
    ) as e:
        await filled().execute()
    total = int(await client.getdel(f"{prefix}n"))
    await client.delete(f"{prefix}list")

    assert {type(result) for result in results[1::3]} == {WrongType}
    assert results[0::3] == list(range(1, 2 * len(results[0::3]), 2))
    assert e.value.outcome is Outcome.REJECTED
    assert total == 2 * (2 * (size // 3))


@pytest.mark.requirement("C6")
@pytest.mark.errors
@pytest.mark.parametrize("size", [1, 1_500], ids=["shared", "exclusive"])
async def test_command_refused_while_queueing_runs_nothing(client, prefix, size):
    """An unknown command in MULTI discards it all, and is the error."""
    pipe = client.pipeline()
    for _ in range(size):
        pipe.incr(f"{prefix}n")
    pipe.execute_command("UNHEARD-OF")
    with pytest.raises(CommandRejected, match="unknown command"):
        await pipe.execute()

    assert await client.exists(f"{prefix}n") == 0


@pytest.mark.requirement("C6")
@pytest.mark.errors
@pytest.mark.parametrize("transaction", [True, False], ids=["multi", "plain"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_connection_cut_in_the_middle(
    through, cutter, client, prefix, transaction, when
):
    """A batch that counts is not sent again when the link is cut."""
    one = through()
    await one.ping()
    cutter.plan = [(prefix.encode(), when)]
    pipe = one.pipeline(transaction=transaction)
    for _ in range(10):
        pipe.incr(f"{prefix}n")
    with pytest.raises(ConnectionLost) as caught:
        await pipe.execute()
    total = int(await client.getdel(f"{prefix}n") or 0)

    assert caught.value.outcome is Outcome.UNKNOWN
    assert total == (10 if when == "after" else 0)


@pytest.mark.requirement("C6")
@pytest.mark.errors
async def test_multi_cut_within_its_bytes_runs_nothing(server, client, prefix):
    """Half a transaction on the connection when the link ends leaves nothing behind."""
    from oddswire.connection.packing import pack

    reader, writer = await asyncio.open_unix_connection(str(server.unix_socket))
    begun = [("AUTH", server.password), ("MULTI",), ("INCR", f"{prefix}n")]
    writer.write(b"".join(map(pack, begun)))
    assert await reader.readline() == b"+OK\r\n"
    assert await reader.readline() == b"+OK\r\n"
    assert await reader.readline() == b"+QUEUED\r\n"
    writer.close()
    await writer.wait_closed()

    assert await client.exists(f"{prefix}n") == 0


@pytest.mark.requirement("C6")
@pytest.mark.errors
async def test_batch_of_reads_is_sent_again(through, cutter, client, prefix):
    """A batch of reads alone is retried as a whole."""
    await client.set(f"{prefix}a", "v", ex=60)
    one = through()
    await one.ping()
    cutter.plan = [(prefix.encode(), "after")]
    pipe = one.pipeline(transaction=False)
    results = await pipe.get(f"{prefix}a").exists(f"{prefix}a").execute()

    assert results == [b"v", 1]
    assert cutter.plan == []


@pytest.mark.requirement("C6")
@pytest.mark.errors
async def test_batch_of_what_may_repeat_alone_is_not_sent_again(
    through, cutter, client, prefix
):
    """A batch with a write is never repeated: it would read what it wrote itself."""
    await client.set(f"{prefix}a", "old", ex=60)
    one = through()
    await one.ping()
    cutter.plan = [(prefix.encode(), "after")]
    pipe = one.pipeline(transaction=False).get(f"{prefix}a").set(f"{prefix}a", "new")
    with pytest.raises(ConnectionLost) as caught:
        await pipe.execute()

    assert caught.value.outcome is Outcome.UNKNOWN
    assert await client.getdel(f"{prefix}a") == b"new"


@pytest.mark.advanced
async def test_large_batches_take_a_connection_of_their_own(own):
    """More than 1,000 commands, or 256 KiB, leave the command connection free."""
    from oddswire import Client

    async with Client.from_url(own.url) as client:
        for count, size in ((1_000, 1), (1_001, 1), (3, 100_000)):
            pipe = client.pipeline(transaction=False)
            for n in range(count):
                pipe.set(f"k{n}", "x" * size)
            await pipe.execute()
            entries = await client.client_list()
            assert len(entries) == (1 if (count, size) == (1_000, 1) else 2)
            assert client.stats().connections.leased == 0


@pytest.mark.advanced
async def test_scripts_are_loaded_where_they_are_missing(own):
    """A script in a batch runs on a server that never saw it, and after a flush."""
    from oddswire import Client

    async with Client.from_url(own.url) as client:
        script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        for expected in (5, 10):
            pipe = client.pipeline()
            pipe.set("a", 1)
            await script(keys=["n"], args=[5], client=pipe)
            assert await pipe.execute() == [True, expected]
            await client.script_flush()


@pytest.mark.requirement("C6")
@pytest.mark.advanced
async def test_watch_sees_a_change(client, prefix):
    """A watched key that changed fails the transaction and runs nothing of it."""
    key = f"{prefix}k"
    async with client.pipeline() as pipe:
        await pipe.watch(key)
        before = await pipe.get(key)
        await client.set(key, "other", ex=60)
        pipe.multi()
        pipe.set(key, "mine")
        with pytest.raises(WatchError):
            await pipe.execute()
    value = await client.getdel(key)

    assert (before, value) == (None, b"other")
    assert client.stats().connections.leased == 0


@pytest.mark.advanced
async def test_transaction_retries_until_nobody_interferes(client, prefix):
    """`transaction()` of many tasks on one key loses no update."""
    key = f"{prefix}n"

    async def add(pipe):
        value = int(await pipe.get(key) or 0)
        pipe.multi()
        pipe.set(key, value + 1, ex=60)

    await asyncio.gather(*(client.transaction(add, key) for _ in range(20)))

    assert await client.getdel(key) == b"20"


@pytest.mark.errors
@pytest.mark.parametrize("command", ["SELECT", "AUTH", "MULTI", "HELLO", "RESET"])
async def test_state_of_the_connection_is_refused_in_a_batch(client, prefix, command):
    """What would change the shared connection is refused; nothing of it runs."""
    pipe = client.pipeline(transaction=False)
    pipe.incr(f"{prefix}n")
    pipe.execute_command(command, "1")
    with pytest.raises(NotShared, match=r"client\.client"):
        await pipe.execute()

    assert await client.exists(f"{prefix}n") == 0


@pytest.mark.errors
async def test_argument_that_cannot_be_packed_sends_nothing(client, prefix):
    """One bad argument fails the batch before a byte leaves; the client goes on."""
    from redis.exceptions import DataError

    pipe = client.pipeline()
    pipe.incr(f"{prefix}n").set(f"{prefix}a", object())
    with pytest.raises(DataError):
        await pipe.execute()

    assert await client.exists(f"{prefix}n", f"{prefix}a") == 0
    assert len(pipe) == 0


@pytest.mark.errors
async def test_cancelled_batch_leaves_the_connection_in_step(client, prefix):
    """Batches cancelled at any moment leave every other caller its own replies."""

    async def batch(number):
        key = f"{prefix}{number}"
        pipe = client.pipeline(transaction=bool(number % 2))
        pipe.set(key, number, ex=60).get(key)
        return await pipe.execute()

    for turns in range(6):
        tasks = [
            asyncio.get_running_loop().create_task(batch(number))
            for number in range(40)
        ]
        for _ in range(turns):
            await asyncio.sleep(0)  # so many turns of the loop
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for number, result in enumerate(results):
            if not isinstance(result, asyncio.CancelledError):
                assert result == [True, str(number).encode()]

    assert client.stats().connects == 1
