"""A recording: books of settled markets in time order, read from two files.

``X.books.jsonl.gz`` has one snapshot of one token's book a line::

    {"ts": 1790586000000, "market_id": "0x..", "side": "UP",
     "bids": [[0.49, 514.99], ...], "asks": [[0.5, 205.0], ...]}

sorted by ``ts`` (Unix milliseconds), best level first, at most as deep as the
publisher kept it. ``X.markets.json`` beside it has the markets: slug, question, slot,
outcomes and final payouts.

A damaged line is skipped and counted; only a recording that gives no book at all is
an error.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec

from ._gunzip import gunzip
from .errors import RecordingError

SideName = Literal["UP", "DOWN"]
BookLevel = tuple[Decimal, Decimal]  # price, size

_DAY_MS = 86_400_000
_BOOKS = ".books.jsonl.gz"
_MARKETS = ".markets.json"


def token_id(market_id: str, side: SideName) -> str:
    """Return the token id of one side of a market: 77 decimal digits, derived.

    The recording has none; this one depends on the market and the side only, and
    has the length that real ones have.
    """
    digest = hashlib.sha256(f"{market_id}:{side}".encode()).digest()
    return str(10**76 + int.from_bytes(digest, "big") % (9 * 10**76))


class RecordedMarket(msgspec.Struct, frozen=True):
    """One market of a recording, as ``markets.json`` has it.

    Attributes:
        market_id: The condition id.
        start_ts: When its slot starts, Unix milliseconds; books begin earlier.
        end_ts: When its slot ends; the last books come later.
        payout_up: What one share of the first outcome paid in the end, 0 to 1.
    """

    market_id: str
    slug: str
    question: str
    start_ts: int
    end_ts: int
    outcome_up: str
    outcome_down: str
    payout_up: Decimal
    payout_down: Decimal
    category: str = ""
    timeframe: str = ""

    @property
    def tokens(self) -> tuple[str, str]:
        """The token ids of the first ("UP") and of the second outcome."""
        return token_id(self.market_id, "UP"), token_id(self.market_id, "DOWN")

    @property
    def gamma_id(self) -> str:
        """A number that stands for Gamma's own id of the market, derived."""
        digest = hashlib.sha256(self.market_id.encode()).digest()
        return str(int.from_bytes(digest[:4], "big"))

    @property
    def outcomes(self) -> tuple[str, str]:
        """The names of the first and of the second outcome."""
        return self.outcome_up, self.outcome_down

    @property
    def payouts(self) -> tuple[Decimal, Decimal]:
        """What one share of each outcome paid."""
        return self.payout_up, self.payout_down

    @property
    def winner(self) -> int | None:
        """The index of the outcome that paid 1, None when neither did."""
        return self.payouts.index(Decimal(1)) if Decimal(1) in self.payouts else None


class Snapshot(msgspec.Struct, frozen=True):
    """The book of one token at one moment, best level first."""

    ts: int
    market_id: str
    side: SideName
    bids: tuple[BookLevel, ...]
    asks: tuple[BookLevel, ...]


class Group(msgspec.Struct, frozen=True):
    """The snapshots of one market that share a moment: one side, or both."""

    ts: int
    market_id: str
    snapshots: tuple[Snapshot, ...]


class Resolution(msgspec.Struct, frozen=True):
    """The moment a market is decided: after its slot and after its last book."""

    ts: int
    market_id: str


class Recording(msgspec.Struct, frozen=True):
    """What a recording holds, checked.

    Attributes:
        markets: Its markets by condition id, in the order of the file.
        timeline: Everything that happens, in time order.
        start: When the first book was recorded, Unix milliseconds.
        end: When the last thing on the timeline happens.
        skipped: How many damaged lines were left out.
        first_skipped: The number of the first of them and what is wrong with it.
        warning: What could not be read of a truncated or damaged file.
    """

    markets: dict[str, RecordedMarket]
    timeline: tuple[Group | Resolution, ...]
    start: int
    end: int
    skipped: int = 0
    first_skipped: str | None = None
    warning: str | None = None

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """Read ``X.books.jsonl.gz`` and the ``X.markets.json`` beside it.

        Blocks while it reads: call it before the loop runs or in a thread.

        Raises:
            RecordingError: A file is missing or unreadable, or no line is usable.
        """
        path = Path(path)
        markets = _load_markets(path)
        text, warning = gunzip(path)
        lines = text.split(b"\n")
        if warning is not None:
            # The cut went through this one; the warning tells of it.
            lines.pop()
        snapshots, skipped, first_skipped = _read_lines(lines, markets)
        if not snapshots:
            raise RecordingError(
                f"{path} has no usable line"
                + (f" ({first_skipped})" if first_skipped else "")
                + ": give a recording in the format of docs/guides/replay.md"
            )
        timeline = _timeline(snapshots, markets)
        return cls(
            markets=markets,
            timeline=timeline,
            start=timeline[0].ts,
            end=timeline[-1].ts,
            skipped=skipped,
            first_skipped=first_skipped,
            warning=warning,
        )


