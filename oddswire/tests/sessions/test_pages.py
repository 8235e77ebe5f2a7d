from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.integration
@pytest.mark.parametrize("page", ["sessions.md", "locks.md"])
def test_the_page_runs(page, tmp_path):
    """What the pages of sessions and locks show runs as it is printed there."""
    (block,) = re.findall(
        "```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL
    )
    script = tmp_path / "page.py"
    script.write_text(block)
    run = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert run.returncode == 0, run.stderr
