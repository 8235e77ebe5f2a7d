"""`BotApi`: the Bot API and its chat page on one port of this machine."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn, Self

import msgspec
from aiohttp import web

from oddsbot.standin import _http
from oddswire.web.listener import Listener

from . import _page
from ._fields import Fields
from ._methods import Methods
from .errors import ApiError, Json
from .faults import Counts, Fault, Faults, Limits, flood
from .panel import Panel
from .updates import Updates
from .world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .world import Person, Room

TOKEN = "42:A-token-of-the-stand-in"  # noqa: S105 - it opens nothing but this
MOST_STREAMS = 32
_HEADERS = _http.page_headers(
    "style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'",
    # With no-referrer a browser sends forms with `Origin: null`, which is refused.
    "same-origin",
)
_ASSETS = {"page.css": "text/css", "page.js": "text/javascript"}
_PING = 3.0  # a page that was left is noticed by it


class BotApi:
    """A Bot API on one local port, with a page that shows its chats.

    A bot takes `url` as the base of the API and `token` as its token. People are played
    by the page, or by a test through `world`. The page's address holds a password that
    is good once; after that a cookie is.

    Closed, calls that wait are cancelled, and nothing is left behind.

    Args:
        now: Unix seconds.
        token: Of the one bot that is served.
        host: The address of this machine to listen on.
        port: 0 takes a free one.
        limits: When a flood of messages is refused; None: never.
        retry: Seconds after which a webhook that failed is tried again, at first.
        panel: What the page has beside the chats.

    Raises:
        ValueError: The token is none.
        SettingsError: Other machines would reach the address.
        OSError: On entering: the port cannot be opened.
    """

    def __init__(
        self,
        now: Callable[[], float],
        *,
        token: str = TOKEN,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: Limits | None = Limits(),  # noqa: B008 - it is frozen
        retry: float = 1.0,
        panel: Panel | None = None,
    ) -> None:
        number, _, rest = token.partition(":")
        if not (number.isascii() and number.isdigit() and rest.isprintable() and rest):
            raise ValueError("token: a number, a colon and a text")
        self.token = token
        self.faults = Faults()
        self.updates = Updates(self.faults, now, retry=retry)
        self.world = World(self.updates, now, bot_id=int(number))
        self.counts = Counts(limits)
        self.control_token = secrets.token_urlsafe(24)
        self._methods = Methods(self.world, self.counts)
        self._panel = panel or Panel()
        self._once: set[str] = set()
        self._cookie = secrets.token_urlsafe(24)
        self._form_secret = secrets.token_urlsafe(24)
        self._streams = 0
        self._sender: asyncio.Task[NoReturn] | None = None
        self._closed = asyncio.Event()
        self._host = host
        app = web.Application()
        app.add_routes(
            [
                web.route("*", "/bot{token}/{method}", self._call),
                web.get("/open/{once}", self._open),
                web.get("/", self._show),
                web.get("/events", self._events),
                web.get("/photo/{file_id}", self._photo),
                web.get("/assets/{name}", self._asset),
                web.post("/act", self._act),
                web.post("/control/faults", self._plan),
                web.get("/control/sent", self._sent),
            ]
        )
        self._listener = Listener(app, host=host, port=port)

    async def __aenter__(self) -> Self:
        await self._listener.__aenter__()
        loop = asyncio.get_running_loop()
        self._sender = loop.create_task(self.updates.deliver(), name="webhook")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait([self._sender])
        # Handlers whose caller is gone wait on, and the listener does not know them.
        self._closed.set()
        self.updates.close()
        for watcher in list(self.world.watchers):
            watcher(0, "closed", {})
        await self._listener.__aexit__()

    @property
    def url(self) -> str:
        """The base of the API, without a slash at its end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._listener.port}"

    def page_url(self) -> str:
        """Return an address that opens the page once, in one browser."""
        once = secrets.token_urlsafe(18)
        self._once.add(once)
        return f"{self.url}/open/{once}"

    # --- bots

    async def _call(self, request: web.Request) -> web.StreamResponse:
        if not _http.same_secret(request.match_info["token"], self.token):
            return _refused(ApiError(401, "Unauthorized"))
        name = self._methods.known(request.match_info["method"])
        if name is None or request.method not in {"GET", "POST"}:
            self.world.calls[f"unknown {request.match_info['method'][:64]}"] += 1
            return _refused(ApiError(404, "Not Found"))
        self.world.calls[name] += 1
        try:
            fields = await Fields.of(request)
            fault = self.faults.take(name, fields.chat())
            if fault is not None:
                early = await self._break(fault, request)
                if early is not None:
                    return early
            result = await self._methods.call(name, fields)
        except ApiError as error:
            return _refused(error)
        if fault is not None and fault.kind == "lost":
            _http.cut(request)
        return _answer({"ok": True, "result": result})

    async def _break(
        self, fault: Fault, request: web.Request
    ) -> web.StreamResponse | None:
        match fault.kind:
            case "flood":
                raise flood(fault.seconds)
            case "unauthorized":
                raise ApiError(401, "Unauthorized")
            case "refused":
                raise ApiError(400, "it is refused by a switch")
            case "error":
                return _http.bad_gateway()
            case "silence":
                # The caller gives up first, or the stand-in is closed.
                await self._closed.wait()
                _http.cut(request)
            case "slow":
                await asyncio.sleep(fault.seconds)
        return None

    # --- people

    async def _open(self, request: web.Request) -> web.Response:
        once = request.match_info["once"]
        if once not in self._once:
            raise web.HTTPForbidden(reason="this address was used: start it again")
        self._once.discard(once)
        response = web.Response(status=303, headers={**_HEADERS, "Location": "/"})
        response.set_cookie(
            self._cookie_name, self._cookie, httponly=True, samesite="Strict", path="/"
        )
        return response

    @property
    def _cookie_name(self) -> str:
        return f"standin_{self._listener.port}"  # cookies do not look at ports

    def _check_cookie(self, request: web.Request) -> None:
        if not _http.same_secret(
            request.cookies.get(self._cookie_name, ""), self._cookie
        ):
            raise web.HTTPForbidden(reason="open the address that was printed")

    def _where(
        self, request: web.Request, values: Mapping[str, Any]
    ) -> tuple[Person, Room]:
        self._check_cookie(request)
        try:
            person = self.world.people[int(values.get("as") or 1001)]
            room = self.world.rooms[int(values.get("chat") or person.id)]
        except (KeyError, ValueError):
            raise web.HTTPNotFound(reason="there is no such person or chat") from None
        if not room.has(person.id):
            raise web.HTTPForbidden(reason="she is no member")
        return person, room

    async def _show(self, request: web.Request) -> web.Response:
        person, room = self._where(request, request.query)
        skeleton = await _http.asset(__package__, "page.html")
        text = _page.page(
            skeleton, self.world, person, room, self._form_secret, self._panel
        )
        return web.Response(text=text, content_type="text/html", headers=_HEADERS)

    async def _act(self, request: web.Request) -> web.Response:
        values = await request.post()
        person, room = self._where(request, values)
        if not _http.same_secret(str(values.get("secret", "")), self._form_secret):
            raise web.HTTPForbidden(reason="this form is not of this page")
        action, _, rest = str(values.get("do", "say")).partition(":")
        try:
            match action:
                case "say":
                    text = rest or str(values.get("text", ""))
                    self.world.say(person.id, text.replace("\r\n", "\n"), chat=room.id)
                case "press":
                    message, row, column = map(int, rest.split(":"))
                    self.world.press(person.id, message, row, column, room.id)
                case "act" if rest in self._panel.acts:
                    self._panel.acts[rest].act()
                case "tour":
                    tour = self._panel.tour
                    self._panel.guide(tour, 0 if rest == "again" else len(tour))
                case _:
                    raise web.HTTPBadRequest(reason="there is no such action")
        except (ApiError, ValueError) as error:
            reason = getattr(error, "description", "there is no such button")
            raise web.HTTPBadRequest(reason=reason) from None
        if request.headers.get("Accept") == "text/plain":
            return web.Response(status=204, headers=_HEADERS)
        where = f"/?as={person.id}&chat={room.id}"
        return web.Response(status=303, headers={**_HEADERS, "Location": where})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        person, room = self._where(request, request.query)
        if self._streams >= MOST_STREAMS:
            raise web.HTTPServiceUnavailable(reason="too many pages are open")
        self._streams += 1
        panel = self._panel
        # By id: a slow reader gets the newest form of each message, and no backlog.
        changed: dict[int, None] = {}
        toasts: deque[str] = deque(maxlen=20)
        news = asyncio.Event()

        def watch(chat: int, kind: str, content: Json) -> None:
            if kind == "closed":
                news.set()
            elif chat == room.id and content.get("to", person.id) == person.id:
                if kind == "message":
                    changed.pop(content["message_id"], None)
                    changed[content["message_id"]] = None
                    if len(changed) > _page.SHOWN:
                        del changed[next(iter(changed))]
                elif content["text"]:
                    toasts.append(content["text"])
                news.set()

        response = web.StreamResponse(
            headers={**_HEADERS, "Content-Type": "text/event-stream"}
        )
        self.world.watchers.append(watch)
        shown: dict[str, str] = {}
        panel.watchers.append(news.set)
        try:
            await response.prepare(request)
            items = [self._item(person, room, each) for each in _page.newest(room)]
            await response.write(_page.event("all", {"items": items}))
            news.set()
            while not self._closed.is_set():
                try:
                    async with asyncio.timeout(_PING):
                        await news.wait()
                except TimeoutError:
                    await response.write(b": still there\n\n")
                    continue
                news.clear()
                while changed:
                    number = next(iter(changed))
                    del changed[number]
                    if number in room.messages:
                        new = self._item(person, room, room.messages[number])
                        await response.write(_page.event("message", new))
                while toasts:
                    toast = {"text": toasts.popleft()}
                    await response.write(_page.event("answer", toast))
                # A slow reader gets the newest state, and none of those between.
                new = _page.parts(panel) if panel.acts else {}
                differing = {k: v for k, v in new.items() if shown.get(k) != v}
                shown = new
                if differing:
                    await response.write(_page.event("parts", differing))
        finally:
            self.world.watchers.remove(watch)
            panel.watchers.remove(news.set)
            self._streams -= 1
        return response

    def _item(self, person: Person, room: Room, message: Json) -> Json:
        html, version = _page.item(person, room, message)
        return {"id": message["message_id"], "html": html, "version": version}

    async def _photo(self, request: web.Request) -> web.Response:
        self._check_cookie(request)
        photo = self.world.photos.get(request.match_info["file_id"])
        if photo is None:
            raise web.HTTPNotFound(reason="there is no such photo")
        return web.Response(body=photo.data, content_type=photo.mime, headers=_HEADERS)

    async def _asset(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in _ASSETS:
            raise web.HTTPNotFound(reason="there is no such file")
        text = await _http.asset(__package__, name)
        return web.Response(text=text, content_type=_ASSETS[name], headers=_HEADERS)

    # --- programs that test a bot

    async def _plan(self, request: web.Request) -> web.Response:
        _http.check_control(request, self.control_token)
        try:
            asked = msgspec.json.decode(await request.read(), type=Faults)
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(reason="switches expected") from error
        for name in Faults.__struct_fields__:
            setattr(self.faults, name, getattr(asked, name))
        return _answer({"switches": self.faults})

    async def _sent(self, request: web.Request) -> web.Response:
        _http.check_control(request, self.control_token)
        return _answer({"sent": list(self.world.sent), "calls": self.world.calls})


def _refused(error: ApiError) -> web.Response:
    return _answer(error.body(), error.code)


def _answer(body: Json, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )
