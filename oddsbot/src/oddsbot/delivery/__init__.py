"""From an alert to the person it is for: a durable outbox and what empties it.

`Outbox` puts alerts into a Redis stream, `Courier` takes them out again and hands each
to the chat. Between them nothing is lost and nothing is delivered twice while the
server crashes and returns with its data; see `docs/alerts.md` for the promise.
"""

from __future__ import annotations

from .chat import Chat, PrintedChat
from .courier import Courier
from .outbox import DEAD_LETTERS, OUTBOX, Backlog, Outbox, OutboxError, backlog
from .texts import text_of

__all__ = [
    "DEAD_LETTERS",
    "OUTBOX",
    "Backlog",
    "Chat",
    "Courier",
    "Outbox",
    "OutboxError",
    "PrintedChat",
    "backlog",
    "text_of",
]
