"""One deadline a call: kept when nothing answers, not blamed on a busy loop."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress

import pytest
import uvloop

from oddswire import Client, EmbeddedServer
from oddswire.errors import CommandTimeout, ConnectionLost, Outcome
from oddswire.testing import History, LoopLag, frozen, overtime

LOOPS = pytest.mark.parametrize(
    "new_loop",
    [asyncio.new_event_loop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)


@pytest.mark.requirement("C4")
@pytest.mark.errors
async def test_silence_ends_in_a_timeout_on_time(pair, name):
    """A call that nobody answers fails within its deadline and a tenth, unknown."""
    connection, _ = await pair()
    started = time.monotonic()
    with LoopLag() as lag, pytest.raises(CommandTimeout) as caught:
        await connection.send(b"x", 1.0, name("GET"))

    assert time.monotonic() - started >= 1.0
    assert lag.free <= 1.1
    assert caught.value.outcome is Outcome.UNKNOWN
    assert re.fullmatch(
        r"GET: no reply within 1 s \(1 in flight, 1 bytes; last bytes \S+ s ago, "
        r"connected \S+ s ago, the loop was \d+ ms late\)",
        str(caught.value),
    )


@pytest.mark.errors
async def test_short_deadlines_beside_long_ones(pair, name):
    """Each call has its own deadline, in whatever order they were sent."""
    connection, line = await pair()
    history = History()
    long = connection.send(b"x", 5.0, name())
    started = time.monotonic()
    with LoopLag() as lag:
        await asyncio.gather(
            *(
                history.record(
                    "x", "", connection.send(b"x", late, name()), deadline=late
                )
                for late in (0.4, 0.1, 0.2)
            )
        )

    assert {call.error for call in history.calls} == {"CommandTimeout"}
    # Half a deadline is more than the machine takes, and less than the next one.
    assert overtime(history.calls, grace=0.5, lag=lag) == []
    assert all(call.ended - started >= call.deadline for call in history.calls)
    line.say(b"$1\r\n1\r\n")
    assert await long == b"1"


@pytest.mark.errors
async def test_silent_link_is_given_up(pair, name, soon_silent):
    """After a timeout and long enough silence the connection closes by itself."""
    connection, line = await pair()
    call = connection.send(b"x", 0.05, name())
    later = connection.send(b"x", 60.0, name())
    with pytest.raises(CommandTimeout):
        await call
    with pytest.raises(ConnectionLost, match="nothing arrived for") as caught:
        await later

    silent = re.search(r"for (\S+) s", str(caught.value))
    assert float(silent[1]) >= 0.5
    assert caught.value.outcome is Outcome.UNKNOWN
    await line.ended()


@pytest.mark.errors
async def test_silent_link_is_given_up_with_nobody_waiting(pair, name, soon_silent):
    """It closes as well when every caller has given up."""
    connection, line = await pair()
    with pytest.raises(CommandTimeout):
        await connection.send(b"x", 0.05, name())
    assert connection.error is None
    await line.ended()

    assert isinstance(connection.error, ConnectionLost)


@pytest.mark.errors
async def test_replies_that_are_taken_for_a_part_of_another_are_silence(
    pair, name, soon_silent
):
    """A damaged length swallows the replies behind it: the connection is left."""
    connection, line = await pair()
    ended = asyncio.get_running_loop().create_task(line.ended())

    line.say(b"$9000\r\n")
    async with asyncio.timeout(20):
        while connection.error is None:
            answer = connection.send(b"x", 0.1, name())
            line.say(b"$1\r\n1\r\n")
            with suppress(CommandTimeout, ConnectionLost):
                await answer
    assert isinstance(connection.error, ConnectionLost)
    assert "arrived for" in str(connection.error)
    await ended


@pytest.mark.errors
async def test_replies_that_come_slowly_are_no_silence(pair, name, soon_silent):
    """Calls time out for longer than that, and one reply after the other comes."""
    connection, line = await pair()
    calls = [connection.send(b"x", 0.05, name()) for _ in range(10)]
    for _ in range(9):
        await asyncio.sleep(0.2)
        line.say(b"$1\r\n1\r\n")
    await asyncio.gather(*calls, return_exceptions=True)
    last = connection.send(b"x", 5.0, name())
    line.say(b"$1\r\n1\r\n$1\r\n2\r\n")
    assert await last == b"2"


@pytest.mark.errors
async def test_slow_server_is_not_given_up(pair, name):
    """A timeout while other replies arrive leaves the connection open."""
    connection, line = await pair()
    first = connection.send(b"x", 5.0, name())
    with pytest.raises(CommandTimeout):
        await connection.send(b"x", 0.02, name())
    line.say(b"_\r\n_\r\n")
    await first
    again = connection.send(b"x", 5.0, name())
    line.say(b"$1\r\n1\r\n")

    assert await again == b"1"


def _stall(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@LOOPS
@pytest.mark.errors
def test_stalled_loop_is_not_the_servers_fault(server, prefix, new_loop):
    """Replies that arrived while the loop was held up for 1 s are all delivered."""

    async def stall():
        await asyncio.sleep(0)  # one turn of the loop, in which the calls are written
        _stall(1.0)

    async def main():
        async with Client.from_url(server.url, command_timeout=0.5) as client:
            # More than one read of the socket takes in, and less than what the system
            # holds: what the server could not send has not arrived.
            await client.bounded(5).set(f"{prefix}k", b"v" * 10_000, ex=60)
            calls = [client.get(f"{prefix}k") for _ in range(60)]
            *values, _ = await asyncio.gather(*calls, stall())
            return {len(value) for value in values}, client.stats().timeouts

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main()) == ({10_000}, 0)


@LOOPS
@pytest.mark.errors
@pytest.mark.parametrize(
    "other", [b"", b">1\r\n$4\r\nnews\r\n"], ids=["silent", "pushes"]
)
def test_busy_loop_does_not_put_timeouts_off_for_ever(peers, name, new_loop, other):
    """On a loop that is late in every turn, no answer still ends in a timeout."""
    from oddswire.connection.multiplexer import ConnectionMetrics, Multiplexer

    async def main():
        loop = asyncio.get_running_loop()
        async with peers() as peer:
            _, connection = await loop.create_connection(
                lambda: Multiplexer(metrics=ConnectionMetrics()), "127.0.0.1", peer.port
            )
            line = await peer.line()
            call = connection.send(b"x", 0.1, name())

            def work():
                _stall(0.03)
                if not call.done():
                    line.say(other)
                    loop.call_soon(work)

            loop.call_soon(work)
            async with asyncio.timeout(15):  # it works as long as nothing ends the call
                with pytest.raises(CommandTimeout):
                    await call
            await connection.aclose(0)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.errors
async def test_a_loop_that_is_held_up_again_looks_again(pair, name):
    """Nothing was read between two stalls: the reply after the second one counts."""
    connection, line = await pair()
    call = connection.send(b"x", 0.1, name())
    _stall(0.3)
    for _ in range(3):
        await asyncio.sleep(0)  # some turns: the deadline came, late, and was put off
    _stall(0.1)
    await asyncio.sleep(0)  # a turn in which it comes again
    line.say(b"$1\r\n1\r\n")

    assert await call == b"1"


@pytest.mark.requirement("C4")
@pytest.mark.errors
async def test_bounded_is_the_same_client_with_another_deadline(peers):
    """A bounded call gives up early; an ordinary one on its connection goes on."""
    async with peers() as peer, asyncio.TaskGroup() as group:
        client = Client(
            host="127.0.0.1", port=peer.port, protocol=3, command_timeout=5.0
        )
        ordinary = group.create_task(client.get("a"))
        line = await peer.line()
        await line.greet()
        await line.heard(("GET", "a"))
        with LoopLag() as lag, pytest.raises(CommandTimeout, match=r"within 0\.05 s"):
            await client.bounded(0.05).get("b")
        assert lag.free < 0.5
        assert not ordinary.done()
        await line.heard(("GET", "b"))
        line.say(b"$1\r\n1\r\n$1\r\n2\r\n")

        assert await ordinary == b"1"
        await client.aclose()


@pytest.mark.requirement("C4")
@pytest.mark.errors
async def test_stopped_server_costs_one_deadline_and_writes_may_come_late():
    """Calls to a stopped server end on time, unknown; their writes may still run."""
    async with EmbeddedServer() as server:
        client = Client.from_url(server.url, command_timeout=0.5, retries=3)
        await client.bounded(5).ping()
        with frozen(server), LoopLag() as lag:
            failures = await asyncio.gather(
                *(client.incr(f"k{n}") for n in range(20)), return_exceptions=True
            )
        values = await client.bounded(5).mget(*(f"k{n}" for n in range(20)))
        await client.aclose()

    assert {type(failure) for failure in failures} == {CommandTimeout}
    assert {failure.outcome for failure in failures} == {Outcome.UNKNOWN}
    assert lag.free < 0.5 * 1.1 + 0.1
    assert values == [b"1"] * 20
