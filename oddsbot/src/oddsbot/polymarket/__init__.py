"""Polymarket: its models, its HTTP answers and its market websocket.

The domain and its wire, nothing else: no Redis, no Telegram. Base URLs are handed
in, so the same code talks to the live service and to `oddsbot.standin.polymarket`.
"""

from __future__ import annotations

from ._http import Found
from .clob import Clob, ClobMarket, ClobToken, OrderBook, PricePoint
from .data import (
    Activity,
    Data,
    Page,
    PnlPoint,
    Position,
    Resolution,
    Standing,
    Stats,
    Trade,
)
from .errors import (
    BadAnswer,
    BadFrame,
    NotFound,
    PolymarketError,
    RateLimitedUpstream,
    RequestRefused,
    TooManyAssets,
    Unreadable,
    UpstreamUnavailable,
)
from .events import (
    BestBidAsk,
    Book,
    LastTradePrice,
    Level,
    LevelChange,
    MarketEvent,
    MarketResolved,
    NewMarket,
    PriceChange,
    TickSizeChange,
)
from .frames import Frame, max_frame, parse_frame, split_frame
from .gamma import (
    EventPage,
    Gamma,
    GammaEvent,
    GammaMarket,
    MarketPage,
    Profile,
    SearchPage,
    Tag,
    Token,
)
from .pool import FeedEvent, Gap, PoolCounters, Silence, StreamPool, Tick
from .quotes import Quote, quotes
from .rtds import ActivityBell, parse_activity
from .stream import (
    MAX_ASSETS,
    Connected,
    Disconnected,
    MarketStream,
    StreamCounters,
)

__all__ = [
    "MAX_ASSETS",
    "Activity",
    "ActivityBell",
    "BadAnswer",
    "BadFrame",
    "BestBidAsk",
    "Book",
    "Clob",
    "ClobMarket",
    "ClobToken",
    "Connected",
    "Data",
    "Disconnected",
    "EventPage",
    "FeedEvent",
    "Found",
    "Frame",
    "Gamma",
    "GammaEvent",
    "GammaMarket",
    "Gap",
    "LastTradePrice",
    "Level",
    "LevelChange",
    "MarketEvent",
    "MarketPage",
    "MarketResolved",
    "MarketStream",
    "NewMarket",
    "NotFound",
    "OrderBook",
    "Page",
    "PnlPoint",
    "PolymarketError",
    "PoolCounters",
    "Position",
    "PriceChange",
    "PricePoint",
    "Profile",
    "Quote",
    "RateLimitedUpstream",
    "RequestRefused",
    "Resolution",
    "SearchPage",
    "Silence",
    "Standing",
    "Stats",
    "StreamCounters",
    "StreamPool",
    "Tag",
    "Tick",
    "TickSizeChange",
    "Token",
    "TooManyAssets",
    "Trade",
    "Unreadable",
    "UpstreamUnavailable",
    "max_frame",
    "parse_activity",
    "parse_frame",
    "quotes",
    "split_frame",
]
