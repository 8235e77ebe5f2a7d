"""What the bot knows of each user: `UserSession`, and nothing of how it is stored."""

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
    "Profile",
    "QuietHours",
    "Thresholds",
    "TrackedWallet",
    "UserSession",
]
