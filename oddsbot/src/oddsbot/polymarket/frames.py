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
from .slices import LONGEST, end_of, is_at, skip_space

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
_SLICE = 16 * 1024
_SLICE_EVENTS = 100
_SLOWLY = 16 * 1024
"""Bytes of a frame that are read by the rule that admits every spelling."""
_SLOW_STEPS = 500
"""Elements of events that this rule reads."""


def max_frame(assets: int) -> int:
    """Return the most bytes of a frame for that many assets.

    16 KiB for each book. Recorded books have 35 bytes a level and at most 5,575 bytes.
    """
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


def split_frame(data: str | bytes, limit: int) -> Iterator[str | bytes]:
    """Yield a frame as frames that are each read in a few milliseconds.

    Each is found when it is asked for, so that the caller lets others run in between.

    Args:
        data: The text.
        limit: Most characters or bytes.

    Raises:
        BadFrame: The frame has more than `limit`, or more than 1,000 events; or the
            next event is not JSON, or has more than 128 KiB. What was yielded before is
            good, the rest is not looked at.
    """
    if len(data) > limit:
        raise BadFrame(f"the frame has {len(data)} bytes, more than its assets need")
    at = skip_space(data, 0)
    if len(data) <= _SLICE or not is_at(data, at, "["):
        yield data
        return
    count = 0
    at = skip_space(data, at + 1)
    while not is_at(data, at, "]"):
        began, ended = at, at
        for _ in range(_SLICE_EVENTS):
            end = end_of(data, at, LONGEST)
            if end is None or (end - began > _SLICE and ended > began):
                break  # the next slice begins with it, or names what is wrong
            ended = skip_space(data, end)
            count += 1
            at = ended
            if not is_at(data, at, ",") or count >= MAX_EVENTS:
                break
            at = skip_space(data, at + 1)
        if ended == began:
            raise BadFrame(f"an event is not JSON or too large, at {at}")
        part = data[began:ended]
        yield f"[{part}]" if isinstance(part, str) else b"[%b]" % part
        if count >= MAX_EVENTS and not is_at(data, ended, "]"):
            raise BadFrame(f"the frame has more than {MAX_EVENTS} events")
        if at == ended and not is_at(data, ended, "]"):
            raise BadFrame(f"the frame is not JSON at {ended}")
    if skip_space(data, at + 1) != len(data):
        raise BadFrame("there is more after the frame")


def parse_frame(data: str | bytes) -> Frame:
    """Read one frame of the market channel, or a part of it from `split_frame`.

    Args:
        data: The text, at most 128 KiB.

    Raises:
        BadFrame: The text is not JSON, neither an object nor an array, or too long.
    """
    if len(data) > LONGEST + 2:
        raise BadFrame(f"{len(data)} bytes are too many at once: see `split_frame`")
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
    read by the slow rule, are bounded. Beyond the bounds, what the exact spelling gives
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
        BadFrame: It is not JSON, or neither an object nor an array.
    """
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
        event = read(item, kind, left_out, most=_SLOW_STEPS)
    except ValueError as error:
        return [], sent, [f"{name_of(item, index)}: {error}"]
    # A change of which no entry could be read says nothing.
    emptied = left_out and isinstance(event, PriceChange) and not event.price_changes
    return [] if emptied else [event], sent, left_out


def _kind(item: Any) -> str:
    kind = item.get("event_type") if isinstance(item, dict) else None
    return kind[:40] if isinstance(kind, str) and kind else "untyped"
