"""What the local Polymarket knows at a moment: no input or output, no clock."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from . import _derive
from ._ledger import Ledger, hash_of
from .recording import Group, token_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._derive import Message
    from .recording import RecordedMarket, Recording, Resolution, Snapshot


_HALF = Decimal("0.5")


class Exchange:
    """The markets of a recording, as they stand after what was played so far.

    Args:
        recording: What is played.
        seed: Of what wallets do; None: nobody trades.

    Attributes:
        markets: All markets by condition id.
        books: The last snapshot of each token that has one.
        resolved: When each market that is decided was, Unix milliseconds.
        mids: Each token's mid prices so far: (Unix milliseconds, price).
        ledger: What wallets did, generated.
        proposals: Of each market what the oracle was told: state, outcome, moment (ms).
    """

    def __init__(self, recording: Recording, seed: int | None = None) -> None:
        self.markets: dict[str, RecordedMarket] = recording.markets
        self.books: dict[str, Snapshot] = {}
        self.resolved: dict[str, int] = {}
        self.mids: dict[str, list[tuple[int, Decimal]]] = {}
        self.ledger = Ledger(recording.markets, seed)
        self.proposals: dict[str, tuple[str, int, int]] = {}
        self._announced: set[str] = set()

    def play(self, item: Group | Resolution) -> list[Message]:
        """Move to the next item of the timeline; return what it makes known."""
        market = self.markets[item.market_id]
        if not isinstance(item, Group):
            self.resolved[item.market_id] = item.ts
            self.ledger.resolve(item.market_id, item.ts)
            return [_derive.resolved_event(market, item)]
        messages: list[Message] = []
        if item.market_id not in self._announced:
            self._announced.add(item.market_id)
            messages.append(_derive.new_market_event(market, item))
        messages += _derive.group_events(item, self.books)
        for snapshot in item.snapshots:
            token = token_id(snapshot.market_id, snapshot.side)
            self.books[token] = snapshot
            mids = self.mids.setdefault(token, [])
            mids.append((snapshot.ts, _derive.mid(snapshot)))
        trade = self.ledger.trade(item)
        if trade is not None:
            messages.append(_derive.trade_event(trade, item))
        return messages

    def price(self, market_id: str, outcome: int) -> Decimal:
        """Return what a share is worth: its payout, else the middle of its book."""
        market = self.markets[market_id]
        if market_id in self.resolved:
            return market.payouts[outcome]
        mids = self.mids.get(market.tokens[outcome])
        return mids[-1][1] if mids else _HALF

    def resolution(self, market_id: str) -> dict[str, Any]:
        """Return how the oracle stands, as the Data API writes it."""
        market = self.markets[market_id]
        state, outcome, at = self.proposals.get(market_id, ("initialized", 0, 0))
        body: dict[str, Any] = {
            "condition_id": market_id,
            "status": state,
            "extended_review": False,
            "was_disputed": state in {"disputed", "reproposed"},
            "new_version_q": False,
            "proposed_price": "69" if state == "initialized" else str(1 - outcome),
            "reproposed_price": "69",
            "price": "69",
            "last_update_timestamp": (at or market.start_ts) // 1000,
            # Each step is a transaction of its own.
            "transaction_hash": hash_of(f"{market_id} {state} {outcome} {at}"),
        }
        if market_id in self.resolved:
            resolved_at = self.resolved[market_id]
            body |= {
                "status": "resolved",
                "price": str(market.payouts[0]),
                "payouts": [int(each * 1_000_000) for each in market.payouts],
                "last_update_timestamp": resolved_at // 1000,
                "resolved_at": resolved_at // 1000,
            }
        return body

    def dump(self, tokens: Iterable[str]) -> str | None:
        """Return the frame that answers a subscription: an array of the books.

        None when no token has a book yet.
        """
        events = [_derive.book_event(book) for book in self.known(tokens)]
        return msgspec.json.encode(events).decode() if events else None

    def known(self, tokens: Iterable[str]) -> Iterator[Snapshot]:
        """Yield the current snapshot of each of `tokens` that has one."""
        return (self.books[token] for token in tokens if token in self.books)
