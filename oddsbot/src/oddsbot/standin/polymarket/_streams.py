"""`Feed` and `Bell`: the websockets of Polymarket, the market channel and RTDS."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from aiohttp import WSMsgType, web

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._derive import Message
    from ._exchange import Exchange
    from ._ledger import Row
    from .faults import Faults

_MOST_BEHIND = 4 * 1024 * 1024
_MOST_BOOKS = 500
_encoder = msgspec.json.Encoder(decimal_format="number")


@dataclass(eq=False)
class Connection:
    """One websocket.

    Attributes:
        ws: What is sent goes here.
        transport: Writes it, by asyncio or uvloop; None: the client is gone.
    """

    ws: web.WebSocketResponse
    transport: Any


_C = TypeVar("_C", bound=Connection)


class Channel(ABC, Generic[_C]):
    """All connections to one path. PING is answered by PONG.

    Args:
        exchange: Whose events the stream sends.
        patience: Seconds after which a connection that takes nothing is cut.
    """

    kind: type[_C]

    def __init__(self, exchange: Exchange, patience: float) -> None:
        self._exchange = exchange
        self._patience = patience
        self._open: set[_C] = set()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection until it ends."""
        # No compression: a frame must be on its way before the next one is made.
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        connection = self.kind(ws, request.transport)
        self._open.add(connection)
        try:
            async for message in ws:
                if message.type is not WSMsgType.TEXT:
                    continue
                if message.data == "PING":
                    await self._write(connection, "PONG")
                else:
                    await self._hear(connection, message.data)
        finally:
            self._open.discard(connection)
        return ws

    def disconnect(self) -> int:
        """Cut every connection without a goodbye; return how many there were."""
        cut = list(self._open)
        for connection in cut:
            self._cut(connection)
        return len(cut)

    @abstractmethod
    async def _hear(self, connection: _C, text: str) -> None:
        """Take a text that a client sent."""

    async def _write(self, connection: _C, text: str) -> bool:
        """Return whether the connection took it."""
        try:
            async with asyncio.timeout(self._patience):
                await connection.ws.send_str(text)
        except TimeoutError:
            self._cut(connection)
            return False
        except (ConnectionError, RuntimeError):
            # Gone, or closing: `serve` notices by itself and lets go of it.
            self._open.discard(connection)
            return False
        return True

    def _cut(self, connection: _C) -> None:
        self._open.discard(connection)
        if connection.transport is not None:
            connection.transport.abort()


class _Follow(msgspec.Struct):
    """What a client may ask: the first frame of a connection, and later ones."""

    assets_ids: tuple[str, ...] = ()
    type: str = ""
    operation: str = ""
    initial_dump: bool = True
    custom_feature_enabled: bool | None = None


@dataclass(eq=False)
class _Subscriber(Connection):
    tokens: dict[str, None] = field(default_factory=dict)  # in order of subscription
    custom: bool = False
    frozen: bool = False

    def wants(self, message: Message) -> bool:
        return (self.custom or not message.custom) and (
            not message.tokens or not message.tokens.isdisjoint(self.tokens)
        )


