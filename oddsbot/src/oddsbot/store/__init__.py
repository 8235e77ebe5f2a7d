"""What the bot knows of each user, and the database in which it is kept for good."""

from oddsbot.store.database import open_database, revision_of, upgrade
from oddsbot.store.followers import SqlFollowers
from oddsbot.store.handled import once
from oddsbot.store.log import (
    DIGEST,
    LOOK_BACK_SECONDS,
    AlertLog,
    AlertRow,
    Digest,
    Fate,
    Place,
)
from oddsbot.store.rules import (
    AlreadyHandled,
    OtherOwner,
    RuleChanges,
    SameRule,
    SqlRules,
    StoredRule,
    UnknownUser,
    kind_of,
)
from oddsbot.store.source import SqlSource
from oddsbot.store.tags import Listing, SqlTags
from oddsbot.store.tenant import Tenant
from oddsbot.store.user import (
    CONVERSATION_STEPS,
    MAX_MARKETS,
    MAX_TAGS,
    MAX_WALLETS,
    Conversation,
    Display,
    FollowedTag,
    Kind,
    Notifications,
    Profile,
    QuietHours,
    Thresholds,
    TrackedWallet,
    UserSession,
    WatchedMarket,
)

__all__ = [
    "CONVERSATION_STEPS",
    "DIGEST",
    "LOOK_BACK_SECONDS",
    "MAX_MARKETS",
    "MAX_TAGS",
    "MAX_WALLETS",
    "AlertLog",
    "AlertRow",
    "AlreadyHandled",
    "Conversation",
    "Digest",
    "Display",
    "Fate",
    "FollowedTag",
    "Kind",
    "Listing",
    "Notifications",
    "OtherOwner",
    "Place",
    "Profile",
    "QuietHours",
    "RuleChanges",
    "SameRule",
    "SqlFollowers",
    "SqlRules",
    "SqlSource",
    "SqlTags",
    "StoredRule",
    "Tenant",
    "Thresholds",
    "TrackedWallet",
    "UnknownUser",
    "UserSession",
    "WatchedMarket",
    "kind_of",
    "once",
    "open_database",
    "revision_of",
    "upgrade",
]
