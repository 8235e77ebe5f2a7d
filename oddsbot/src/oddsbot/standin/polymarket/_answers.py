"""What all routes share: answers, refusals, cursors, whole numbers of a query."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

# "number": prices of Gamma, of the Data API and of histories are JSON numbers.
_encoder = msgspec.json.Encoder(decimal_format="number")


class Refused(Exception):
    """A request that Polymarket refuses.

    Args:
        status: Of HTTP.
        text: What it says.
        body: More of the answer.
    """

    def __init__(self, status: int, text: str, **body: str) -> None:
        super().__init__(text)
        self.status = status
        self.body = {**body, "error": text}


def answer(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a JSON answer."""
    return web.Response(
        body=_encoder.encode(body),
        status=status,
        content_type="application/json",
        headers=headers,
    )


def json_text(values: Any) -> str:
    """Return a list as Gamma writes it: JSON text inside a string."""
    return msgspec.json.encode(values).decode()


def iso(ts: int) -> str:
    """Return Unix milliseconds as ISO text."""
    return datetime.fromtimestamp(ts / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def whole(request: web.Request, name: str, default: int | None) -> int:
    """Return a whole number of the query.

    Raises:
        Refused: It is none, or it is missing and has no default.
    """
    text = request.query.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 15:
        raise Refused(400, f"{name} must be a whole number")
    return int(text)


def page_cursor(place: int, bound: str = "") -> str:
    """Return the cursor of a place, good only with what it is bound to."""
    return base64.urlsafe_b64encode(f"{place} {bound}".encode()).decode()


def read_cursor(cursor: str, bound: str = "") -> int:
    """Return the place of a cursor; 0 for none.

    Raises:
        Refused: It is not one of ours, or of a request with other filters.
    """
    if not cursor:
        return 0
    try:
        text = base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
        place, _, its_bound = text.partition(" ")
        found = int(place)
    except (binascii.Error, ValueError):
        raise Refused(400, "the cursor is not one of ours") from None
    if its_bound != bound:
        raise Refused(400, "the cursor belongs to other filters")
    return found
