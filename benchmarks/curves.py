"""``make curves``: each part on one server and on 1, 3 and 6 primaries, by CPU time.

All servers and the client share this machine, so no rate of it says anything of a real
cluster. What does: the processor time that a call takes here, at all nodes together,
and at the busiest node, for that one is full first. Writes build/curves.json and
docs/results/curves.md, where growth to 10^7 users is computed from it and from
docs/results/growth.md.
"""

# ruff: noqa: T201 - a command talks

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tomllib
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, NamedTuple

import machine
import uvloop

from oddswire import Client, EmbeddedServer
from oddswire.cache import Cache
from oddswire.embedded import EmbeddedCluster
from oddswire.locks import Locks
from oddswire.pubsub import Delivery, PubSub, Topic
from oddswire.queue import Queue
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow
from oddswire.sessions import Record, Sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    Call = Callable[[int], Awaitable[Any]]

ROOT = Path(__file__).resolve().parent.parent
PRIMARIES = (1, 3, 6)
ONE = "one server"
TASKS, KEYS, NAMES = 100, 1_000, 24
VALUE = "x" * 100
TOPICS = tuple(
    Topic(f"prices{number}", str, delivery=Delivery.LOG, history=100)
    for number in range(NAMES)
)
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
# What one action of a person asks of the parts; the rest of the model is hour.toml's.
ACTION = {
    "limiter: hit": 1.0,  # each update of a person is counted
    "session: read": 1.0,  # by a process that does not have it in memory
    "session: update": 0.25,  # a setting, a step of a conversation
    "cache: hit in Redis": 2.0,  # the market, and its prices
    "queue: enqueue": 0.1,  # an alert or so in the hour, with twelve actions
    "lock": 0.1,
}
# Of a core. At 0.7 a call that comes at random waits 1.2 times as long as it runs
# (M/D/1: load / 2 (1 - load)).
FULL = 0.7


class Account(Record):
    """A small session: what it holds costs the same on one server and on many."""

    name: str = ""


class Cost(NamedTuple):
    """Microseconds of processor for one call.

    Attributes:
        client: Of this process.
        servers: Of all nodes together.
        busiest: Of the node that has the most of it.
    """

    client: float
    servers: float
    busiest: float


# --- the parts


@asynccontextmanager
async def _get(client: Client) -> AsyncIterator[Call]:
    for number in range(KEYS):
        await client.set(f"key:{number}", VALUE)
    yield lambda n: client.get(f"key:{n % KEYS}")


@asynccontextmanager
async def _mget(client: Client) -> AsyncIterator[Call]:
    for number in range(KEYS):
        await client.set(f"key:{number}", VALUE)
    many = [
        [f"key:{(first + 7 * step) % KEYS}" for step in range(20)]
        for first in range(KEYS)
    ]
    yield lambda n: client.mget(many[n % KEYS])


@asynccontextmanager
async def _cache_hit(client: Client) -> AsyncIterator[Call]:
    async with Cache(client, timeout=5.0, l1_bytes=0) as cache:
        for number in range(KEYS):
            await cache.set(f"m:{number}", VALUE, ttl=3600, tags=(f"t{number % 50}",))
        yield lambda n: cache.get(f"m:{n % KEYS}")


@asynccontextmanager
async def _cold_load(client: Client) -> AsyncIterator[Call]:
    async def load() -> str:
        return VALUE

    async with Cache(client, timeout=5.0) as cache:
        yield lambda n: cache.get_or_set(f"m:cold{n}", load, tags=(f"t{n % 50}",))


@asynccontextmanager
async def _session_read(client: Client) -> AsyncIterator[Call]:
    async with Sessions(client, Account) as sessions:
        for number in range(KEYS):
            await sessions.update(number, lambda _: None, create=True)
        yield lambda n: sessions.get(n % KEYS, fresh=True)


@asynccontextmanager
async def _session_update(client: Client) -> AsyncIterator[Call]:
    async with Sessions(client, Account) as sessions:

        def call(number: int) -> Awaitable[Any]:
            def change(account: Account) -> None:
                account.name = str(number)

            return sessions.update(number % KEYS, change, create=True)

        yield call


@asynccontextmanager
async def _limiter(client: Client) -> AsyncIterator[Call]:
    rule = Rule("often", SlidingWindow(1_000_000, 60.0), key="user")
    async with RateLimiter(client, [rule], deadline=5.0) as limiter:
        yield lambda n: limiter.hit("often", user=n % KEYS)


