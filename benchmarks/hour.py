"""The modelled hour: what the cache saves of a bot's calls to Polymarket.

People ask about recorded markets; Polymarket is a stand-in that takes its time and
counts. The same hour is played with the cache and without. Prices of watched markets
are the feed's in both, as they are in the bot, and cost no call. It writes
`docs/results/hour.md` and build/hour.json. `hour.toml` holds the parameters.

The hour is played `speed` times as fast, with times to live as much shorter; the time
an answer takes stays real. So during a load `speed` times as many people come as in a
real hour: the waiting is overstated, in both columns.
"""

from __future__ import annotations

import asyncio
import csv
import gc
import gzip
import json
import random
import sys
import textwrap
import tomllib
from bisect import bisect
from collections import Counter
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import uvloop

from oddsbot import limits
from oddsbot.markets import NAMESPACES, Ages, Markets
from oddsbot.polymarket import Found, GammaMarket, Level, MarketPage, OrderBook
from oddswire import Client, EmbeddedServer
from oddswire.cache import Cache
from oddswire.errors import OddswireError
from oddswire.ratelimit import RateLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

HERE = Path(__file__).parent
ROOT = HERE.parent
CATALOGUE = ROOT.parent / "shared/polymarket-data/quotes/2026-07-10.markets.csv.gz"
HOUR = 3_600.0


class Action(NamedTuple):
    """What a person does: when, in seconds of the hour, and about which market.

    `fed`: somebody watches that market, so the feed has its prices.
    """

    at: float
    kind: str
    market: int
    fed: bool


class Polymarket:
    """A stand-in for Gamma and the CLOB: it waits, counts, and answers.

    Args:
        slugs: Its markets.
        latency: Seconds for an answer.

    Attributes:
        calls: Requests so far, by what was asked for.
    """

    def __init__(self, slugs: list[str], latency: float) -> None:
        self._latency = latency
        self._markets = {
            condition(n): GammaMarket(
                id=str(n),
                condition_id=condition(n),
                slug=slug,
                question=f"{slug}?",
                outcomes=("Yes", "No"),
                clob_token_ids=(token(n, 0), token(n, 1)),
                volume=Decimal(n),
                liquidity=Decimal(n),
            )
            for n, slug in enumerate(slugs)
        }
        self.calls: Counter[str] = Counter()

    async def _answer(self, what: str) -> None:
        self.calls[what] += 1
        await asyncio.sleep(self._latency)

    async def markets_by_condition(self, *ids: str) -> Found[GammaMarket]:
        """Answer as Gamma."""
        await self._answer("markets")
        return Found({each: self._markets[each] for each in ids})

    async def markets(
        self, *, limit: int, after_cursor: str | None = None, **_: Any
    ) -> MarketPage:
        """Answer as Gamma: what is asked about most has the most volume."""
        await self._answer("lists")
        at = int(after_cursor or 0)
        page = tuple(self._markets.values())[at : at + limit]
        return MarketPage(page, str(at + limit), 0)

    async def books(self, *tokens: str) -> Found[OrderBook]:
        """Answer as the CLOB: 20 levels a side."""
        await self._answer("books")
        bids = tuple(Level(Decimal(n) / 100, Decimal(500)) for n in range(20, 40))
        asks = tuple(Level(Decimal(n) / 100, Decimal(500)) for n in range(60, 40, -1))
        return Found(
            {
                each: OrderBook(
                    market="0x", asset_id=each, timestamp=None, bids=bids, asks=asks
                )
                for each in tokens
            }
        )


def condition(market: int) -> str:
    """Return the condition id of a market."""
    return f"0x{market:064x}"


def token(market: int, side: int) -> str:
    """Return the token id of a market's side."""
    return str(10**76 + 2 * market + side)


