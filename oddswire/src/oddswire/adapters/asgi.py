"""Rate limits in front of any ASGI application; needs no framework.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any

import msgspec

from oddswire.adapters._arguments import check_callable, check_limiter
from oddswire.errors import SettingsError

if TYPE_CHECKING:
    from oddswire.ratelimit import Decision, RateLimiter, Rule

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def address(scope: Scope) -> str:
    """Return the client, by the address of the connection; the key of `RateLimits`.

    Of an IPv6 address its /64: a client with one address of it has all of them. A
    connection without an address, such as a Unix socket, is ``"local"``. Behind a proxy
    this is the proxy's address: let the server take it from a header that the proxy
    sets, or give a function of your own.
    """
    client = scope.get("client")
    if not client:
        return "local"
    host = str(client[0])
    try:
        found = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ip_network((found, 64), strict=False))
    return str(found)


class RateLimits:
    """Answers 429 to a client that asks too often; other replies carry its limits.

    Limits requests and the opening of websockets; lifespan passes. Responses carry
    ``RateLimit`` and ``RateLimit-Policy``, a 429 ``Retry-After`` and a problem document
    (RFC 9457). A websocket above the limit is closed before it is accepted, which a
    server answers with 403.

    Args:
        application: The application behind it.
        limiter: Keeps the rules, which are added to it.
        *rules: All of them have to admit a request; their key is ``"client"`` or None.
        client: Names the client; None lets the request pass.

    Raises:
        SettingsError: There is no rule, one counts by something else, or an argument is
            of another type.
        RuleError: The limiter has another rule of that name.
    """

    def __init__(
        self,
        application: Application,
        limiter: RateLimiter,
        *rules: Rule,
        client: Callable[[Scope], int | str | None] = address,
    ) -> None:
        check_limiter(limiter, *rules)
        check_callable("application", application)
        check_callable("client", client)
        if not rules:
            raise SettingsError("RateLimits needs a rule")
        for rule in rules:
            if rule.key not in (None, "client"):
                raise SettingsError(
                    f"rule {rule.name!r}: its key has to be 'client', or None"
                )
        limiter.add(*rules)
        self._application = application
        self._limiter = limiter
        self._names = [rule.name for rule in rules]
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection.

        Raises:
            OddswireError: As `RateLimiter.hit`, which raises neither for a limit nor
                for a Redis that is away.
        """
        client = None
        if scope["type"] in ("http", "websocket"):
            client = self._client(scope)
        if client is None:
            await self._application(scope, receive, send)
            return
        decision = await self._limiter.hit(*self._names, client=client)
        headers = [
            (name.lower().encode(), value.encode())
            for name, value in decision.headers().items()
        ]
        if not decision.allowed:
            await _refuse(scope, receive, send, headers, decision)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message = {
                    **message,
                    "headers": [*message.get("headers", ()), *headers],
                }
            await send(message)

        await self._application(scope, receive, send_with_limits)


async def _refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    headers: list[tuple[bytes, bytes]],
    decision: Decision,
) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect: nothing may be sent before it
        await send({"type": "websocket.close", "code": 1013})
        return
    problem = {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": f"limit {decision.limit} in {decision.window:g} s",
    }
    body = msgspec.json.encode(problem)
    headers = [
        *headers,
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    # The answer to HEAD has the headers of a body, and none.
    body = b"" if scope.get("method") == "HEAD" else body
    await send({"type": "http.response.body", "body": body})
