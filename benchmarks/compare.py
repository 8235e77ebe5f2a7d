"""``make compare``: a minute on your machine: ours beside redis-py and glide.

A short form of ``make bench``, with its peers, its checks and its way of measuring.
Writes no page.
"""

# ruff: noqa: T201 - a command talks

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import AsyncExitStack
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import bench_client
import machine
import peers
import redis.asyncio as aredis
import uvloop
from compare_text import NAMES, render
from hiredis import pack_command
from peers import TASKS
from timing import Effort, figure, latency, rate, ratio, rounds
from yardsticks import AsyncioAlone, open_bare

from oddswire.embedded import EmbeddedServer

if TYPE_CHECKING:
    from peers import Peer

EFFORT = Effort(rounds=5, seconds=0.3)
COMMANDS = ("set ex", "incr")
STEPS = 5 + len(COMMANDS)
POOLS_TRIED = (
    "ConnectionPool(100)",
    "BlockingConnectionPool(10)",
    "BlockingConnectionPool(20)",
)


class Progress:
    """One line on stderr that names the step; a terminal's line is rewritten."""

    def __init__(self) -> None:
        self._step = 0
        self._terminal = sys.stderr.isatty()

    def say(self, what: str) -> None:
        """Begin the next step."""
        self._step += 1
        self._print(f"[{self._step}/{STEPS}] {what}")

    def clear(self) -> None:
        """Leave the terminal's line empty."""
        if self._terminal:
            self._print("")

    def _print(self, line: str) -> None:
        text = f"\r\x1b[2K{line}" if self._terminal else f"{line}\n"
        sys.stderr.write(text)
        sys.stderr.flush()


async def measure(progress: Progress) -> dict[str, Any]:
    """Return every figure, measured on a server of its own."""
    started = perf_counter()
    progress.say("a server of its own, and what each client answers")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer())
        described = await machine.describe(server)
        plain = aredis.Redis.from_url(server.url)
        stack.push_async_callback(plain.aclose)
        sha = await peers.fill(plain)
        progress.say("redis-py: its fastest pool")
        _, best = await bench_client.best_redis_py(
            stack, server, sha, EFFORT, POOLS_TRIED
        )
        clients: list[Peer] = [
            await peers.ours(stack, server, sha),
            best,
            await peers.open_glide(stack, server),
        ]
        for client in clients:
            await bench_client.check(client, plain)
        rows = []
        progress.say("asyncio alone and a get, 100 tasks")
        against_asyncio, row = await _against_asyncio(clients)
        rows.append(row)
        for command in COMMANDS:
            progress.say(f"{command}, 100 tasks")
            rows.append(await _together(clients, command))
        progress.say("a pipeline of 100 commands")
        rows.append(await _pipelines(clients))
        progress.say("one task on one core")
        against_bare = await _against_bare(stack, server, clients)
    return {
        "machine": described,
        "quiet": described["load"] <= machine.QUIET,
        "pool": best.label,
        "rows": rows,
        "against_asyncio": against_asyncio,
        "against_bare": against_bare,
        "seconds": perf_counter() - started,
    }


def _rates(clients: list[Peer], command: str) -> dict[str, Any]:
    return {
        client.name: partial(
            rate, [client.call(command, task) for task in range(TASKS)], EFFORT.seconds
        )
        for client in clients
    }


def _row(what: str, values: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "what": what,
        "figures": {name: figure(values[name]).median for name in NAMES},
        "ratios": {name: ratio(values[NAMES[0]], values[name]) for name in NAMES[1:]},
    }


async def _together(clients: list[Peer], command: str) -> dict[str, Any]:
    return _row(f"{command}, calls/s", await rounds(_rates(clients, command), EFFORT))


async def _against_asyncio(
    clients: list[Peer],
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure GETs in the same rounds as futures that asyncio resolves together."""
    alone = [AsyncioAlone()] * TASKS
    measures = _rates(clients, "get") | {
        "asyncio": partial(rate, alone, EFFORT.seconds)
    }
    values = await rounds(measures, EFFORT)
    times = {name: ratio(values["asyncio"], values[name]) for name in NAMES}
    return times, _row("get, calls/s", values)


async def _pipelines(clients: list[Peer]) -> dict[str, Any]:
    measures = {
        client.name: partial(latency, client.batch, EFFORT.seconds)
        for client in clients
    }
    values = await rounds(measures, EFFORT)
    commands = {name: [100 / each for each in times] for name, times in values.items()}
    return _row("pipelines of 100, calls/s", commands)


async def _against_bare(
    stack: AsyncExitStack, server: EmbeddedServer, clients: list[Peer]
) -> dict[str, float] | None:
    """Return how many times as long a lone GET takes; None: the system cannot pin."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    bare = await open_bare(stack, server.host, server.port, server.password)
    get = pack_command(("GET", peers.key("get", 0)))
    calls = {client.name: client.call("get", 0) for client in clients}
    calls["bare"] = partial(bare.call, get)
    with machine.one_core(server.pid):
        values = await rounds(
            {
                name: partial(latency, call, EFFORT.seconds)
                for name, call in calls.items()
            },
            EFFORT,
        )
    return {name: ratio(values[name], values["bare"]) for name in NAMES}


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    progress = Progress()
    found = uvloop.run(measure(progress))
    progress.clear()
    print(json.dumps(found, indent=1) if options.json else render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
