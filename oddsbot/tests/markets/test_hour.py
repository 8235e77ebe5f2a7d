"""A short form of `make hour`: what the cache spares Polymarket, in counted calls."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from oddsbot.markets import Ages

HOUR = Path(__file__).parents[3] / "benchmarks/hour.py"
SPEED = 60.0
MODEL = {
    "users": 2_000,
    "actions_per_user": 12,
    "zipf": 1.0,
    "watched": 3,
    "comes_back": 0.5,
    "seed": 1,
    "actions": {"card": 60, "price": 25, "book": 10, "list": 5},
}


@pytest.mark.requirement("K8")
@pytest.mark.performance
async def test_a_bot_with_the_cache_asks_less_than_half_as_often():
    """Two minutes of a modelled hour: fewer than half the calls, no answer lost."""
    hour = runpy.run_path(str(HOUR))
    # Played slowly: what ages meanwhile is little, also where the machine is slow.
    happening = [each for each in sorted(hour["actions"](MODEL, 5)) if each.at < 120.0]
    bare, behind = (
        hour["Polymarket"]([f"m{n}" for n in range(5)], 0.002) for _ in range(2)
    )

    without = await hour["without"](happening, SPEED, bare)
    cached, _ = await hour["with_cache"](happening, SPEED, behind, warm=False)

    assert len(without) == len(cached) == len(happening) > 600
    assert bare.calls.total() > 500
    assert 0 < hour["least"](happening, Ages()) < bare.calls.total() / 2
    assert behind.calls.total() < bare.calls.total() / 2
