"""The demo: a recorded Polymarket and a server of its own; no account, no network.

`oddsbot.demo.run` plays to three users and checks itself; `oddsbot.demo.browser` is the
bot itself with a page to talk to it. Both import the whole bot, so neither is imported
here: the command line checks its options first.
"""

from __future__ import annotations

from .options import DemoError, Options
from .report import Report

__all__ = ["DemoError", "Options", "Report"]
