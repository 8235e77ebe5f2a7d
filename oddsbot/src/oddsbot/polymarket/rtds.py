"""RTDS: the platform's trades as they are matched, with their wallets.

Undocumented since 2026 and reported to fall silent, so it is a bell and no more: a
trade that it tells of makes a wallet due for a look at once, and one that it does not
tell of is found by the next look anyway.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Self

import msgspec

from ._reading import decoder, read
from ._socket import Socket
from .data import Trade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import ClientSession

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
        backoff: Seconds before the second try to connect, doubled with each, and at
            most.
        clock: Tells seconds, monotonic.
        jitter: Gives random numbers from 0 to 1.

    Attributes:
        trades: Told so far.
        skipped: Frames that were no trade that can be read.
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
        self._socket = Socket(
            session,
            url,
            name="polymarket-bell-ping",
            max_message=_LONGEST,
            ping_every=ping_every,
            stale_after=stale_after,
            connect_timeout=connect_timeout,
            backoff=backoff,
            clock=clock,
            jitter=jitter,
        )

    @property
    def connections(self) -> int:
        """How many connections were made so far."""
        return self._socket.connections

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self._socket.close()

    async def __aiter__(self) -> AsyncIterator[Trade]:
        while not self._socket.closed:
            if not self._socket.connected:
                if await self._socket.connect() is not None:
                    await self._socket.send(_SUBSCRIBE)
                continue
            data = await self._socket.receive()
            if data is None:
                await self._socket.drop()
            elif trade := parse_activity(data):
                self.trades += 1
                self._socket.hear()
                yield trade
            elif data:  # the first frame of a connection is empty
                self.skipped += 1


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
