"""The page of the source of record runs as it is printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "source.md"


@pytest.mark.integration
@pytest.mark.requirement("S8")
def test_the_page_runs(tmp_path):
    """A user survives a flushed Redis in the example of the page."""
    code = PAGE.read_text("utf-8").split("```python\n")[1].split("```")[0]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "bot.db").exists()
