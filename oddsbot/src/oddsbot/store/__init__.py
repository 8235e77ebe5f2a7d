"""What the bot knows of each user, and the database in which it is kept for good."""

from oddsbot.store.database import open_database, upgrade
from oddsbot.store.rules import OtherOwner, SqlRules
from oddsbot.store.source import SqlSource
from oddsbot.store.user import (
    CONVERSATION_STEPS,
    MAX_WALLETS,
    Conversation,
    Display,
    Kind,
    Notifications,
    Profile,
    QuietHours,
    Thresholds,
    TrackedWallet,
    UserSession,
)

__all__ = [
    "CONVERSATION_STEPS",
    "MAX_WALLETS",
    "Conversation",
    "Display",
    "Kind",
    "Notifications",
    "OtherOwner",
    "Profile",
    "QuietHours",
    "SqlRules",
    "SqlSource",
    "Thresholds",
    "TrackedWallet",
    "UserSession",
    "open_database",
    "upgrade",
]
