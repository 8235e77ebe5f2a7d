"""`Replay`: a local Polymarket that plays a recording at any speed.

Gamma, the CLOB, the Data API, the market channel and RTDS, on one port.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import Counter
from typing import TYPE_CHECKING, NoReturn, Self

import msgspec
from aiohttp import web

from oddsbot.standin import _http
from oddswire.web.listener import Listener

from . import _page
from ._answers import Refused, answer
from ._clob import ClobApi
from ._data import DataApi
from ._exchange import Exchange
from ._gamma import GammaApi
from ._streams import Bell, Feed
from .errors import PortUnavailable
from .faults import STATUS, Fault, Faults

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from .recording import Recording


class Replay:
    """All of Polymarket that the bot asks, on one local port, for one recording.

    With a `seed`, generated wallets trade in the recorded books: the tape, activity,
    positions, values and volumes are sums of one list of what they did. Without one
    nobody trades, and those answers are empty.

    Clients may connect as soon as it is entered; nothing happens in the recorded
    time until `start`. At a finite speed an item is sent when its recorded moment
    comes, and nobody is waited for: a subscriber that is 4 MiB behind is cut. At
    ``float("inf")`` items are sent as fast as the subscribers take them, and every run
    sends the same frames in the same order. A subscriber that takes nothing for
    `patience` seconds is cut: until then that replay waits for it, and drops nothing.

    It answers programs of this machine, and no page of a browser: see `Listener`.

    Args:
        recording: What to play.
        speed: Recorded seconds a second; above 0, may be infinite.
        host: The address of this machine to listen on.
        port: The port to listen on; 0 takes a free one.
        until: Play nothing recorded after this moment, Unix milliseconds.
        patience: Seconds, as above.
        seed: Of what wallets do; None: nobody trades.

    Attributes:
        faults: The switches.
        calls: Requests by method and path; a path that no client of ours has is
            counted as ``"unknown <path>"`` and answered with 404.
        played_until: The recorded moment of the last item sent, Unix milliseconds.
        control_token: For programs that set switches by ``POST /control``.

    Raises:
        ValueError: The speed is not above 0.
        SettingsError: Other machines would reach the address.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        speed: float = 60.0,
        host: str = "127.0.0.1",
        port: int = 0,
        until: int | None = None,
        patience: float = 2.0,
        seed: int | None = None,
    ) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be above 0, not {speed}")
        self.recording = recording
        self.speed = speed
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self.control_token = secrets.token_urlsafe(24)
        app = web.Application(middlewares=[self._count])
        self._listener = Listener(app, host=host, port=port)
        self._host = host
        self._stop = recording.end if until is None else min(until, recording.end)
        self._exchange = Exchange(recording, seed)
        self._feed = Feed(
            self._exchange, self.faults, patience, waits=math.isinf(speed)
        )
        self._bell = Bell(self._exchange, patience)
        for api in (GammaApi, ClobApi, DataApi):
            app.add_routes(api(self._exchange, self._seconds, self.faults).routes())
        app.add_routes(
            [
                web.get("/ws/market", self._feed.serve),
                web.get("/ws/live", self._bell.serve),
                web.get("/", self._show),
                web.post("/control", self._control),
            ]
        )
        self._listening = False
        self._player: asyncio.Task[None] | None = None
        self._began = 0.0
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None
        self.played_until = recording.start
        self._items = 0

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            PortUnavailable: The port is in use or may not be opened.
        """
        try:
            await self._listener.__aenter__()
        except OSError as error:
            raise PortUnavailable(
                f"port {self._listener.port} on {self._host} cannot be opened "
                f"({error.strerror or error}): choose another one, or 0 for a free one"
            ) from error
        self._listening = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop playing, cut the connections, free the port."""
        if self._player is not None:
            self._player.cancel()
            await asyncio.wait([self._player])
        self._ended.set()
        # Before cleanup, which would wait for open websockets to end by themselves.
        self.disconnect()
        await self._listener.__aexit__()

    @property
    def gamma_url(self) -> str:
        """The base URL for `oddsbot.polymarket.Gamma`, `Clob` and `Data`."""
        return f"http://{self._host}:{self._listener.port}"

    clob_url = data_url = gamma_url

    @property
    def ws_url(self) -> str:
        """The URL for `oddsbot.polymarket.StreamPool`."""
        return f"ws://{self._host}:{self._listener.port}/ws/market"

    @property
    def live_url(self) -> str:
        """The URL for `oddsbot.polymarket.ActivityBell`."""
        return f"ws://{self._host}:{self._listener.port}/ws/live"

    @property
    def wallets(self) -> tuple[str, ...]:
        """The addresses of the generated wallets."""
        return tuple(self._exchange.ledger.wallets)

    @property
    def position(self) -> int:
        """The recorded moment it is now, Unix milliseconds."""
        if self._player is None or math.isinf(self.speed):
            return self.played_until
        passed = (asyncio.get_running_loop().time() - self._began) * self.speed
        return min(self._stop, self.recording.start + int(passed * 1000))

    @property
    def frames_sent(self) -> int:
        """Data frames handed to the subscribers' sockets so far."""
        return self._feed.frames_sent

    async def wait_subscribed(self, *tokens: str) -> None:
        """Wait until one connection follows all of `tokens`; without any, anything.

        A client is not told when its subscription took effect. Who wants to miss
        nothing waits for this before `start`.
        """
        await self._feed.wait_subscribed(frozenset(tokens))

    def start(self) -> None:
        """Begin the recorded time; see `wait_subscribed` for the time before.

        Raises:
            RuntimeError: It was started before, or is not entered.
        """
        if not self._listening or self._player is not None:
            raise RuntimeError("start() is called once, inside `async with`")
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._player = loop.create_task(self._play(), name="replay")

    async def finished(self) -> None:
        """Wait until everything was sent, or the replay was closed.

        Cancelling the wait leaves the replay running.
        """
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def disconnect(self) -> int:
        """Cut every websocket now, without a close frame; return how many."""
        self._bell.disconnect()
        return self._feed.disconnect()

    def freeze(self) -> None:
        """Send no data on the market channel's links until `thaw`.

        The links stay up and PING is answered; what is played meanwhile is lost to
        them. A connection made later is served as usual.
        """
        self._feed.freeze()

    def thaw(self) -> None:
        """End a freeze: the next item is sent to everybody again."""
        self._feed.thaw()

    async def inject(self, text: str) -> None:
        """Send `text` as one frame to every subscriber, whatever it is."""
        await self._feed.inject(text)

    def propose(self, market_id: str, outcome: int, *, disputed: bool = False) -> None:
        """Have the oracle told how a market ended, or that somebody disputes it.

        A market that was disputed and is proposed again is ``reproposed``.
        """
        before = self._exchange.proposals.get(market_id)
        state = "disputed" if disputed else "proposed"
        if before is not None and before[0] == "disputed" and not disputed:
            state = "reproposed"
        self._exchange.proposals[market_id] = state, outcome, self.position

    def _seconds(self) -> int:
        return self.position // 1000

    # --- each request

    @web.middleware
    async def _count(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if resource is None:
            self.calls[f"unknown {request.path[:80]}"] += 1
        else:
            self.calls[f"{request.method} {resource.canonical}"] += 1
        fault = None
        if not request.path.startswith(("/control", "/ws/")) and request.path != "/":
            fault = self.faults.take(request.path)
        if fault is not None and fault.kind in STATUS:
            return _broken(fault)
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        try:
            response = await handler(request)
        except Refused as error:
            response = answer(error.body, error.status)
        if fault is not None and fault.kind == "cut":
            await _cut(request, response)
        return response

    async def _control(self, request: web.Request) -> web.Response:
        _http.check_control(request, self.control_token)
        try:
            asked = msgspec.json.decode(await request.read(), type=_Control)
        except msgspec.DecodeError as error:
            reason = " ".join(str(error).split())[:200]
            raise web.HTTPBadRequest(reason=reason) from None
        for name in asked.switches.__struct_fields__ if asked.switches else ():
            setattr(self.faults, name, getattr(asked.switches, name))
        if asked.freeze:
            self.freeze()
        if asked.thaw:
            self.thaw()
        if asked.disconnect:
            self.disconnect()
        for text in asked.inject:
            await self.inject(text)
        for each in asked.propose:
            self.propose(each.market, each.outcome, disputed=each.disputed)
        return answer({"calls": self.calls, "switches": self.faults})

    async def _show(self, _request: web.Request) -> web.Response:
        skeleton = await _http.asset(__package__, "page.html")
        text = _page.page(
            skeleton, self._exchange, self.faults, self.calls, self.position
        )
        return web.Response(text=text, content_type="text/html", headers=_page.HEADERS)

    async def _play(self) -> None:
        try:
            for item in self.recording.timeline:
                if item.ts > self._stop:
                    break
                await self._wait_for(item.ts)
                await self._feed.broadcast(self._exchange.play(item))
                await self._bell.ring()
                self.played_until = item.ts
                self._items += 1
                await self._disturb()
        except Exception as error:  # noqa: BLE001 (`finished` raises it)
            self._failure = error
        finally:
            self._ended.set()

    async def _disturb(self) -> None:
        """Do what a switch does again and again."""
        faults = self.faults

        def due(every: int) -> bool:
            return every > 0 and self._items % every == 0

        if due(faults.bad_frame):
            await self.inject('{"event_type": "book", "asset')
        if due(faults.unknown_event):
            await self.inject('{"event_type": "unheard_of"}')
        if due(faults.thaw):
            self.thaw()
        if due(faults.freeze):
            self.freeze()
        if due(faults.disconnect):
            self.disconnect()

    async def _wait_for(self, ts: int) -> None:
        """Sleep until the recorded moment `ts`; a late item only lets others run."""
        due = self._began + (ts - self.recording.start) / 1000 / self.speed
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))


class _Proposal(msgspec.Struct, forbid_unknown_fields=True):
    market: str
    outcome: int = 0
    disputed: bool = False


class _Control(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /control`` takes."""

    switches: Faults | None = None
    freeze: bool = False
    thaw: bool = False
    disconnect: bool = False
    inject: list[str] = []
    propose: list[_Proposal] = []


def _broken(fault: Fault) -> web.Response:
    if fault.kind == "html":
        return _http.bad_gateway()
    after = {"Retry-After": f"{fault.seconds:g}"} if fault.seconds else {}
    return answer({"error": "by a switch"}, STATUS[fault.kind], after)


async def _cut(request: web.Request, response: web.StreamResponse) -> NoReturn:
    """Send half of an answer, and end the connection."""
    body = getattr(response, "body", b"") or b""
    half = web.StreamResponse(headers={"Content-Type": "application/json"})
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    _http.cut(request)
