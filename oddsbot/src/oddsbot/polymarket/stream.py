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
from yarl import URL

from ._socket import Socket
from .errors import BadFrame, TooManyAssets
from .events import MarketResolved, NewMarket, PriceChange
from .frames import max_frame, parse_frame, split_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from aiohttp import ClientSession

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
        backoff: Seconds before the second try to connect, doubled with each, and at
            most. A connection that ended sooner than the first after it began counts
            as a failed try even if it gave data.
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
        self._clock = clock
        self._socket = Socket(
            session,
            url,
            name="polymarket-ping",
            # The first books of 500 assets may come as one frame.
            max_message=max_frame(MAX_ASSETS),
            ping_every=ping_every,
            stale_after=stale_after,
            connect_timeout=connect_timeout,
            backoff=backoff,
            clock=clock,
            jitter=jitter,
            failed=self._failed,
        )
        # A dict, for the order: the books come in the order of the subscription.
        self._assets: dict[str, None] = {}
        self._most_assets = 0
        self._add(asset_ids)
        # At most one frame's events and a marker: filled only when it is empty.
        self._pending: deque[MarketEvent | Connected | Disconnected] = deque()
        # What is left of the last frame.
        self._slices: Iterator[str | bytes] = iter(())
        self._bad_told = 0  # the connection whose bad frame was logged last
        self._greeted = False
        self._named: set[str] = set()

    @property
    def assets(self) -> tuple[str, ...]:
        """The token ids subscribed to."""
        return tuple(self._assets)

    @property
    def connected(self) -> bool:
        """Whether there is a connection now; it may be silent or about to fail."""
        return self._socket.connected

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self._socket.close()

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
        await self._socket.replace(reason)

    async def __aiter__(self) -> AsyncIterator[MarketEvent | Connected | Disconnected]:
        while not self._socket.closed:
            if self._pending:
                yield self._pending.popleft()
            elif self._read_slice():
                # The loop runs others before the next; cancelled here, none is lost.
                await asyncio.sleep(0)
            elif not self._socket.connected:
                await self._connect()
            else:
                await self._receive()

    def _failed(self, tries: int, reason: str) -> None:
        self.counters.failed_attempts += 1
        if tries == 1:  # one line for an outage, however long
            _warn("feed_failed", reason)

    async def _connect(self) -> None:
        """Try until there is a connection, then subscribe."""
        tries = await self._socket.connect()
        if tries is None:
            return
        self.counters.reconnects += self._socket.connections > 1
        _log.info(
            "feed_ready assets=%d",
            len(self._assets),
            extra={"event": "feed_ready", "assets": len(self._assets)},
        )
        # Before the await, which may be cancelled: the marker must not get lost.
        self._pending.append(Connected(tries))
        self._greeted = False
        await self._greet()

    async def _receive(self) -> None:
        """Read until there is a data frame or the connection has ended."""
        if not self._assets:  # while nothing is subscribed, nothing is missing
            self._socket.rest()
        data = await self._socket.receive()
        if data is not None:
            self._take(data)
        elif self._assets or not self._socket.stale:
            _warn("feed_lost", self._socket.reason)
            # Before the await, which may be cancelled: see `_connect`.
            self._pending.append(Disconnected(self._socket.reason))
            await self._socket.drop()

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
        if self._bad_told != self._socket.connections:
            self._bad_told = self._socket.connections
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
            self._socket.hear()
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
        if not self._socket.connected:
            return
        text = msgspec.json.encode(request | {"custom_feature_enabled": True}).decode()
        if not await self._socket.send(text):
            # The next connection asks for everything.
            _log.debug(
                "feed_not_sent request=%s",
                text,
                extra={"event": "feed_not_sent", "request": text},
            )

    def _add(self, asset_ids: Iterable[str]) -> list[str]:
        new = [asset for asset in dict.fromkeys(asset_ids) if asset not in self._assets]
        if len(self._assets) + len(new) > MAX_ASSETS:
            raise TooManyAssets(
                f"{len(self._assets) + len(new)} assets on one connection: Polymarket "
                f"sends first books of {MAX_ASSETS}; open another MarketStream"
            )
        if not self._assets:  # until now nothing was missing
            self._socket.rest()
        self._assets.update(dict.fromkeys(new))
        # What was unsubscribed may still be on its way.
        self._most_assets = max(self._most_assets, len(self._assets))
        return new


def _warn(event: str, reason: object) -> None:
    # As Python writes a text: what Polymarket sends ends no line of ours.
    text = str(reason)[:300]
    _log.warning("%s reason=%r", event, text, extra={"event": event, "reason": text})
