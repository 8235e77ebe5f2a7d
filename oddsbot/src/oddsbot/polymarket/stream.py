"""The market channel as one endless, typed stream that heals itself.

What goes wrong in the field, and the line here that meets it: the link drops
(reconnect for ever, resubscribe), the link stays up and falls silent while PONG and
news of other markets still come (only events of what is subscribed feed the
watchdog), one event is broken or new (skipped and counted, the rest delivered), the
consumer is slow (nothing is read ahead but one frame and what aiohttp holds before it
stops reading the socket).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Self

import msgspec
from aiohttp import ClientError, ClientWSTimeout, WSMsgType
from yarl import URL

from .errors import BadFrame, TooManyAssets
from .events import MarketResolved, NewMarket, PriceChange
from .frames import max_frame, parse_frame, split_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from types import TracebackType

    from aiohttp import ClientSession, ClientWebSocketResponse

    from .events import MarketEvent

# From the 501st asset on Polymarket sends no first book (nautilus_trader's notes).
MAX_ASSETS = 500
_MAX_KINDS = 50

_log = logging.getLogger(__name__)


class Connected(msgspec.Struct, frozen=True):
    """The stream is connected and subscribed; a `Book` of each asset follows.

    Attributes:
        attempt: How many tries it took, 1 for the first.
        assets: What the connection follows; empty where it is the only one.
    """

    attempt: int
    assets: tuple[str, ...] = ()


class Disconnected(msgspec.Struct, frozen=True):
    """The connection ended; what happened until the next `Connected` is unknown.

    Attributes:
        reason: Why.
        assets: As of `Connected`.
    """

    reason: str
    assets: tuple[str, ...] = ()


class StreamCounters:
    """What a `MarketStream` has counted since it was made, or several that share it.

    Attributes:
        frames: Data frames read, broken ones included.
        events: Events read, markers not counted.
        skipped: Events left out, by the ``event_type`` they were sent with; after
            50 kinds, the rest together as ``"other"``.
        bad_frames: Frames that were no JSON object or array.
        reconnects: Connections after the first one.
        failed_attempts: Tries to connect that failed.
        last_frame_at: When the last data frame came, on the stream's clock.
        last_sign_at: When the last event of a subscribed asset came.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.events = 0
        self.skipped: Counter[str] = Counter()
        self.bad_frames = 0
        self.reconnects = 0
        self.failed_attempts = 0
        self.last_frame_at: float | None = None
        self.last_sign_at: float | None = None


def reconnect_delay(attempt: int, jitter: float, *, base: float, cap: float) -> float:
    """Return the seconds to wait before a try to connect.

    The first try is made at once. The n-th after it waits ``base * 2**n``, at most
    `cap`, scaled to between a half and all of it by `jitter`, so that the clients of
    one server that went away do not come back together.

    Args:
        attempt: Tries that failed so far.
        jitter: A random number from 0 to 1.
        base: Seconds.
        cap: Seconds.
    """
    if attempt == 0:
        return 0.0
    # The exponent is held down: 2.0**1100 is an error, not infinity.
    return min(cap, base * 2.0 ** min(attempt - 1, 60)) * (0.5 + jitter / 2)


class MarketStream:
    """The events of some assets, for as long as it is open.

    Nothing is sent until iteration begins. One consumer at a time. Iteration ends
    only when the stream is closed and never raises because of the network; besides
    events it yields `Connected` and `Disconnected`, so that the consumer knows of
    gaps. Cancelling the consumer while it waits loses nothing: iterate again and go
    on.

    Args:
        session: Makes the connections; stays the caller's.
        url: Of the market channel.
        asset_ids: Token ids, at most `MAX_ASSETS`.
        ping_every: Seconds between PINGs; Polymarket asks for one every 10.
        stale_after: Seconds without an event of what is subscribed, after which the
            connection is replaced; None: never, since a `StreamPool` decides that.
            PONG, announcements of new markets and what cannot be read prove nothing.
            Only the time spent waiting counts, so that a slow consumer replaces no
            connection.
        connect_timeout: Seconds for a try to connect.
        backoff: The base and the cap of `reconnect_delay`, in seconds. A connection
            that ended sooner than the base after it began counts as a failed try
            even if it gave data.
        clock: Tells seconds, monotonic.
        jitter: Gives random numbers from 0 to 1.
        counters: Counts; None: counters of its own.

    Raises:
        TooManyAssets: More assets than `MAX_ASSETS`.
        ValueError: The URL is none of a websocket.
    """

    def __init__(
        self,
        session: ClientSession,
        url: str,
        asset_ids: Iterable[str],
        *,
        ping_every: float = 10.0,
        stale_after: float | None = 30.0,
        connect_timeout: float = 10.0,
        backoff: tuple[float, float] = (0.5, 30.0),
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        counters: StreamCounters | None = None,
    ) -> None:
        if URL(url).scheme not in {"ws", "wss"} or not URL(url).host:
            raise ValueError(f"{url!r} is no websocket URL: write ws://… or wss://…")
        self.counters = counters or StreamCounters()
        self._session = session
        self._url = url
        # A dict, for the order: the books come in the order of the subscription.
        self._assets: dict[str, None] = {}
        self._most_assets = 0
        self._silence = 0.0  # seconds waited since the last sign of life
        self._add(asset_ids)
        self._ping_every = ping_every
        self._stale_after = stale_after
        self._connect_timeout = connect_timeout
        self._base, self._cap = backoff
        self._clock = clock
        self._jitter = jitter
        self._ws: ClientWebSocketResponse | None = None
        self._pinger: asyncio.Task[None] | None = None
        # At most one frame's events and a marker: filled only when it is empty.
        self._pending: deque[MarketEvent | Connected | Disconnected] = deque()
        # What is left of the last frame.
        self._slices: Iterator[str | bytes] = iter(())
        self._closed = False
        self._attempt = 0
        self._connections = 0
        self._bad_told = 0  # the connection whose bad frame was logged last
        self._connected_at = 0.0
        self._greeted = False
        self._replaced_for = ""  # why `reconnect` ends the connection
        self._had_data = False
        self._named: set[str] = set()

    @property
    def assets(self) -> tuple[str, ...]:
        """The token ids subscribed to."""
        return tuple(self._assets)

    @property
    def connected(self) -> bool:
        """Whether there is a connection now; it may be silent or about to fail."""
        return self._ws is not None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._closed = True
        await self._drop()

    async def subscribe(self, *asset_ids: str) -> None:
        """Follow these assets too; each one's `Book` comes first.

        While there is no connection the next one will ask for them.

        Raises:
            TooManyAssets: It would be more than `MAX_ASSETS`; nothing was added.
        """
        new = self._add(asset_ids)
        await self._operate("subscribe", new)

    async def unsubscribe(self, *asset_ids: str) -> None:
        """Stop following these assets; events already on their way still come."""
        known = [asset for asset in asset_ids if asset in self._assets]
        for asset in known:
            del self._assets[asset]
        await self._operate("unsubscribe", known)

    async def resubscribe(self, *asset_ids: str) -> None:
        """Ask for these assets again, so that each one's `Book` comes again."""
        known = [asset for asset in asset_ids if asset in self._assets]
        await self._operate("unsubscribe", known)
        await self._operate("subscribe", known)

    async def reconnect(self, reason: str) -> None:
        """End the connection; the next one is made at once.

        Args:
            reason: Of the `Disconnected` that the consumer gets.
        """
        if self._ws is not None:
            self._attempt = 0
            self._replaced_for = reason
            await self._ws.close()

    async def __aiter__(self) -> AsyncIterator[MarketEvent | Connected | Disconnected]:
        while not self._closed:
            if self._pending:
                yield self._pending.popleft()
            elif self._read_slice():
                # The loop runs others before the next; cancelled here, none is lost.
                await asyncio.sleep(0)
            elif self._ws is None:
                await self._connect()
            else:
                await self._receive(self._ws)

    async def _connect(self) -> None:
        """Try until there is a connection, then subscribe."""
        tries = 0
        while True:
            delay = reconnect_delay(
                self._attempt, self._jitter(), base=self._base, cap=self._cap
            )
            tries += 1
            self._attempt += 1
            await asyncio.sleep(delay)
            if self._closed:
                return
            try:
                async with asyncio.timeout(self._connect_timeout):
                    ws = await self._session.ws_connect(
                        self._url,
                        # The first books of 500 assets may come as one frame.
                        max_msg_size=max_frame(MAX_ASSETS),
                        # Not aiohttp's 10 s: a dead peer never answers a close.
                        timeout=ClientWSTimeout(ws_close=1.0),
                    )
            except (ClientError, OSError, TimeoutError) as error:
                self.counters.failed_attempts += 1
                if tries == 1:  # one line for an outage, however long
                    reason = str(error) or type(error).__name__
                    _warn("feed_failed", reason)
                continue
            break
        if self._closed:  # by another task, while this one waited
            await ws.close()
            return
        self._had_data = False
        self._silence = 0.0
        self._connected_at = self._clock()
        self.counters.reconnects += self._connections > 0
        self._connections += 1
        self._ws = ws
        self._pinger = asyncio.get_running_loop().create_task(
            self._ping(ws), name="polymarket-ping"
        )
        _log.info(
            "feed_ready assets=%d",
            len(self._assets),
            extra={"event": "feed_ready", "assets": len(self._assets)},
        )
        # Before the await, which may be cancelled: the marker must not get lost.
        self._pending.append(Connected(tries))
        self._greeted = False
        self._replaced_for = ""
        await self._greet()

    async def _receive(self, ws: ClientWebSocketResponse) -> None:
        """Read until there is a data frame or the connection has ended."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._assets:  # while nothing is subscribed, nothing is missing
                self._silence = 0.0
            began = loop.time()
            message = None
            try:
                deadline = None
                if self._stale_after is not None:
                    deadline = began + self._stale_after - self._silence
                async with asyncio.timeout_at(deadline):
                    message = await ws.receive()
            except TimeoutError:
                pass
            finally:
                # Also of a consumer that gives up waiting: it may come back at once.
                self._silence += loop.time() - began
            if message is None:
                if self._assets:
                    await self._drop(f"no data for {self._stale_after:g} s")
                return
            if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                ended = f"the connection ended (code {ws.close_code})"
                await self._drop(self._replaced_for or ended)
                return
            if message.data not in {"PONG", b"PONG"}:
                self._take(message.data)
                return

    def _take(self, data: str | bytes) -> None:
        self.counters.frames += 1
        self.counters.last_frame_at = self._clock()
        self._slices = split_frame(data, max_frame(self._most_assets))

    def _read_slice(self) -> bool:
        """Read the next part of the last frame; False when there is none."""
        try:
            part = next(self._slices, None)
        except BadFrame as error:
            self._skip(error)
            return True
        if part is None:
            return False
        self._read(part)
        return True

    def _skip(self, error: BadFrame) -> None:
        self.counters.bad_frames += 1
        # The first of a connection: a feed of junk fills no log.
        if self._bad_told != self._connections:
            self._bad_told = self._connections
            _warn("feed_frame_skipped", error)

    def _read(self, data: str | bytes) -> None:
        try:
            frame = parse_frame(data)
        except BadFrame as error:
            self._skip(error)
            return
        skipped = self.counters.skipped
        for kind, problem in zip(frame.skipped_kinds, frame.problems, strict=True):
            known = kind in skipped or len(skipped) < _MAX_KINDS
            skipped[kind if known else "other"] += 1
            if kind not in self._named and len(self._named) < _MAX_KINDS:
                self._named.add(kind)
                _warn("feed_event_skipped", problem)
        self.counters.events += len(frame.events)
        self._pending.extend(frame.events)
        if any(map(self._concerns_us, frame.events)):
            self._had_data = True
            self._silence = 0.0
            self.counters.last_sign_at = self._clock()

    def _concerns_us(self, event: MarketEvent) -> bool:
        """Return whether an event is of an asset that is subscribed to."""
        match event:
            case NewMarket():  # sent to everybody
                return False
            case PriceChange():
                return any(
                    each.asset_id in self._assets for each in event.price_changes
                )
            case MarketResolved():
                ids = (event.winning_asset_id, *event.assets_ids)
                return any(each in self._assets for each in ids)
            case _:
                return event.asset_id in self._assets

    async def _ping(self, ws: ClientWebSocketResponse) -> None:
        while not ws.closed:
            await asyncio.sleep(self._ping_every)
            try:
                await ws.send_str("PING")
            except (ClientError, OSError):
                return  # the reader finds out by itself

    async def _greet(self) -> None:
        """Send the first frame of a connection."""
        if self._assets:  # an empty list would subscribe to everything
            self._greeted = True
            # Its bytes are written before it waits: a `subscribe` that runs meanwhile
            # comes after this frame on the wire.
            await self._send({"assets_ids": self.assets, "type": "market"})

    async def _operate(self, operation: str, assets: list[str]) -> None:
        if not self._greeted:
            await self._greet()
        elif assets:
            await self._send({"operation": operation, "assets_ids": assets})

    async def _send(self, request: dict[str, object]) -> None:
        if self._ws is None:
            return
        text = msgspec.json.encode(request | {"custom_feature_enabled": True}).decode()
        try:
            await self._ws.send_str(text)
        except (ClientError, OSError):
            # The reader finds out by itself; the next connection asks for everything.
            _log.debug(
                "feed_not_sent request=%s",
                text,
                extra={"event": "feed_not_sent", "request": text},
            )

    async def _drop(self, reason: str | None = None) -> None:
        ws, self._ws = self._ws, None
        pinger, self._pinger = self._pinger, None
        # Back to "at once" only after a connection that was worth something: a server
        # that greets and hangs up must not be called in a tight loop.
        if self._had_data and self._clock() - self._connected_at >= self._base:
            self._attempt = 0
        if reason is not None:
            _warn("feed_lost", reason)
            # Before the awaits, which may be cancelled: see `_connect`.
            self._pending.append(Disconnected(reason))
        if pinger is not None:
            pinger.cancel()
            await asyncio.wait([pinger])
        if ws is not None:
            await ws.close()

    def _add(self, asset_ids: Iterable[str]) -> list[str]:
        new = [asset for asset in dict.fromkeys(asset_ids) if asset not in self._assets]
        if len(self._assets) + len(new) > MAX_ASSETS:
            raise TooManyAssets(
                f"{len(self._assets) + len(new)} assets on one connection: Polymarket "
                f"sends first books of {MAX_ASSETS}; open another MarketStream"
            )
        if not self._assets:  # until now nothing was missing
            self._silence = 0.0
        self._assets.update(dict.fromkeys(new))
        # What was unsubscribed may still be on its way.
        self._most_assets = max(self._most_assets, len(self._assets))
        return new


def _warn(event: str, reason: object) -> None:
    # As Python writes a text: what Polymarket sends ends no line of ours.
    text = str(reason)[:300]
    _log.warning("%s reason=%r", event, text, extra={"event": event, "reason": text})
