"""A short form of `make hour`: what the cache spares Polymarket, in counted calls."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from oddsbot.markets import Ages

HOUR = Path(__file__).parents[3] / "benchmarks/hour.py"
MODEL = {
    "users": 200,
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
    """A small modelled hour: fewer than half the calls, and no answer lost."""
    hour = runpy.run_path(str(HOUR))
    happening = sorted(hour["actions"](MODEL, 5))
    bare, behind = (
        hour["Polymarket"]([f"m{n}" for n in range(5)], 0.002) for _ in range(2)
    )

    without = await hour["without"](happening, 1_800.0, bare)
    cached, _ = await hour["with_cache"](happening, 1_800.0, behind, warm=False)

    assert len(without) == len(cached) == 2_400
    assert bare.calls.total() > 1_500
    # Played so fast, an answer takes long in its time to live, and several share it.
    assert 0 < hour["least"](happening, Ages()) < bare.calls.total() / 2
    assert behind.calls.total() < bare.calls.total() / 2
