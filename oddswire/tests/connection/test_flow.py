"""Who may send: limits, order of arrival, and room that nobody loses."""

from __future__ import annotations

import asyncio
from collections import deque
from time import thread_time

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oddswire.connection.flow import FlowControl, Limits
from oddswire.errors import ConnectionLost, Outcome, Overloaded

CAPS = Limits(commands=3, bytes=100)


def _load():
    return "3 in flight"


class Callers(RuleBasedStateMachine):
    """Callers that arrive, are let in, send, are answered, give up; against a model."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.flow = FlowControl(CAPS)
        self.waiting: deque = deque()  # (task, size), in order of arrival
        self.in_flight: list[int] = []
        self.sent: list[int] = []
        self.arrived = 0
        self.paused = False

    def teardown(self):
        """End those who still wait."""
        for task, _, _ in self.waiting:
            task.cancel()
        self._turn()
        self.runner.close()

    def _turn(self):
        async def turns():
            for _ in range(4):
                await asyncio.sleep(0)

        self.runner.run(turns())

    def _send(self, number, size):
        """What `Multiplexer.send` does to the flow."""
        self.flow.commands += 1
        self.flow.bytes += size
        if self.flow.commands >= CAPS.commands or self.flow.bytes >= CAPS.bytes:
            self.flow.open = False
        self.in_flight.append(size)
        self.sent.append(number)

    async def _call(self, number, size):
        await self.flow.wait(size, 60, _load)
        self._send(number, size)

    @rule(size=st.integers(1, 150))
    def arrive(self, size):
        """A caller sends at once if it may, and waits its turn otherwise."""
        number, self.arrived = self.arrived, self.arrived + 1
        if self.flow.open:
            assert not self.waiting
            self._send(number, size)
            return

        async def start():
            return asyncio.get_running_loop().create_task(self._call(number, size))

        self.waiting.append((self.runner.run(start()), number, size))
        self._turn()

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def answer(self, data):
        """Replies arrive: some of what is in flight is done."""
        for _ in range(data.draw(st.integers(1, len(self.in_flight)))):
            self.flow.commands -= 1
            self.flow.bytes -= self.in_flight.pop(0)
        if not self.flow.open:
            self.flow.update()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), after_answer=st.booleans())
    def abandon(self, data, after_answer):
        """A caller is cancelled, perhaps in the very tick it was let in."""
        if after_answer and self.in_flight:
            self.flow.commands -= 1
            self.flow.bytes -= self.in_flight.pop(0)
            self.flow.update()
        where = data.draw(st.integers(0, len(self.waiting) - 1))
        task, _, _ = self.waiting[where]
        if not task.done():
            task.cancel()
            del self.waiting[where]
        self._turn()

    @rule(paused=st.booleans())
    def kernel(self, paused):
        """The kernel stops taking bytes, or takes them again."""
        self.flow.paused = paused
        if paused:
            self.flow.open = False
        else:
            self.flow.update()

    @rule()
    def turn(self):
        """Those who were let in send."""
        self._turn()

    @invariant()
    def books_agree(self):
        """Nobody is above the limits, out of turn, or kept out while there is room."""
        self._turn()
        while self.waiting and self.waiting[0][0].done():
            self.waiting.popleft()[0].result()
        # Let in strictly in order: nobody behind the first who waits has sent.
        assert not any(task.done() for task, _, _ in self.waiting)
        assert self.sent == sorted(self.sent)
        assert self.flow.commands == len(self.in_flight) <= CAPS.commands
        assert self.flow.bytes == sum(self.in_flight)
        assert sum(self.in_flight[:-1]) < CAPS.bytes
        assert self.flow.waiting == len(self.waiting)
        room = (
            not self.flow.paused
            and len(self.in_flight) < CAPS.commands
            and sum(self.in_flight) < CAPS.bytes
        )
        assert not (room and self.waiting)
        if self.flow.open:
            assert room


class TestCallers(Callers.TestCase):
    """The machine, as a test."""

    pytestmark = pytest.mark.advanced

    def runTest(self):  # noqa: N802 - unittest's name
        """Whatever callers do, they are let in in order, and never above the limits."""
        super().runTest()


@pytest.mark.errors
async def test_no_room_within_the_deadline():
    """A caller for whom there is no room in time hears so; nothing was sent."""
    flow = FlowControl(Limits(commands=1))
    flow.commands = 1
    with pytest.raises(Overloaded, match=r"within 0\.01 s: 3 in flight") as caught:
        await flow.wait(1, 0.01, _load)

    assert caught.value.outcome is Outcome.NOT_SENT
    assert flow.waiting == 0


@pytest.mark.errors
async def test_end_of_the_connection_fails_all_waiters():
    """Whoever waits when the connection ends gets an error of its own."""
    flow = FlowControl(Limits(commands=1))
    flow.commands = 1
    tasks = [
        asyncio.get_running_loop().create_task(flow.wait(1, 60, _load))
        for _ in range(3)
    ]
    asyncio.get_running_loop().call_soon(
        flow.fail, lambda: ConnectionLost("cut", outcome=Outcome.NOT_SENT)
    )
    failures = await asyncio.gather(*tasks, return_exceptions=True)

    assert {type(failure) for failure in failures} == {ConnectionLost}
    assert len({id(failure) for failure in failures}) == 3
    assert not flow.open


@pytest.mark.performance
async def test_many_waiters_cost_no_more_each_than_few():
    """Letting in, and giving up, is not a search through everybody who waits."""
    loop = asyncio.get_running_loop()

    async def seconds_each(count):
        flow = FlowControl(Limits(commands=1))
        flow.commands = 1
        tasks = [loop.create_task(flow.wait(0, 60, _load)) for _ in range(count)]
        await asyncio.sleep(0)  # one turn of the loop: they all wait now
        assert flow.waiting == count
        started = thread_time()  # what other processes take does not count
        for task in tasks[::-2]:
            task.cancel()
        flow.limits = Limits(commands=count + 2)
        flow.update()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results.count(None) == count // 2
        return (thread_time() - started) / count

    await seconds_each(400)
    few = min([await seconds_each(400) for _ in range(3)])
    many = min([await seconds_each(4_000) for _ in range(3)])
    assert many < 5 * few
