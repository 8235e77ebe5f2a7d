"""One process of several that change the same sessions, until it is killed.

Arguments: URL, prefix, name of this process, sealing key. Each call is printed as a
line of JSON when it begins and when it ends; the clock is the machine's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from time import monotonic
from typing import Annotated

from oddswire import Client
from oddswire.codec import Keyring
from oddswire.errors import OddswireError
from oddswire.sessions import Collection, Record, Sessions

USERS = 4
REGISTERS = (101, 102)


class Shared(Record):
    """What all of them change."""

    done: dict[str, float] = {}
    register: str = ""
    wallets: Annotated[dict[str, None], Collection(100_000, index="wallet")] = {}


def say(**what):
    """Print a line at once: a killed process keeps nothing back."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main(url, prefix, name, key):
    """Change sessions until killed; an outage is no complaint."""
    logging.disable()
    keyring = Keyring.from_text(key)
    async with (
        Client.from_url(url) as client,
        Sessions(client, Shared, prefix=prefix, keyring=keyring) as sessions,
    ):
        await asyncio.gather(*(work(sessions, name, task) for task in range(2)))


async def work(sessions, name, task):
    """Make one call after the other."""
    for count in range(1_000_000):
        tag = f"{name}.{task}.{count}"
        kind = count % 4
        user = (REGISTERS if kind > 1 else range(USERS))[
            count // 4 % (4 if kind < 2 else 2)
        ]
        op = ("done", "wallet", "set", "get")[kind]
        say(at="begin", tag=tag, op=op, user=user, time=monotonic())
        outcome, value = "ok", None
        try:
            if op == "done":
                await sessions.update(
                    user, lambda s, tag=tag: s.done.update({tag: 1.0}), create=True
                )
            elif op == "wallet":
                await sessions.add_to(user, "wallets", tag)
            elif op == "set":
                await sessions.update(
                    user, lambda s, tag=tag: setattr(s, "register", tag), create=True
                )
            else:
                session = await sessions.get(user, fresh=True)
                value = session.register if session else ""
        except OddswireError as error:
            outcome = error.outcome.value
        say(at="end", tag=tag, outcome=outcome, value=value, time=monotonic())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
