"""`Tour`: six steps from a pasted link to the alert after a killed Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from oddsbot.standin.telegram import Step

if TYPE_CHECKING:
    from oddsbot.standin.telegram import Panel


_ASKS = 2
"""The step that asks for an alert."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What happened since the demo began.

    Attributes:
        links: Links that people pasted.
        cards: Cards of markets that the bot answered with.
        rules: Alerts that the bot confirmed.
        delivered: Alerts in people's chats.
        broken: How often Redis was killed or emptied.
    """

    links: int
    cards: int
    rules: int
    delivered: int
    broken: int


class Tour:
    """Shows the step that comes next, by what happened since it began.

    Args:
        panel: Shows it; a button there skips the tour, or begins it again.
        link: Of a market.
    """

    def __init__(self, panel: Panel, link: str) -> None:
        self._panel = panel
        self._link = link
        self._began: Seen | None = None
        self._at_break: int | None = None
        panel.guide(self._steps("50"), 0)

    @property
    def wants_level(self) -> bool:
        """Whether the step that asks for an alert is shown, or one before it."""
        return self._panel.step <= _ASKS

    def _steps(self, level: str) -> tuple[Step, ...]:
        return (
            Step(
                "Paste a link",
                "Send the bot a market's address, as you would in Telegram.",
                "Paste it for me",
                f"say:{self._link}",
            ),
            Step("Get the card", "The bot answers with prices, a chart and buttons."),
            Step(
                "Set an alert",
                "Press a price under the card, or take one that this recording soon "
                "comes to.",
                f"Alert me at {level}¢",
                f"say:/alert up > {level}",
            ),
            Step("Receive it", "The recording plays six times as fast as it happened."),
            Step(
                "Break Redis",
                "The server ends as by kill -9, and is started again.",
                "Kill Redis",
                "act:kill",
            ),
            Step(
                "Receive the next one",
                "Prices went on meanwhile. Nothing that was due is lost.",
            ),
        )

    def look(self, seen: Seen, level: str) -> None:
        """Go on to the step that what happened leads to.

        Args:
            seen: What happened.
            level: A price in cents, such as ``"47"``, that the market soon comes to.
        """
        steps = self._steps(level)
        if self._panel.step >= len(steps):
            self._began = self._at_break = None  # it is over, and may begin again
            return
        if self._panel.step == 0 and self._began is None:
            self._began = seen
        began = self._began or seen
        if seen.broken > began.broken and self._at_break is None:
            self._at_break = seen.delivered
        done = (
            seen.links > began.links,
            seen.cards > began.cards,
            seen.rules > began.rules,
            seen.delivered > began.delivered,
            self._at_break is not None,
            self._at_break is not None and seen.delivered > self._at_break,
        )
        step = self._panel.step
        while step < len(done) and done[step]:
            step += 1
        self._panel.guide(steps, step)
