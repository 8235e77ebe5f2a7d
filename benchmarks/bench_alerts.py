"""``make bench-alerts``: what a tick costs among many rules, and a recorded day.

The naive loop shows every rule of an asset every quote of it, by the one-rule
definition. The gates' alerts have to be the same, exactly and in order.

Times are CPU time of this thread: what else the machine does is not in them.
"""

# ruff: noqa: S311, T201 - a workload is no secret, and a command talks

from __future__ import annotations

import argparse
import gc
import random
import resource
import sys
import tracemalloc
from collections import Counter
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from time import thread_time_ns
from typing import TYPE_CHECKING, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from oddsbot.alerts import (  # noqa: E402
    Alerts,
    Base,
    Direction,
    Moved,
    PriceRule,
)
from oddsbot.polymarket import Quote  # noqa: E402
from support.one_rule import NaiveAlerts  # noqa: E402
from support.recorded import people, recorded  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from support.one_rule import Fired

RECORDING = ROOT.parent / "shared/polymarket-data/quotes/2026-07-10.bbo-changes.csv.gz"
RULES = 100_000
TICKS = 200_000
NAIVE_SECONDS = 1.0


class Timing(NamedTuple):
    """Microseconds of a tick, and how many alerts there were."""

    ticks: int
    alerts: int
    mean: float
    p50: float
    p99: float
    worst: float
    quiet: float
    each_alert: float

    def __str__(self) -> str:
        return (
            f"{self.mean:10.2f} us mean {self.p50:9.2f} p50 {self.p99:10.2f} p99 "
            f"{self.worst:11.1f} max | {self.alerts / self.ticks:7.2f} alerts a tick, "
            f"{self.each_alert:.2f} us each; {self.quiet:.2f} us without one"
        )


