"""The command in a process that has no typer."""

from __future__ import annotations

import sys

sys.modules["typer"] = None

from oddswire.cli import main  # noqa: E402 (typer has to be absent before)

main()
