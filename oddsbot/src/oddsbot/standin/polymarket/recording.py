"""A recording: books of settled markets in time order, read from two files.

``X.books.jsonl.gz`` has one snapshot of one token's book a line::

    {"ts": 1790586000000, "market_id": "0x..", "side": "UP",
     "bids": [[0.49, 514.99], ...], "asks": [[0.5, 205.0], ...]}

sorted by ``ts`` (Unix milliseconds), best level first, at most as deep as the
publisher kept it. ``X.markets.json`` beside it has the markets: slug, question, slot,
outcomes and final payouts.

``X.bbo-changes.csv.gz`` has best prices only, one change of a market a line: ``ts`` in
seconds, ``slug``, ``bid``, ``ask``; an empty price is an empty side. Beside it
``X.markets.csv.gz`` has ``slug``, ``category``, ``question``, ``resolved_yes``. Ids,
sizes (100 shares) and the second outcome's prices are derived then, and the results
come at the end.

A damaged line is skipped and counted; only a recording that gives no book at all is
an error.
"""

from __future__ import annotations

import csv
import hashlib
import zlib
from collections import Counter
from decimal import Decimal
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Callable

SideName = Literal["UP", "DOWN"]
BookLevel = tuple[Decimal, Decimal]  # price, size

_DAY_MS = 86_400_000
_BOOKS = ".books.jsonl.gz"
_MARKETS = ".markets.json"
_QUOTES = ".bbo-changes.csv.gz"
_QUOTED = ".markets.csv.gz"
_GZIP = 31  # zlib's name for "a gzip header and trailer"
# Small, because an error in a chunk loses what that chunk had decoded.
_CHUNK = 1024
MAX_BYTES = 1024**3
"""Of a recording, unpacked: a day of a market has some megabytes."""
_DERIVED_SIZE = Decimal(100)
_HALF = Decimal("0.5")
_PAYOUTS = {"0": Decimal(0), "1": Decimal(1)}


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
        decided: Whether that is known.
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
    decided: bool = True

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


_decoder = msgspec.json.Decoder(Snapshot)


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
        """Read ``X.books.jsonl.gz`` or ``X.bbo-changes.csv.gz``, and its markets.

        Blocks while it reads: call it before the loop runs or in a thread.

        Raises:
            RecordingError: A file is missing or unreadable, or no line is usable.
        """
        path = Path(path)
        quoted = path.name.endswith(_QUOTES)
        markets = _load_quoted(path) if quoted else _load_markets(path)
        text, warning = _gunzip(path)
        lines = text.split(b"\n")
        if warning is not None:
            # The cut went through this one; the warning tells of it.
            lines.pop()
        if quoted:
            lines[:1] = [b""]  # the heads of the columns
        parse = _parse_quote if quoted else _parse_book
        snapshots, skipped, first_skipped = _read(lines, parse, markets)
        if not snapshots:
            raise RecordingError(
                f"{path} has no usable line"
                + (f" ({first_skipped})" if first_skipped else "")
                + ": give a recording in the format of docs/guides/replay.md"
            )
        if quoted:  # the slot is what was recorded
            start, end = snapshots[0].ts, snapshots[-1].ts
            markets = {
                key: msgspec.structs.replace(market, start_ts=start, end_ts=end)
                for key, market in markets.items()
            }
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


def _beside(path: Path, ending: str, other: str) -> Path:
    """Return the path of a recording's second file; both have to be there."""
    second = path.with_name(path.name.removesuffix(ending) + other)
    for wanted in (path, second):
        if not wanted.is_file():
            raise RecordingError(
                f"{wanted} is not there: a recording is two files beside each other, "
                f"X{ending} and X{other}"
            )
    return second


def _load_quoted(quotes: Path) -> dict[str, RecordedMarket]:
    text, _ = _gunzip(_beside(quotes, _QUOTES, _QUOTED))
    rows = csv.DictReader(text.decode(errors="replace").splitlines())
    found = {}
    for row in rows:
        slug, paid = row.get("slug") or "", _PAYOUTS.get(row.get("resolved_yes") or "")
        payout = _HALF if paid is None else paid
        market = RecordedMarket(
            market_id=_market_of(slug),
            slug=slug,
            question=row.get("question") or slug,
            start_ts=0,
            end_ts=0,
            outcome_up="Yes",
            outcome_down="No",
            payout_up=payout,
            payout_down=1 - payout,
            category=row.get("category") or "",
            decided=paid is not None,
        )
        found[market.market_id] = market
    return found


def _market_of(slug: str) -> str:
    return f"0x{hashlib.sha256(slug.encode(errors='replace')).hexdigest()}"


def _load_markets(books: Path) -> dict[str, RecordedMarket]:
    if not books.name.endswith(_BOOKS):
        raise RecordingError(
            f"{books}: give the path of a file named *{_BOOKS} or *{_QUOTES}"
        )
    path = _beside(books, _BOOKS, _MARKETS)
    try:
        markets = msgspec.json.decode(path.read_bytes(), type=list[RecordedMarket])
    except (OSError, msgspec.DecodeError, UnicodeError) as error:
        raise RecordingError(
            f"{path} cannot be read ({error}): it must be a list of markets "
            "in the format of docs/guides/replay.md"
        ) from error
    return {market.market_id: market for market in markets}


