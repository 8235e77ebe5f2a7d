"""What keeps replies and calls together, one test for each invariant."""

from __future__ import annotations

import asyncio

import pytest

from oddswire.connection.errors import clone_error
from oddswire.connection.flow import Limits
from oddswire.connection.heartbeat import Heartbeat
from oddswire.connection.multiplexer import ConnectionMetrics
from oddswire.connection.packing import pack
from oddswire.errors import (
    CircuitOpen,
    ClosedError,
    CodecError,
    ConnectionLost,
    OddswireError,
    Outcome,
    ProtocolBroken,
    Unavailable,
)

pytestmark = pytest.mark.advanced

GET_A, GET_B, GET_C = (pack(("GET", key)) for key in "abc")


async def _failure(future):
    with pytest.raises(OddswireError) as caught:
        await future
    return caught.value


async def test_cancelled_before_the_flush_never_leaves(pair, name):
    """A call that is cancelled before its bytes are written is dropped with them."""
    connection, line = await pair()
    first = connection.send(GET_A, 5, name())
    second = connection.send(GET_B, 5, name())
    third = connection.send(GET_C, 5, name())

    second.cancel()
    await line.heard(("GET", "a"), ("GET", "c"))
    line.say(b"$1\r\n1\r\n$1\r\n3\r\n")
    assert [await first, await third] == [b"1", b"3"]
    assert (connection.flow.commands, connection.flow.bytes) == (0, 0)


async def test_hook_of_a_dropped_call_is_told(pair, name):
    """The hook of a call that was dropped unsent gets an error saying so."""
    connection, line = await pair()
    told = []
    first = connection.send(GET_A, 5, name())
    second = connection.send(GET_B, 5, name(), on_reply=told.append)
    second.cancel()
    await line.heard(("GET", "a"))
    line.say(b"_\r\n")
    await first

    assert [error.outcome for error in told] == [Outcome.NOT_SENT]


async def test_cancelled_after_the_flush_leaves_a_tombstone(pair, name):
    """The reply to a cancelled call is dropped and the next caller gets its own."""
    connection, line = await pair()
    first, second = connection.send(GET_A, 5, name()), connection.send(GET_B, 5, name())
    await line.heard(("GET", "a"), ("GET", "b"))
    first.cancel()

    line.say(b"$1\r\n1\r\n$1\r\n2\r\n")
    assert await second == b"2"


async def test_timed_out_call_leaves_a_tombstone(pair, name):
    """The reply that comes after its call's deadline is dropped, not handed on."""
    connection, line = await pair()
    first, second = (
        connection.send(GET_A, 0.02, name()),
        connection.send(GET_B, 5, name()),
    )
    assert (await _failure(first)).outcome is Outcome.UNKNOWN
    line.say(b"$1\r\n1\r\n$1\r\n2\r\n")

    assert await second == b"2"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01garbage\r\n",
        b"!\r\n\r\n",
        b"$-5\r\nabc\r\n",
        b"%1\r\n*1\r\n$1\r\nx\r\n:1\r\n",
        b"*1\r\n" * 5_000 + b":1\r\n",
    ],
    ids=["no RESP", "bad length", "negative", "map with a list as key", "too deep"],
)
async def test_garbage_closes_the_connection(pair, name, garbage):
    """Bytes that are no RESP fail the oldest call; the others lose the connection."""
    connection, line = await pair()
    calls = [connection.send(GET_A, 5, name()), connection.send(GET_B, 5, name())]
    await line.heard(("GET", "a"), ("GET", "b"))
    line.say(garbage)

    failures = [await _failure(call) for call in calls]
    assert [type(failure) for failure in failures] == [ProtocolBroken, ConnectionLost]
    assert str(failures[0]) == str(failures[1])
    await line.ended()


async def test_reply_cut_in_half_is_not_a_reply(pair, name):
    """A connection that ends within a reply fails the call instead of guessing."""
    connection, line = await pair()
    call = connection.send(GET_A, 5, name())
    await line.heard(("GET", "a"))
    line.say(b"$10\r\n01234")
    line.finish()

    failure = await _failure(call)
    assert (type(failure), failure.outcome) == (ConnectionLost, Outcome.UNKNOWN)


