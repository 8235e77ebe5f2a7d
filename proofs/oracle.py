"""Each recorded and each generated payload through our models and the official SDK's.

`polymarket-client` is Polymarket's own. It is in the environment of the peers, since it
brings 21 packages, one of them in another version than the bot's. What both sides name
is compared: numbers exactly, times in milliseconds, nothing as nothing.

    make oracle            prints a line for each kind, and fails on a difference
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path

import aiohttp
import msgspec

ROOT = Path(__file__).resolve().parents[1]
# The peers' environment has no bot installed.
sys.path[:0] = [str(ROOT / "oddsbot" / "src")]

from polymarket.models.clob.market_events import parse_market_event  # noqa: E402
from polymarket.models.clob.order_book import OrderBook as SdkBook  # noqa: E402
from polymarket.models.data.activity import Trade as SdkTrade  # noqa: E402
from polymarket.models.data.activity import parse_activities  # noqa: E402
from polymarket.models.data.leaderboard import TraderLeaderboardEntry  # noqa: E402
from polymarket.models.data.portfolio import Position as SdkPosition  # noqa: E402
from polymarket.models.data.portfolio import UserPnlSeries, UserStats  # noqa: E402
from polymarket.models.data.resolutions import Resolution as SdkResolution  # noqa: E402
from polymarket.models.gamma.event import Event as SdkEvent  # noqa: E402
from polymarket.models.gamma.market import Market as SdkMarket  # noqa: E402
from polymarket.models.gamma.profile import PublicProfile  # noqa: E402

from oddsbot.polymarket import (  # noqa: E402
    Activity,
    Book,
    GammaEvent,
    GammaMarket,
    OrderBook,
    PnlPoint,
    Position,
    PriceChange,
    Profile,
    Resolution,
    Standing,
    Stats,
    Trade,
    parse_frame,
)
from oddsbot.polymarket.gamma import read  # noqa: E402
from oddsbot.standin.polymarket import Recording, Replay, sample  # noqa: E402

SAME = "market asset_id hash tick_size last_trade_price"
PAIRS = {
    "activity": "proxy_wallet=wallet timestamp transaction_hash type condition_id "
    "token_id=asset_id side size=shares usdc_size=amount price outcome outcome_index "
    "title slug event_slug name pseudonym",
    # Of what is no trade the SDK keeps less.
    "other activity": "proxy_wallet=wallet timestamp transaction_hash type "
    "condition_id usdc_size=amount title slug event_slug name pseudonym",
    "trade": "proxy_wallet=wallet timestamp condition_id token_id=asset_id side size "
    "price outcome outcome_index title slug event_slug transaction_hash name "
    "pseudonym",
    "position": "condition_id token_id=asset_id current_size avg_price current_price "
    "current_value total_cost_usdc realized_pnl unrealized_pnl total_pnl status "
    "redeemable mergeable negative_risk outcome outcome_index title slug event_slug",
    "resolution": "condition_id status proposed_price price was_disputed "
    "extended_review shares=payouts transaction_hash "
    "last_update_timestamp=last_updated_at resolved_at",
    "standing": "rank user_id=wallet pnl volume user_name",
    "stats": "proxy_wallet=wallet trades=traded_market_count biggest_win join_date",
    "pnl": "timestamp realized_pnl unrealized_pnl volume_usdc",
    "profile": "proxy_wallet=wallet name pseudonym bio",
    "book": f"{SAME} timestamp bids asks min_order_size neg_risk",
    "market": "id condition_id slug question description active=state.active "
    "closed=state.closed accepting_orders=state.accepting_orders "
    "enable_order_book=state.enable_order_book neg_risk=state.neg_risk "
    "end_date=state.end_date volume=metrics.volume volume24hr=metrics.volume_24hr "
    "liquidity=metrics.liquidity best_bid=prices.best_bid best_ask=prices.best_ask "
    "last_trade_price=prices.last_trade_price spread=prices.spread "
    "order_min_size=trading.minimum_order_size "
    "order_price_min_tick_size=trading.minimum_tick_size "
    "uma_resolution_status=resolution.uma_resolution_status",
    "event": "id slug title description active=state.active closed=state.closed "
    "volume=metrics.volume liquidity=metrics.liquidity",
}
EVENTS = {
    "book": f"{SAME} timestamp bids asks",
    "price_change": "market timestamp",
    "last_trade_price": "market asset_id timestamp price size side fee_rate_bps "
    "transaction_hash",
    "best_bid_ask": "market asset_id timestamp best_bid best_ask spread",
    "tick_size_change": "market asset_id timestamp old_tick_size new_tick_size",
    "new_market": "market timestamp id question slug description "
    "assets_ids=asset_ids outcomes tags group_item_title order_price_min_tick_size",
    "market_resolved": "market timestamp id winning_asset_id winning_outcome "
    "assets_ids=asset_ids tags",
}
# What neither has to tell from the other: an absent number is no number.
NOTHING = (None, "", (), msgspec.UNSET)
# A price that stands for none on the oracle's wire.
UNSET_PRICE = Decimal(69)
END = '{"event_type":"end"}'


def plain(value: object) -> object:
    """Return a value of either side in one form."""
    if any(value is each or value == each for each in NOTHING) or value == UNSET_PRICE:
        return None
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return round(value.timestamp() * 1_000)
    if isinstance(value, tuple | list):
        return tuple(map(plain, value))
    if hasattr(value, "price") and hasattr(value, "size"):
        return value.price, value.size
    return value


def at(found: object, path: str) -> object:
    """Return what stands at a path of attributes."""
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


class Report:
    """Counts what was compared, and keeps what differs."""

    def __init__(self) -> None:
        self.compared: Counter[str] = Counter()
        self.differences: list[str] = []

    def compare(self, kind: str, pairs: str, ours: object, theirs: object) -> None:
        """Compare the fields that both sides name."""
        self.compared[kind] += 1
        for pair in pairs.split():
            name, _, other = pair.partition("=")
            mine, its = plain(at(ours, name)), plain(at(theirs, other or name))
            if isinstance(mine, int) and isinstance(its, int) and its != mine:
                # Ours keeps seconds where the wire has seconds.
                its = its // 1_000 if its // 1_000 == mine else its
            if isinstance(mine, str) and isinstance(its, int):
                mine = round(datetime.fromisoformat(mine).timestamp() * 1_000)
            if mine is False and its is None:
                its = False
            if mine != its:
                line = f"{kind}.{name}: ours {mine!r}, theirs {its!r}"
                self.differences.append(line[:200])

    def events(self, source: str, text: str) -> None:
        """Compare a frame of the market channel."""
        frame = parse_frame(text)
        sent = json.loads(text)
        for ours, raw in zip(
            frame.events, sent if isinstance(sent, list) else [sent], strict=True
        ):
            theirs = parse_market_event(raw).payload
            kind = raw["event_type"]
            self.compare(f"{source} {kind}", EVENTS[kind], ours, theirs)
            if isinstance(ours, PriceChange):
                for mine, its in zip(
                    ours.price_changes, theirs.price_changes, strict=True
                ):
                    fields = "asset_id price size side best_bid best_ask hash"
                    self.compare(f"{source} price_change entry", fields, mine, its)
            assert isinstance(ours, Book) == (kind == "book")

    def market(self, source: str, raw: dict[str, object]) -> None:
        """Compare a market of Gamma's."""
        ours, theirs = read(raw, GammaMarket), SdkMarket.parse_response(raw)
        self.compare(f"{source} market", PAIRS["market"], ours, theirs)
        sides = (theirs.outcomes.yes, theirs.outcomes.no)
        for mine, its in zip(ours.tokens, sides, strict=True):
            fields = "outcome=label token_id price"
            self.compare(f"{source} outcome", fields, mine, its)

    def event(self, source: str, raw: dict[str, object]) -> None:
        """Compare an event of Gamma's, with its markets."""
        ours, theirs = read(raw, GammaEvent), SdkEvent.parse_response(raw)
        self.compare(f"{source} event", PAIRS["event"], ours, theirs)
        assert len(ours.markets) == len(theirs.markets)
        for market in raw["markets"]:
            self.market(source, market)

    def rows(self, kind: str, ours: type, raw: list, theirs: object) -> None:
        """Compare rows of the Data API."""
        for mine, its in zip(raw, theirs, strict=True):
            self.compare(f"generated {kind}", PAIRS[kind], read(mine, ours), its)


