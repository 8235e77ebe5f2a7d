from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
README = Path(__file__).parents[2] / "README.md"


@pytest.mark.integration
@pytest.mark.requirement("G3")
def test_an_application_with_its_own_settings_and_logging_runs():
    """The library logs through the application's logging and adds no handler."""
    run = subprocess.run(
        [sys.executable, EXAMPLES / "own_application.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=25,
    )

    assert run.stdout == "hello, visitor 1\n"
    said = [line.split(":")[0] for line in run.stderr.splitlines()]
    # The command wire and the cache's each come and go.
    assert said == ["oddswire.wire", "shop", "shop", "shop", "shop"]


@pytest.mark.integration
def test_the_ten_lines_of_the_readme_run(tmp_path):
    """What the first page shows works as it is printed there."""
    text = README.read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) <= 10
    script = tmp_path / "readme.py"
    script.write_text(code)

    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=25
    )

    assert "b'bid': b'0.59'" in run.stdout


@pytest.mark.basic
@pytest.mark.requirement("G3")
def test_importing_the_library_reads_and_configures_nothing():
    """No environment variable is read and no logging set up by an import."""
    code = """
import os, logging
class Watched(dict):
    def _no(self, name):
        if str(name).startswith(("REDIS", "ODDSWIRE", "SESSION", "CACHE")):
            raise SystemExit(f"read {name}")
    def __getitem__(self, name): self._no(name); return super().__getitem__(name)
    def get(self, name, default=None): self._no(name); return super().get(name, default)
os.environ = Watched(os.environ)
import oddswire
for name in oddswire.__all__: getattr(oddswire, name)
assert not logging.getLogger().handlers
assert not logging.getLogger("oddswire").handlers
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=25)