def sample() -> Path:
    """Return the path of the recording that comes with the bot.

    Two consecutive BTC 15-minute markets, from quiet to settled, 34 minutes in all.
    """
    folder = resources.files("oddsbot.standin.polymarket") / "sample"
    return Path(str(folder / f"btc-updown-15m{_BOOKS}"))


def _load_markets(books: Path) -> dict[str, RecordedMarket]:
    if not books.name.endswith(_BOOKS):
        raise RecordingError(f"{books}: give the path of a file named *{_BOOKS}")
    path = books.with_name(books.name.removesuffix(_BOOKS) + _MARKETS)
    for wanted in (books, path):
        if not wanted.is_file():
            raise RecordingError(
                f"{wanted} is not there: a recording is two files beside each other, "
                f"X{_BOOKS} and X{_MARKETS}"
            )
    try:
        markets = msgspec.json.decode(path.read_bytes(), type=list[RecordedMarket])
    except (OSError, msgspec.DecodeError, UnicodeError) as error:
        raise RecordingError(
            f"{path} cannot be read ({error}): it must be a list of markets "
            "in the format of docs/guides/replay.md"
        ) from error
    return {market.market_id: market for market in markets}


def _read_lines(
    lines: list[bytes], markets: dict[str, RecordedMarket]
) -> tuple[list[Snapshot], int, str | None]:
    decoder = msgspec.json.Decoder(Snapshot)
    # Consecutive books share most of their levels: one copy of each halves what a
    # loaded recording takes.
    known: dict[BookLevel, BookLevel] = {}
    snapshots: list[Snapshot] = []
    skipped, first_skipped, last_ts = 0, None, 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            snapshot = decoder.decode(line)
            _check(snapshot, markets, last_ts)
        except (msgspec.DecodeError, UnicodeError, ValueError, RecursionError) as error:
            skipped += 1
            first_skipped = first_skipped or f"line {number}: {error}"
            continue
        last_ts = snapshot.ts
        snapshots.append(
            msgspec.structs.replace(
                snapshot,
                bids=tuple(known.setdefault(level, level) for level in snapshot.bids),
                asks=tuple(known.setdefault(level, level) for level in snapshot.asks),
            )
        )
    return snapshots, skipped, first_skipped


def _check(
    snapshot: Snapshot, markets: dict[str, RecordedMarket], last_ts: int
) -> None:
    """Refuse a line that is JSON of the right shape and still cannot be true."""
    market = markets.get(snapshot.market_id)
    if market is None:
        raise ValueError(f"market {snapshot.market_id} is not in the markets file")
    # A single wrong ts far ahead would put every later line out of order.
    if not market.start_ts - _DAY_MS <= snapshot.ts <= market.end_ts + _DAY_MS:
        raise ValueError(f"ts {snapshot.ts} is more than a day off its market's slot")
    if snapshot.ts < last_ts:
        raise ValueError(f"ts {snapshot.ts} is earlier than {last_ts} before it")
    for levels in (snapshot.bids, snapshot.asks):
        for price, size in levels:
            if not (price.is_finite() and 0 < price < 1):
                raise ValueError(f"price {price} is not between 0 and 1")
            if not (size.is_finite() and size > 0):
                raise ValueError(f"size {size} is not above 0")
    if any(worse[0] >= best[0] for best, worse in pairwise(snapshot.bids)):
        raise ValueError("the bids do not descend from the best")
    if any(worse[0] <= best[0] for best, worse in pairwise(snapshot.asks)):
        raise ValueError("the asks do not ascend from the best")


def _timeline(
    snapshots: list[Snapshot], markets: dict[str, RecordedMarket]
) -> tuple[Group | Resolution, ...]:
    groups: list[list[Snapshot]] = []
    last_ts: dict[str, int] = {}
    for snapshot in snapshots:
        last_ts[snapshot.market_id] = snapshot.ts
        group = groups[-1] if groups else []
        if (
            group
            and (group[0].ts, group[0].market_id) == (snapshot.ts, snapshot.market_id)
            and all(other.side != snapshot.side for other in group)
        ):
            group.append(snapshot)
        else:
            groups.append([snapshot])
    timeline: list[Any] = [
        Group(group[0].ts, group[0].market_id, tuple(group)) for group in groups
    ]
    timeline += [
        Resolution(max(markets[market_id].end_ts, ts), market_id)
        for market_id, ts in last_ts.items()
    ]
    # Stable: a resolution comes after the books of its own moment.
    return tuple(sorted(timeline, key=lambda item: item.ts))