async def test_undecodable_reply_fails_its_call_alone(pair, name):
    """Text that does not decode is the error of one call; its neighbours are served."""
    connection, line = await pair(encoding="utf-8")
    calls = [connection.send(GET_A, 5, name()) for _ in range(3)]
    await line.heard(*[("GET", "a")] * 3)
    line.say(b"$1\r\n1\r\n*2\r\n$2\r\n\xff\xfe\r\n$1\r\nx\r\n$1\r\n3\r\n")

    first, second, third = await asyncio.gather(*calls)
    assert (first, third) == ("1", "3")
    assert isinstance(second, UnicodeDecodeError)
    assert connection.error is None


async def test_reply_nobody_asked_for_closes_the_connection(pair, name):
    """A reply with no call to go to means that the two are out of step."""
    connection, line = await pair()
    call = connection.send(GET_A, 5, name())
    await line.heard(("GET", "a"))
    line.say(b"+OK\r\n+OK\r\n")

    assert await call == b"OK"
    await line.ended()
    assert isinstance(connection.error, ProtocolBroken)
    assert "to no call" in str(connection.error)


async def test_last_word_of_the_server_is_the_reason(pair):
    """An error that the server says before it hangs up is why the connection ended."""
    connection, line = await pair()
    line.say(b"-ERR max number of clients reached\r\n")
    await line.ended()

    assert isinstance(connection.error, Unavailable)
    assert "max number of clients" in str(connection.error)


async def test_heartbeat_finds_replies_out_of_step(pair, name):
    """An echo of another number closes the connection within one interval."""
    connection, line = await pair()
    pulse = Heartbeat(connection, idle=0.01, answer=5)
    await line.heard(("PING", b"oddswire-1"))
    line.say(b"$10\r\noddswire-1\r\n")
    await line.heard(("PING", b"oddswire-2"))
    line.say(b"$1\r\n7\r\n")  # somebody else's
    await line.ended()
    pulse.stop()

    assert isinstance(connection.error, ProtocolBroken)
    assert "out of step" in str(connection.error)


async def test_heartbeat_finds_a_dead_link(pair):
    """A ping that is not answered in time closes the connection."""
    connection, line = await pair()
    Heartbeat(connection, idle=0.01, answer=0.02)
    await line.heard(("PING", b"oddswire-1"))
    await line.ended()

    assert isinstance(connection.error, ConnectionLost)
    assert "heartbeat was not answered" in str(connection.error)


async def test_messages_in_front_of_the_echo_are_a_sign_of_life(pair):
    """A ping that waits behind push messages does not end the connection."""
    connection, line = await pair()
    pulse = Heartbeat(connection, idle=0.01, answer=0.05)
    await line.heard(("PING", b"oddswire-1"))
    line.say(b">2\r\n$7\r\nmessage\r\n$1\r\nx\r\n")
    for _ in range(10):
        line.say(b">2\r\n$7\r\nmessage\r\n$1\r\nx\r\n")
        await asyncio.sleep(0.02)
    assert connection.error is None
    line.say(b"$10\r\noddswire-1\r\n")
    await line.heard(("PING", b"oddswire-2"))
    pulse.stop()


async def test_heartbeat_accepts_an_error_as_an_answer(pair):
    """A server that refuses the ping (loading, ACL) is alive."""
    connection, line = await pair()
    pulse = Heartbeat(connection, idle=0.01, answer=5)
    await line.heard(("PING", b"oddswire-1"))
    line.say(b"-LOADING data set in memory\r\n")
    await line.heard(("PING", b"oddswire-2"))
    pulse.stop()

    assert connection.error is None


async def test_reading_goes_on_while_writing_is_paused(pair, name):
    """A peer that reads on only when its reply was taken gets it taken."""
    connection, line = await pair()
    size = 16 * 1024 * 1024
    get = connection.send(GET_A, 20, name())
    await line.heard(("GET", "a"))
    line.writer.transport.pause_reading()
    command = pack(("SET", "k", bytes(size)))
    put = connection.send(command, 20, name())
    assert not connection.flow.open
    line.say(b"$%d\r\n%b\r\n" % (size, bytes(size)))
    async with asyncio.timeout(15):
        await line.writer.drain()
        line.writer.transport.resume_reading()
        await line.reader.readexactly(len(command))
    line.say(b"+OK\r\n")

    assert len(await get) == size
    assert await put == b"OK"