@asynccontextmanager
async def _queue(client: Client) -> AsyncIterator[Call]:
    queues = [Queue(client, f"q{number}", str) for number in range(NAMES)]
    yield lambda n: queues[n % NAMES].enqueue(n % KEYS, VALUE)


@asynccontextmanager
async def _topic(client: Client) -> AsyncIterator[Call]:
    async with PubSub(client) as pubsub:
        yield lambda n: pubsub.publish(TOPICS[n % NAMES], VALUE)


@asynccontextmanager
async def _lock(client: Client) -> AsyncIterator[Call]:
    locks = Locks(client)

    async def call(number: int) -> None:
        async with locks.lock(f"l{number}", 10.0):
            pass

    yield call


PARTS = {
    "get": _get,
    "mget of 20 keys": _mget,
    "cache: hit in Redis": _cache_hit,
    "cache: cold load": _cold_load,
    "session: read": _session_read,
    "session: update": _session_update,
    "limiter: hit": _limiter,
    f"queue: enqueue, {NAMES} queues": _queue,
    f"topic: publish, {NAMES} topics": _topic,
    "lock": _lock,
}


# --- measuring


async def _cost(client: Client, call: Call, seconds: float) -> Cost:
    """Return what a call costs, made by 100 tasks, each after its last reply."""
    numbers = iter(range(1 << 62))
    # Connections, scripts, and what is looked up once.
    await asyncio.gather(*[call(next(numbers)) for _ in range(2 * TASKS)])
    until, done = perf_counter() + seconds, 0

    async def work() -> None:
        nonlocal done
        while perf_counter() < until:
            await call(next(numbers))
            done += 1

    nodes = await client.primaries()
    before, began = [await _cpu(node) for node in nodes], process_time()
    await asyncio.gather(*[work() for _ in range(TASKS)])
    mine = process_time() - began
    spent = [await _cpu(node) - was for node, was in zip(nodes, before, strict=True)]
    return Cost(*[1e6 * each / done for each in (mine, sum(spent), max(spent))])


async def _cpu(node: Client) -> float:
    """Return the processor seconds of a server's main thread, which runs commands."""
    info = await node.info("cpu")
    return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])


async def measure(turns: int, seconds: float) -> dict[str, Any]:
    """Return the median cost of each part on each topology, which take turns."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer())
        urls = {ONE: server.url}
        for count in PRIMARIES:
            cluster = EmbeddedCluster(primaries=count)
            urls[str(count)] = (await stack.enter_async_context(cluster)).cluster_url
        found: dict[str, Any] = {"machine": await machine.describe(server)}
        clients = {
            name: await stack.enter_async_context(
                Client.from_url(url, command_timeout=10.0)
            )
            for name, url in urls.items()
        }
        curves: dict[str, dict[str, Any]] = {}
        for part, made in PARTS.items():
            print(part, file=sys.stderr)
            curves[part] = await _curve(clients, made, turns, seconds)
            for client in clients.values():
                await client.flushall()
    return {
        **found,
        "load_after": round(os.getloadavg()[0], 2),
        "turns": turns,
        "seconds": seconds,
        "curves": curves,
        "bytes_each": _bytes_each(),
    }


async def _curve(
    clients: dict[str, Client], made: Any, turns: int, seconds: float
) -> dict[str, Any]:
    values: dict[str, list[Cost]] = {name: [] for name in clients}
    async with AsyncExitStack() as stack:
        calls = {
            name: await stack.enter_async_context(made(client))
            for name, client in clients.items()
        }
        names = list(clients)
        for turn in range(turns):
            for name in names[turn % 4 :] + names[: turn % 4]:
                values[name].append(await _cost(clients[name], calls[name], seconds))
    return {
        name: Cost(*[median(column) for column in zip(*each, strict=True)])._asdict()
        for name, each in values.items()
    }


# --- growth


def _bytes_each() -> float:
    """Return the bytes of a session among the most that `make growth` filled."""
    page = (ROOT / "docs/results/growth.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+) \| [\d.,]+ \| ([\d,]+) \|", page, re.MULTILINE)
    return float(rows[-1][1].replace(",", ""))


def growth(found: dict[str, Any]) -> Iterator[dict[str, float]]:
    """Yield what so many users need in their busy hour, computed.

    Sessions and limits are in one slot each, so no number of primaries divides them.
    """
    model = tomllib.loads((ROOT / "benchmarks/hour.toml").read_text(encoding="utf-8"))
    often = model["actions_per_user"] / 3_600
    curves = found["curves"]
    by_name = {name.partition(",")[0]: each for name, each in curves.items()}

    def core(parts: Sequence[str], rate: float, topology: str, which: str) -> float:
        each = [ACTION[part] * by_name[part][topology][which] for part in parts]
        return rate * sum(each) / 1e6

    fixed = [part for part in ACTION if part.startswith(("session", "limiter"))]
    free = [part for part in ACTION if part not in fixed]
    for users in SIZES:
        rate = 0.2 * users * often
        yield {
            "users": users,
            "actions": rate,
            "gigabytes": users * found["bytes_each"] / 1e9,
            "one": core([*ACTION], rate, ONE, "servers"),
            "sessions": core(fixed[1:], rate, "6", "busiest"),
            "limits": core(fixed[:1], rate, "6", "busiest"),
            "spread": core(free, rate, "6", "servers"),
        }


_HEAD = """\
# Curves

