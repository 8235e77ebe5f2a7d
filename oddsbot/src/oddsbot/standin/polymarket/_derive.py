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
            yield _message(book_event(new), token)
            continue
        entries += changes(old, new)
        if tick_size(old) != tick_size(new):
            steps += [
                _tick_size_change(token, old, new),
                _message(book_event(new), token),
            ]
        if top(old) != top(new):
            tops.append(_best_bid_ask(token, new))
    if entries:
        both = token_id(group.market_id, "UP"), token_id(group.market_id, "DOWN")
        yield _told("price_change", group, *both, price_changes=entries)
    yield from tops
    yield from steps


def new_market_event(market: RecordedMarket, item: Group) -> Message:
    """Return the ``new_market`` event, sent to everybody who asked for such events."""
    return _told(
        "new_market",
        item,
        custom=True,
        id=market.gamma_id,
        question=market.question,
        slug=market.slug,
        assets_ids=market.tokens,
        outcomes=market.outcomes,
        tags=[market.category],
        order_price_min_tick_size=number(COARSE),
    )


def resolved_event(market: RecordedMarket, resolution: Resolution) -> Message:
    """Return the ``market_resolved`` event; no winner where neither side paid 1."""
    winner = market.winner
    return _told(
        "market_resolved",
        resolution,
        *market.tokens,
        custom=True,
        id=market.gamma_id,
        assets_ids=market.tokens,
        winning_asset_id="" if winner is None else market.tokens[winner],
        winning_outcome="" if winner is None else market.outcomes[winner],
        tags=[market.category],
    )


def trade_event(trade: Row, item: Group) -> Message:
    """Return the ``last_trade_price`` event of a generated trade: the taker's row."""
    return _told(
        "last_trade_price",
        item,
        trade.token,
        asset_id=trade.token,
        price=number(trade.price),
        side=trade.side,
        size=number(trade.size),
        fee_rate_bps="0",
        transaction_hash=trade.transaction,
    )


def _tick_size_change(token: str, old: Snapshot, new: Snapshot) -> Message:
    return _told(
        "tick_size_change",
        new,
        token,
        asset_id=token,
        old_tick_size=number(tick_size(old)),
        new_tick_size=number(tick_size(new)),
    )


def _best_bid_ask(token: str, snapshot: Snapshot) -> Message:
    bid, ask = top(snapshot)
    return _told(
        "best_bid_ask",
        snapshot,
        token,
        custom=True,
        asset_id=token,
        best_bid=number(bid),
        best_ask=number(ask),
        spread=number(ask - bid),
    )


def _told(
    kind: str,
    item: Group | Resolution | Snapshot,
    *tokens: str,
    custom: bool = False,
    **fields: Any,
) -> Message:
    """Return an event of a market at a moment."""
    event = {"event_type": kind, "market": item.market_id, "timestamp": str(item.ts)}
    return _message(event | fields, *tokens, custom=custom)


def _message(event: dict[str, Any], *tokens: str, custom: bool = False) -> Message:
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
