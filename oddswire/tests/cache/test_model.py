"""Two caches on a real server against a model: any sequence of calls: K1, K2, K7."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from oddswire import Client
from oddswire.cache import Cache
from oddswire.clock import SystemClock
from support import eventually
from support.hooks import loads_behind, told, tracking_id

WHO = st.integers(0, 1)
KEYS = st.sampled_from(["m:1", "m:2", "w:1"])
TAGS = st.sets(st.sampled_from(["s", "t"])).map(tuple)


class Machine(RuleBasedStateMachine):
    """The model is what one process with a dict would have."""

    server_url = ""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = {}  # key: (value, tags, whether it is fresh)
        self.floors = {}
        self.number = 0
        self.stack = AsyncExitStack()
        self.runner.run(self.open())

    async def open(self):
        """Make two caches."""
        prefix = f"test-{uuid.uuid4().hex[:12]}:"
        self.caches, self.clients = [], []
        for _ in range(2):
            # Wires are lost often here; the pauses before the next are not in point.
            client = Client.from_url(
                self.server_url,
                reconnect_delay=0.001,
                reconnect_cap=0.005,
                reconnect_attempts=10_000,
            )
            self.stack.push_async_callback(client.aclose)
            cache = Cache(client, prefix=prefix, timeout=10.0, clock=SystemClock())
            self.clients.append(client)
            self.caches.append(await self.stack.enter_async_context(cache))

    def teardown(self):
        """Close them."""
        self.runner.run(self.stack.aclose())
        self.runner.close()

    def do(self, work):
        """Run a call, and let everybody hear of it."""

        async def run():
            result = await work
            await told(*self.caches)
            return result

        return self.runner.run(run())

    @rule(who=WHO, key=KEYS, tags=TAGS, version=st.none() | st.integers(1, 5))
    def set(self, who, key, tags, version):
        """Store."""
        self.number += 1
        cache = self.caches[who]
        done = self.do(cache.set(key, self.number, tags=tags, version=version))
        # A floor is there while the entry is, dead or not, or what deleting it left.
        refused = version is not None and version < self.floors.get(key, 0)
        assert done is not refused
        if done:
            self.model[key] = (self.number, tags, True)
            self.floors[key] = version or 0

    @rule(who=WHO, key=KEYS)
    def get(self, who, key):
        """Look up, and count."""
        value, _, fresh = self.model.get(key, (None, (), False))
        before = self.caches[who].stats()
        assert self.do(self.caches[who].get(key)) == (value if fresh else None)
        after = self.caches[who].stats()
        hits = after.l1_hits + after.l2_hits - before.l1_hits - before.l2_hits
        assert (hits, after.misses - before.misses) == (
            (1, 0) if value is not None else (0, 1)
        )

    @rule(who=WHO, key=KEYS, tags=TAGS)
    def get_or_set(self, who, key, tags):
        """Load where there is none."""
        self.number += 1
        value, calls = self.number, []

        async def load():
            calls.append(value)
            return value

        cache = self.caches[who]

        async def obtain():
            got = await cache.get_or_set(key, load, tags=tags)
            await eventually(lambda: not loads_behind(cache))  # a refresh
            return got

        got = self.do(obtain())
        held, _, fresh = self.model.get(key, (value, (), False))
        assert (got, calls) == (held, [] if fresh else [value])
        if not fresh:
            self.model[key] = (value, tags, True)
            self.floors[key] = 0

    @rule(who=WHO)
    def get_many(self, who):
        """Look all up."""
        got = self.do(self.caches[who].get_many(["m:1", "m:2", "w:1"]))
        assert got == {key: each[0] for key, each in self.model.items() if each[2]}

    @rule(who=WHO, key=KEYS)
    def delete(self, who, key):
        """Delete."""
        self.do(self.caches[who].delete(key))
        self.model.pop(key, None)

    @rule(who=WHO, tag=st.sampled_from(["s", "t"]), soft=st.booleans())
    def invalidate(self, who, tag, soft):
        """Invalidate a tag, or make stale what carries it."""
        self.do(self.caches[who].invalidate_tags(tag, soft=soft))
        for key, (value, tags, _) in list(self.model.items()):
            if tag in tags:
                self.model.pop(key)
                if soft:
                    self.model[key] = (value, tags, False)

    @rule(who=WHO, key=KEYS)
    def expire(self, who, key):
        """Make one stale."""
        self.do(self.caches[who].expire(key))
        if key in self.model:
            self.model[key] = (*self.model[key][:2], False)

    @rule(who=WHO, name=st.sampled_from(["m", "w"]))
    def clear(self, who, name):
        """Clear a namespace."""
        self.do(self.caches[who].clear(name))
        self.model = {key: each for key, each in self.model.items() if key[0] != name}

    @rule()
    def flush(self):
        """Flush the server."""
        self.do(self.clients[0].flushdb())
        self.model, self.floors = {}, {}

    @rule(who=WHO)
    def lose_the_wire(self, who):
        """Kill a connection."""

        async def kill():
            cache = self.caches[who]
            number = await tracking_id(cache)
            before = cache.stats().generations
            await self.clients[who].client_kill_filter(_id=number)
            await eventually(lambda: cache.stats().generations != before)

        self.do(kill())


@pytest.mark.integration
@pytest.mark.requirement("K1", "K2", "K7")
def test_any_sequence_of_calls_is_as_with_one_dict(server):
    """Sets, loads, deletes, tags, clears, flushes and lost wires, by two processes."""
    Machine.server_url = server.url
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=20, stateful_step_count=25, deadline=None),
    )
