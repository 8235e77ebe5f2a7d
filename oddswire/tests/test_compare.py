"""The words of `make compare`; the measuring needs the peers' environment."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "compare_text.py"
MACHINE = {
    "cpu": "a CPU",
    "cores": 2,
    "kernel": "Linux 6",
    "python": "3.11",
    "server": "s 9",
    "load": 3.5,
}
EACH = {"oddswire": 4.04, "redis-py": 44.0, "valkey-glide": 20.0}
FOUND = {
    "machine": MACHINE,
    "quiet": True,
    "pool": "BlockingConnectionPool(20)",
    "rows": [
        {
            "what": "get, calls/s",
            "figures": {
                "oddswire": 140_357.4,
                "redis-py": 7_607,
                "valkey-glide": 24_459,
            },
            "ratios": {"redis-py": 18.13, "valkey-glide": 5.91},
        }
    ],
    "against_asyncio": EACH,
    "against_bare": {"oddswire": 1.15, "redis-py": 2.2, "valkey-glide": 2.6},
    "seconds": 58.2,
}


@pytest.fixture(scope="module")
def render():
    """Return the function, of a script that is not on the path."""
    spec = importlib.util.spec_from_file_location("compare_text", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.render


@pytest.mark.basic
def test_each_figure_is_said_in_words(render):
    """The text has each client's figures, the ratios, and fits a terminal."""
    text = render(FOUND)

    assert "get: 18.1 times as fast as redis-py, 5.9 times as fast as valkey-glide" in (
        text
    )
    assert "oddswire 4.0, redis-py 44.0, valkey-glide 20.0" in text
    assert "oddswire 1.1, redis-py 2.2, valkey-glide 2.6" in text
    assert "busy" not in text
    assert max(map(len, text.splitlines())) <= 88


@pytest.mark.errors
def test_a_busy_machine_and_a_row_without_figures_are_said(render):
    """A load and a row that could not be measured are in the text."""
    text = render(FOUND | {"quiet": False, "against_bare": None})

    assert "busy (load 3.5)" in text
    assert "not measured" in text
