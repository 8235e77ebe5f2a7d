"""Other processes, for what only a new interpreter shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAMS = Path(__file__).with_name("programs")


def loaded_by(module):
    """Return the names of all modules that a new interpreter has after an import."""
    return subprocess.run(
        [sys.executable, _PROGRAMS / "importing.py", module],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