def timed(engine: Alerts | NaiveAlerts, quotes: Iterable[Quote]) -> Timing:
    """Judge quotes one after the other, and time each."""
    times: list[int] = []
    quiet = quiet_ticks = alerts = 0
    for quote in quotes:
        seen_at = (quote.at or 0) / 1000
        start = thread_time_ns()
        found = engine.on_quote(quote, seen_at)
        took = thread_time_ns() - start
        times.append(took)
        alerts += len(found)
        if not found:
            quiet += took
            quiet_ticks += 1
    loud = sum(times) - quiet
    times.sort()
    n = len(times)
    return Timing(
        n,
        alerts,
        sum(times) / n / 1e3,
        times[n // 2] / 1e3,
        times[n * 99 // 100] / 1e3,
        times[-1] / 1e3,
        quiet / max(1, quiet_ticks) / 1e3,
        loud / max(1, alerts) / 1e3,
    )


# --- a tick among 100,000 rules


def crowd(assets: int, chance: random.Random) -> Iterator[PriceRule]:
    """Yield rules of whole cents around where each price is, as people set them."""
    for n in range(RULES):
        above = n % 2 == 0
        yield PriceRule(
            id=f"r{n}",
            user_id=n // 10,
            market="m",
            asset_id=f"a{n // 2 % assets}",
            direction=Direction.ABOVE if above else Direction.BELOW,
            level=Decimal(chance.randrange(1, 100)) / 100,
            hysteresis=Decimal(chance.choice((1, 2, 3))) / 100,
            base=Base(Decimal("0.50"), Decimal("0.51")),
        )


def trembling(assets: int, chance: random.Random, ticks: int) -> Iterator[Quote]:
    """Yield quotes of prices that walk by tenths of a cent, 9 of 10 times back."""
    homes, steps = [500] * assets, [0] * assets
    for at in range(ticks):
        n = chance.randrange(assets)
        # It trembles around its home, which itself walks slowly.
        if chance.random() < 0.1:
            homes[n] = min(980, max(20, homes[n] + chance.choice((-1, 1))))
        steps[n] = chance.choice((-2, -1, 0, 1, 2))
        bid = homes[n] + steps[n]
        prices = Decimal(bid) / 1000, Decimal(bid + 10) / 1000
        yield Quote("m", f"a{n}", *prices, at)


def jumping(ticks: int) -> Iterator[Quote]:
    """Yield quotes that go up and down by 20 cents in turn."""
    for at in range(ticks):
        bid = Decimal("0.40") + at % 2 * Decimal("0.20")
        yield Quote("m", "a0", bid, bid + Decimal("0.01"), at)


def among_many(ticks: int) -> None:
    """Print what a tick costs among 100,000 rules on few and on many assets."""
    print(f"a tick among {RULES:,} rules of whole cents; floor 20 us mean, goal 3 us")
    for assets in (1, 50, 5_000):
        chance = random.Random(assets)
        rules = list(crowd(assets, chance))
        quotes = list(trembling(assets, chance, ticks))
        alerts, naive = Alerts(rules), NaiveAlerts(rules)
        gc.collect()
        gc.freeze()
        print(f"  on {assets:5,} assets  gates {timed(alerts, quotes)}")
        # As many ticks as the slow way has time for.
        few = max(100, min(ticks, int(NAIVE_SECONDS * 1e6 * assets / RULES / 0.4)))
        print(f"{' ' * 20}naive {timed(naive, quotes[:few])}")
        gc.unfreeze()
    print("the crowd of 1 asset, its price jumping by 20 cents: what fires is paid for")
    alerts = Alerts(crowd(1, random.Random(1)))
    gc.collect()
    gc.freeze()
    print(f"{' ' * 20}gates {timed(alerts, jumping(300))}")


# --- the recording


def whole_recording(path: Path) -> bool:
    """Print what the whole recording costs, and whether both ways agree."""
    quotes = recorded(path)
    rules = list(people(quotes, 10_000, 50_000))
    print(
        f"recorded: {len(quotes):,} quotes of {len({q.asset_id for q in quotes}):,} "
        "markets (their slugs stand for the ids), 10,000 generated users, "
        f"{len(rules):,} rules"
    )
    tracemalloc.start()
    alerts = Alerts(rules)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gc.collect()
    gc.freeze()
    timing = timed(alerts, quotes)
    print(f"  gates {timing}")
    slow = NaiveAlerts(rules)
    print(f"  naive {timed(slow, quotes)}")
    alerts, slow = Alerts(rules), NaiveAlerts(rules)
    kinds: Counter[str] = Counter()
    wrong = 0
    for quote in quotes:
        seen_at = (quote.at or 0) / 1000
        pairs = zip_longest(
            alerts.on_quote(quote, seen_at), slow.on_quote(quote, seen_at)
        )
        for found, wanted in pairs:
            wrong += not same(found, wanted)
            kinds[type(found).__name__] += 1
            kinds["in cooldown"] += bool(found and found.in_cooldown)
    counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    print(f"  alerts: {counted}; different from the naive loop's: {wrong}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"  whole time {timing.mean * timing.ticks / 1e6:.2f} s, engine "
        f"{held / len(rules):,.0f} bytes a rule, process at most {peak:,.0f} MiB"
    )
    return wrong == 0


def same(found: object, wanted: Fired | None) -> bool:
    """Whether an alert is the one of the naive loop."""
    if found is None or wanted is None:
        return False
    reference = found.reference if isinstance(found, Moved) else None
    return wanted == (
        found.id, found.user_id, found.direction, found.price, reference, found.at,
        found.in_cooldown,
    )  # fmt: skip


def main() -> int:
    """Run both; 1 when the ways differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ticks", type=int, default=TICKS)
    parser.add_argument("--recording", type=Path, default=RECORDING)
    options = parser.parse_args()
    among_many(options.ticks)
    if not options.recording.exists():
        print(f"there is no recording at {options.recording}")
        return 0
    return 0 if whole_recording(options.recording) else 1


if __name__ == "__main__":
    sys.exit(main())
