"""`Replay`: a local Polymarket that plays a recording at any speed."""

from __future__ import annotations

import asyncio
import errno
import math
from typing import TYPE_CHECKING, Self

from aiohttp import web

from oddswire.web.listener import Listener

from . import _rest
from ._exchange import Exchange
from ._feed import Feed
from .errors import PortUnavailable

if TYPE_CHECKING:
    from types import TracebackType

    from .recording import Recording


class Replay:
    """Gamma, CLOB and the market websocket on one local port, for one recording.

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
    ) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be above 0, not {speed}")
        self.recording = recording
        self.speed = speed
        app = web.Application()
        self._listener = Listener(app, host=host, port=port)
        self._host = host
        self._port = port
        self._stop = recording.end if until is None else min(until, recording.end)
        self._exchange = Exchange(recording)
        self._feed = Feed(self._exchange, patience, waits=math.isinf(speed))
        app.add_routes(_rest.routes(self._exchange, lambda: self.position))
        app.router.add_get("/ws/market", self._feed.serve)
        self._listening = False
        self._player: asyncio.Task[None] | None = None
        self._began = 0.0
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None
        self._played_until = recording.start

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            PortUnavailable: The port is in use or may not be opened.
        """
        try:
            await self._listener.__aenter__()
        except OSError as error:
            raise PortUnavailable(_why(self._host, self._port, error)) from error
        self._listening = True
        self._port = self._listener.port
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop playing, cut the connections, free the port."""
        if self._player is not None:
            self._player.cancel()
            await asyncio.wait([self._player])
        self._ended.set()
        self._feed.thaw()
        # Before cleanup, which would wait for open websockets to end by themselves.
        self._feed.disconnect()
        if self._listening:
            await self._listener.__aexit__(kind, error, traceback)

    @property
    def gamma_url(self) -> str:
        """The base URL for `oddsbot.polymarket.Gamma`."""
        return f"http://{self._host}:{self._port}"

    @property
    def clob_url(self) -> str:
        """The base URL for `oddsbot.polymarket.Clob`."""
        return f"http://{self._host}:{self._port}"

    @property
    def ws_url(self) -> str:
        """The URL for `oddsbot.polymarket.MarketStream`."""
        return f"ws://{self._host}:{self._port}/ws/market"

    @property
    def position(self) -> int:
        """The recorded moment it is now, Unix milliseconds."""
        if self._player is None or math.isinf(self.speed):
            return self._played_until
        passed = (asyncio.get_running_loop().time() - self._began) * self.speed
        return min(self._stop, self.recording.start + int(passed * 1000))

    @property
    def played_until(self) -> int:
        """The recorded moment of the last item sent, Unix milliseconds."""
        return self._played_until

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
        return self._feed.disconnect()

    def freeze(self, seconds: float | None = None) -> None:
        """Send no data on the websockets open now, for `seconds` or until `thaw`.

        The links stay up and PING is answered; what is played meanwhile is lost to
        them. A connection made later is served as usual.
        """
        self._feed.freeze(seconds)

    def thaw(self) -> None:
        """End a freeze: the next item is sent to everybody again."""
        self._feed.thaw()

    async def inject(self, text: str) -> None:
        """Send `text` as one frame to every subscriber, whatever it is."""
        await self._feed.inject(text)

    async def _play(self) -> None:
        try:
            for item in self.recording.timeline:
                if item.ts > self._stop:
                    break
                await self._wait_for(item.ts)
                await self._feed.broadcast(self._exchange.play(item))
                self._played_until = item.ts
        except Exception as error:  # noqa: BLE001 (`finished` raises it)
            self._failure = error
        finally:
            self._ended.set()

    async def _wait_for(self, ts: int) -> None:
        """Sleep until the recorded moment `ts`; a late item only lets others run."""
        due = self._began + (ts - self.recording.start) / 1000 / self.speed
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))


def _why(host: str, port: int, error: OSError) -> str:
    reason = {
        errno.EADDRINUSE: "is in use",
        errno.EACCES: "may not be opened by this user",
    }.get(error.errno or 0, f"cannot be opened ({error.strerror or error})")
    return f"port {port} on {host} {reason}: choose another one, or 0 for a free one"
