"""The demo: a recorded Polymarket and a server of its own; no account, no network.

`run` plays to three users and checks itself; `oddsbot.demo.browser` is the bot itself
with a page to talk to it.
"""

from __future__ import annotations

from .options import DemoError, Options
from .report import Report
from .run import run
from .stage import Stage
from .view import Progress, View

__all__ = ["DemoError", "Options", "Progress", "Report", "Stage", "View", "run"]
