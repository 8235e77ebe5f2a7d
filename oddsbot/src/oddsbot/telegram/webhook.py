"""`webhook_app`: updates that Telegram posts; any process may serve it.

1. The secret is compared before anything of the body is read.
2. The update is durable in the queue, and on a replica where there is one.
3. Only then Telegram gets its 200; 503 while Redis is away: it posts the update again.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from oddsbot.telegram.updates import BadUpdate
from oddswire.errors import OddswireError
from oddswire.web.guard import Guard
from oddswire.web.listener import Listener

if TYPE_CHECKING:
    from oddsbot.settings import Webhook
    from oddsbot.telegram.updates import Replicas, UpdateQueue

SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"  # noqa: S105 - the header's name
_LONGEST = 256
_log = logging.getLogger("oddsbot.telegram")


def path_of(secret: str) -> str:
    """Return the path of the webhook: the same in every process, and no secret."""
    name = hmac.digest(secret.encode(), b"oddsbot webhook path", hashlib.sha256)
    return f"/telegram/{name[:16].hex()}"


def webhook_listener(
    webhook: Webhook, updates: UpdateQueue, replicas: Replicas
) -> Listener:
    """Return what listens for Telegram; it answers the host of the webhook's URL.

    Raises:
        SettingsError: The address to listen on cannot be used.
    """
    secret = webhook.secret.encode()

    def admit(request: web.Request) -> None:
        sent = request.headers.getall(SECRET_HEADER, [])
        given = sent[0].encode("utf-8", "surrogateescape") if len(sent) == 1 else b""
        right = hmac.compare_digest(given[: _LONGEST + 1], secret)
        # Missing, doubled, too long, wrong: nobody learns which.
        if not right:
            raise web.HTTPUnauthorized(reason="no")

    async def take(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(reason="JSON is expected")
        try:
            body = (await request.read()).decode()
            await updates.put(body)
            await replicas.wait()
        except (BadUpdate, UnicodeDecodeError):
            # The same body would come again and again.
            _log.warning("update_unreadable", extra={"event": "update_unreadable"})
        except OddswireError as error:
            _log.warning(
                "update_not_kept error=%s",
                type(error).__name__,
                extra={"event": "update_not_kept"},
            )
            raise web.HTTPServiceUnavailable(reason="not now") from error
        return web.Response()

    app = web.Application()
    app.router.add_post(path_of(webhook.secret), take)
    port = webhook.port or {"https": 443, "http": 80}[webhook.scheme]
    guard = Guard(port=port, names=(webhook.host,), scheme=webhook.scheme)
    return Listener(
        app,
        host=webhook.bind_host,
        port=webhook.bind_port,
        token=True,
        guard=guard,
        admits=admit,
    )
