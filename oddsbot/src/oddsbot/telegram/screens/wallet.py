"""A wallet of Polymarket: who it is, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from oddsbot.delivery import Button
from oddsbot.telegram import figures
from oddsbot.telegram.screens.buttons import site
from oddsbot.telegram.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddsbot.delivery import Card
    from oddsbot.polymarket import Position, Profile, Stats
    from oddsbot.telegram.figures import Odds

_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class WalletView:
    """What is known of a wallet.

    Attributes:
        address: In lower case.
        profile: None: it shows nothing of itself.
        stats: None: it has done nothing so far.
        value: Of its positions, in dollars.
        positions: Those that are open.
    """

    address: str
    profile: Profile | None
    stats: Stats | None
    value: Decimal
    positions: Sequence[Position]


def wallet_card(view: WalletView, odds: Odds = "cents") -> Card:
    """Return a wallet's card: name, worth, and its largest positions."""
    short = f"{view.address[:6]}…{view.address[-4:]}"
    profile = view.profile
    name = "" if profile is None else profile.name or profile.pseudonym
    text = Text().foreign(name or short, "bold", limit=60)
    text.add(f" · {short}" if name else "")
    stats = view.stats
    if stats is not None:
        if stats.join_date is not None:
            text.add(f" · since {datetime.fromtimestamp(stats.join_date, UTC):%Y-%m}")
        text.add(f" · {figures.count(stats.trades, 'market')}")
    text.line()
    if profile is None and stats is None and not view.positions:
        text.line("Polymarket knows nothing of it.")
        text.line(
            "What counts is the address of the profile's page: that of a login may be "
            "another one."
        )
    elif not view.positions:
        text.line("It holds nothing now.")
    else:
        count = len(view.positions)
        text.line(f"{figures.count(count, 'position')}, {figures.money(view.value)}")
    largest = sorted(
        view.positions, key=lambda each: each.current_value or Decimal(0), reverse=True
    )
    for number, position in enumerate(largest[:_SHOWN], start=1):
        text.add(f"{number}  ").foreign(position.title or "A market", limit=80).line()
        text.add("    ").foreign(position.outcome or "an outcome", limit=40)
        text.add(f" {position.current_size:,.0f}  ")
        text.add(f"{figures.price(position.avg_price, odds)} → ")
        text.line(
            f"{figures.price(position.current_price, odds)}  "
            f"{figures.money(position.current_value)}"
        )
    if len(largest) > _SHOWN:
        text.line(f"and {len(largest) - _SHOWN:,} smaller ones")
    return text.card([[Button(text="Open", url=site("profile", view.address))]])