async def test_big_writes_and_big_replies_together(server, prefix):
    """Big writes among big replies on a real server all get their own replies."""
    from oddswire import Client

    big = bytes(8 * 1024 * 1024)
    async with Client.from_url(server.url, command_timeout=20.0) as client:
        await client.set(f"{prefix}0", big)
        calls = [
            call
            for n in range(1, 4)
            for call in (client.get(f"{prefix}0"), client.set(f"{prefix}1", big))
        ]
        results = await asyncio.gather(*calls)
        await client.delete(f"{prefix}0", f"{prefix}1")

    assert [len(value) for value in results[::2]] == [len(big)] * 3
    assert results[1::2] == [True] * 3


async def test_write_paused_lets_nobody_in_until_the_kernel_takes_bytes(pair, name):
    """While the peer reads nothing callers wait, and are let in when it reads again."""
    connection, line = await pair(limits=Limits(commands=100, bytes=1 << 30))
    line.writer.transport.pause_reading()
    big = pack(("SET", "k", bytes(16 * 1024 * 1024)))
    call = connection.send(big, 20, name())
    assert not connection.flow.open
    turn = asyncio.get_running_loop().create_task(
        connection.flow.wait(1, 20, connection.load)
    )
    line.writer.transport.resume_reading()
    async with asyncio.timeout(20):
        await line.reader.readexactly(len(big))
        await turn
    line.say(b"+OK\r\n")

    assert await call == b"OK"
    assert connection.flow.open


async def test_hooks_run_in_the_order_of_the_replies(pair, name):
    """Pushes and replies reach their hooks as they stand on the connection."""
    seen = []
    connection, line = await pair(on_push=lambda push: seen.append(tuple(push)))
    calls = [
        connection.send(GET_A, 5, name(), on_reply=seen.append),
        connection.send(GET_B, 5, name(), on_reply=seen.append),
    ]
    calls[0].add_done_callback(lambda _: seen.append("caller"))
    await line.heard(("GET", "a"), ("GET", "b"))
    line.say(
        b">1\r\n$1\r\nx\r\n$1\r\n1\r\n>1\r\n$1\r\ny\r\n$1\r\n2\r\n>1\r\n$1\r\nz\r\n"
    )
    await asyncio.gather(*calls)

    assert seen[:4] == [(b"x",), b"1", (b"y",), b"2"]
    assert sorted(map(str, seen[4:])) == ["(b'z',)", "caller"]


async def test_large_reads_are_taken_in_order(pair, name):
    """Pushes and replies of one large read, and of the next, keep their order."""
    seen = []
    connection, line = await pair(on_push=lambda push: seen.append(push[0]))
    count = 200
    calls = [
        connection.send(GET_A, 5, name(), on_reply=seen.append) for _ in range(count)
    ]
    await line.heard(*(("GET", "a") for _ in calls))
    expected = []
    data = bytearray()
    for number in range(2 * count):
        text = b"%d " % number * 100
        data += b">1\r\n" if number % 2 else b""
        data += b"$%d\r\n%b\r\n" % (len(text), text)
        expected.append(text)
    # One read, as uvloop makes them; a second comes before all of it was looked at.
    connection.data_received(bytes(data[:-20_000]))
    connection.data_received(bytes(data[-20_000:-10]))
    connection.data_received(bytes(data[-10:]))
    await asyncio.gather(*calls)

    assert seen == expected


async def test_hook_hears_the_reply_of_a_cancelled_call(pair, name):
    """The hook of a call whose caller gave up is still told the reply."""
    connection, line = await pair()
    seen = []
    first = connection.send(GET_A, 5, name(), on_reply=seen.append)
    second = connection.send(GET_B, 5, name())
    await line.heard(("GET", "a"), ("GET", "b"))
    first.cancel()
    line.say(b"$1\r\n1\r\n$1\r\n2\r\n")
    await second

    assert seen == [b"1"]


