"""The page of the queue."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "queue.md"


@pytest.mark.basic
def test_the_example_of_the_page_runs(tmp_path):
    """What the page shows works as it is printed there."""
    script = tmp_path / "page.py"
    script.write_text(PAGE.read_text().split("```python\n")[1].split("```")[0])
    subprocess.run([sys.executable, script], check=True, timeout=60)
