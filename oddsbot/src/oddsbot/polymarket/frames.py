"""Websocket text in, typed events out: pure, no input or output.

A frame is one event object or an array of them. One bad event never costs the good
ones beside it: it is skipped and named, and the rest is delivered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec

from ._reading import decoder, name_of, read
from .errors import BadFrame
from .events import Book, MarketEvent, MarketResolved, NewMarket

if TYPE_CHECKING:
    from collections.abc import Iterable

_KINDS: dict[Any, Any] = {
    kind.__struct_config__.tag: kind for kind in get_args(MarketEvent)
}
_ANNOUNCEMENTS = frozenset({NewMarket, MarketResolved})
# strict=False: timestamps are numbers inside strings.
_typed = msgspec.json.Decoder(tuple[MarketEvent, ...] | MarketEvent, strict=False)


class Frame(msgspec.Struct, frozen=True):
    """What one frame held.

    Attributes:
        events: The events that could be read, in the order they were sent.
        skipped_kinds: For each event, or entry of one, that was skipped, its
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
        """How many events, or entries of one, were skipped."""
        return len(self.skipped_kinds)


def parse_frame(data: str | bytes) -> Frame:
    """Read one frame of the market channel.

    Raises:
        BadFrame: The text is not JSON, or neither an object nor an array.
    """
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
    """Read a frame event by event, by the rule that admits every spelling."""
    try:
        decoded = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadFrame(f"the frame is not JSON: {error}") from error
    if isinstance(decoded, dict):
        decoded = [decoded]
    elif not isinstance(decoded, list):
        raise BadFrame(
            f"the frame is neither an object nor an array, but {type(decoded).__name__}"
        )
    events: list[MarketEvent] = []
    skipped: list[str] = []
    problems: list[str] = []
    for index, item in enumerate(decoded):
        sent = _kind(item)
        kind = _KINDS.get(sent)
        left_out: list[str] = []
        if kind is None:
            left_out.append("a kind that we do not know")
        else:
            try:
                event = read(item, kind, left_out)
            except ValueError as error:
                left_out = [f"{name_of(item, index)}: {error}"]
            else:
                if not left_out or event.price_changes:
                    events.append(event)
        skipped += [sent] * len(left_out)
        problems += [f"{sent}: {each}" for each in left_out]
    return Frame(tuple(events), tuple(skipped), tuple(problems))


def _kind(item: Any) -> str:
    kind = item.get("event_type") if isinstance(item, dict) else None
    return kind[:40] if isinstance(kind, str) and kind else "untyped"
