"""What wallets did: **generated**, from one seed and the recorded books.

One list of rows is all there is. Positions, values, profits, holders and the tape are
sums of it, so they agree with each other. Sizes and amounts are exact.
"""

from __future__ import annotations

import hashlib
import random
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from .recording import Group, RecordedMarket

WALLETS = 40
_CHANCE = 0.25  # of a trade in a group of snapshots
_TWINS = 0.1  # of two fills in one transaction that are alike in every field
_ZERO = Decimal(0)
_CENT = Decimal("0.01")


class Wallet(msgspec.Struct, frozen=True):
    """A generated trader."""

    address: str
    name: str
    pseudonym: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a wallet did.

    Attributes:
        at: Unix seconds.
        type: As the Data API names it.
        taker: Whether it took what rested; of trades.
        number: Grows with each row.
    """

    at: int
    wallet: str
    type: str = "TRADE"
    market_id: str
    outcome: int
    side: str = ""
    size: Decimal
    price: Decimal
    transaction: str
    taker: bool = False
    number: int = 0
    token: str = ""
    amount: Decimal = _ZERO


class Holding(msgspec.Struct):
    """What a wallet has of one token: sums of its rows."""

    wallet: str
    token: str
    market_id: str
    outcome: int
    size: Decimal = _ZERO
    bought: Decimal = _ZERO
    cost: Decimal = _ZERO
    realized: Decimal = _ZERO
    first: int = 0
    last: int = 0

    @property
    def average(self) -> Decimal:
        """What a share cost."""
        return round(self.cost / self.bought, 6) if self.bought else _ZERO


class Ledger:
    """All that wallets did so far.

    Args:
        markets: Those that are traded.
        seed: The same seed and the same books make the same rows; None: nobody trades.

    Attributes:
        rows: In the order of their numbers.
        holdings: By wallet and token.
    """

    def __init__(self, markets: dict[str, RecordedMarket], seed: int | None) -> None:
        self.rows: list[Row] = []
        self.holdings: dict[tuple[str, str], Holding] = {}
        self._markets = markets
        self._random = random.Random(seed)  # noqa: S311 - it has to be the same again
        self._trades = seed is not None
        count = WALLETS if self._trades else 0
        self.wallets = {each.address: each for each in map(_wallet, range(count))}

    def trade(self, group: Group) -> Row | None:
        """Perhaps trade at the top of a book; return what the taker did."""
        if not self._trades or self._random.random() >= _CHANCE:
            return None
        book = self._random.choice(group.snapshots)
        taker, maker = self._random.sample(list(self.wallets), 2)
        outcome = 0 if book.side == "UP" else 1
        token = self._markets[book.market_id].tokens[outcome]
        held = self.holdings.get((taker, token))
        sells = held is not None and held.size > 0 and self._random.random() < 0.4
        levels = book.bids if sells else book.asks
        if not levels:
            return None
        size = Decimal(self._random.randint(100, 200_000)) / 100
        if sells and held is not None:
            size = min(size, held.size)
        price = levels[0][0]
        took = Row(
            at=group.ts // 1000,
            wallet=taker,
            market_id=book.market_id,
            outcome=outcome,
            side="SELL" if sells else "BUY",
            size=size,
            price=price,
            transaction=f"0x{self._random.getrandbits(256):064x}",
            taker=True,
        )
        # A bought share is a new pair: the maker buys the other outcome. A sold one
        # goes from hand to hand.
        made = msgspec.structs.replace(
            took,
            wallet=maker,
            outcome=outcome if sells else 1 - outcome,
            side="BUY",
            price=price if sells else 1 - price,
            taker=False,
        )
        for _ in range(2 if not sells and self._random.random() < _TWINS else 1):
            took = self._add(took)
            self._add(made)
        return took

    def resolve(self, market_id: str, ts: int) -> None:
        """Let half of the holders of a decided market redeem what they have."""
        market = self._markets[market_id]
        for holding in list(self.holdings.values()):
            payout = market.payouts[holding.outcome]
            redeems = int(holding.wallet[-1], 16) % 2 == 0
            if holding.market_id == market_id and holding.size and payout and redeems:
                self._add(
                    Row(
                        at=ts // 1000,
                        wallet=holding.wallet,
                        type="REDEEM",
                        market_id=market_id,
                        outcome=holding.outcome,
                        size=holding.size,
                        price=payout,
                        transaction=hash_of(f"{market_id}{holding.wallet}"),
                    )
                )

    def of(self, wallet: str) -> list[Holding]:
        """Return what a wallet has or had."""
        return [each for each in self.holdings.values() if each.wallet == wallet]

    def volume(self, market_id: str, since: int = 0) -> Decimal:
        """Return the dollars that takers traded in a market since a time."""
        amounts = (
            row.amount
            for row in self.rows
            if row.taker and row.market_id == market_id and row.at >= since
        )
        return sum(amounts, _ZERO)

    def _add(self, row: Row) -> Row:
        """Add a row, numbered; return it."""
        row = msgspec.structs.replace(
            row,
            number=len(self.rows) + 1,
            token=self._markets[row.market_id].tokens[row.outcome],
            amount=(row.size * row.price).quantize(Decimal("0.000001")),
        )
        self.rows.append(row)
        held = self.holdings.setdefault(
            (row.wallet, row.token),
            Holding(row.wallet, row.token, row.market_id, row.outcome, first=row.at),
        )
        held.last = row.at
        if row.side == "BUY":
            held.size += row.size
            held.bought += row.size
            held.cost += row.amount
        else:
            held.realized += row.amount - (row.size * held.average).quantize(_CENT)
            held.size -= row.size
        return row


def _wallet(number: int) -> Wallet:
    address = hash_of(f"wallet {number}")[:42]
    return Wallet(address, f"Trader{number}", f"Generated-Trader-{number}")


def hash_of(text: str) -> str:
    """Return 32 bytes as the wire writes a hash, the same for the same text."""
    return f"0x{hashlib.sha256(text.encode()).hexdigest()}"
