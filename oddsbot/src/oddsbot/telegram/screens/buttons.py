"""Buttons that several screens have."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from urllib.parse import quote

from oddsbot.delivery import Action, Button, Press, Shared
from oddsbot.telegram.text import quiet

if TYPE_CHECKING:
    from oddsbot.polymarket import GammaMarket

SITE = "https://polymarket.com"
_DIGITS = 19
_SLUG = 200
_SHARED = 100  # of four bytes each they are 1,200 characters of an address


def press(
    text: str,
    action: Action,
    subject: int | str = 0,
    argument: int = 0,
    *,
    style: str | None = None,
) -> Button:
    """Return a button that asks for something.

    Args:
        text: What it says.
        action: What it asks for.
        subject: To what; a number of Gamma's comes as text.
        argument: With what.
        style: ``success`` or ``danger``.
    """
    number = subject if isinstance(subject, int) else _number(subject)
    return Button(text=text, data=Press(action, number, argument).data, style=style)


def _number(subject: str) -> int:
    """Return a number of Gamma's; 0, which nothing has, for what is none."""
    fits = subject.isascii() and subject.isdigit() and len(subject) <= _DIGITS
    return int(subject) if fits else 0


def text_number(tag: str) -> int:
    """Return what stands for a text in a press, which has no room for it."""
    return int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8], "big")


def site(kind: str, name: str) -> str:
    """Return a page of Polymarket's; the name is foreign, and stays one part of it."""
    return f"{SITE}/{kind}/{quote(name[:_SLUG], safe='')}"


def open_button(market: GammaMarket) -> Button:
    """Return the button that opens a market's own page."""
    return Button(text="Open", url=site("market", market.slug))


def share_buttons(market: GammaMarket) -> list[Button]:
    """Return the button that offers a market's card to somebody else, if it has one."""
    if not _number(market.id):
        return []
    shared = Shared(f"m_{market.id}", quiet(market.question, _SHARED))
    return [Button(text="Share", share=shared)]


def numbered(action: Action, subjects: list[str], first: int = 0) -> list[Button]:
    """Return a button for each line of a list that is numbered after `first`."""
    return [
        press(str(number), action, subject)
        for number, subject in enumerate(subjects, start=first + 1)
    ]


def pages(action: Action, subject: int | str, page: int, count: int) -> list[Button]:
    """Return buttons to the pages beside one of `count`, which count from 0."""
    if count <= 1:
        return []
    row = []
    if page > 0:
        row.append(press("‹", action, subject, page - 1))
    row.append(press(f"{page + 1}/{count}", action, subject, page))
    if page + 1 < count:
        row.append(press("›", action, subject, page + 1))
    return row


MY_ALERTS = press("My alerts", Action.ALERTS)
CANCEL = press("Cancel", Action.CANCEL)
