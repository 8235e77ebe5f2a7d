"""`Listener`: an aiohttp application behind a `Guard`, within bounds. Extra ``web``."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from oddswire.connection.deadline import Deadline
from oddswire.web.guard import LOOPBACK, Guard, check_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ssl import SSLContext

    from aiohttp.typedefs import Handler

MAX_BODY = 1024 * 1024
MAX_CONNECTIONS = 200
PATIENCE = 10.0
_HEADER_BYTES = 8190
_log = logging.getLogger("oddswire.web")


class Listener:
    """Listens while its block runs, and answers the requests that `web.guard` allows.

    - A request with the Host, Origin or Sec-Fetch-Site of another site is refused
      before it is routed. That holds for websockets and event streams too.
    - A body has at most 1 MiB and arrives within 10 s; a line of the head has at most
      8,190 bytes. At most 200 connections are open; one more is closed at once.
    - A connection is closed if for 10 s it sends no complete request, or reads nothing
      of the answer. So no client holds up the task that writes to it for longer.
    - An error is one line without traceback, address or version. No access log.

    Args:
        app: The application.
        host: The address to listen on. One that other machines reach needs `token`, or
            TLS that asks for certificates.
        port: The port; 0: a free one.
        names: The hosts under which it is reached; default: those of this machine.
        token: Whether the application asks for a token.
        tls: The server's TLS context; None: no TLS.
        patience: Seconds, 10 s above.
        connections: The most connections at once.
        guard: The address behind a proxy; None: its own port and `names`.
        admits: Called with each request before its body is read. It refuses a request
            by an `HTTPException` of aiohttp, which is the answer.

    Raises:
        SettingsError: Other machines reach the address, and nothing keeps them out.
        OSError: On entering: the port cannot be opened.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        names: Sequence[str] = LOOPBACK,
        token: bool = False,
        tls: SSLContext | None = None,
        patience: float = PATIENCE,
        connections: int = MAX_CONNECTIONS,
        guard: Guard | None = None,
        admits: Callable[[web.Request], object] | None = None,
    ) -> None:
        mutual = tls is not None and bool(tls.verify_mode)
        check_address(host, token=token, mutual_tls=mutual)
        self.port = port
        self._host = host
        self._names = tuple(name.lower() for name in names)
        self._tls = tls
        self._patience = patience
        self._most = connections
        self._given_guard = guard
        self._admits = admits or (lambda _: None)
        self._open: dict[asyncio.BaseTransport, _Connection] = {}
        self._server: asyncio.Server | None = None
        app._client_max_size = MAX_BODY  # noqa: SLF001 - given to an app by its maker only
        app.middlewares.insert(0, self._middleware())
        app.on_response_prepare.append(_anonymous)
        self._bounds: dict[str, Any] = {
            "access_log": None,
            # aiohttp logs what strangers send, which may hold a token.
            "logger": logging.Logger("oddswire.web", logging.CRITICAL),  # noqa: LOG001 - of its own
            "lingering_time": 1.0,
            "max_line_size": _HEADER_BYTES,
            "max_field_size": _HEADER_BYTES,
        }
        self._runner = web.AppRunner(app, shutdown_timeout=1.0, **self._bounds)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._connection, self._host, self.port, ssl=self._tls
            )
        except BaseException:
            await self._runner.cleanup()
            raise
        self.port = self._server.sockets[0].getsockname()[1]
        scheme = "http" if self._tls is None else "https"
        own = Guard(port=self.port, names=self._names, scheme=scheme)
        self._guard = self._given_guard or own
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        for transport in list(self._open):
            transport.abort()  # type: ignore[attr-defined]

    def _connection(self) -> _Connection:
        server: Any = self._runner.server
        loop = asyncio.get_running_loop()
        inner = _Requests(server, loop=loop, **self._bounds)
        return _Connection(inner, self._open, self._most, self._patience)

    def _middleware(self) -> Any:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = self._open.get(request.transport)  # type: ignore[arg-type]
            if connection is not None:
                connection.asked()
            headers = request.headers
            refusal = self._guard.refuses(
                headers.getall("Host", ()),
                headers.getall("Origin", ()),
                headers.getall("Sec-Fetch-Site", ()),
            )
            if refusal is not None:
                return _line(refusal.status, refusal.reason)
            try:
                self._admits(request)
                if request.can_read_body:
                    async with Deadline(self._patience):
                        await request.read()
                return await handler(request)
            except TimeoutError:
                return _line(408, "the request took too long")
            except web.HTTPException as error:
                if error.status < 400:
                    raise
                return _line(error.status, error.reason)
            except web.RequestPayloadError:
                return _line(400, "the body is malformed")
            except ConnectionError:
                raise  # the client is gone: no answer can reach it
            except Exception:  # noqa: BLE001 - the log has it, the answer has nothing of it
                _log.exception("request_failed", extra={"event": "request_failed"})
                if request.writer.output_size:
                    # A second head would be read as part of the answer that began.
                    raise ConnectionError from None
                return _line(500, "an error in the server")

        return guard


def _line(status: int, text: str) -> web.Response:
    # No browser keeps a refusal, or guesses another type for it.
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return _Line(status=status, text=f"{status}: {text}\n", headers=headers)


class _Line(web.Response):
    """One line without the header Server.

    No hook of the application sees the answer to a malformed head, so it is removed
    here too.
    """

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Server", None)


class _Requests(web.RequestHandler):
    """aiohttp's side of a connection; aiohttp's own answers repeat the request."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answer a request that reached no handler, and close the connection."""
        if request.writer.output_size:
            raise ConnectionError  # a part of the answer was sent
        answer = _line(status, HTTPStatus(status).phrase)
        answer.force_close()
        return answer


async def _anonymous(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)
    # Also where a handler sets it: no page of another site reads an answer.
    response.headers.popall("Access-Control-Allow-Origin", None)


class _Connection(asyncio.Protocol):
    """A connection that is counted, and closed when it sends or reads nothing.

    Args:
        inner: aiohttp's protocol, which serves it.
        among: The open connections.
        most: How many may be open.
        patience: Seconds for a request, and for reading.
    """

    def __init__(
        self,
        inner: asyncio.Protocol,
        among: dict[asyncio.BaseTransport, _Connection],
        most: int,
        patience: float,
    ) -> None:
        self._inner = inner
        self._among = among
        self._most = most
        self._patience = patience
        self._transport: Any = None
        self._served = False
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve it, or close it if too many are open."""
        self._transport = transport
        if len(self._among) >= self._most:
            self._cut()
            return
        self._among[transport] = self
        self._served = True
        self._wait("asks")
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        for name in list(self._timers):
            self._calm(name)
        self._among.pop(self._transport, None)
        if self._served:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on the bytes that the client sent."""
        if self._served:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on that the client sends no more."""
        return self._inner.eof_received() if self._served else None

    def asked(self) -> None:
        """The client sent a complete request head."""
        self._calm("asks")

    def pause_writing(self) -> None:
        """The client reads nothing for now."""
        self._wait("takes")
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The client has read what was sent."""
        self._calm("takes")
        self._inner.resume_writing()

    def _wait(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(self._patience, self._cut)

    def _calm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _cut(self) -> None:
        self._transport.abort()
