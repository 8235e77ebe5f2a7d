"""`Wallets`: what the bot asks of wallets, through the cache."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from oddsbot.polymarket import (
    Activity,
    NotFound,
    PnlPoint,
    Position,
    Profile,
    Standing,
    Stats,
    Unreadable,
)
from oddswire.cache import Namespace

if TYPE_CHECKING:
    from oddsbot.limits import Upstream
    from oddsbot.polymarket import Data, Gamma, Page
    from oddswire.cache import Cache


NAMESPACES = (
    Namespace(name="activity", type=tuple[Activity, ...], ttl=300.0, stale=3_600.0),
    Namespace(name="positions", type=tuple[Position, ...], ttl=120.0, stale=3_600.0),
    Namespace(
        name="profile", type=Profile, ttl=3_600.0, stale=86_400.0, negative_ttl=300.0
    ),
    Namespace(name="value", type=Decimal, ttl=120.0, stale=3_600.0),
    Namespace(
        name="stats", type=Stats, ttl=86_400.0, stale=86_400.0, negative_ttl=300.0
    ),
    Namespace(name="pnl", type=tuple[PnlPoint, ...], ttl=600.0, stale=3_600.0),
    Namespace(name="leaderboard", type=tuple[Standing, ...], ttl=600.0, stale=3_600.0),
)

_MOST_POSITIONS = 5_000
_Row = TypeVar("_Row", Activity, Position, Standing)
Period: TypeAlias = Literal["day", "week", "month", "all"]


class Wallets:
    """Activity, positions and profiles, each fresh for its own time.

    Everything of one wallet carries the tag ``wallet:<address>``. Addresses are
    lower case in keys, so that two spellings are one wallet.

    Every method raises what the cache and Polymarket raise (`OddswireError`,
    `PolymarketError`), where nothing that may serve is there.

    Args:
        cache: With `NAMESPACES`.
        gamma: Has the profiles.
        data: Has the rest.
        upstream: Keeps within Polymarket's limits.
    """

    def __init__(
        self, cache: Cache, gamma: Gamma, data: Data, upstream: Upstream
    ) -> None:
        self._cache = cache
        self._gamma = gamma
        self._data = data
        self._upstream = upstream

    async def activity(self, wallet: str) -> tuple[Activity, ...]:
        """Return the last 100 things a wallet did, newest first."""
        wallet = wallet.lower()

        async def load() -> tuple[Activity, ...]:
            page = await self._upstream.call(
                "data", "", lambda: self._data.activity(wallet)
            )
            return _readable(page)

        return await self._cache.get_or_set(
            f"activity:{wallet}", load, tags=(f"wallet:{wallet}",)
        )

    async def positions(self, wallet: str) -> tuple[Position, ...]:
        """Return all open positions of a wallet, up to 5,000."""
        wallet = wallet.lower()

        async def load() -> tuple[Position, ...]:
            rows: list[Position] = []
            cursor = None
            while True:
                fetch = partial(
                    self._data.positions, wallet, cursor=cursor, limit=1_000
                )
                page = await self._upstream.call("data", "positions", fetch)
                rows += _readable(page)
                before, cursor = cursor, page.next_cursor
                if cursor in (None, before) or len(rows) >= _MOST_POSITIONS:
                    return tuple(rows[:_MOST_POSITIONS])

        return await self._cache.get_or_set(
            f"positions:{wallet}", load, tags=(f"wallet:{wallet}",)
        )

    async def profile(self, wallet: str) -> Profile | None:
        """Return what a wallet shows of itself; None for one nobody has heard of."""
        wallet = wallet.lower()

        async def load() -> Profile | None:
            try:
                return await self._upstream.call(
                    "gamma", "", lambda: self._gamma.profile(wallet)
                )
            except NotFound:
                return None

        return await self._cache.get_or_set(
            f"profile:{wallet}", load, tags=(f"wallet:{wallet}",)
        )

    async def named(self, name: str) -> Profile | None:
        """Return the profile that has a name; None for nobody.

        Args:
            name: Of the profile, or the pseudonym that Polymarket gave it.
        """
        wanted = name.casefold()

        async def load() -> Profile | None:
            page = await self._upstream.call(
                "gamma", "search", lambda: self._gamma.search(name)
            )
            for profile in page.profiles:
                names = profile.name.casefold(), profile.pseudonym.casefold()
                if profile.proxy_wallet and wanted in names:
                    return profile
            return None

        return await self._cache.get_or_set(f"profile:@{wanted}", load)

    async def value(self, wallet: str) -> Decimal:
        """Return what a wallet's positions are worth, in dollars."""
        wallet = wallet.lower()

        async def load() -> Decimal:
            return await self._upstream.call(
                "data", "", lambda: self._data.value(wallet)
            )

        return await self._cache.get_or_set(
            f"value:{wallet}", load, tags=(f"wallet:{wallet}",)
        )

    async def stats(self, wallet: str) -> Stats | None:
        """Return what a wallet has done; None for one nobody has heard of."""
        wallet = wallet.lower()

        async def load() -> Stats | None:
            try:
                return await self._upstream.call(
                    "data", "", lambda: self._data.stats(wallet)
                )
            except NotFound:
                return None

        return await self._cache.get_or_set(
            f"stats:{wallet}", load, tags=(f"wallet:{wallet}",)
        )

    async def pnl(self, wallet: str) -> tuple[PnlPoint, ...]:
        """Return a wallet's profit by day, oldest first."""
        wallet = wallet.lower()

        async def load() -> tuple[PnlPoint, ...]:
            return await self._upstream.call(
                "data", "pnl", lambda: self._data.pnl(wallet)
            )

        return await self._cache.get_or_set(
            f"pnl:{wallet}", load, tags=(f"wallet:{wallet}",)
        )

    async def leaderboard(self, period: Period = "day") -> tuple[Standing, ...]:
        """Return the 50 wallets with the most profit, the best first.

        Args:
            period: Of the profit.
        """

        async def load() -> tuple[Standing, ...]:
            page = await self._upstream.call(
                "data", "", lambda: self._data.leaderboard(period=period)
            )
            return _readable(page)

        return await self._cache.get_or_set(f"leaderboard:{period}", load)

    async def changed(self, wallet: str) -> None:
        """A wallet was seen doing something: forget what is cached of it.

        Raises:
            InvalidationNotConfirmed: It may be served for as long as its time lasts.
        """
        await self._cache.invalidate_tags(f"wallet:{wallet.lower()}")


def _readable(page: Page[_Row]) -> tuple[_Row, ...]:
    """Return the rows of a page.

    Raises:
        Unreadable: There are some, and none can be read: that is not "nothing".
    """
    if page.skipped and not page.rows:
        raise Unreadable(f"none of {page.skipped} rows can be read")
    return page.rows
