"""What went wrong, in words, and what one can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddsbot.telegram.text import Text

if TYPE_CHECKING:
    from oddsbot.delivery import Card


def sentence_card(sentence: str) -> Card:
    """Return a sentence of ours."""
    return Text().line(sentence).card()


def bug_card(number: str) -> Card:
    """Return the answer where the bot itself is wrong; `number` is in the log."""
    return (
        Text()
        .line("Something in me is broken: I may not have done what you asked for.")
        .add("Its number in the log: ")
        .add(number, "code")
        .card()
    )


UPSTREAM = (
    "Polymarket does not answer right now. Nothing was changed; try it again in a "
    "minute."
)
NO_MARKET = (
    "Polymarket has no market there. Copy the link from the market's own page, "
    "or send a few words to search for."
)
WHICH = "Of which market? Send its link first, then /alert again."
FOREIGN_PRESS = (
    "This button is not yours, or of an older version of me: ask for it again."
)
NO_PROFILE = (
    "Polymarket has no profile of that name. Send the link of the profile's own page, "
    "or its address."
)
UNKNOWN_LINK = "I do not know what this link asks for."
EDITED = (
    "I do not read a message again that I answered: an edit of it changes nothing. "
    "Write it as a new message."
)
OLD_LIST = "This list is from earlier: ask for it again."
NO_TAG = "Polymarket has no open events there. /top without a tag has all."
NOT_YOURS = "You have no such alert any more. /alerts has those that you have."
OTHER_VERSION = "That button is of another version of me: ask for it again."
NOT_WATCHABLE = "I cannot watch that market: Polymarket gives it no id that I can use."
SAME_ALERT = "You have that alert already."
NO_ALERT_THERE = "There is no market of that event any more that could move."
EARLIER_PRESS = "You pressed that some time ago, and I was away: press it again."
DONE_BEFORE = "I did that before, and you stopped that alert since. /alerts has all."