This page is written by `make curves`; no figure in it was entered by hand.

Processor time of a call in microseconds, with {tasks} tasks of one process, the median
of {turns} turns of {seconds:g} s: of the client, and of the busiest node, which is full
first. All nodes share this machine, so no rate is shown that was reached here:
*calls/s* are those that fill the busiest node's core, had each node its own.

{cpu}, {cores} cores, {kernel}, Python {python}, {server}. {date}, load {load} before,
{load_after} after{quiet}.
"""
_GROWTH = """
## Growth

Computed, not measured: a fifth of the users come in the busy hour, {actions} actions
each (`benchmarks/hour.toml`). An action asks for {each}. A session has
{bytes_each:,.0f} bytes ([growth](growth.md)). Sessions and limits are each in one slot,
so each is on one node however many there are; what remains is divided. *Cores* are main
threads of servers at the costs above (one server; six primaries).
"""


def render(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the page."""
    about = {"tasks": TASKS, **found, **found["machine"]}
    busy = max(about["load"], about["load_after"]) > machine.QUIET
    about["quiet"] = ": **the machine was not quiet**" if busy else ""
    yield _HEAD.format(**about)
    names = [ONE, *[f"{count} primaries" for count in PRIMARIES]]
    names[1] = "1 primary"
    yield "| client, us | " + " | ".join(names) + " |"
    yield "| --- |" + " ---: |" * len(names)
    for part, curve in found["curves"].items():
        cells = [f"{each['client']:.1f}" for each in curve.values()]
        yield f"| {part} | {' | '.join(cells)} |"
    yield ""
    yield "| busiest node, us (calls/s) | " + " | ".join(names) + " |"
    yield "| --- |" + " ---: |" * len(names)
    for part, curve in found["curves"].items():
        cells = [
            f"{each['busiest']:.1f} ({1e6 / each['busiest']:,.0f})"
            for each in curve.values()
        ]
        yield f"| {part} | {' | '.join(cells)} |"
    yield ""
    yield "| all nodes, us | " + " | ".join(names) + " |"
    yield "| --- |" + " ---: |" * len(names)
    for part, curve in found["curves"].items():
        cells = [f"{each['servers']:.1f}" for each in curve.values()]
        yield f"| {part} | {' | '.join(cells)} |"
    each = ", ".join(f"{count:g} x {part}" for part, count in ACTION.items())
    model = tomllib.loads((ROOT / "benchmarks/hour.toml").read_text(encoding="utf-8"))
    yield _GROWTH.format(
        actions=model["actions_per_user"], each=each, bytes_each=found["bytes_each"]
    )
    yield (
        "| users | actions/s | sessions, GB | one server, cores | sessions' node, "
        "cores | limits' node, cores | divided, cores |"
    )
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for row in growth(found):
        cells = [f"{row['users']:,}", f"{row['actions']:,.0f}"]
        cells += [f"{row['gigabytes']:,.2f}"]
        cells += [
            f"{row[name]:.3f}" + (" **full**" if row[name] > FULL else "")
            for name in ("one", "sessions", "limits", "spread")
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"*Full*: above {FULL:.0%} of a core."


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn")
    options = parser.parse_args()
    if os.getloadavg()[0] > machine.QUIET:
        print("the machine is not quiet: the times will suffer", file=sys.stderr)
    found = uvloop.run(measure(options.turns, options.seconds))
    found["growth"] = list(growth(found))
    page = "\n".join(render(found)) + "\n"
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "curves.json").write_text(json.dumps(found, indent=1) + "\n")
    (ROOT / "docs" / "results" / "curves.md").write_text(page)
    print(json.dumps(found, indent=1) if options.json else page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
