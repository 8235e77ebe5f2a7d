"""What the local Polymarket knows at a moment: no input or output, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from . import _derive
from .recording import Group, token_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from decimal import Decimal

    from ._derive import Message
    from .recording import RecordedMarket, Recording, Resolution, Snapshot


class Exchange:
    """The markets of a recording, as they stand after what was played so far.

    Attributes:
        markets: All markets by condition id.
        books: The last snapshot of each token that has one.
        resolved: When each market that is decided was, Unix milliseconds.
        mids: Each token's mid prices so far: (Unix milliseconds, price).
    """

    def __init__(self, recording: Recording) -> None:
        self.markets: dict[str, RecordedMarket] = recording.markets
        self.books: dict[str, Snapshot] = {}
        self.resolved: dict[str, int] = {}
        self.mids: dict[str, list[tuple[int, Decimal]]] = {}
        self._announced: set[str] = set()

    def play(self, item: Group | Resolution) -> list[Message]:
        """Move to the next item of the timeline; return what it makes known."""
        market = self.markets[item.market_id]
        if not isinstance(item, Group):
            self.resolved[item.market_id] = item.ts
            return [_derive.resolved_event(market, item)]
        messages: list[Message] = []
        if item.market_id not in self._announced:
            self._announced.add(item.market_id)
            messages.append(_derive.new_market_event(market, item.ts))
        messages += _derive.group_events(item, self.books)
        for snapshot in item.snapshots:
            token = token_id(snapshot.market_id, snapshot.side)
            self.books[token] = snapshot
            mids = self.mids.setdefault(token, [])
            mids.append((snapshot.ts, _derive.mid(snapshot)))
        return messages

    def dump(self, tokens: Iterable[str]) -> str | None:
        """Return the frame that answers a subscription: an array of the books.

        None when no token has a book yet.
        """
        events = [_derive.book_event(book) for book in self.known(tokens)]
        return msgspec.json.encode(events).decode() if events else None

    def known(self, tokens: Iterable[str]) -> Iterator[Snapshot]:
        """Yield the current snapshot of each of `tokens` that has one."""
        return (self.books[token] for token in tokens if token in self.books)
