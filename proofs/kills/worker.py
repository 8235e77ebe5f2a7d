"""The processes of the proof: watchers and couriers, as the bot runs them.

This program forks one for each role that it reads, a line each, so that a new one need
not import everything first: on a busy machine that takes longer than it lives.
Each process prints one JSON object a line: when it was ready, and when it took the
shard over. The program prints when one was started, and when one ended.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import select
import sys
import time
import traceback
from typing import Any

import aiohttp

import oddswire
from oddsbot.delivery import ALERTS, Courier, Decision, Home, Outbox, Sweep
from oddsbot.polymarket import Clob, Silence, StreamPool
from oddsbot.settings import PREFIX
from oddsbot.store import AlertLog, Fate, SqlRules, open_database
from oddsbot.watch import Rounds, Shard
from oddswire.clock import SystemClock


class Telling(logging.Handler):
    """Prints what the shard says of itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the event of a record."""
        tell(getattr(record, "event", "log"), text=record.getMessage())


def tell(event: str, **fields: object) -> None:
    """Print what happened, and when."""
    line = {"event": event, "pid": os.getpid(), "at": time.time(), **fields}  # noqa: TID251
    # One write: the lines of several processes share a pipe.
    os.write(1, f"{json.dumps(line)}\n".encode())


async def watch(options: dict[str, Any], clock: SystemClock) -> None:
    """Follow the market, and judge it while this process is the owner."""
    async with (
        open_database(options["database"]) as engine,
        oddswire.connect(queues=[ALERTS], **redis(options)) as wire,
        aiohttp.ClientSession() as http,
        StreamPool(
            http,
            f"{options['market']}?pid={os.getpid()}",
            lambda ids: Clob(http, options["books"]).books(*ids),
            silence=Silence(**options.get("silence", {})),
            backoff=(0.05, 0.5),
        ) as feed,
    ):
        rules, log = SqlRules(engine), AlertLog(engine)
        queue = wire.queues[ALERTS]
        outbox = Outbox(queue, log, Home(wire.client, PREFIX), clock)
        rounds = Rounds(engine, "0", rules, clock)
        shard = Shard(rounds, rules, feed, wire.locks, outbox, clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(outbox.run())
            tasks.create_task(shard.run())
            tell("ready")


async def deliver(options: dict[str, str], clock: SystemClock) -> None:
    """Take alerts out of the queue and hand them to the chat."""
    async with (
        open_database(options["database"]) as engine,
        oddswire.connect(queues=[ALERTS], **redis(options)) as wire,
        aiohttp.ClientSession() as http,
    ):

        async def send(alert, *, again):
            said = {
                "user": alert.user_id, "rule": alert.rule_id, "at": alert.at,
                "id": alert.id, "price": str(alert.price), "seen_at": alert.seen_at,
                "again": again, "pid": os.getpid(),
            }  # fmt: skip
            async with http.post(options["chat"], json=said) as answer:
                answer.raise_for_status()
                return Decision(Fate.SENT, message_id=(await answer.json())["number"])

        log, queue = AlertLog(engine), wire.queues[ALERTS]
        courier = Courier(queue, log, Home(wire.client, PREFIX), send, clock)
        sweep = Sweep(queue, log, wire.locks, clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(courier.run())
            tasks.create_task(sweep.run())
            tell("ready")


def redis(options: dict[str, str]) -> dict[str, object]:
    """Return how the Redis layer is reached."""
    found: dict[str, object] = {
        "url": options["redis"], "prefix": PREFIX, "reconnect_delay": 0.02,
        "command_timeout": 2.0,
    }  # fmt: skip
    if "sentinels" in options:
        found["sentinels"] = options["sentinels"]
        found["sentinel_password"] = options["sentinel_password"]
    return found


def work(role: str, options: dict[str, Any]) -> None:
    """Run a role until killed."""
    for name in ("oddsbot", "oddswire.queue"):
        logging.getLogger(name).addHandler(Telling())
        logging.getLogger(name).setLevel(logging.INFO)
    asyncio.run({"watch": watch, "deliver": deliver}[role](options, SystemClock()))


def bury() -> None:
    """Say which processes have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        tell("ended", child=pid, code=os.waitstatus_to_exitcode(status))


def fork(role: str, options: dict[str, Any]) -> None:
    """Start a process of a role."""
    if os.fork():
        return
    code = 1
    try:
        tell("started", role=role)
        work(role, options)
        code = 0
    except BaseException:  # noqa: BLE001 - as the end of any program
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    """Fork a process for each role that is read, until there is nothing to read."""
    options = json.loads(sys.argv[1])
    gc.freeze()
    while True:
        if select.select([0], [], [], 0.05)[0]:
            said = os.read(0, 65_536).decode()
            if not said:
                return
            for role in said.split():
                fork(role, options)
        bury()


if __name__ == "__main__":
    main()
