"""Many assets over several connections, and what tells a quiet one from a frozen one.

Polymarket's market channel fails in silence: a connection, or one asset on it, stops
while PONG and news of others still come. Silence alone says nothing, since most markets
are quiet. So a silent one is a question to the CLOB's books, and only a difference
replaces it:

1. A connection is silent for 30 s: its assets' books are asked for.
2. They are what the connection told: the market is quiet; asked again later and later.
3. They differ: 2 s later, if nothing came meanwhile and they still do, the books are
   told as late ticks, and the connection is replaced.
4. The same for single assets, those silent for longest, every 5 minutes; one that
   differs is subscribed to again.
5. A connection that was made again is asked about too, 2 s later: what its first books
   did not tell is told late.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from msgspec import Struct

from .events import (
    BestBidAsk,
    Book,
    LastTradePrice,
    MarketResolved,
    NewMarket,
    PriceChange,
    TickSizeChange,
)
from .quotes import Quote, quotes
from .stream import Connected, Disconnected, MarketStream, StreamCounters

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
    )

    from aiohttp import ClientSession

    from ._http import Found
    from .clob import OrderBook
    from .events import MarketEvent

MOST_ASSETS = 200
"""Of a connection. From the 501st on Polymarket sends no first book."""
_TRIES = 3
_SAMPLE = 500
_CLOSE_EMPTY = 60.0
_LOOK_EVERY = 1.0
_QUEUE = 2_000

_log = logging.getLogger(__name__)


class Silence(Struct, frozen=True, kw_only=True):
    """After how many seconds a `StreamPool` asks about what is silent.

    Attributes:
        quiet_after: Without an event of a connection's assets.
        again: After the first answer that changed nothing, the second, and all others.
        settle: In which a book that was asked for may be ahead of the connection.
        first_book: In which the first book of an asset has to come.
        sample_every: Between two questions about single assets.
    """

    quiet_after: float = 30.0
    again: tuple[float, ...] = (60.0, 120.0, 300.0)
    settle: float = 2.0
    first_book: float = 30.0
    sample_every: float = 300.0


class Tick(Struct, frozen=True):
    """The top of a token's book.

    Attributes:
        quote: The top.
        late: Told by a book that was asked for: the stream did not tell of it in time.
    """

    quote: Quote
    late: bool = False


class Gap(Struct, frozen=True):
    """A time in which the feed may have missed what happened to some assets.

    Attributes:
        assets: Their token ids.
        began: When the last event of one of them came, on the pool's clock.
        ended: When the feed was whole again.
        reason: Why.
    """

    assets: tuple[str, ...]
    began: float
    ended: float
    reason: str


FeedEvent: TypeAlias = (
    Tick
    | LastTradePrice
    | TickSizeChange
    | NewMarket
    | MarketResolved
    | Connected
    | Disconnected
    | Gap
)


class PoolCounters:
    """What a `StreamPool` has counted since it was made.

    Attributes:
        gaps: Times in which something may have been missed.
        questions: Requests for books.
        failed_questions: Those that failed.
        replaced: Connections replaced since their books differed.
        frozen_assets: Single assets that were found frozen.
        resubscribed: Assets that were subscribed to again.
        late: Ticks that were not told by a stream.
        streams: What all connections counted, those that are closed included.
    """

    def __init__(self) -> None:
        self.gaps = 0
        self.questions = 0
        self.failed_questions = 0
        self.replaced = 0
        self.frozen_assets = 0
        self.resubscribed = 0
        self.late = 0
        self.streams = StreamCounters()


class _Asset:
    """What is known of one asset.

    Attributes:
        link: The connection that it is on.
        quote: Its newest quote, None before the first.
        heard: When something of it came.
        checked: When its book was asked for and was what was told.
        awaited: Until when its first book has to come; None: it came, or there is none.
        tries: How often it was subscribed to again for its first book.
        moved: Whether it was moved to another connection for it.
    """

    __slots__ = ("awaited", "checked", "heard", "link", "moved", "quote", "tries")

    def __init__(self, link: _Link, now: float, awaited: float) -> None:
        self.link = link
        self.quote: Quote | None = None
        self.heard = self.checked = now
        self.awaited: float | None = awaited
        self.tries = 0
        self.moved = False


class _Link:
    """One connection.

    Attributes:
        stream: It.
        heard: When something of its assets came, or it was connected.
        ask_at: Not asked about before; later and later while it is quiet.
        quiet: How often it was found quiet since something came.
        lost: Since when nothing came, and why; None while it is whole.
        down_since: Since when it is being made; None while it is there.
        reconcile_at: When its assets' books are asked for after it was made.
        made_again: Whether it was there before.
        emptied: Since when it has no assets.
        tasks: Its reader and its watch.
    """

    def __init__(self, stream: MarketStream, now: float) -> None:
        self.stream = stream
        self.heard = now
        self.ask_at = 0.0
        self.quiet = 0
        self.lost: tuple[float, str] | None = None
        self.lost_assets: tuple[str, ...] = ()
        self.down_since: float | None = now
        self.reconcile_at: float | None = None
        self.made_again = False
        self.emptied: float | None = None
        self.tasks: list[asyncio.Task[None]] = []


class StreamPool:
    """The ticks of any number of assets, for as long as it is open.

    Iterate to get them; one consumer. Connections of at most 200 assets are read in
    tasks of the pool, at most 2,000 events ahead of the consumer; then TCP holds the
    servers up. Iteration ends when the pool is closed, and never raises because of the
    network. Beside ticks it yields trades, tick sizes, new and resolved markets,
    `Connected` and `Disconnected` of each connection that has assets, and a `Gap` for
    each time in which something may have been missed.

    Cancelling the consumer while it waits loses nothing. On exit all connections are
    closed and all tasks have ended.

    Args:
        session: Makes the connections; stays the caller's.
        url: Of the market channel.
        books: Asks for the books of at most 500 tokens, within the limits, such as
            `Clob.books` through the bot's `Upstream`. What it raises is a question
            without an answer, and asked again.
        asset_ids: Token ids.
        silence: When it is asked about.
        clock: Tells seconds, monotonic.
        sleep: Waits.
        ping_every: Seconds, as of `MarketStream`.
        backoff: As of `MarketStream`.

    Attributes:
        counters: What was counted.
    """

    def __init__(
        self,
        session: ClientSession,
        url: str,
        books: Callable[[tuple[str, ...]], Awaitable[Found[OrderBook]]],
        asset_ids: Iterable[str] = (),
        *,
        silence: Silence | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        ping_every: float = 10.0,
        backoff: tuple[float, float] = (0.5, 30.0),
    ) -> None:
        self.counters = PoolCounters()
        self._session = session
        self._url = url
        self._books = books
        self._wanted = tuple(dict.fromkeys(asset_ids))
        self._silence = silence or Silence()
        self._clock = clock
        self._sleep = sleep
        self._ping_every = ping_every
        self._backoff = backoff
        self._assets: dict[str, _Asset] = {}
        self._links: list[_Link] = []
        self._queue: asyncio.Queue[FeedEvent | None] = asyncio.Queue(_QUEUE)
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._failure: BaseException | None = None  # a fault of the pool itself

    async def __aenter__(self) -> Self:
        await self.subscribe(*self._wanted)
        self._tasks.append(self._spawn(self._sample_for_ever(), "polymarket-sample"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        tasks = [*self._tasks, *(task for link in self._links for task in link.tasks)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for link in self._links:
            await link.stream.__aexit__()
        # Wakes the consumer; what it has not taken is dropped.
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    @property
    def assets(self) -> tuple[str, ...]:
        """The token ids subscribed to."""
        return tuple(self._assets)

    @property
    def connections(self) -> int:
        """How many connections there are, those that are being made included."""
        return len(self._links)

    @property
    def down_for(self) -> float:
        """For how many seconds a connection has been away; 0 while all are there."""
        now = self._clock()
        away = (
            now - each.down_since
            for each in self._links
            if each.down_since is not None and each.stream.assets
        )
        return max(away, default=0.0)

    async def subscribe(self, *asset_ids: str) -> None:
        """Follow these assets too; each one's first tick is its book's."""
        new = [each for each in dict.fromkeys(asset_ids) if each not in self._assets]
        while new:
            link = self._emptiest()
            room = MOST_ASSETS - len(link.stream.assets)
            part, new = new[:room], new[room:]
            await self._put_on(link, part)

    async def unsubscribe(self, *asset_ids: str) -> None:
        """Stop following these assets; a connection without any is closed later."""
        for each in asset_ids:
            asset = self._assets.pop(each, None)
            if asset is not None:
                await asset.link.stream.unsubscribe(each)

    async def __aiter__(self) -> AsyncIterator[FeedEvent]:
        while not self._closed:
            if self._failure is not None:
                raise self._failure
            event = await self._queue.get()
            if event is not None:
                yield event

    # --- connections

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failure = error
            if not self._queue.full():
                self._queue.put_nowait(None)

    def _emptiest(self) -> _Link:
        links = [each for each in self._links if len(each.stream.assets) < MOST_ASSETS]
        if links:
            return min(links, key=lambda each: len(each.stream.assets))
        return self._open()

    def _open(self) -> _Link:
        stream = MarketStream(
            self._session,
            self._url,
            (),
            ping_every=self._ping_every,
            stale_after=None,
            backoff=self._backoff,
            clock=self._clock,
            counters=self.counters.streams,
        )
        link = _Link(stream, self._clock())
        self._links.append(link)
        link.tasks = [
            self._spawn(self._read(link), "polymarket-link"),
            self._spawn(self._watch(link), "polymarket-watch"),
        ]
        return link

    async def _put_on(self, link: _Link, asset_ids: Iterable[str]) -> None:
        now = self._clock()
        ids = list(asset_ids)
        for each in ids:
            self._assets[each] = _Asset(link, now, now + self._silence.first_book)
        link.emptied = None
        link.reconcile_at = now + self._silence.settle
        await link.stream.subscribe(*ids)

    async def _close(self, link: _Link) -> None:
        self._links.remove(link)
        link.tasks[0].cancel()
        await asyncio.wait(link.tasks[:1])
        await link.stream.__aexit__()

    # --- what a connection tells

    async def _read(self, link: _Link) -> None:
        async for event in link.stream:
            match event:
                case Connected(attempt):
                    self._connected(link)
                    await self._put_of(link, Connected(attempt, link.stream.assets))
                case Disconnected(reason):
                    self._disconnected(link, reason)
                    await self._put_of(link, Disconnected(reason, link.stream.assets))
                case _:
                    await self._take(link, event)

    async def _put_of(self, link: _Link, event: Connected | Disconnected) -> None:
        if link.stream.assets:  # nobody misses anything of one that has none
            await self._queue.put(event)

    def _connected(self, link: _Link) -> None:
        now = link.heard = self._clock()
        link.down_since = None
        link.ask_at, link.quiet = 0.0, 0
        link.reconcile_at = now + self._silence.settle
        for _, asset in self._on(link):
            asset.awaited, asset.tries = now + self._silence.first_book, 0

    def _disconnected(self, link: _Link, reason: str) -> None:
        link.down_since = self._clock()
        link.made_again = True
        if link.lost is None and link.stream.assets:
            link.lost = link.heard, reason
            link.lost_assets = link.stream.assets

    async def _take(self, link: _Link, event: MarketEvent) -> None:
        for each in self._ours(event):
            self._hear(link, self._assets[each])
        if isinstance(event, Book | PriceChange | BestBidAsk):
            if isinstance(event, Book) and event.asset_id in self._assets:
                asset = self._assets[event.asset_id]
                asset.awaited, asset.tries, asset.moved = None, 0, False
                await self._end_gap(link)
            for quote in quotes(event):
                await self._tell(quote, late=False)
        else:
            await self._queue.put(event)

    def _ours(self, event: MarketEvent) -> list[str]:
        """Return the assets of ours that an event tells of: others prove nothing."""
        match event:
            case NewMarket():
                ids: Iterable[str] = ()
            case PriceChange():
                ids = [each.asset_id for each in event.price_changes]
            case MarketResolved():
                ids = (event.winning_asset_id, *event.assets_ids)
            case _:
                ids = (event.asset_id,)
        return [each for each in ids if each in self._assets]

    def _hear(self, link: _Link, asset: _Asset) -> None:
        if asset.link is link:
            asset.heard = link.heard = self._clock()
            link.ask_at, link.quiet = 0.0, 0

    async def _tell(self, quote: Quote, *, late: bool) -> None:
        asset = self._assets.get(quote.asset_id)
        if asset is None:
            return  # unsubscribed meanwhile
        before = asset.quote
        if before is None or (quote.at or 0) >= (before.at or 0):
            asset.quote = quote
        self.counters.late += late
        await self._queue.put(Tick(quote, late))

    async def _end_gap(self, link: _Link) -> None:
        if link.lost is not None:
            (began, reason), link.lost = link.lost, None
            await self._gap(link.lost_assets, began, reason)

    async def _gap(self, assets: tuple[str, ...], began: float, reason: str) -> None:
        self.counters.gaps += 1
        await self._queue.put(Gap(assets, began, self._clock(), reason))

    # --- what it does not tell

    async def _watch(self, link: _Link) -> None:
        while True:
            await self._sleep(_LOOK_EVERY)
            now = self._clock()
            if not link.stream.assets:
                link.emptied = now if link.emptied is None else link.emptied
                if now - link.emptied >= _CLOSE_EMPTY:
                    await self._close(link)
                    return
            elif self._queue.full():
                # The consumer is slow: what was not read is not missing.
                link.heard = now
            elif link.stream.connected:
                await self._await_books(link)
                if link.reconcile_at is not None and now >= link.reconcile_at:
                    await self._reconcile(link)
                if now >= max(link.heard + self._silence.quiet_after, link.ask_at):
                    await self._ask(link)

    async def _reconcile(self, link: _Link) -> None:
        """Tell late what the first books of a connection did not tell.

        After a time without it, of all its assets; else of those without a first book.
        """
        everything, link.made_again = link.made_again, False
        link.reconcile_at = None
        unsure = tuple(
            each
            for each, asset in self._on(link)
            if everything or asset.awaited is not None
        )
        await self._tell_late(await self._differences(unsure))

    async def _ask(self, link: _Link) -> None:
        """Find out whether a silent connection is quiet or frozen."""
        heard = link.heard
        known = tuple(each for each, asset in self._on(link) if asset.quote is not None)
        # Where nothing came at all nothing can be compared: a book is a difference.
        different = await self._differences(known or link.stream.assets)
        if different and link.heard == heard and link.stream.connected:
            self.counters.replaced += 1
            _log.warning(
                "feed_frozen assets=%d", len(different), extra={"event": "feed_frozen"}
            )
            link.lost = link.lost or (heard, "frozen")
            link.lost_assets = link.stream.assets
            await self._tell_late(different)
            await link.stream.reconnect("its books differ from what it told")
            return
        later = self._silence.again
        again = later[min(link.quiet, len(later) - 1)]
        link.quiet += 1
        link.ask_at = self._clock() + again

    async def _await_books(self, link: _Link) -> None:
        """Subscribe again to assets whose first book did not come in time."""
        now = self._clock()
        awaited = [
            (each, asset.awaited)
            for each, asset in self._on(link)
            if asset.awaited is not None
        ]
        if not awaited:
            await self._end_gap(link)  # none of its assets has a book
        due = [each for each, until in awaited if now >= until]
        if not due:
            return
        found = await self._ask_books(tuple(due))
        again: list[str] = []
        for each in due:
            asset = self._assets.get(each)
            if asset is None or asset.link is not link or asset.awaited is None:
                continue
            asset.awaited = self._clock() + self._silence.first_book
            if found is None:
                continue
            if each not in found and each not in found.unread:
                asset.awaited = None  # it has none: the sample asks again
            elif asset.tries < _TRIES:
                asset.tries += 1
                again.append(each)
            elif asset.moved:
                asset.awaited = None
            else:
                await self._move(each, asset)
        for each, book in (found or {}).items():
            if self._differs(each, book):
                await self._tell_late({each: book})
        await self._resubscribe(link, again)

    async def _move(self, asset_id: str, asset: _Asset) -> None:
        """Subscribe to an asset on another connection."""
        old = asset.link
        others = [
            each
            for each in self._links
            if each is not old and len(each.stream.assets) < MOST_ASSETS
        ]
        link = others[0] if others else self._open()
        await old.stream.unsubscribe(asset_id)
        asset.link, asset.tries, asset.moved = link, 0, True
        link.emptied = None
        if asset_id in self._assets:  # it may have been unsubscribed meanwhile
            await link.stream.subscribe(asset_id)

    def _on(self, link: _Link) -> list[tuple[str, _Asset]]:
        """Return the assets on a connection."""
        return [
            (each, self._assets[each])
            for each in link.stream.assets
            if each in self._assets
        ]

    async def _resubscribe(self, link: _Link, asset_ids: list[str]) -> None:
        if asset_ids:
            self.counters.resubscribed += len(asset_ids)
            await link.stream.resubscribe(*asset_ids)

    async def _sample_for_ever(self) -> None:
        while True:
            await self._sleep(self._silence.sample_every)
            await self._sample()

    async def _sample(self) -> None:
        """Find single assets that are frozen among those silent for longest."""
        long_ago = self._clock() - self._silence.quiet_after
        # A connection that is silent as a whole is another question: see `_ask`.
        silent = [
            each
            for each, asset in self._assets.items()
            if asset.heard < long_ago <= asset.link.heard
        ]
        # Not by silence alone: the quietest ones would be asked about each time.
        silent.sort(key=lambda each: self._assets[each].checked)
        different = await self._differences(tuple(silent[:_SAMPLE]))
        for each in different:
            asset = self._assets.get(each)
            if asset is None:
                continue
            self.counters.frozen_assets += 1
            await self._gap((each,), asset.heard, "an asset was silent")
            asset.awaited = self._clock() + self._silence.first_book
            asset.tries = 1
            await self._resubscribe(asset.link, [each])
        await self._tell_late(different)

    # --- questions

    async def _differences(self, asset_ids: tuple[str, ...]) -> dict[str, OrderBook]:
        """Return the books that are not what the streams told.

        A book may be ahead of its connection. So it counts if it differs a moment later
        too, and nothing of its asset came meanwhile.
        """
        heard = {
            each: self._assets[each].heard for each in asset_ids if each in self._assets
        }
        found = await self._ask_books(tuple(heard)) if heard else None
        if found is None:
            return {}
        now = self._clock()
        for each in heard:
            if each in self._assets:
                self._assets[each].checked = now
        if not self._still(found, heard):
            return {}
        await self._sleep(self._silence.settle)
        return self._still(found, heard)

    def _still(
        self, books: dict[str, OrderBook], heard: dict[str, float]
    ) -> dict[str, OrderBook]:
        return {
            each: book
            for each, book in books.items()
            if self._differs(each, book) and self._assets[each].heard == heard[each]
        }

    def _differs(self, asset_id: str, book: OrderBook) -> bool:
        asset = self._assets.get(asset_id)
        if asset is None:
            return False
        held = asset.quote
        if held is None:
            return True
        # A book from before what was told is an old answer.
        older = book.timestamp and held.at and book.timestamp < held.at
        return not older and (book.bid, book.ask) != (held.bid, held.ask)

    async def _ask_books(self, asset_ids: tuple[str, ...]) -> Found[OrderBook] | None:
        self.counters.questions += 1
        try:
            return await self._books(asset_ids)
        except Exception as error:  # noqa: BLE001 - a caller's function has errors of its own
            self.counters.failed_questions += 1
            if self.counters.failed_questions == 1:
                _log.warning(
                    "feed_question_failed error=%s",
                    type(error).__name__,
                    extra={"event": "feed_question_failed"},
                )
            return None

    async def _tell_late(self, books: dict[str, OrderBook]) -> None:
        for each, book in books.items():
            quote = Quote(book.market, each, book.bid, book.ask, book.timestamp)
            await self._tell(quote, late=True)
