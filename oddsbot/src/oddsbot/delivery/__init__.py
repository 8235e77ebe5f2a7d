"""From an alert to the person it is for, by way of a durable queue.

`Outbox` puts alerts into the queue, `Courier` takes them out again and hands each to
the chat. Between them nothing is lost, and nothing is delivered twice while the server
crashes and returns with its data; see `docs/guides/alerts.md` for the promise.
"""

from __future__ import annotations

from .cards import MAX_CAPTION, MAX_TEXT, Button, Card, Entity
from .chat import Chat, PrintedChat
from .courier import Courier
from .outbox import Outbox, alert_queue
from .presses import Action, Press
from .texts import text_of

__all__ = [
    "MAX_CAPTION",
    "MAX_TEXT",
    "Action",
    "Button",
    "Card",
    "Chat",
    "Courier",
    "Entity",
    "Outbox",
    "Press",
    "PrintedChat",
    "alert_queue",
    "text_of",
]