def actions(model: dict[str, Any], markets: int) -> Iterator[Action]:
    """Yield what happens in the hour, in no order; the same each time."""
    dice = random.Random(model["seed"])  # noqa: S311 - nothing secret
    heights = list(accumulate(1.0 / (k + 1) ** model["zipf"] for k in range(markets)))

    def popular() -> int:
        return bisect(heights, dice.random() * heights[-1])

    kinds, weights = zip(*model["actions"].items(), strict=True)
    watched = [
        [popular() for _ in range(model["watched"])] for _ in range(model["users"])
    ]
    fed = {market for each in watched for market in each}
    for user in range(model["users"]):
        for _ in range(model["actions_per_user"]):
            back = dice.random() < model["comes_back"]
            market = dice.choice(watched[user]) if back else popular()
            kind = dice.choices(kinds, weights)[0]
            yield Action(dice.random() * HOUR, kind, market, market in fed)


def least(hour: list[Action], ages: Ages) -> int:
    """Return the calls that a cache needs which loses nothing and waits for nobody.

    Each answer is then asked for when it is older than this question admits.
    """
    ttl = {space.name: space.ttl or 0.0 for space in NAMESPACES}
    asked: dict[str, float] = {}
    calls = 0
    for action in hour:
        market, top = f"market:{action.market}", f"book:{action.market}"
        needs: list[tuple[tuple[str, ...], float]] = []
        if action.kind == "card":
            needs.append(((market,), min(ages.volume, ages.liquidity, ttl["market"])))
        if action.kind in ("card", "price") and not action.fed:
            needs.append(((f"{top}:0", f"{top}:1"), ttl["book"]))
        if action.kind == "book":
            needs.append(((f"{top}:0",), min(ages.book, ttl["book"])))
        if action.kind == "list":
            needs.append((("list",), ttl["markets"]))
        for names, age in needs:
            if any(action.at - asked.get(name, -HOUR) > age for name in names):
                calls += 1
                asked.update(dict.fromkeys(names, action.at))
    return calls


async def play(
    hour: list[Action], speed: float, do: Callable[[Action], Awaitable[Any]]
) -> list[float]:
    """Do everything at its moment; return the seconds that each action took."""
    times: list[float] = []
    loop = asyncio.get_running_loop()
    # The collector looks at what the play makes, and not at the model's own objects.
    gc.collect()
    gc.freeze()
    began = loop.time()

    async def one(action: Action) -> None:
        started = perf_counter()
        await do(action)
        times.append(perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for done, action in enumerate(hour):
            await asyncio.sleep(began + action.at / speed - loop.time())
            group.create_task(one(action))
            if sys.stderr.isatty() and done % 200 == 0:
                sys.stderr.write(f"\r{done:>7,} of {len(hour):,}")
    return sorted(times)


async def without(
    hour: list[Action], speed: float, polymarket: Polymarket
) -> list[float]:
    """Play it with each question sent to Polymarket, in as few requests as it takes."""

    async def do(action: Action) -> None:
        tokens = (token(action.market, 0), token(action.market, 1))

        async def prices() -> None:
            if not action.fed:
                await polymarket.books(*tokens)

        match action.kind:
            case "card":
                # The answer about a market has its volume and liquidity too.
                await asyncio.gather(
                    polymarket.markets_by_condition(condition(action.market)),
                    prices(),
                )
            case "price":
                await prices()
            case "book":
                await polymarket.books(tokens[0])
            case "list":
                await polymarket.markets(limit=20)

    return await play(hour, speed, do)


async def with_cache(
    hour: list[Action], speed: float, polymarket: Polymarket, *, warm: bool
) -> tuple[list[float], dict[str, float]]:
    """Play it through the bot's `Markets`; return the times and the hits by tier."""
    shorter = [
        msgspec.structs.replace(
            space,
            ttl=space.ttl / speed,
            stale=space.stale / speed,
            negative_ttl=space.negative_ttl and space.negative_ttl / speed,
        )
        for space in NAMESPACES
        if space.ttl is not None
    ]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer())
        client = await stack.enter_async_context(Client.from_url(server.url))
        cache = await stack.enter_async_context(Cache(client, shorter))
        # Polymarket's limits are for real seconds: here they would be met `speed`
        # times too early.
        rules = [
            msgspec.structs.replace(
                rule,
                limit=msgspec.structs.replace(rule.limit, per=rule.limit.per / speed),
            )
            for rule in limits.POLYMARKET
        ]
        limiter = await stack.enter_async_context(RateLimiter(client, rules))
        gamma: Any = polymarket
        usual = Ages()
        ages = Ages(
            volume=usual.volume / speed,
            liquidity=usual.liquidity / speed,
            book=usual.book / speed,
        )
        markets = Markets(cache, gamma, gamma, limits.Upstream(limiter), ages=ages)

        async def do(action: Action) -> None:
            known = condition(action.market)
            tokens = (token(action.market, 0), token(action.market, 1))

            async def prices() -> None:
                if not action.fed:
                    await markets.prices(tokens)

            match action.kind:
                case "card":
                    await asyncio.gather(
                        markets.market(known),
                        markets.volume(known),
                        markets.liquidity(known),
                        prices(),
                    )
                case "price":
                    await prices()
                case "book":
                    await markets.book(tokens[0])
                case "list":
                    await markets.busiest()

        async def keep_warm() -> None:
            while True:
                with suppress(OddswireError):  # the next round is soon
                    await markets.warm()
                await asyncio.sleep(15 / speed)

        keeping = asyncio.create_task(keep_warm()) if warm else None  # noqa: TID251 - ended below
        times = await play(hour, speed, do)
        if keeping is not None:
            keeping.cancel()
            await asyncio.wait([keeping])
            if not keeping.cancelled():
                keeping.result()
        return times, msgspec.to_builtins(cache.stats())


