"""The short form of `make kills`: real processes are killed, and no alert is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROOF = Path(__file__).resolve().parents[3] / "proofs" / "kills" / "run.py"


@pytest.mark.integration
@pytest.mark.requirement("B4", "B6", "B9")
def test_processes_killed_under_load_lose_nothing():
    """Lost 0, wrong 0, out of order 0; each repeat is marked and has its courier."""
    run = subprocess.run(
        [
            sys.executable, str(PROOF), "--seconds", "5", "--rate", "200", "--json",
            "--database", "sqlite", "--every", "0.5", "1.0",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.stdout, run.stderr
    (figures,) = json.loads(run.stdout)
    for name in ("lost", "wrong", "out_of_order", "untraced", "unmarked"):
        assert figures[name] == [], figures
    assert figures["due"] > 20
    assert figures["sent"] == figures["due"] - len(figures["unseen"])
    assert figures["killed_watchers"] + figures["killed_couriers"] >= 2
