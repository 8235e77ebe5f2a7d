"""Snapshots in, market-channel events out: pure and deterministic.

A recording has books only. What Polymarket would have sent between two of them is
derived: the difference, the tops that changed, the end. Everything here depends on
the recording alone, so two runs send the same frames.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from .recording import token_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._ledger import Row
    from .recording import BookLevel, Group, RecordedMarket, Resolution, Snapshot

_ZERO = Decimal(0)
_ONE = Decimal(1)
# Below 0.04 and above 0.96 Polymarket's markets move in thousandths.
_FINE, COARSE = Decimal("0.001"), Decimal("0.01")


class Message(msgspec.Struct, frozen=True):
    """One event as text, and who is to get it.

    Attributes:
        text: The event as a JSON object.
        tokens: Sent to subscribers of any of these; to everybody when empty.
        custom: Only for subscribers that set ``custom_feature_enabled``.
    """

    text: str
    tokens: frozenset[str] = frozenset()
    custom: bool = False


def number(value: Decimal) -> str:
    """Return `value` as the wire writes it: plain digits, no trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def top(snapshot: Snapshot) -> tuple[Decimal, Decimal]:
    """Return best bid and best ask, an empty side as 0 and 1 as the wire has it."""
    return (
        snapshot.bids[0][0] if snapshot.bids else _ZERO,
        snapshot.asks[0][0] if snapshot.asks else _ONE,
    )


def mid(snapshot: Snapshot) -> Decimal:
    """Return the middle between `top`'s two prices."""
    bid, ask = top(snapshot)
    return (bid + ask) / 2


def tick_size(snapshot: Snapshot) -> Decimal:
    """Return the finer step when a price of the book needs it."""
    levels = (*snapshot.bids, *snapshot.asks)
    return _FINE if any(price % COARSE for price, _ in levels) else COARSE


def book(snapshot: Snapshot) -> dict[str, Any]:
    """Return what the wire's ``book`` and the HTTP book have in common."""
    body: dict[str, Any] = {
        "market": snapshot.market_id,
        "asset_id": token_id(snapshot.market_id, snapshot.side),
        "timestamp": str(snapshot.ts),
        "bids": _levels(snapshot.bids),
        "asks": _levels(snapshot.asks),
    }
    # "timestamp" is inside: a book that returns to an earlier state is another book.
    digest = hashlib.sha1(msgspec.json.encode(body), usedforsecurity=False)
    return body | {
        "hash": digest.hexdigest(),
        "tick_size": number(tick_size(snapshot)),
    }


def book_event(snapshot: Snapshot) -> dict[str, Any]:
    """Return a ``book`` event, best level last."""
    return {"event_type": "book"} | book(snapshot)


def changes(old: Snapshot, new: Snapshot) -> list[dict[str, Any]]:
    """Return the entries of a ``price_change`` that turn `old` into `new`."""
    changed = [
        ("BUY", price, size) for price, size in _difference(old.bids, new.bids)
    ] + [("SELL", price, size) for price, size in _difference(old.asks, new.asks)]
    if not changed:
        return []
    bid, ask = map(number, top(new))
    after = book(new)
    return [
        {
            "asset_id": after["asset_id"],
            "price": number(price),
            "size": number(size),
            "side": side,
            "hash": after["hash"],
            "best_bid": bid,
            "best_ask": ask,
        }
        for side, price, size in changed
    ]


def group_events(group: Group, before: dict[str, Snapshot]) -> Iterator[Message]:
    """Yield what a group of snapshots tells.

    Args:
        group: The snapshots of one market at one moment.
        before: The last snapshot of each token until now, by token id.
    """
    entries: list[dict[str, Any]] = []
    tops: list[Message] = []
    steps: list[Message] = []
    for new in group.snapshots:
        token = token_id(new.market_id, new.side)
        old = before.get(token)
        if old is None:
            yield _message(book_event(new), {token})
            continue
        entries += changes(old, new)
        if tick_size(old) != tick_size(new):
            steps.append(_message(_tick_size_change(token, old, new), {token}))
            steps.append(_message(book_event(new), {token}))
        if top(old) != top(new):
            tops.append(_message(_best_bid_ask(token, new), {token}, custom=True))
    if entries:
        both = {token_id(group.market_id, "UP"), token_id(group.market_id, "DOWN")}
        event = {
            "event_type": "price_change",
            "market": group.market_id,
            "timestamp": str(group.ts),
            "price_changes": entries,
        }
        yield _message(event, both)
    yield from tops
    yield from steps


def new_market_event(market: RecordedMarket, ts: int) -> Message:
    """Return the ``new_market`` event, sent to everybody who asked for such events."""
    event = {
        "event_type": "new_market",
        "id": market.gamma_id,
        "question": market.question,
        "market": market.market_id,
        "slug": market.slug,
        "assets_ids": market.tokens,
        "outcomes": market.outcomes,
        "timestamp": str(ts),
        "tags": [market.category],
        "order_price_min_tick_size": number(COARSE),
    }
    return _message(event, set(), custom=True)


def resolved_event(market: RecordedMarket, resolution: Resolution) -> Message:
    """Return the ``market_resolved`` event; no winner where neither side paid 1."""
    winner = market.winner
    event = {
        "event_type": "market_resolved",
        "id": market.gamma_id,
        "market": market.market_id,
        "assets_ids": market.tokens,
        "winning_asset_id": "" if winner is None else market.tokens[winner],
        "winning_outcome": "" if winner is None else market.outcomes[winner],
        "timestamp": str(resolution.ts),
        "tags": [market.category],
    }
    return _message(event, set(market.tokens), custom=True)


def trade_event(trade: Row, ts: int) -> Message:
    """Return the ``last_trade_price`` event of a generated trade: the taker's row."""
    event = {
        "event_type": "last_trade_price",
        "market": trade.market_id,
        "asset_id": trade.token,
        "price": number(trade.price),
        "side": trade.side,
        "size": number(trade.size),
        "fee_rate_bps": "0",
        "timestamp": str(ts),
        "transaction_hash": trade.transaction,
    }
    return _message(event, {trade.token})


def _message(
    event: dict[str, Any], tokens: set[str], *, custom: bool = False
) -> Message:
    return Message(msgspec.json.encode(event).decode(), frozenset(tokens), custom)


def _levels(levels: tuple[BookLevel, ...]) -> list[dict[str, str]]:
    """Return a side of a book in wire order: the best level last."""
    return [
        {"price": number(price), "size": number(size)}
        for price, size in reversed(levels)
    ]


def _difference(
    old: tuple[BookLevel, ...], new: tuple[BookLevel, ...]
) -> Iterator[BookLevel]:
    was, becomes = dict(old), dict(new)
    for price in was:
        if price not in becomes:
            yield price, _ZERO
    for price, size in new:
        if was.get(price) != size:
            yield price, size


def _tick_size_change(token: str, old: Snapshot, new: Snapshot) -> dict[str, Any]:
    return {
        "event_type": "tick_size_change",
        "market": new.market_id,
        "asset_id": token,
        "old_tick_size": number(tick_size(old)),
        "new_tick_size": number(tick_size(new)),
        "timestamp": str(new.ts),
    }


def _best_bid_ask(token: str, snapshot: Snapshot) -> dict[str, Any]:
    bid, ask = top(snapshot)
    return {
        "event_type": "best_bid_ask",
        "market": snapshot.market_id,
        "asset_id": token,
        "best_bid": number(bid),
        "best_ask": number(ask),
        "spread": number(ask - bid),
        "timestamp": str(snapshot.ts),
    }
