"""What the tests of topics share: publishers, readers and broken links."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from oddswire import Client
from oddswire.pubsub import Gap, PubSub
from support import eventually


@pytest.fixture
async def pubsub(client, prefix):
    """Topics of this test alone, on the shared server."""
    async with PubSub(client, prefix=prefix, check_every=0.2) as pubsub:
        yield pubsub


@pytest.fixture
def opened():
    """Open ``opened(url, **options)``: topics with a client of their own."""

    @asynccontextmanager
    async def open_(url, check_every=0.2, **options):
        options = {"reconnect_delay": 0.01, **options}
        async with (
            Client.from_url(url, **options) as client,
            PubSub(client, check_every=check_every) as pubsub,
        ):
            pubsub.client = client
            yield pubsub

    return open_


@pytest.fixture
def take():
    """Await ``take(sub, count)`` for the next `count` events."""

    async def take_(sub, count, within=10.0):
        async with asyncio.timeout(within):
            return [await anext(sub) for _ in range(count)]

    return take_


class Collector:
    """Reads a subscription in a task, while its block is open.

    Attributes:
        events: What it yielded.
    """

    def __init__(self, sub):
        self.events = []
        self._sub = sub

    async def __aenter__(self):
        self._task = asyncio.get_running_loop().create_task(self._read())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
        assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome

    async def _read(self):
        async for event in self._sub:
            self.events.append(event)

    @property
    def values(self):
        """Of the messages among them."""
        return [each.value for each in self.events if not isinstance(each, Gap)]

    @property
    def gaps(self):
        """The gaps among them."""
        return [each for each in self.events if isinstance(each, Gap)]

    async def saw(self, value, within=15.0):
        """Wait until this value was yielded."""
        await eventually(lambda: value in self.values[-500:], within)


@pytest.fixture
def collect():
    """Enter ``collect(sub) as got`` to have `got.events` grow."""
    return Collector


@pytest.fixture
def check_runs():
    """Judge what came against what was published: ``check_runs(events, published)``.

    Between two gaps: consecutive, none twice, none reordered. Returns the values.
    """

    def check(events, published):
        place = {value: index for index, value in enumerate(published)}
        last = None
        seen = []
        for event in events:
            if isinstance(event, Gap):
                last = None
                continue
            here = place[event.value]
            assert last is None or here == last + 1, (last, here)
            seen.append(event.value)
            last = here
        assert len(seen) == len(set(seen))
        return seen

    return check
