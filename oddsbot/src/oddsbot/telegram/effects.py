"""`Effects`: ids of what an update brings about, the same each time it is handled."""

from __future__ import annotations

import hashlib
import hmac


class Effects:
    """Names effects after their update, so that handling it twice makes one of each.

    Args:
        token: Of the bot; nobody else can work the ids out.
    """

    def __init__(self, token: str) -> None:
        self._key = hashlib.sha256(b"oddsbot effects 1:" + token.encode()).digest()

    def rule_id(self, update_id: int, place: int = 0) -> str:
        """Return the id of a rule that an update makes: 64 bits, as 16 hex digits."""
        name = f"rule:{update_id}:{place}".encode()
        return hmac.digest(self._key, name, "sha256")[:8].hex()