class Feed(Channel[_Subscriber]):
    """All connections to the market channel.

    Args:
        exchange: What they follow.
        faults: The switches.
        patience: Seconds after which one that takes nothing is cut.
        waits: Whether the others wait for it until then. If not, one that is 4 MiB
            behind is cut at once.

    Attributes:
        frames_sent: Data frames handed to sockets so far (PONG not counted).
    """

    kind = _Subscriber

    def __init__(
        self, exchange: Exchange, faults: Faults, patience: float, *, waits: bool
    ) -> None:
        super().__init__(exchange, patience)
        self._faults = faults
        self._waits = waits
        self._changed = asyncio.Condition()
        self.frames_sent = 0

    async def wait_subscribed(self, tokens: frozenset[str]) -> None:
        """Wait until one connection is subscribed to all of `tokens`, or to any."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: any(
                    each.tokens and tokens <= each.tokens.keys() for each in self._open
                )
            )

    async def broadcast(self, messages: Sequence[Message]) -> None:
        """Send each message to those who want it; wait until the sockets take it."""
        # Settled before the first await: who subscribes while we wait is answered
        # with a book that already holds these changes.
        wanted = [
            (
                subscriber,
                [
                    self._thawed(each)
                    for each in messages
                    if subscriber.wants(each) and not self._hidden(each)
                ],
            )
            for subscriber in self._open
        ]
        # One that takes nothing must not keep the others from theirs.
        await asyncio.gather(
            *(self._send(subscriber, texts) for subscriber, texts in wanted if texts)
        )

    def _hidden(self, message: Message) -> bool:
        frozen = self._faults.frozen_assets
        return bool(message.tokens and message.tokens <= frozen) or (
            self._faults.no_resolved and "market_resolved" in message.text[:40]
        )

    def _thawed(self, message: Message) -> str:
        """Return a message without what it tells of frozen assets."""
        frozen = self._faults.frozen_assets
        if message.tokens.isdisjoint(frozen) or "price_changes" not in message.text:
            return message.text
        event = msgspec.json.decode(message.text)
        event["price_changes"] = [
            each for each in event["price_changes"] if each["asset_id"] not in frozen
        ]
        return msgspec.json.encode(event).decode()

    async def inject(self, text: str) -> None:
        """Send `text` as it is to every connection that subscribed to something."""
        sends = [self._send(each, [text]) for each in self._open if each.tokens]
        await asyncio.gather(*sends)

    def freeze(self) -> None:
        """Send nothing but PONG on the connections that are open now."""
        for subscriber in self._open:
            subscriber.frozen = True

    def thaw(self) -> None:
        """End a freeze; what was not sent during it stays unsent."""
        for subscriber in self._open:
            subscriber.frozen = False

    async def _hear(self, connection: _Subscriber, text: str) -> None:
        try:
            asked = msgspec.json.decode(text, type=_Follow)
        except (msgspec.DecodeError, UnicodeError):
            return
        if asked.custom_feature_enabled is not None:
            connection.custom = asked.custom_feature_enabled
        if asked.operation == "unsubscribe":
            for each in asked.assets_ids:
                connection.tokens.pop(each, None)
        elif asked.operation == "subscribe" or asked.type == "market":
            connection.tokens.update(dict.fromkeys(asked.assets_ids))
            # Made and written in the same step as the subscription: no change can
            # come between the book and what follows it.
            dump = self._dump(connection, asked)
            if dump is not None:
                await self._send(connection, [dump])
            async with self._changed:
                self._changed.notify_all()

    def _dump(self, subscriber: _Subscriber, asked: _Follow) -> str | None:
        """Return the frame with the books that were asked for."""
        if self._faults.no_first_book or not asked.initial_dump:
            return None
        # From the 501st asset of a connection on, no first book is sent.
        served = frozenset(list(subscriber.tokens)[:_MOST_BOOKS])
        tokens = [
            each
            for each in asked.assets_ids
            if each in served and each not in self._faults.frozen_assets
        ]
        return self._exchange.dump(tokens)

    async def _send(self, subscriber: _Subscriber, texts: Iterable[str]) -> None:
        for text in texts:
            if not subscriber.frozen and await self._write(subscriber, text):
                self.frames_sent += 1

    async def _write(self, connection: _Subscriber, text: str) -> bool:
        transport = connection.transport
        if not self._waits and transport is not None:
            # Never full: a send returns at once, and what is not taken yet is counted.
            transport.set_write_buffer_limits(high=1 << 40)
            if transport.get_write_buffer_size() > _MOST_BEHIND:
                self._cut(connection)
                return False
        return await super()._write(connection, text)


class _Wanted(msgspec.Struct, frozen=True):
    topic: str
    type: str
    filters: str = ""


class _Listen(msgspec.Struct):
    action: str
    subscriptions: list[_Wanted] = []


@dataclass(eq=False)
class _Listener(Connection):
    wanted: set[_Wanted] = field(default_factory=set)


class Bell(Channel[_Listener]):
    """All connections to RTDS: each **generated** trade as soon as it happens.

    A filter is compared as the exact text, as reported of the real one: compact JSON
    with one key works, and any other way to write the same does not.
    """

    kind = _Listener

    def __init__(self, exchange: Exchange, patience: float) -> None:
        super().__init__(exchange, patience)
        self._told = 0

    async def ring(self) -> None:
        """Tell of the rows that are new."""
        rows = self._exchange.ledger.rows
        new, self._told = rows[self._told :], len(rows)
        for row in new:
            if row.type != "TRADE":
                continue
            for listener in list(self._open):
                if any(self._wants(each, row) for each in listener.wanted):
                    await self._write(listener, self._message(row))

    async def _hear(self, connection: _Listener, text: str) -> None:
        try:
            asked = msgspec.json.decode(text, type=_Listen)
        except (msgspec.DecodeError, UnicodeError):
            return
        if asked.action == "subscribe":
            connection.wanted.update(asked.subscriptions)
        else:
            connection.wanted.difference_update(asked.subscriptions)

    def _wants(self, wanted: _Wanted, row: Row) -> bool:
        if wanted.topic != "activity" or wanted.type not in {"orders_matched", "*"}:
            return False
        slug = self._exchange.markets[row.market_id].slug
        return wanted.filters in {"", f'{{"event_slug":"{slug}"}}'}

    def _message(self, row: Row) -> str:
        market = self._exchange.markets[row.market_id]
        wallet = self._exchange.ledger.wallets[row.wallet]
        payload: dict[str, Any] = {
            "asset": row.token,
            "conditionId": row.market_id,
            "eventSlug": market.slug,
            "slug": market.slug,
            "title": market.question,
            "outcome": market.outcomes[row.outcome],
            "outcomeIndex": row.outcome,
            "price": row.price,
            "size": row.size,
            "side": row.side,
            "timestamp": row.at,
            "transactionHash": row.transaction,
            "proxyWallet": row.wallet,
            "name": wallet.name,
            "pseudonym": wallet.pseudonym,
        }
        body = {
            "topic": "activity",
            "type": "orders_matched",
            "timestamp": row.at * 1000,
            "payload": payload,
        }
        return _encoder.encode(body).decode()
