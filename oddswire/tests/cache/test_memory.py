"""The first tier by itself: bounded, and not emptied by scans: K6."""

from __future__ import annotations

import gc
import random
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.cache._l1 import L1, Item
from support.hooks import size_of_memory

pytestmark = pytest.mark.requirement("K6")


def item(key, size=1):
    """An item without a value."""
    return Item(key=str(key), size=size)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "get", "drop"]),
        st.integers(0, 30),
        st.integers(1, 30),
    ),
    max_size=300,
)


@pytest.mark.advanced
@given(steps=STEPS)
def test_memory_is_never_above_its_bound_and_never_makes_anything_up(steps):
    """Whatever is done, bytes are counted right, and only what was put is there."""
    memory = L1(100)
    put = {}
    for what, key, size in steps:
        if what == "put":
            put[str(key)] = made = item(key, size)
            memory.put(made)
        elif what == "drop":
            memory.drop(str(key))
            put.pop(str(key), None)
        elif str(key) in memory.items:
            memory.items[str(key)].use()
        assert memory.used == sum(each.size for each in memory.items.values()) <= 100
        assert all(put[name] is each for name, each in memory.items.items())
        assert size_of_memory(memory) <= len(memory.items) + 1024 + 31


@pytest.mark.performance
def test_a_scan_does_not_push_out_what_is_used():
    """On a Zipf trace with scans the hit ratio is above that of plain LRU."""
    rng = random.Random(7)
    population = range(10_000)
    weights = [1 / (rank + 1) ** 0.9 for rank in population]
    trace = []
    fresh = 10_000
    for _ in range(10):
        trace += rng.choices(population, weights, k=4_000)
        trace += range(fresh, fresh + 1_000)
        fresh += 1_000
    ours, lru, capacity = 0, 0, 500
    memory, order = L1(capacity), OrderedDict()
    for key in trace:
        held = memory.items.get(str(key))
        if held is not None:
            ours += 1
            held.use()
        else:
            memory.put(item(key))
        if key in order:
            lru += 1
            order.move_to_end(key)
        else:
            order[key] = None
            if len(order) > capacity:
                order.popitem(last=False)
    assert ours > lru * 1.2


@pytest.mark.advanced
async def test_memory_of_a_cache_is_bounded(fleet):
    """A cache that is offered more than it may hold holds what it may."""
    a = await fleet.cache(l1_bytes=100_000)
    for start in range(0, 400, 50):
        await a.set_many({f"m:{n}": "x" * 500 for n in range(start, start + 50)})
    stats = a.stats()
    assert stats.l1_bytes <= 100_000
    assert 0 < stats.l1_entries < 100
    assert stats.l1_evicted > 200
    assert await a.get("m:0") == "x" * 500


@pytest.mark.performance
async def test_entries_in_memory_are_no_work_for_the_garbage_collector(fleet):
    """A full collection, which stops the loop, visits none of them."""
    a = await fleet.cache()
    await a.set("m:0", "x", tags=("t",))
    gc.collect()
    before = len(gc.get_objects())
    await a.set_many({f"m:{n}": {"price": n} for n in range(3_000)}, tags=("t",))
    gc.collect()
    assert a.stats().l1_entries == 3_000
    # The keys known lately, 4,096 at most, are visited.
    assert len(gc.get_objects()) - before < 2 * 3_000