@pytest.mark.parametrize(
    "fault",
    [KeyError("a fault of ours"), CodecError("bad", reason="damaged")],
    ids=["any", "one of ours with arguments"],
)
@pytest.mark.parametrize("where", ["on_push", "on_reply"])
async def test_hook_that_raises_closes_the_connection_and_strands_nobody(
    pair, name, where, fault
):
    """A hook's exception ends the connection; it is called once and every call ends."""
    called = []

    def hook(value):
        called.append(value)
        raise fault

    connection, line = await pair(on_push=hook if where == "on_push" else None)
    first = connection.send(
        GET_A, 5, name(), on_reply=hook if where == "on_reply" else None
    )
    second = connection.send(GET_B, 5, name())
    await line.heard(("GET", "a"), ("GET", "b"))
    line.say(b">1\r\n$1\r\nx\r\n$1\r\n1\r\n$1\r\n2\r\n")

    failures = [await _failure(call) for call in (first, second)]
    assert str(failures[0]) == str(failures[1])
    assert "fault of ours" in str(failures[0]) or failures[0].reason == "damaged"
    assert len(called) == 1
    await line.ended()


async def test_hook_that_raises_at_the_end_does_not_strand_the_calls_behind(pair, name):
    """When the connection ends, one bad hook leaves no call behind it waiting."""
    connection, line = await pair()
    reported = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )

    def hook(error):
        raise KeyError(str(error))

    first = connection.send(GET_A, 5, name(), on_reply=hook)
    second = connection.send(GET_B, 5, name())
    await line.heard(("GET", "a"), ("GET", "b"))
    line.hang_up()

    assert {type(await _failure(call)) for call in (first, second)} == {ConnectionLost}
    assert [type(error) for error in reported] == [KeyError]


async def test_close_drains_then_fails_the_rest(pair, name):
    """Closing waits for answers, fails the rest in time, and lets nobody in."""
    connection, line = await pair(limits=Limits(commands=2))
    calls = [connection.send(GET_A, 5, name()), connection.send(GET_B, 5, name())]
    waiting = asyncio.get_running_loop().create_task(
        connection.flow.wait(1, 5, connection.load)
    )
    await line.heard(("GET", "a"), ("GET", "b"))
    closing = asyncio.get_running_loop().create_task(connection.aclose(1.0))
    failure = await _failure(waiting)
    line.say(b"$1\r\n1\r\n")

    assert await calls[0] == b"1"
    assert (type(failure), failure.outcome) == (ClosedError, Outcome.NOT_SENT)
    failure = await _failure(calls[1])
    assert (type(failure), failure.outcome) == (ClosedError, Outcome.UNKNOWN)
    await closing
    assert not connection.flow.open


async def test_close_does_not_wait_longer_than_it_must(pair, name):
    """Closing returns with the last reply, for everybody who is closing."""
    connection, line = await pair()
    call = connection.send(GET_A, 60, name())
    await line.heard(("GET", "a"))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(connection.aclose(60))
        group.create_task(connection.aclose(60))
        line.say(b"$1\r\n1\r\n")

    assert call.result() == b"1"


async def test_close_cancelled_closes_at_once(pair, name):
    """Closing that is cancelled while it drains closes the socket at once."""
    connection, line = await pair()
    call = connection.send(GET_A, 60, name())
    await line.heard(("GET", "a"))
    closing = asyncio.get_running_loop().create_task(connection.aclose(60))
    asyncio.get_running_loop().call_soon(closing.cancel)
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert isinstance(await _failure(call), ClosedError)
    await line.ended()


async def test_loss_tells_written_from_unwritten(pair, name):
    """When a connection ends, calls whose bytes left are unknown, others not sent."""
    connection, line = await pair()
    sent = connection.send(GET_A, 5, name())
    unsent = connection.send(GET_B, 5, name())
    connection.abort(ConnectionLost("cut"))

    assert (await _failure(sent)).outcome is Outcome.UNKNOWN
    assert (await _failure(unsent)).outcome is Outcome.NOT_SENT
    await line.ended()


async def test_loss_delivers_what_had_arrived(pair, name):
    """Replies that arrived before the connection ended still reach their callers."""
    connection, line = await pair()
    calls = [connection.send(GET_A, 5, name()) for _ in range(200)]
    await line.heard(*[("GET", "a")] * 200)
    line.say(b"$1\r\n1\r\n" * 150)
    line.finish()
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert results[:150] == [b"1"] * 150
    assert {type(result) for result in results[150:]} == {ConnectionLost}


