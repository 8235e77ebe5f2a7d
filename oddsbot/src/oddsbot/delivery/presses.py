"""`Press`: what a button of a card asks for, as its data says it."""

from __future__ import annotations

from enum import IntEnum

import msgspec

_SUBJECTS = 2**64
_ARGUMENTS = 2**24


class Action(IntEnum):
    """What a button does.

    The numbers are on buttons under old messages: one that was used is never given to
    another action.
    """

    # Markets and events; the subject is Gamma's number.
    MARKET = 1  # drawn again; argument: the span of its chart
    EVENT = 2  # argument: the page
    BOOK = 4  # argument: the outcome
    WATCH = 5
    UNWATCH = 6
    WATCHLIST = 7  # argument: the page
    FIND = 8
    TOP = 14  # subject: the list, as `buttons.text_number` says; argument: the page
    NEW = 15
    WATCH_ALL = 16  # subject: the event
    TAG_ON = 19  # subject: the tag, as `buttons.text_number` says
    TAG_OFF = 30
    FOUND = 9  # subject: the words; argument: the page, and whether closed ones count

    # Alerts.
    SET_ABOVE = 10  # subject: the market; argument: the outcome, and the level in 0.1¢
    SET_BELOW = 11
    SET_OTHER = 12  # subject: the market
    ALERTS = 13  # argument: the page
    ALERT_ALL = 17  # subject: the event
    HISTORY = 18  # argument: the page
    RULE = 20  # subject: the rule
    CHANGE_RULE = 21
    STOP_RULE = 22
    PAUSE_RULE = 23
    RESUME_RULE = 24
    PAUSE_ALL = 25
    RESUME_ALL = 26
    CHANGE_TO = 27  # subject: the rule; argument: the level in 0.1¢
    CHANGE_OTHER = 28
    WHY = 29

    # A person's settings.
    SETTINGS = 50
    KIND_ON = 51  # argument: which kind
    KIND_OFF = 52
    QUIET = 53  # argument: start and end, in minutes of the day
    ZONE = 54
    MUTE = 55  # argument: minutes; 0 ends it
    QUIET_OTHER = 56
    ODDS = 57  # argument: how prices are shown
    LIMITS = 58
    PER_MINUTE = 59  # argument: alerts of a market in a minute; 0: all
    LEAST_MOVE = 63  # argument: moves below so many cents send nothing
    EXPORT = 64
    PER_HOUR = 65  # argument: new events of a tag in an hour; 0: all

    # The bot and the person.
    HELP = 60
    STATUS = 61
    CANCEL = 62
    ERASE_ASK = 70
    ERASE = 71  # subject: a handle that is good once


class Press(msgspec.Struct, frozen=True):
    """What a button asks for.

    Attributes:
        action: What to do.
        subject: To what: 64 bits, as the action says.
        argument: With what: 24 bits, as the action says.

    Raises:
        ValueError: A number has more bits.
    """

    action: Action
    subject: int = 0
    argument: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.subject < _SUBJECTS and 0 <= self.argument < _ARGUMENTS):
            raise ValueError(
                f"{self.action.name}: a subject has 64 bits, an argument 24"
            )

    @property
    def data(self) -> str:
        """The data of its button; whoever sends the card seals it."""
        return f"{self.action:d}:{self.subject}:{self.argument}"

    @classmethod
    def of(cls, data: str) -> Press:
        """Return what the data of a button says.

        Raises:
            ValueError: It is of another form.
        """
        action, subject, argument = data.split(":")
        return cls(Action(int(action)), int(subject), int(argument))
