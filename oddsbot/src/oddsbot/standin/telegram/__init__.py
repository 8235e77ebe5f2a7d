"""The Bot API's stand-in: `BotApi` serves bots, and people by a chat page.

`World` holds the chats and is where a test acts for a person; `Faults` breaks things.
"""

from ._checks import formatted as checked_text
from ._checks import keyboard as checked_keyboard
from ._methods import METHODS
from ._page import rich
from .errors import ApiError
from .faults import Fault, Faults, Limits
from .panel import Act, Panel, Step
from .server import BotApi
from .world import World

__all__ = [
    "METHODS",
    "Act",
    "ApiError",
    "BotApi",
    "Fault",
    "Faults",
    "Limits",
    "Panel",
    "Step",
    "World",
    "checked_keyboard",
    "checked_text",
    "rich",
]
