"""A person's settings, watched markets, mute and erasure; and how the bot is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from oddsbot.delivery import Action, Button
from oddsbot.store import Kind
from oddsbot.telegram import figures
from oddsbot.telegram.screens.buttons import CANCEL, press
from oddsbot.telegram.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddsbot.delivery import Card
    from oddsbot.polymarket import GammaMarket
    from oddsbot.store import QuietHours, UserSession
    from oddswire.erasure import Receipt

KINDS: tuple[tuple[Kind, str], ...] = (
    (Kind.PRICE, "prices"),
    (Kind.RESOLUTION, "results"),
    (Kind.PROPOSAL, "proposals"),
    (Kind.DISPUTE, "disputes"),
)
"""Kinds that are sent today, by the argument of their press."""

_PRESETS = ((22, 7), (23, 8))
_DAY = 1_440


def settings_card(session: UserSession, now: float) -> Card:
    """Return a person's settings, each with a button that changes it.

    Args:
        session: Hers.
        now: Unix seconds.
    """
    text = Text().line("Settings", "bold")
    kinds = []
    for index, (kind, name) in enumerate(KINDS):
        on = session.notifications.wants(kind)
        text.add(f"{'✓' if on else '✗'} {name}  ")
        label, action = (
            (f"No {name}", Action.KIND_OFF) if on else (f"Send {name}", Action.KIND_ON)
        )
        kinds.append(press(label, action, 0, index))
    text.line()
    text.add(f"Quiet: {_quiet(session.quiet)} ").foreign(session.timezone, limit=60)
    text.line(" – what comes then makes no sound")
    if session.muted_until > now:
        text.line(f"Muted for {figures.distance(session.muted_until - now)}")
    if not session.is_active:
        text.line("Stopped: nothing is sent. /start brings it back.")
    quiet = [
        press(f"{start}–{end}", Action.QUIET, 0, quiet_argument(start * 60, end * 60))
        for start, end in _PRESETS
    ]
    quiet.append(press("Never quiet", Action.QUIET, 0, 0))
    return text.card(
        [
            kinds[:2],
            kinds[2:],
            quiet,
            [press("Time zone", Action.ZONE)],
            [press("Erase me", Action.ERASE_ASK, style="danger")],
        ]
    )


def _quiet(quiet: QuietHours) -> str:
    if quiet.start == quiet.end:
        return "never,"
    return f"{_clock(quiet.start)}–{_clock(quiet.end)}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def quiet_argument(start: int, end: int) -> int:
    """Return quiet hours, in minutes of the day, as the argument of a press."""
    return start * _DAY + end


def quiet_of(argument: int) -> tuple[int, int] | None:
    """Return the quiet hours of `quiet_argument`; None for none of a day."""
    start, end = divmod(argument, _DAY)
    return (start, end) if start < _DAY else None


def zone_card() -> Card:
    """Return the question for a time zone."""
    return (
        Text()
        .line("Where are you? Send a city like Berlin, a zone like Europe/Berlin, ")
        .line("or UTC+2.")
        .card([[CANCEL]])
    )


def muted_card(seconds: float) -> Card:
    """Return the answer to ``/mute``."""
    return (
        Text()
        .line(f"Muted for {figures.distance(seconds)}: I send you nothing.", "bold")
        .line("What was due in that time is not sent later. /unmute ends it.")
        .card([[press("Unmute", Action.MUTE)]])
    )


def unmuted_card() -> Card:
    """Return the answer to ``/unmute``."""
    return Text().line("I send you messages again.").card()


def watchlist_card(markets: Sequence[GammaMarket], unknown: int) -> Card:
    """Return the markets that a person watches.

    Args:
        markets: Those that Polymarket has.
        unknown: How many it does not have any more.
    """
    if not markets and not unknown:
        return (
            Text()
            .line("You watch no market.", "bold")
            .line("Send a market's link and press Watch: I tell you its result.")
            .card([[press("Find a market", Action.FIND)]])
        )
    text = Text().line(f"You watch {len(markets) + unknown} markets", "bold")
    buttons: list[Button] = []
    for number, market in enumerate(markets[:20], start=1):
        text.add(f"{number}  ").foreign(market.question)
        if market.resolved:
            text.add("  ✔ ").foreign(market.winner or "no single outcome", limit=40)
        elif market.outcome_prices:
            text.add(f"  {figures.cents(market.outcome_prices[0])}")
        text.line()
        buttons.append(press(str(number), Action.MARKET, market.id))
    if unknown:
        text.line(f"and {unknown} that Polymarket does not have any more")
    return text.card(buttons[at : at + 5] for at in range(0, len(buttons), 5))


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusView:
    """How the bot is.

    Attributes:
        last_event: Seconds since the feed said something; None: not yet.
        followed: Outcomes whose prices are followed.
        gaps: Times without a link to the feed, since this process began.
        waiting: Alerts that are not delivered yet; None: Redis does not say.
        problems: Sentences; none: everything runs.
    """

    last_event: float | None
    followed: int
    gaps: int
    waiting: int | None
    problems: Sequence[str] = ()


def status_card(view: StatusView) -> Card:
    """Return how the bot is, in words."""
    text = Text()
    if view.problems:
        text.line("Not everything runs.", "bold")
        for problem in view.problems:
            text.line(problem)
    else:
        text.line("Everything runs.", "bold")
    if not view.followed:
        text.line("No prices are followed: nobody has an alert.")
    elif view.last_event is None:
        text.line("No price has come yet.")
    else:
        text.add(f"Last price {figures.distance(view.last_event)} ago · ")
        text.line(f"{view.followed:,} outcomes followed")
    if view.waiting is not None:
        text.line(f"{view.waiting:,} alerts on their way")
    gaps = {0: "no gap", 1: "one gap"}.get(view.gaps, f"{view.gaps} gaps")
    text.line(f"The link to the prices had {gaps} since I was started.")
    return text.card([[press("↻", Action.STATUS)]])


def erase_card(handle: int, rules: int, markets: int) -> Card:
    """Return the question before everything of a person is deleted.

    Args:
        handle: Good once, for five minutes.
        rules: How many alerts she has.
        markets: How many markets she watches.
    """
    return (
        Text()
        .line("Delete everything of you?", "bold")
        .line(f"{rules} alerts, {markets} watched markets, your settings, and all that")
        .line("waits to be sent to you. It cannot be taken back.")
        .card(
            [[press("Delete everything", Action.ERASE, handle, style="danger"), CANCEL]]
        )
    )


def erased_card(receipt: Receipt, rules: int) -> Card:
    """Return what an erasure removed, and whether anything is left."""
    at = datetime.fromtimestamp(receipt.at, UTC)
    text = Text()
    if receipt.complete:
        text.line("Erased.", "bold")
    else:
        text.line("Erased, and not everything: /erase again goes on.", "bold")
    text.line(f"{rules} alerts")
    for part in receipt.parts:
        text.add(f"{part.part}: {part.removed} removed")
        text.line(f", {len(part.left)} left" if part.left else "")
    text.line(
        "Looked again: " + ("nothing is left." if receipt.complete else "see above.")
    )
    text.line(f"{at:%Y-%m-%d %H:%M} UTC")
    return text.card()