def _parse_book(line: bytes) -> tuple[Snapshot, ...]:
    return (_decoder.decode(line),)


def _parse_quote(line: bytes) -> tuple[Snapshot, ...]:
    """Return the books of both outcomes, which mirror each other."""
    seconds, slug, *prices = line.decode().strip().split(",")
    ts, market_id = int(seconds) * 1000, _market_of(slug)
    bids, asks = (
        ((Decimal(price), _DERIVED_SIZE),) if price else () for price in prices
    )
    if bids and asks and bids[0][0] > asks[0][0]:
        raise ValueError(f"the bid {bids[0][0]} is above the ask {asks[0][0]}")
    return (
        Snapshot(ts, market_id, "UP", bids, asks),
        Snapshot(ts, market_id, "DOWN", _mirrored(asks), _mirrored(bids)),
    )


def _mirrored(levels: tuple[BookLevel, ...]) -> tuple[BookLevel, ...]:
    return tuple((1 - price, size) for price, size in levels)


def _read(
    lines: list[bytes],
    parse: Callable[[bytes], tuple[Snapshot, ...]],
    markets: dict[str, RecordedMarket],
) -> tuple[list[Snapshot], int, str | None]:
    """Return all snapshots, how many lines are damaged, and how the first one is."""
    # Consecutive books share most of their levels: one copy of each halves what a
    # loaded recording takes.
    known: dict[BookLevel, BookLevel] = {}
    snapshots: list[Snapshot] = []
    skipped, first_skipped, last_ts = 0, None, 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = parse(line)
            for snapshot in found:
                _check(snapshot, markets, last_ts)
        except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError) as e:
            skipped += 1
            first_skipped = first_skipped or f"line {number}: {e}"
            continue
        last_ts = found[0].ts
        snapshots += [
            msgspec.structs.replace(
                snapshot,
                bids=tuple(known.setdefault(level, level) for level in snapshot.bids),
                asks=tuple(known.setdefault(level, level) for level in snapshot.asks),
            )
            for snapshot in found
        ]
    return snapshots, skipped, first_skipped


def _check(
    snapshot: Snapshot, markets: dict[str, RecordedMarket], last_ts: int
) -> None:
    """Refuse a line that is JSON of the right shape and still cannot be true."""
    market = markets.get(snapshot.market_id)
    if market is None:
        raise ValueError(f"market {snapshot.market_id} is not in the markets file")
    # A single wrong ts far ahead would put every later line out of order.
    slot = market.start_ts - _DAY_MS, market.end_ts + _DAY_MS
    if market.end_ts and not slot[0] <= snapshot.ts <= slot[1]:
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
    groups: dict[tuple[int, str, int], list[Snapshot]] = {}
    told: Counter[tuple[int, str, str]] = Counter()
    for each in snapshots:
        # A side that comes again at its moment begins another group.
        place = each.ts, each.market_id, each.side
        groups.setdefault((each.ts, each.market_id, told[place]), []).append(each)
        told[place] += 1
    timeline: list[Any] = [
        Group(ts, market_id, tuple(group))
        for (ts, market_id, _), group in groups.items()
    ]
    last_ts = {each.market_id: each.ts for each in snapshots}
    timeline += [
        Resolution(max(markets[market_id].end_ts, ts), market_id)
        for market_id, ts in last_ts.items()
        if markets[market_id].decided
    ]
    # Stable: a resolution comes after the books of its own moment.
    return tuple(sorted(timeline, key=lambda item: item.ts))


def _gunzip(path: Path) -> tuple[bytes, str | None]:
    """Return the bytes of a gzip file, and a warning when some are missing.

    Raises:
        RecordingError: The file cannot be opened, nothing of it can be read, or it is
            larger than any recording.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise RecordingError(
            f"{path} cannot be opened ({error.strerror}): check the file's permissions"
        ) from error
    parts: list[bytes] = []
    warning = None
    try:
        while packed:
            packed = _member(packed, parts)
    except zlib.error as error:
        warning = f"{path.name} is damaged ({error})"
    except EOFError:
        warning = f"{path.name} is cut off"
    text = b"".join(parts)
    if not text:
        raise RecordingError(
            f"{path} holds nothing that gzip can read: copy it again from its source"
        )
    if warning is not None:
        lines = text.count(b"\n")
        warning += f": only its first {lines} lines could be read; copy it again"
    return text, warning


def _member(packed: bytes, parts: list[bytes]) -> bytes:
    """Decode one gzip member into `parts`; return what follows it."""
    decoder = zlib.decompressobj(_GZIP)
    size = sum(map(len, parts))
    for at in range(0, len(packed), _CHUNK):
        parts.append(decoder.decompress(packed[at : at + _CHUNK]))
        size += len(parts[-1])
        if size > MAX_BYTES:
            raise RecordingError(f"it unpacks to more than {MAX_BYTES} bytes")
        if decoder.eof:
            return decoder.unused_data + packed[at + _CHUNK :]
    raise EOFError
