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

    MARKET = 1  # subject: Gamma's number of the market
    EVENT = 2  # subject: Gamma's number of the event
    ALERTS = 3
    SET_ABOVE = 10  # subject: the market; argument: the outcome, and the level in 0.1¢
    SET_BELOW = 11
    SET_OTHER = 12
    STOP_RULE = 20  # subject: the rule
    STOP_ALL = 30
    HELP = 40


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
