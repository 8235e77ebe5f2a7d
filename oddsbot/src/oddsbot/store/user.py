"""A user of the bot: what she asked for, and where her dialogue stands.

All fields but the last two are kept until she deletes them; those end with the
conversation. Money is in US dollars, prices in 0 to 1, times in minutes of her own day.
Of a market she gets `per_minute` alerts a minute, of a tag `per_hour` new events an
hour, and the others as one message; 0: no limit.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, field

from oddswire.sessions import Collection, Expiring, Record, Secret

if TYPE_CHECKING:
    from datetime import datetime

MAX_WALLETS = 50
MAX_MARKETS = 200
MAX_TAGS = 20
CONVERSATION_STEPS = 20
"""Answers that a dialogue may have collected."""

Money = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Minute = Annotated[int, Meta(ge=0, lt=1440)]


class Kind(StrEnum):
    """What a notification is about."""

    PRICE = "price"
    POSITION = "position"
    TRANSACTION = "transaction"
    RESOLUTION = "resolution"
    NEW_MARKET = "new_market"
    SYSTEM = "system"
    PROPOSAL = "proposal"
    DISPUTE = "dispute"
    VOLUME = "volume"


class Profile(msgspec.Struct):
    """What Telegram says of her."""

    username: str = ""
    first_name: str = ""
    chat_id: int = 0


class Notifications(msgspec.Struct):
    """Which kinds she wants."""

    price: bool = True
    position: bool = True
    transaction: bool = True
    resolution: bool = True
    new_market: bool = True
    system: bool = True
    proposal: bool = True
    dispute: bool = True
    volume: bool = True

    def wants(self, kind: Kind) -> bool:
        """Whether she wants this kind."""
        return bool(getattr(self, kind.value))


class Thresholds(msgspec.Struct):
    """What is too small to tell her of; a move of a price, and dollars."""

    price_change: Share = 0.0
    position: Money = 100.0
    transaction: Money = 100.0


class QuietHours(msgspec.Struct):
    """Minutes of her day in which only what is urgent is sent; may span midnight."""

    start: Minute = 0
    end: Minute = 0

    def holds(self, minute: int) -> bool:
        """Whether a minute of the day is within; start and end equal: never."""
        if self.start <= self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


class Display(msgspec.Struct):
    """How things are shown to her."""

    odds: Literal["cents", "percent", "decimal"] = "cents"
    compact: bool = False


class TrackedWallet(msgspec.Struct, omit_defaults=True):
    """A wallet that she follows; its address, lower case, is its key."""

    alias: Annotated[str, Meta(max_length=64)] = ""
    muted: bool = False


class WatchedMarket(msgspec.Struct, omit_defaults=True):
    """A market whose result she wants to know; its condition id is its key."""

    since: Annotated[int, Meta(ge=0)] = 0


class FollowedTag(msgspec.Struct, omit_defaults=True):
    """A tag whose new events she is told of; its slug is its key."""

    since: Annotated[int, Meta(ge=0)] = 0


class Conversation(msgspec.Struct):
    """Where a dialogue stands."""

    step: str = ""
    answers: Annotated[
        dict[str, str | int | float | bool], Meta(max_length=CONVERSATION_STEPS)
    ] = {}


class UserSession(Record):
    """Everything the bot keeps of one user; found again by any wallet she tracks."""

    profile: Profile = field(default_factory=Profile)
    notifications: Notifications = field(default_factory=Notifications)
    thresholds: Thresholds = field(default_factory=Thresholds)
    language: Annotated[str, Meta(max_length=16)] = "en"
    timezone: str = "UTC"
    quiet: QuietHours = field(default_factory=QuietHours)
    display: Display = field(default_factory=Display)
    wallets: Annotated[
        dict[Annotated[str, Meta(pattern=r"^0x[0-9a-f]{40}\Z")], TrackedWallet],
        Collection(MAX_WALLETS, index="wallet"),
    ] = field(default_factory=dict)
    markets: Annotated[
        dict[Annotated[str, Meta(pattern=r"^[!-~]{1,128}\Z")], WatchedMarket],
        Collection(MAX_MARKETS, index="market"),
    ] = field(default_factory=dict)
    tags: Annotated[
        dict[Annotated[str, Meta(pattern=r"^\S{1,64}\Z")], FollowedTag],
        Collection(MAX_TAGS),
    ] = field(default_factory=dict)
    muted_until: Annotated[int, Meta(ge=0)] = 0
    per_minute: Annotated[int, Meta(ge=0)] = 0
    per_hour: Annotated[int, Meta(ge=0)] = 3
    conversation: Annotated[Conversation, Expiring()] = field(
        default_factory=Conversation
    )
    linked: Annotated[str, Secret()] = ""

    def is_quiet(self, now: datetime) -> bool:
        """Whether she is not to be disturbed.

        Args:
            now: An aware time.

        Raises:
            ValueError: Her time zone is not known on this machine, or `now` is naive.
        """
        if now.tzinfo is None:
            raise ValueError("now is an aware time")
        there = now.astimezone(ZoneInfo(self.timezone))
        return self.quiet.holds(there.hour * 60 + there.minute)
