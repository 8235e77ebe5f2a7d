"""Websocket text in, typed events out: pure, no input or output.

A frame is one event object or an array of them. One bad event never costs the good
ones beside it: it is skipped and named, and the rest is delivered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec

from ._reading import decoder, name_of, read
from .errors import BadFrame
from .events import Book, MarketEvent, MarketResolved, NewMarket, PriceChange

if TYPE_CHECKING:
    from collections.abc import Iterable

_KINDS: dict[Any, Any] = {
    kind.__struct_config__.tag: kind for kind in get_args(MarketEvent)
}
_ANNOUNCEMENTS = frozenset({NewMarket, MarketResolved})
# strict=False: timestamps are numbers inside strings.
_typed = msgspec.json.Decoder(tuple[MarketEvent, ...] | MarketEvent, strict=False)
_one = msgspec.json.Decoder(MarketEvent, strict=False)
_raw = msgspec.json.Decoder(msgspec.Raw)
_split = msgspec.json.Decoder(list[msgspec.Raw])

MAX_EVENTS = 1_000
"""Events of a frame that are looked at: 500 assets have 500 books."""
_SLOWLY = 64 * 1024
"""Bytes of a frame that are read by the rule that admits every spelling: 10 us for
each 30 of them."""
_SLICE = 32 * 1024
_LARGEST = 256 * 1024
"""Bytes of one event: a book of some 8,000 levels."""
# A level of a book, the smallest thing that a frame has many of, has 13 bytes a comma.
_COMMA, _COMMAS = 10, 1_000


def max_frame(assets: int) -> int:
    """Return the most bytes of a frame for that many assets: 16 KiB for each book."""
    return 64 * 1024 + 16 * 1024 * assets


class Frame(msgspec.Struct, frozen=True):
    """What one frame held.

    Attributes:
        events: The events that could be read, in the order they were sent.
        skipped_kinds: For each event, or part of one, that was skipped, its
            ``event_type`` as sent (at most 40 characters), or ``"untyped"``. A kind
            that `MarketEvent` knows means a malformed event; any other, a kind we do
            not know.
        problems: For each of them, what it was and what is wrong with it.
    """

    events: tuple[MarketEvent, ...]
    skipped_kinds: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def skipped(self) -> int:
        """How many events, or parts of one, were skipped."""
        return len(self.skipped_kinds)


def split_frame(data: str | bytes, limit: int) -> list[str | bytes]:
    """Return a frame as frames that are each read in a few milliseconds.

    An event that alone is larger than any book is left out, and named by an event of no
    kind in its place.

    Args:
        data: The text.
        limit: Most characters or bytes.

    Raises:
        BadFrame: As of `parse_frame`.
    """
    _check_length(data, limit)
    if len(data) <= _SLICE:
        return [data]
    slices: list[str | bytes] = []
    some: list[bytes] = []
    size = 0
    items = _elements(data)
    for raw in items[:MAX_EVENTS]:
        each = bytes(memoryview(raw))
        if len(each) > _LARGEST:
            each = b'{"event_type":"too large"}'
        if some and size + len(each) > _SLICE:
            slices.append(b"[%b]" % b",".join(some))
            some, size = [], 0
        some.append(each)
        size += len(each)
    if len(items) > MAX_EVENTS:
        some.append(b'{"event_type":"too many"}')
    slices.append(b"[%b]" % b",".join(some))
    return slices


def _check_length(data: str | bytes, limit: int) -> None:
    if len(data) > limit:
        raise BadFrame(f"the frame has {len(data)} bytes, more than its assets need")


def parse_frame(data: str | bytes, limit: int | None = None) -> Frame:
    """Read one frame of the market channel.

    Args:
        data: The text.
        limit: Most characters or bytes; default: for 500 assets.

    Raises:
        BadFrame: The text is not JSON, neither an object nor an array, or too much.
    """
    _check_length(data, max_frame(500) if limit is None else limit)
    try:
        decoded = _typed.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _parse_singly(data)
    events = decoded if isinstance(decoded, tuple) else (decoded,)
    if _may_say_more(events):
        return _parse_singly(data)
    return Frame(events)


def _may_say_more(events: Iterable[MarketEvent]) -> bool:
    """Return whether the exact spelling may have missed something that is there.

    The typed decoder knows one name for each field. That is all for the fields that are
    always there. Announcements are rare and mostly made of optional fields, and a side
    of a book under another name must not be taken for an empty side, nor 0 for a time.
    """
    for event in events:
        if type(event) in _ANNOUNCEMENTS or event.timestamp == 0:
            return True
        if isinstance(event, Book) and not (event.bids and event.asks):
            return True
    return False


def _parse_singly(data: str | bytes) -> Frame:
    """Read a frame event by event, by the rule that admits every spelling.

    What is in a frame must not hold up the loop: so the number of events, and what is
    read by the slow rule, are bounded. Behind the bound, what the exact spelling gives
    is taken, and the rest is skipped.
    """
    events: list[MarketEvent] = []
    skipped: list[str] = []
    problems: list[str] = []
    items = _elements(data)
    left = _SLOWLY
    for index, raw in enumerate(items[:MAX_EVENTS]):
        event = _exactly(raw)
        if event is not None and not _may_say_more((event,)):
            events.append(event)
            continue
        size = len(memoryview(raw))
        if size > left:
            if event is not None:
                events.append(event)
            else:
                skipped.append("untyped")
                problems.append(f"untyped: element {index}: too much to read slowly")
            continue
        left -= size
        slow, sent, left_out = _slowly(raw, index)
        events += slow
        skipped += [sent] * len(left_out)
        problems += [f"{sent}: {each}" for each in left_out]
    if len(items) > MAX_EVENTS:
        skipped.append("untyped")
        problems.append(f"untyped: {len(items) - MAX_EVENTS} elements too many")
    return Frame(tuple(events), tuple(skipped), tuple(problems))


def _elements(data: str | bytes) -> list[msgspec.Raw]:
    """Return the events of a frame, not decoded.

    Raises:
        BadFrame: It is not JSON, neither an object nor an array, or full of junk.
    """
    comma = "," if isinstance(data, str) else b","
    if data.count(comma) > _COMMAS + len(data) // _COMMA:  # type: ignore[arg-type]
        raise BadFrame("the frame has more values than events can have")
    try:
        raw = _raw.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadFrame(f"the frame is not JSON: {error}") from error
    match bytes(memoryview(raw)[:1]):
        case b"{":
            return [raw]
        case b"[":
            return _split.decode(raw)
    raise BadFrame("the frame is neither an object nor an array")


def _exactly(raw: msgspec.Raw) -> MarketEvent | None:
    try:
        event: MarketEvent = _one.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return event


def _slowly(raw: msgspec.Raw, index: int) -> tuple[list[MarketEvent], str, list[str]]:
    """Return an event if it is one, its kind, and what of it could not be read."""
    try:
        item = decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return [], "untyped", [f"element {index}: {error}"]
    sent = _kind(item)
    kind = _KINDS.get(sent)
    if kind is None:
        return [], sent, ["a kind that we do not know"]
    left_out: list[str] = []
    try:
        event = read(item, kind, left_out)
    except ValueError as error:
        return [], sent, [f"{name_of(item, index)}: {error}"]
    # A change of which no entry could be read says nothing.
    emptied = left_out and isinstance(event, PriceChange) and not event.price_changes
    return [] if emptied else [event], sent, left_out


def _kind(item: Any) -> str:
    kind = item.get("event_type") if isinstance(item, dict) else None
    return kind[:40] if isinstance(kind, str) and kind else "untyped"
