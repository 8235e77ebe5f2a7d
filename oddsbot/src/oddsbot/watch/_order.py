"""Which of two quotes of one asset is the newer one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oddsbot.polymarket import Quote

# How far the market's clock may be ahead of ours before its time is not believed.
AHEAD_MS = 60_000


class QuoteOrder:
    """Knows the market time of each asset's last quote.

    Polymarket promises no order. A quote without a time, or with one that is yet to
    come, is taken in the order of arrival: one wrong clock must not silence an asset.
    """

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}

    def is_outdated(self, quote: Quote, now: float) -> bool:
        """Return whether a newer quote of its asset was shown before; remember it else.

        Args:
            quote: The quote.
            now: Our own time, in seconds.
        """
        at = quote.at
        if at is None or at > now * 1000 + AHEAD_MS:
            return False
        if at < self._newest.get(quote.asset_id, 0):
            return True
        self._newest[quote.asset_id] = at
        return False
