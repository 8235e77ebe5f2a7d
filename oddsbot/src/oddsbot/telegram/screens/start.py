"""The first screen, the help, and the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddsbot.delivery import Action, Button
from oddsbot.telegram.screens.buttons import MY_ALERTS, press
from oddsbot.telegram.text import Text

if TYPE_CHECKING:
    from oddsbot.delivery import Card

_TASKS = (
    (
        "Find",
        (
            (
                "/search fed december",
                "words; a link, a wallet or words alone do it too",
            ),
            ("/top", "what is traded most, /top crypto of a tag"),
            ("/new", "what is new, /new politics of a tag"),
        ),
    ),
    (
        "Look, at the market that was sent last",
        (
            ("/price", "bids and asks"),
            ("/book", "the whole book"),
            ("/chart", "a day, a week, all"),
            ("/watch", "tell me its result; /unwatch ends that, /watchlist has all"),
        ),
    ),
    (
        "Alerts",
        (
            ("/alert 65", "when it gets from where it is to 65¢"),
            ("/alert no < 40", "when No falls to 40¢"),
            ("/alert 5c", "each time it has gone 5¢, up or down; 5% works too"),
            ("/alert 5c in 15m", "when it goes 5¢ within 5m, 15m, 1h or 24h"),
            ("/alert volume 1m", "when $1M are traded; 100k in 24h works too"),
            ("/alerts", "all of them, and how far they are"),
            ("/history", "what became of each; /why asks why a market gave nothing"),
        ),
    ),
    (
        "You",
        (
            (
                "/settings",
                "kinds of messages, limits, quiet hours, how prices are shown",
            ),
            ("/mute 2h", "nothing for that long; /unmute ends it"),
            ("/status", "whether everything runs"),
            ("/stop", "no more messages, everything is kept"),
            ("/export", "all that I keep of you, as a file"),
            ("/erase", "everything of you is deleted"),
        ),
    ),
)


def start_card(first: str = "") -> Card:
    """Return the first screen, below a sentence of ours where there is one."""
    text = Text().line(first).line() if first else Text()
    return (
        text.line("Prices and results of Polymarket, as messages.", "bold")
        .line("No wallet of yours, no keys, no trading.")
        .line()
        .line("Send me a market's link, a wallet, or a few words.")
        .line("Or try: /top · /new · /search fed december")
        .card(
            [
                [press("Find a market", Action.FIND)],
                [press("How alerts work", Action.HELP), MY_ALERTS],
            ]
        )
    )


def in_private_card(username: str) -> Card:
    """Return what the bot says in a group: where it works.

    Args:
        username: Of the bot.
    """
    open_ = Button(text="Open", url=f"https://t.me/{username}")
    return Text().line("I work in a private chat.").card([[open_]])


def help_card() -> Card:
    """Return what one can ask for, by task."""
    text = Text()
    for title, commands in _TASKS:
        text.line(title, "bold")
        for command, about in commands:
            text.line(f"{command} – {about}")
        text.line()
    text.line("An alert fires once, and again when the price was back by 1¢.", "italic")
    return text.card([[press("Find a market", Action.FIND), MY_ALERTS]])


def find_card() -> Card:
    """Return the question for words."""
    return Text().line("What shall I look for? Send a few words.").card()


def stopped_card(kept: int) -> Card:
    """Return the answer to ``/stop``.

    Args:
        kept: How many alerts the person has.
    """
    alerts = "Your alert is" if kept == 1 else f"Your {kept} alerts are"
    return (
        Text()
        .line("Stopped: I send you nothing more.", "bold")
        .line(f"{alerts if kept else 'Everything is'} kept. /start brings it back.")
        .card()
    )