def recorded(report: Report, folder: Path) -> None:
    """Compare what was recorded."""
    rest = folder / "rest"
    for raw in json.loads((rest / "gamma-markets.before-gta-vi.json").read_bytes()):
        report.market("recorded", raw)
    event = rest / "gamma-event.fed-decision-june-2026.json"
    report.event("recorded", json.loads(event.read_bytes()))
    books = rest / "clob-books.fed-decision-june-2026.json"
    for raw in json.loads(books.read_bytes()):
        ours, theirs = read(raw, OrderBook), SdkBook.parse_response(raw)
        report.compare("recorded HTTP book", PAIRS["book"], ours, theirs)
    for line in (folder / "ws" / "market-book.ssmd.jsonl").read_text().splitlines():
        report.events("recorded", line)


async def generated(report: Report) -> None:
    """Compare what the stand-in sends: derived frames and generated rows."""
    recording = Recording.load(sample())
    tokens = [token for market in recording.markets.values() for token in market.tokens]
    async with (
        Replay(recording, speed=float("inf"), seed=11) as replay,
        aiohttp.ClientSession() as http,
        http.ws_connect(replay.ws_url) as ws,
    ):
        asked = {"assets_ids": tokens, "type": "market"}
        await ws.send_json(asked | {"custom_feature_enabled": True})
        await replay.wait_subscribed(*tokens)

        async def get(path: str, **query: str) -> object:
            where = replay.gamma_url + path
            async with http.get(where, params=query) as answer:
                assert answer.status == 200, (path, answer.status)
                return json.loads(await answer.read(), parse_float=Decimal)

        async def play() -> None:
            replay.start()
            await replay.finished()
            await replay.inject(END)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(play())
            while (text := await ws.receive_str()) != END:
                report.events("derived", text)
        for token in tokens:
            raw = await get("/book", token_id=token)
            ours, theirs = read(raw, OrderBook), SdkBook.parse_response(raw)
            report.compare("derived HTTP book", PAIRS["book"], ours, theirs)
        for event in (await get("/events/keyset", closed="true"))["events"]:
            report.event("generated", event)
        await rows(report, replay, get)