async def test_order_is_the_order_of_the_calls(server, prefix):
    """Commands reach the server in the order of the calls, also at the limits."""
    from oddswire import Client

    async with Client.from_url(server.url, inflight_commands=7) as client:
        await client.ping()
        calls = [client.rpush(f"{prefix}order", n) for n in range(300)]
        lengths = await asyncio.gather(*calls)
        order = await client.lrange(f"{prefix}order", 0, -1)
        await client.delete(f"{prefix}order")
        waits = client.stats().waits

    assert lengths == list(range(1, 301))
    assert [int(item) for item in order] == list(range(300))
    assert waits == 293


async def test_many_replies_at_once_do_not_hold_the_loop(pair, name):
    """A chunk of replies is resolved in turns, with other tasks between them."""
    connection, line = await pair()
    calls = [connection.send(GET_A, 5, name()) for _ in range(500)]
    await line.heard(*[("GET", "a")] * 500)
    turns = 0

    def turn():
        nonlocal turns
        if not calls[-1].done():
            turns += 1
            asyncio.get_running_loop().call_soon(turn)

    line.say(b"$1\r\n1\r\n" * 500)
    await calls[0]
    turn()
    await asyncio.gather(*calls)

    assert turns >= 5


def test_copies_of_an_error_are_errors_of_their_own():
    """A copy has its class, text, attributes and cause, and an outcome of its own."""
    error = CircuitOpen("closed", retry_after=3.0)
    error.__cause__ = OSError("why")
    copy = clone_error(error, Outcome.UNKNOWN)

    assert copy is not error
    assert (type(copy), str(copy), copy.retry_after) == (CircuitOpen, "closed", 3.0)
    assert copy.__cause__ is error.__cause__
    assert (copy.outcome, error.outcome) == (Outcome.UNKNOWN, Outcome.NOT_SENT)


async def test_traffic_is_counted(pair, name):
    """Writes, bytes, pushes, latencies and slow replies of a connection are counted."""
    metrics = ConnectionMetrics(slow_above=0.0)
    connection, line = await pair(metrics=metrics)
    label = name()
    calls = [connection.send(GET_A, 5, label) for _ in range(10)]
    await line.heard(*[("GET", "a")] * 10)
    line.say(b"_\r\n" * 9 + b">1\r\n$1\r\nx\r\n_\r\n")
    await asyncio.gather(*calls)

    assert metrics.writes == 2
    assert metrics.bytes_out == 10 * len(GET_A)
    assert metrics.bytes_in == 30 + 11
    assert metrics.pushes == 1
    assert metrics.latency.count == label.slow == 10


async def test_task_cancelled_in_the_tick_of_its_call_never_sends(pair, name):
    """A caller that is cancelled before the tick's write is provably not sent."""
    connection, line = await pair()

    async def call(data):
        return await connection.send(data, 5, name())

    first = asyncio.create_task(call(GET_A))  # noqa: TID251 - two callers of one tick
    second = asyncio.create_task(call(GET_B))  # noqa: TID251 - two callers of one tick
    third = asyncio.create_task(call(GET_C))  # noqa: TID251 - two callers of one tick
    await asyncio.sleep(0)
    second.cancel()

    await line.heard(("GET", "a"), ("GET", "c"))
    line.say(b"$1\r\n1\r\n$1\r\n3\r\n")
    assert [await first, await third] == [b"1", b"3"]
    assert second.cancelled()
    assert (connection.flow.commands, connection.flow.bytes) == (0, 0)


async def test_a_slow_call_is_not_mistaken_for_a_dead_link(pair, name):
    """While a call is in flight its deadline watches the link, not the heartbeat."""
    connection, line = await pair()
    heartbeat = Heartbeat(connection, idle=0.02, answer=0.02)
    slow = connection.send(GET_A, 5, name())
    await line.heard(("GET", "a"))
    connection.loop.call_later(0.15, line.say, b"$1\r\n1\r\n")

    assert await slow == b"1"
    assert connection.error is None
    heartbeat.stop()
