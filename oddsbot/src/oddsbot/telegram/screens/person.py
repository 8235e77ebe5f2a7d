"""A person's settings, watched markets, mute and erasure; and how the bot is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING

import msgspec

from oddsbot.delivery import Action, Button
from oddsbot.store import Kind
from oddsbot.telegram import figures, zones
from oddsbot.telegram.screens.buttons import CANCEL, pages, press, text_number
from oddsbot.telegram.text import Text, quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddsbot.delivery import Card, File
    from oddsbot.polymarket import GammaMarket
    from oddsbot.store import UserSession
    from oddsbot.telegram.figures import Odds
    from oddswire.erasure import Receipt

KINDS: tuple[tuple[Kind, str], ...] = (
    (Kind.PRICE, "prices"),
    (Kind.RESOLUTION, "results"),
    (Kind.PROPOSAL, "proposals"),
    (Kind.DISPUTE, "disputes"),
    (Kind.VOLUME, "volumes"),
    (Kind.NEW_MARKET, "new markets"),
)
"""Kinds that are sent today, by the argument of their press."""

ODDS: tuple[tuple[Odds, str], ...] = (
    ("cents", "64¢"),
    ("percent", "64%"),
    ("decimal", "1.56"),
)
"""How prices can be shown, by the argument of their press, each with an example."""

PER_MINUTE = (0, 1, 3, 10)
"""How many alerts of a market a minute can be asked for; 0: all."""

PER_HOUR = (0, 1, 3, 10)
"""How many new events of a tag an hour can be asked for; 0: all."""

LEAST_MOVE = (0, 2, 5, 10)
"""Cents of the smallest move that can be asked for; 0: any."""

_PARTS = {
    "sessions": "What I knew of you",
    "queue:alerts": "Alerts on their way",
    "queue:updates": "Messages of yours",
    "ratelimit": "Counts of what you asked for",
    "cache": "Copies",
}
_PRESETS = ((22, 7), (23, 8))
_WATCHED = 10
_DAY = 1_440


def settings_card(session: UserSession, now: float) -> Card:
    """Return a person's settings, each with a button that changes it.

    Args:
        session: Hers.
        now: Unix seconds.
    """
    odds = session.display.odds
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
    hours, zone = session.quiet, zones.shown(session.timezone)
    if hours.start == hours.end:
        text.add("Never quiet (").foreign(zone, limit=60).line(")")
    else:
        text.add(f"Quiet: {_clock(hours.start)}–{_clock(hours.end)} ")
        text.foreign(zone, limit=60).line(" – what comes then makes no sound")
    text.line(_capped(session.per_minute))
    if session.tags:
        text.line(_capped_tag(session.per_hour))
    text.line(_least(session.thresholds.price_change))
    text.line(f"Prices in {'decimal odds' if odds == 'decimal' else odds}")
    if session.muted_until > now:
        minutes = ceil((session.muted_until - now) / 60)
        text.line(f"Muted for {figures.lasting(minutes)}")
    if not session.is_active:
        text.line("Stopped: nothing is sent. /start brings it back.")
    quiet = [
        press(
            f"Quiet {start}–{end}",
            Action.QUIET,
            0,
            quiet_argument(start * 60, end * 60),
        )
        for start, end in _PRESETS
    ]
    others = [
        press("Other hours…", Action.QUIET_OTHER),
        press("Never quiet", Action.QUIET, 0, 0),
    ]
    shown = [
        press(f"Prices {example}", Action.ODDS, 0, index)
        for index, (each, example) in enumerate(ODDS)
        if each != odds
    ]
    return text.card(
        [
            kinds[:3],
            kinds[3:],
            quiet,
            others,
            shown,
            [press("Time zone", Action.ZONE), press("Limits", Action.LIMITS)],
            [
                press("My data", Action.EXPORT),
                press("Erase me", Action.ERASE_ASK, style="danger"),
            ],
        ]
    )


def held_up(session: UserSession, now: float, *kinds: Kind) -> list[str]:
    """Return which of a person's settings keep messages from her, a sentence each.

    Args:
        session: Hers.
        now: Unix seconds.
        *kinds: Of the messages; none: of all.
    """
    said = []
    if not session.is_active:
        said.append("You stopped me: /start brings it back.")
    if session.muted_until > now:
        minutes = ceil((session.muted_until - now) / 60)
        said.append(f"You are muted for {figures.lasting(minutes)}: /unmute ends it.")
    off = [
        name
        for kind, name in KINDS
        if not session.notifications.wants(kind) and (not kinds or kind in kinds)
    ]
    if off:
        said.append(f"You switched off {', '.join(off)}: /settings.")
    return said


def _capped(per_minute: int) -> str:
    if not per_minute:
        return "Each alert is a message"
    most = figures.count(per_minute, "alert")
    return f"At most {most} a market and minute, the others as one"


def _capped_tag(per_hour: int) -> str:
    if not per_hour:
        return "Each new event of a tag is a message"
    many = "" if per_hour == 1 else "s"
    return f"At most {per_hour} new event{many} a tag and hour, the others as one"


def _least(move: float) -> str:
    return f"Moves of {round(move * 100)}¢ or more" if move else "Moves of any size"


def limits_card(session: UserSession) -> Card:
    """Return how much a person is sent, each choice as a button."""
    text = Text().line("Limits", "bold").line(f"{_capped(session.per_minute)}.")
    text.line(f"{_capped_tag(session.per_hour)}.")
    text.line(f"{_least(session.thresholds.price_change)}.")
    caps = [
        press(f"{each} a minute" if each else "No limit", Action.PER_MINUTE, 0, each)
        for each in PER_MINUTE
    ]
    tags = [
        press(f"{each} an hour" if each else "All new", Action.PER_HOUR, 0, each)
        for each in PER_HOUR
    ]
    moves = [
        press(f"From {each}¢" if each else "Any move", Action.LEAST_MOVE, 0, each)
        for each in LEAST_MOVE
    ]
    return text.card([caps, tags, moves, [press("Settings", Action.SETTINGS)]])


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def quiet_argument(start: int, end: int) -> int:
    """Return quiet hours, in minutes of the day, as the argument of a press."""
    return start * _DAY + end


def quiet_of(argument: int) -> tuple[int, int] | None:
    """Return the quiet hours of `quiet_argument`; None for none of a day."""
    start, end = divmod(argument, _DAY)
    return (start, end) if start < _DAY else None


def quiet_card() -> Card:
    """Return the question for quiet hours."""
    return Text().line("From when to when? Write it like 22:30-7.").card([[CANCEL]])


def zone_card() -> Card:
    """Return the question for a time zone."""
    return (
        Text()
        .line("Where are you? Send a city like Berlin, your place, or UTC+5:30.")
        .card([[CANCEL]])
    )


def muted_card(minutes: int) -> Card:
    """Return the answer to ``/mute``."""
    return (
        Text()
        .line(f"Muted for {figures.lasting(minutes)}: I send you nothing.", "bold")
        .line("What was due in that time is not sent later. /unmute ends it.")
        .card([[press("Unmute", Action.MUTE)]])
    )


def unmuted_card(session: UserSession, now: float) -> Card:
    """Return the answer to ``/unmute``, with what keeps messages from her still.

    Args:
        session: Hers.
        now: Unix seconds.
    """
    on = session.is_active
    text = Text().line("I send you messages again." if on else "You are not muted.")
    for why in held_up(session, now):
        text.line(why)
    return text.card()


def watchlist_card(
    markets: Sequence[GammaMarket],
    unknown: int,
    page: int = 0,
    odds: Odds = "cents",
    *,
    tags: Sequence[str] = (),
) -> Card:
    """Return a page of the markets that a person watches, and the tags she follows.

    Args:
        markets: Those that Polymarket has.
        unknown: How many it does not have any more, or cannot be asked for.
        page: From 0; one that is not there is the last one.
        odds: How prices are shown.
        tags: Their slugs.
    """
    count = len(markets) + unknown
    followed = [
        [press(f"No more of {quiet(tag, 40)}", Action.TAG_OFF, text_number(tag))]
        for tag in tags
    ]
    if not count:
        text = Text().line("You watch no market.", "bold")
        text.line("Send a market's link and press Watch: I tell you its result.")
        _add_tags(text, tags)
        return text.card([*followed, [press("Find a market", Action.FIND)]])
    text = Text().line(f"You watch {figures.count(count, 'market')}", "bold")
    whole = max(1, ceil(len(markets) / _WATCHED))
    page = min(page, whole - 1)
    first = page * _WATCHED
    buttons: list[Button] = []
    shown = markets[first : first + _WATCHED]
    for number, market in enumerate(shown, start=first + 1):
        text.add(f"{number}  ").foreign(market.question)
        if market.resolved:
            text.add("  ✔ ").foreign(market.winner or "no single outcome", limit=40)
        elif market.outcome_prices:
            text.add(f"  {figures.price(market.outcome_prices[0], odds)}")
        text.line()
        buttons.append(press(str(number), Action.MARKET, market.id))
    if unknown:
        more = "and " if shown else ""
        text.line(f"{more}{unknown} that Polymarket does not name now")
    rows = [buttons[at : at + 5] for at in range(0, len(buttons), 5)]
    _add_tags(text, tags)
    return text.card([*rows, pages(Action.WATCHLIST, 0, page, whole), *followed])


def _add_tags(text: Text, tags: Sequence[str]) -> None:
    if tags:
        text.add("I tell you what is new under ").foreign(", ".join(tags)).line()


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


@dataclass(frozen=True, slots=True)
class Share:
    """How much of what a person may have she has.

    Attributes:
        rules: Her alerts.
        most_rules: How many she may have.
        markets: The markets that she watches.
        most_markets: How many she may.
        asked: What she may ask for in a minute.
    """

    rules: int
    most_rules: int
    markets: int
    most_markets: int
    asked: int


def status_card(view: StatusView, share: Share) -> Card:
    """Return how the bot is, and what a person has of it, in words."""
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
        text.line(f"{figures.count(view.followed, 'outcome')} followed")
    if view.waiting is not None:
        text.line(f"{figures.count(view.waiting, 'alert')} on the way")
    gaps = {0: "no gap", 1: "one gap"}.get(view.gaps, f"{view.gaps} gaps")
    text.line(f"The link to the prices had {gaps} since I was started.")
    text.line(
        f"You have {share.rules} of {share.most_rules} alerts, watch {share.markets} "
        f"of {share.most_markets} markets, and may ask {share.asked} things a minute."
    )
    return text.card([[press("↻", Action.STATUS)]])


def export_card(file: File) -> Card:
    """Return a message with a file of what is kept of a person."""
    card = Text().line("All that I keep of you. /erase deletes it.").card()
    return msgspec.structs.replace(card, file=file)


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
        .line(
            f"{figures.count(rules, 'alert')}, "
            f"{figures.count(markets, 'watched market')}, your settings, and all that "
            "waits to be sent to you. It cannot be taken back."
        )
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
    text.line(figures.count(rules, "alert"))
    for part in receipt.parts:
        if part.removed or part.left:
            text.add(f"{_PARTS.get(part.part, part.part)}: {part.removed} removed")
            text.line(f", {len(part.left)} left" if part.left else "")
    text.line(
        "Looked again: " + ("nothing is left." if receipt.complete else "see above.")
    )
    text.line(f"{at:%Y-%m-%d %H:%M} UTC")
    return text.card()
