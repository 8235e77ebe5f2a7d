"""RTDS: the platform's trades as they are matched, with their wallets.

Undocumented since 2026 and reported to fall silent, so it is a bell and no more: a
trade that it tells of makes a wallet due for a look at once, and one that it does not
tell of is found by the next look anyway.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import msgspec
from aiohttp import ClientError, ClientWSTimeout, WSMsgType

from ._reading import decoder, read
from .data import Trade
from .stream import reconnect_delay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from aiohttp import ClientSession, ClientWebSocketResponse

_LONGEST = 64 * 1024
# Filters deliver nothing unless they are written as the server writes them: unfiltered.
_SUBSCRIBE = msgspec.json.encode(
    {
        "action": "subscribe",
        "subscriptions": [{"topic": "activity", "type": "orders_matched"}],
    }
).decode()


class ActivityBell:
    """The trades that RTDS tells of, for as long as it is open.

    Iterate to get each `Trade`; one consumer. It reconnects for ever, also after
    `stale_after` seconds in which no trade came, and never raises because of the
    network. What was told of while there was no connection is not repeated. Cancelling
    the consumer while it waits loses nothing.

    Args:
        session: Makes the connections; stays the caller's.
        url: Such as ``wss://ws-live-data.polymarket.com``.
        ping_every: Seconds between PINGs; 5 are asked for.
        stale_after: Seconds, as above. PONG and what cannot be read prove nothing.
        connect_timeout: Seconds for a try to connect.
        backoff: The base and the cap of `reconnect_delay`, in seconds.
        clock: Tells seconds, monotonic.
        jitter: Gives random numbers from 0 to 1.

    Attributes:
        trades: Told so far.
        skipped: Frames that were no trade that can be read.
        connections: Made so far.
    """

    def __init__(
        self,
        session: ClientSession,
        url: str,
        *,
        ping_every: float = 5.0,
        stale_after: float = 30.0,
        connect_timeout: float = 10.0,
        backoff: tuple[float, float] = (0.5, 30.0),
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.trades = 0
        self.skipped = 0
        self.connections = 0
        self._session = session
        self._url = url
        self._ping_every = ping_every
        self._stale_after = stale_after
        self._connect_timeout = connect_timeout
        self._base, self._cap = backoff
        self._clock = clock
        self._jitter = jitter
        self._ws: ClientWebSocketResponse | None = None
        self._pinger: asyncio.Task[None] | None = None
        self._attempt = 0
        self._sign = 0.0
        self._closed = False

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

    async def __aiter__(self) -> AsyncIterator[Trade]:
        while not self._closed:
            if self._ws is None:
                await self._connect()
                continue
            trade = await self._receive(self._ws)
            if trade is not None:
                yield trade

    async def _connect(self) -> None:
        await asyncio.sleep(
            reconnect_delay(
                self._attempt, self._jitter(), base=self._base, cap=self._cap
            )
        )
        # Back to "at once" only by a trade: a server that greets and hangs up must not
        # be called in a tight loop.
        self._attempt += 1
        try:
            async with asyncio.timeout(self._connect_timeout):
                ws = await self._session.ws_connect(
                    self._url,
                    max_msg_size=_LONGEST,
                    timeout=ClientWSTimeout(ws_close=1.0),
                )
        except (ClientError, OSError, TimeoutError):
            return
        self.connections += 1
        self._ws, self._sign = ws, self._clock()
        self._pinger = asyncio.get_running_loop().create_task(
            self._ping(ws), name="polymarket-bell-ping"
        )
        with suppress(ClientError, OSError):
            await ws.send_str(_SUBSCRIBE)

    async def _receive(self, ws: ClientWebSocketResponse) -> Trade | None:
        left = self._sign + self._stale_after - self._clock()
        try:
            async with asyncio.timeout(max(0.0, left)):
                message = await ws.receive()
        except TimeoutError:
            await self._drop()
            return None
        if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
            await self._drop()
            return None
        if message.data in {"PONG", b"PONG", ""}:
            return None
        trade = parse_activity(message.data)
        if trade is None:
            self.skipped += 1
            return None
        self.trades += 1
        self._attempt, self._sign = 0, self._clock()
        return trade

    async def _ping(self, ws: ClientWebSocketResponse) -> None:
        while not ws.closed:
            await asyncio.sleep(self._ping_every)
            try:
                await ws.send_str("PING")
            except (ClientError, OSError):
                return  # the reader finds out by itself

    async def _drop(self) -> None:
        ws, self._ws = self._ws, None
        pinger, self._pinger = self._pinger, None
        if pinger is not None:
            pinger.cancel()
            await asyncio.wait([pinger])
        if ws is not None:
            await ws.close()


# What RTDS calls by other names than the Data API.
_NAMES = {"asset": "token_id"}


def parse_activity(text: str | bytes) -> Trade | None:
    """Return the trade that a frame of RTDS tells of; None for any other frame."""
    if len(text) > _LONGEST:
        return None
    try:
        message = decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if not isinstance(message, dict) or message.get("topic") != "activity":
        return None
    payload = message.get("payload")
    if not isinstance(payload, dict):
        return None
    named = {_NAMES.get(key, key): value for key, value in payload.items()}
    try:
        return read(named, Trade, most=0)
    except ValueError:
        return None
