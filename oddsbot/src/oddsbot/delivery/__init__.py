"""From an alert to the person it is for, by way of a durable queue.

`Outbox` puts what was committed into the queue, `Courier` takes it out again, has each
alert sent, and writes what became of it. See `docs/guides/alerts.md` for the promise.
"""

from __future__ import annotations

from .cards import MAX_CAPTION, MAX_TEXT, Button, Card, Entity, File, Shared, repeated
from .chat import Chat, PrintedChat
from .courier import Courier, Decision, Deliver, Summarize
from .home import Home
from .outbox import ALERTS, Entry, Outbox, Sweep
from .presses import Action, Press
from .texts import text_of

__all__ = [
    "ALERTS",
    "MAX_CAPTION",
    "MAX_TEXT",
    "Action",
    "Button",
    "Card",
    "Chat",
    "Courier",
    "Decision",
    "Deliver",
    "Entity",
    "Entry",
    "File",
    "Home",
    "Outbox",
    "Press",
    "PrintedChat",
    "Shared",
    "Summarize",
    "Sweep",
    "repeated",
    "text_of",
]
