"""What all routes share: answers, refusals, pages, whole numbers of a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._exchange import Exchange
    from .faults import Faults

_Row = TypeVar("_Row")

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


class Api(ABC):
    """One of Polymarket's HTTP services.

    Args:
        exchange: What there is.
        now: Unix seconds.
        faults: The switches.
    """

    def __init__(
        self, exchange: Exchange, now: Callable[[], int], faults: Faults
    ) -> None:
        self._exchange = exchange
        self._now = now
        self._faults = faults

    @abstractmethod
    def routes(self) -> list[web.RouteDef]:
        """Return its routes."""


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


def page_of(
    rows: list[_Row], cursor: str, limit: int, bound: str = ""
) -> tuple[int, list[_Row], str | None]:
    """Return the page that a cursor stands before.

    Args:
        rows: All of them.
        cursor: Empty: the first page.
        limit: Rows a page.
        bound: What a cursor is bound to.

    Returns:
        The place of the first row, the rows, the next page's cursor.

    Raises:
        Refused: As `read_cursor` does.
    """
    begin = read_cursor(cursor, bound)
    end = begin + limit
    return begin, rows[begin:end], page_cursor(end, bound) if end < len(rows) else None


def page_cursor(place: int, bound: str) -> str:
    """Return the cursor of a place, good only with what it is bound to."""
    return f"{place}.{bound}"


def read_cursor(cursor: str, bound: str) -> int:
    """Return the place of a cursor; 0 for none.

    Raises:
        Refused: It is not one of ours, or of a request with other filters.
    """
    place, _, its_bound = cursor.partition(".")
    if cursor and not (place.isascii() and place.isdigit() and len(place) <= 15):
        raise Refused(400, "the cursor is not one of ours")
    if cursor and its_bound != bound:
        raise Refused(400, "the cursor belongs to other filters")
    return int(place or 0)
