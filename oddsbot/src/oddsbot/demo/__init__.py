"""The demo: a recorded Polymarket, an embedded server, three users, one terminal."""

from __future__ import annotations

from .options import DemoError, Options
from .report import Report
from .run import run
from .stage import Stage
from .view import View

__all__ = ["DemoError", "Options", "Report", "Stage", "View", "run"]
