"""The first screen, the help, and the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddsbot.delivery import Action, Button, Press
from oddsbot.telegram.text import Text

if TYPE_CHECKING:
    from oddsbot.delivery import Card

_ALERTS = Button(text="My alerts", data=Press(Action.ALERTS).data)
_HELP = Button(text="How alerts work", data=Press(Action.HELP).data)


def start_card() -> Card:
    """Return the first screen."""
    return (
        Text()
        .line("Prices and results of Polymarket, as messages.", "bold")
        .line("No wallet of yours, no keys, no trading.")
        .line()
        .line("Send me the link of a market, and I show it with buttons for alerts.")
        .line("Your alerts: /alerts · all commands: /help")
        .card([[_HELP, _ALERTS]])
    )


def help_card() -> Card:
    """Return what one can ask for."""
    return (
        Text()
        .line("How alerts work", "bold")
        .line("1. Send a market's link.")
        .line("2. Press a price under it, or write one:")
        .line("/alert 65 – when it gets from here to 65¢", "")
        .line("/alert no < 40 – when No falls to 40¢")
        .line("/alert 5c – each time it has gone 5¢, up or down")
        .line("/alert 5% – the same, in percent of the price")
        .line("3. It fires once, and again when the price was back by 1¢.")
        .line()
        .line("/alerts – what you asked for · /stop – no messages, all is kept")
        .card([[_ALERTS]])
    )


def stopped_card(kept: int) -> Card:
    """Return the answer to ``/stop``."""
    alerts = "Your alert is" if kept == 1 else f"Your {kept} alerts are"
    return (
        Text()
        .line("Stopped: I send you nothing more.", "bold")
        .line(f"{alerts if kept else 'Everything is'} kept. /start brings it back.")
        .card()
    )