def summary(times: list[float], calls: Counter[str]) -> dict[str, float]:
    """Return the figures of a column; times in milliseconds."""
    return {
        "calls": calls.total(),
        **{what: calls[what] for what in ("markets", "books", "lists")},
        "mean_ms": 1e3 * sum(times) / len(times),
        "p50_ms": 1e3 * times[len(times) // 2],
        "p99_ms": 1e3 * times[int(len(times) * 0.99)],
    }


_PAGE = """# An hour of a bot

{summary}

This page is written by `make hour`; no figure in it was entered by hand. It plays one
modelled hour of people asking a bot about recorded markets, with the cache and without.
The model is **generated**; its parameters are in `benchmarks/hour.toml` and were fixed
before anything was measured.

{users:,} users, {actions} actions each, over {markets:,} recorded markets by Zipf
{zipf:g}; each watches {watched} markets. Prices of watched markets are the feed's in
every column and cost no call, so alerts do not either. An answer of the stand-in for
Polymarket takes {latency:g} ms. Played {speed} times as fast with times to live as
much shorter, the answers not: more people come during a load than in a real hour, so
waiting is overstated.

|  | without | with the cache | less | with the cache, kept warm | less |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}

What limits a cache that waits to be asked is how often the same is asked: with these
ages one that loses nothing would still need {least:,} calls, for most of the
{markets:,} markets are asked about less often than their answer ages. Calls for several
markets at once make it fewer, a refresh ahead of time more. So a bot can keep
the answers about the busiest 500 markets warm (`Markets.warm`, here every 15 s): one
request brings 100 of them. That what is asked about most is also what has the most
volume is an assumption of the model.

Without the cache each action takes as few requests as it can: the answer about a
market has its volume and liquidity, and both prices are one request. With it each kind
of answer is fresh for its own time: a market for 10 minutes, its volume for 2, its
liquidity for 1, its prices for 30 s, a whole book for 5 s. A stale answer that serves
while it is refreshed counts as an answer, and the refresh as a call.
"""
_ROWS = {
    "calls": ("calls to Polymarket", "{:,.0f}"),
    "markets": ("of them for markets, with volume and liquidity", "{:,.0f}"),
    "books": ("for prices and books", "{:,.0f}"),
    "lists": ("for lists", "{:,.0f}"),
    "mean_ms": ("mean response, ms", "{:.1f}"),
    "p50_ms": ("p50, ms", "{:.2f}"),
    "p99_ms": ("p99, ms", "{:.1f}"),
}


def page(model: dict[str, Any], results: dict[str, Any]) -> str:
    """Return docs/results/hour.md."""
    bare = results["without"]
    warm = results["warm"]
    changed = warm["p99_ms"] - bare["p99_ms"]
    summary = (
        "With the cache kept warm the median answer takes "
        f"{warm['p50_ms']:.1f} ms in place of {bare['p50_ms']:.0f}, "
        "the mean is "
        f"{1.0 - warm['mean_ms'] / bare['mean_ms']:.0%} shorter, "
        "and Polymarket is asked "
        f"{1.0 - warm['calls'] / bare['calls']:.0%} less. The slowest hundredth, "
        "questions that nobody asked before, "
        f"{'waits' if changed > 0 else 'gains'} "
        f"{abs(changed):.0f} ms{' more' if changed > 0 else ''}."
    )
    rows = []
    for field, (name, form) in _ROWS.items():
        cells = [name, form.format(bare[field])]
        for column in (results["with"], results["warm"]):
            cells.append(form.format(column[field]))
            cells.append(f"{1.0 - column[field] / bare[field]:.1%}")
        rows.append(f"| {' | '.join(cells)} |")
    share = [
        f"{results[column]['calls'] / results['least']:.0%}"
        for column in ("without", "with", "warm")
    ]
    least = f"calls, of the {results['least']:,} that these ages need"
    rows.insert(1, f"| {least} | {share[0]} | {share[1]} |  | {share[2]} |  |")
    return _PAGE.format(
        summary=textwrap.fill(summary, 88),
        users=model["users"],
        actions=model["actions_per_user"],
        markets=results["markets"],
        zipf=model["zipf"],
        watched=model["watched"],
        latency=model["upstream_latency"] * 1e3,
        speed=model["speed"],
        rows="\n".join(rows),
        least=results["least"],
    )


async def main() -> None:
    """Play all three, write the page."""
    if not CATALOGUE.exists():
        sys.exit(
            f"no recordings at {CATALOGUE.relative_to(ROOT.parent)}: "
            "see docs/results/hour.md"
        )
    model = tomllib.loads((HERE / "hour.toml").read_text())
    with gzip.open(CATALOGUE, "rt", newline="") as file:
        slugs = [row["slug"] for row in csv.DictReader(file)]
    # Their order in the file means nothing: who is popular is drawn.
    random.Random(model["seed"]).shuffle(slugs)  # noqa: S311 - nothing secret
    hour = sorted(actions(model, len(slugs)))
    latency = model["upstream_latency"]
    bare = Polymarket(slugs, latency)
    results: dict[str, Any] = {
        "model": model,
        "markets": len(slugs),
        "least": least(hour, Ages()),
    }
    times = await without(hour, model["speed"], bare)
    results["without"] = summary(times, bare.calls)
    for column, warm in (("with", False), ("warm", True)):
        behind = Polymarket(slugs, latency)
        times, stats = await with_cache(hour, model["speed"], behind, warm=warm)
        results[column] = summary(times, behind.calls) | {"cache": stats}
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "hour.json").write_text(json.dumps(results, indent=1))
    text = page(model, results)
    (ROOT / "docs/results/hour.md").write_text(text)
    shown = json.dumps(results, indent=1) if "--json" in sys.argv else text
    sys.stdout.write(f"{shown}\n")


if __name__ == "__main__":
    uvloop.run(main())
