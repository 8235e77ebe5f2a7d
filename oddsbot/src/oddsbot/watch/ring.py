"""`Ring`: the last ticks of a process, among them those that nobody has committed.

Every process that follows a shard has one. When the owner dies, the next one judges
from its ring what the dead one had not committed.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from oddsbot.polymarket import Quote

from .commit import Seen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

KEPT_SECONDS = 60.0
"""How old a tick becomes before it is forgotten, once it is committed."""

KEPT_TICKS = 200_000
"""Ticks that are kept at most, committed or not."""


class Tick(msgspec.Struct, frozen=True, gc=False):
    """A quote that differs from its asset's last one.

    Attributes:
        quote: The quote.
        seen_at: When this process saw it, in seconds.
        ordinal: Which of the asset's ticks of this millisecond it is, from 0.
        place: Its number in this process.
        held: Where ticks may be missing before it: up to when the one before is known
            to have stood, in the market's time, ms; None: until this one.
    """

    quote: Quote
    seen_at: float
    ordinal: int
    place: int
    held: int | None = None

    def seen(self) -> Seen:
        """Return what the database keeps of it."""
        quote = self.quote
        return Seen(
            quote.asset_id,
            quote.at,
            self.ordinal,
            None if quote.bid is None else str(quote.bid),
            None if quote.ask is None else str(quote.ask),
        )


class Gap(msgspec.Struct, frozen=True):
    """Ticks that an owner before had, or nobody, and this process had not.

    Attributes:
        assets: Of how many assets.
        longest: How long it was at most, in seconds of the market's time.
    """

    assets: int
    longest: float


class Cut(msgspec.Struct, frozen=True):
    """Where an owner before stopped, in the places of this process.

    Attributes:
        places: The place of the last tick that was judged, by asset.
        late: The newest ticks of assets whose ticks were all forgotten unjudged.
        gap: What is missing; None: the ring reaches back everywhere.
    """

    places: dict[str, int]
    late: list[Tick]
    gap: Gap | None


class Ring:
    """Ticks in the order in which this process saw them.

    Args:
        seconds: How long they are kept; longer while they are not committed.
        most: How many are kept at most. Beyond, the oldest is forgotten, whether it is
            committed or not; the newest of each asset stays.

    Attributes:
        last: The newest tick of each asset.
        end: The place of the next tick.
        lost: Ticks that were forgotten before they were committed.
        forgotten_until: The market's time, ms, of the newest tick that was forgotten.
    """

    def __init__(
        self, *, seconds: float = KEPT_SECONDS, most: int = KEPT_TICKS
    ) -> None:
        self.last: dict[str, Tick] = {}
        self.end = 0
        self.lost = 0
        self.forgotten_until = 0
        self._seconds = seconds
        self._most = most
        self._ticks: deque[Tick] = deque()
        # The place of the first tick after the last one that may be missing, by asset.
        self._whole_from: dict[str, int] = {}
        # When the newest forgotten tick of an asset was, in the market's time.
        self._forgotten: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many ticks are kept."""
        return len(self._ticks)

    def add(self, quote: Quote, seen_at: float, held: int | None = None) -> Tick:
        """Keep a tick; `held` as of `Tick`."""
        before = self.last.get(quote.asset_id)
        ordinal = 0
        if before is None and held is None:
            held = 0
        if before is not None and before.quote.at == quote.at:
            ordinal = before.ordinal + 1
        tick = Tick(quote, seen_at, ordinal, self.end, held)
        self.end += 1
        self._ticks.append(tick)
        self.last[quote.asset_id] = tick
        return tick

    def interrupt(self, assets: Iterable[str]) -> None:
        """Note that ticks of some assets may be missing before the next one."""
        self._whole_from.update(dict.fromkeys(assets, self.end))

    def trim(self, now: float, committed: int) -> None:
        """Forget old ticks, and any that are too many.

        Args:
            now: Our time, in seconds.
            committed: The place up to which ticks are committed, or changed nothing.
        """
        ticks, oldest = self._ticks, now - self._seconds
        while ticks and (
            len(ticks) > self._most
            or (ticks[0].seen_at < oldest and ticks[0].place < committed)
        ):
            gone = ticks.popleft()
            self.lost += gone.place >= committed
            if gone.quote.at is not None:
                self._forgotten[gone.quote.asset_id] = gone.quote.at
                self.forgotten_until = max(self.forgotten_until, gone.quote.at)

    def since(self, place: int) -> Iterator[Tick]:
        """Yield the ticks from a place on; the ring may grow meanwhile, and not shrink.

        Args:
            place: Of the first one, if it is still there.
        """
        ticks = self._ticks
        first = max(0, place - ticks[0].place) if ticks else 0
        for at in range(first, len(ticks)):
            yield ticks[at]

    def cut(self, seen: Mapping[str, Seen]) -> Cut:
        """Return where an owner before stopped.

        The cut of an asset is behind the last tick equal to its `Seen`. Where there is
        none, the market's time decides.

        Args:
            seen: What the owner before judged last, by asset.
        """
        equal: dict[str, int] = {}
        similar: dict[str, int] = {}
        earlier: dict[str, int] = {}
        first: dict[str, int | None] = {}
        resumed: dict[str, int | None] = {}
        for tick in self._ticks:
            last = seen.get(tick.quote.asset_id)
            if last is None:
                continue
            asset, own = last.asset_id, tick.seen()
            first.setdefault(asset, own.at)
            if tick.place >= self._whole_from.get(asset, 0):
                resumed.setdefault(asset, own.at)
            if own == last:
                equal[asset] = tick.place
            elif (own.at, own.bid, own.ask) == (last.at, last.bid, last.ask):
                # A process whose link began within a millisecond counts differently
                # which of its ticks this is.
                similar[asset] = tick.place
            if own.at is not None and last.at is not None and own.at <= last.at:
                earlier[asset] = tick.place
        places = {**earlier, **similar, **equal}
        missing = {
            asset: at - (seen[asset].at or at)
            for asset, at in first.items()
            if asset not in places and at is not None
        }
        for asset, at in resumed.items():
            # The owner before stopped before the interruption, or in it.
            since, whole_from = seen[asset].at or at, self._whole_from.get(asset, 0)
            if places.get(asset, -1) < whole_from and at and since and at > since:
                missing[asset] = at - since
        forgotten = {
            asset: at - (seen[asset].at or at)
            for asset, at in self._forgotten.items()
            if asset in seen and asset not in first and at > (seen[asset].at or at)
        }
        late = [self.last[asset] for asset in forgotten]
        gaps = [*missing.values(), *forgotten.values()]
        gap = Gap(len(gaps), max(gaps) / 1000) if gaps else None
        return Cut(places, late, gap)
