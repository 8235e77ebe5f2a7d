"""The short way of the script, for one window with room, against the long one."""

from __future__ import annotations

import asyncio

import pytest

from oddswire.ratelimit import Rule, SlidingWindow
from support.hooks import request_of

START = 1_800_000_000_000_000  # microseconds since 1970


@pytest.mark.advanced
@pytest.mark.requirement("R2")
@pytest.mark.parametrize("limit", [200, 60_000, 100_000])
def test_what_remains_is_what_a_look_adds_up(scripts, limit):
    """What a hit says remains is the limit less all counters, refunds included."""
    rule = SlidingWindow(limit, 1.0)
    at, taken = START, []
    # Through three windows, every sub-window used: one hit, two, or one and a refund.
    for number in range(90):
        at += 0 if number % 3 == 1 else rule.width
        if number % 3 == 2:
            scripts.refund(at, *taken[-1 if number % 2 else -5 if number > 9 else 0])
        cost = 1 + number % 5
        hit = scripts.hit(at, ("w", rule, cost))
        look = scripts.hit(at, ("w", rule, 1), mode="look")
        assert hit.allowed
        assert hit.remaining == look.remaining
        assert hit.reset == look.reset
        taken.append((at, ("w", rule, cost)))


@pytest.mark.basic
async def test_a_hot_key_ends_a_window_after_its_last_sub_window(
    limiter_of, client, prefix
):
    """However often it is hit, its time to live is a window and a twentieth at most."""
    limiter = limiter_of(Rule("hot", SlidingWindow(1_000_000, 20.0)))
    for _ in range(5):
        hits = await asyncio.gather(*(limiter.hit("hot") for _ in range(50)))
        (key,) = await client.keys(f"{prefix}*")
        ends = await client.pexpiretime(key)
        # From the hit itself: until somebody asks, time passes.
        last = max(hit.reservation.at for hit in hits) / 1_000
        assert 20_000 <= ends - last <= 21_002


@pytest.mark.performance
async def test_the_usual_request_is_packed_once(limiter_of):
    """One hit of one rule costs no packing; another mode or lease has its own bytes."""
    limiter = limiter_of(Rule("r", SlidingWindow(5, 1.0), key="user"))
    requests = [request_of(limiter, "r", user=user) for user in (1, 1, 2)]
    calls = [request.packed_fast_request for request in requests]
    assert calls[0] is calls[1]
    assert calls[0][0] != calls[2][0]
    assert requests[0].call("look")[0] != calls[0][0]
    assert requests[0].call("take", "lease")[0] != calls[0][0]