async def rows(report: Report, replay: Replay, get: object) -> None:
    """Compare the rows of the Data API."""
    page = await get("/v2/trades", limit="1000", taker_only="false")
    raw = page["data"]
    report.rows("trade", Trade, raw, SdkTrade.parse_response_list(raw))
    raw = (await get("/v2/leaderboard", time_period="all"))["data"]
    theirs = TraderLeaderboardEntry.parse_response_list(raw)
    report.rows("standing", Standing, raw, theirs)
    conditions = ",".join(replay.recording.markets)
    raw = (await get("/v2/resolutions", condition_id=conditions))["data"]
    theirs = SdkResolution.parse_response_list(raw)
    report.rows("resolution", Resolution, raw, theirs)
    for wallet in replay.wallets:
        page = await get("/v2/activity", user=wallet, limit="1000")
        for is_trade in (True, False):
            some = [row for row in page["data"] if (row["type"] == "TRADE") == is_trade]
            kind = "activity" if is_trade else "other activity"
            report.rows(kind, Activity, some, parse_activities(some))
        for status in ("OPEN", "REDEEMABLE", "REDEEMABLE_LOST", "CLOSED"):
            raw = (await get("/v2/positions", user=wallet, status=status))["data"]
            theirs = SdkPosition.parse_response_list(raw)
            report.rows("position", Position, raw, theirs)
        raw = (await get("/v2/user-stats", user=wallet))["data"]
        report.rows("stats", Stats, [raw], [UserStats.parse_response(raw)])
        raw = (await get("/v2/user-pnl", user=wallet))["data"]
        points = UserPnlSeries.parse_response(raw).points
        report.rows("pnl", PnlPoint, raw["points"], points)
        raw = await get("/public-profile", address=wallet)
        report.rows("profile", Profile, [raw], [PublicProfile.parse_response(raw)])


def main() -> int:
    """Compare everything, and print it."""
    report = Report()
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if folder is not None and folder.is_dir():
        recorded(report, folder)
    else:
        print("no folder of recordings was given: only what is generated is compared")
    asyncio.run(generated(report))
    for kind, count in sorted(report.compared.items()):
        print(f"{count:7,} {kind}")
    for line, count in Counter(report.differences).most_common(30):
        print(f"DIFFERENT {count}x {line}")
    print(f"{len(report.differences)} differences in {report.compared.total():,}")
    return bool(report.differences)


if __name__ == "__main__":
    sys.exit(main())
