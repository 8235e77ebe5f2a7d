"""What both stand-ins do with HTTP: heads of their pages, secrets, broken answers."""

from __future__ import annotations

import asyncio
import hmac
from importlib.resources import files
from typing import TYPE_CHECKING, NoReturn

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping


def page_headers(policy: str, referrer: str) -> Mapping[str, str]:
    """Return the headers of a page that loads nothing but what `policy` allows."""
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; {policy}; frame-ancestors 'none'; base-uri 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": referrer,
        "Cache-Control": "no-store",
    }


async def asset(package: str, name: str) -> str:
    """Return a file of a package; a thread reads it."""
    file = files(package).joinpath(name)
    return await asyncio.to_thread(file.read_text, encoding="utf-8")


def same_secret(sent: str, expected: str) -> bool:
    """Whether two secrets are equal; as bytes, in constant time."""
    return hmac.compare_digest(sent.encode("utf-8", "replace"), expected.encode())


def check_control(request: web.Request, token: str) -> None:
    """Refuse a program that does not know the control token.

    Raises:
        HTTPForbidden: It does not.
    """
    if not same_secret(request.headers.get("Authorization", ""), f"Bearer {token}"):
        raise web.HTTPForbidden(reason="the control token is needed")


def bad_gateway() -> web.Response:
    """Return the page that a proxy answers with: HTML, where JSON is expected."""
    page = "<html><h1>502 Bad Gateway</h1></html>"
    return web.Response(status=502, text=page, content_type="text/html")


def cut(request: web.Request) -> NoReturn:
    """End the connection, whatever of the answer was sent.

    Raises:
        ConnectionResetError: Always, so that the handler ends too.
    """
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("cut by a switch")
