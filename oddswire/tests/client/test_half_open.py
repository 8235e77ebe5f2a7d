"""Links that are open and dead are found, whether or not anybody is calling."""

from __future__ import annotations

import asyncio

import pytest

from oddswire.errors import CommandTimeout, ConnectionLost, Outcome, Unavailable
from oddswire.events import Disconnected, Ready
from oddswire.testing import History, LoopLag, overtime

pytestmark = pytest.mark.errors


async def _next(client, kind):
    heard = asyncio.get_running_loop().create_future()
    unsubscribe = client.events.subscribe(
        lambda event: heard.done() or heard.set_result(event), kind
    )
    async with asyncio.timeout(10):
        event = await heard
    unsubscribe()
    return event


@pytest.mark.requirement("C4", "C8")
async def test_idle_link_that_died_is_replaced_by_the_heartbeat(
    through, cutter, client, prefix
):
    """A link that swallows answers is found while idle; the next call just works."""
    one = through(heartbeat=0.1, heartbeat_answer=0.5)
    await one.ping()
    cutter.plan = [(b"oddswire-", "mute")]
    with LoopLag() as lag:
        lost = await _next(one, Disconnected)

    assert "heartbeat was not answered" in lost.reason
    assert lag.free < 2 * 0.1 + 0.5 + 0.2  # two beats, one answer, and some
    assert await one.set(f"{prefix}k", "v", ex=60)
    assert one.stats().connects == 2


@pytest.mark.requirement("C4")
async def test_link_that_dies_under_load_costs_each_call_one_deadline(
    through, cutter, prefix, soon_silent
):
    """When answers stop, calls time out, the link is replaced, and calls go on."""
    one = through(command_timeout=0.5, heartbeat=0.4, heartbeat_answer=0.2)
    await one.ping()
    cutter.plan = [(f"{prefix}50".encode(), "mute")]
    loop = asyncio.get_running_loop()
    history, failures = History(), []
    back = loop.create_task(_next(one, Ready))

    async def call(number):
        try:
            await one.get(f"{prefix}{number}")
        except Exception as error:
            failures.append(error)
            raise

    number = 0
    with LoopLag() as lag:
        while not back.done():
            keys = range(number, number + 10)
            await asyncio.gather(
                *(history.record("get", str(n), call(n), deadline=0.5) for n in keys)
            )
            number += 10
    assert await one.get(f"{prefix}50") is None

    assert failures
    # Timed out, on the way when the link was given up, or still waiting for the next.
    for error in failures:
        assert isinstance(error, CommandTimeout | ConnectionLost | Unavailable)
        assert (error.outcome is Outcome.NOT_SENT) == isinstance(error, Unavailable)
    assert overtime(history.calls, lag=lag) == []


async def test_link_that_swallows_what_is_sent(through, cutter, prefix, soon_silent):
    """A link that takes bytes and passes nothing on is the same to the caller."""
    one = through(heartbeat=0.1, heartbeat_answer=0.5)
    await one.ping()
    cutter.plan = [(prefix.encode(), "mute")]
    with pytest.raises(CommandTimeout):
        await one.bounded(0.2).incr(f"{prefix}n")
    lost = await _next(one, Disconnected)

    assert lost.connection == "command"
    assert await one.getdel(f"{prefix}n") == b"1"
