"""A process that is killed: ``worker.py URL NAME``.

It changes one session and prints each tag when both of its changes are acknowledged. It
delivers messages to the list ``sent``; of one that says so it has not done when it is
killed, and the list ``held`` tells of it.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from typing import Annotated, Any

from oddswire import Client
from oddswire.queue import Message, Queue
from oddswire.sessions import Collection, Record, Sessions

USER = 1
HOLD = "hold"
LEASE = 0.5


class Shared(Record):
    """What all of them change."""

    done: dict[str, int] = {}
    wallets: Annotated[dict[str, None], Collection(100_000, index="wallet")] = {}


def queue_of(client: Client) -> Queue[str]:
    """Return the queue that all of them consume."""
    return Queue(client, "chaos", str, lease=LEASE, poll=0.1)


async def main(url: str, name: str) -> None:
    """Change and deliver until killed."""

    async def deliver(message: Message[str]) -> None:
        if message.value == HOLD:
            await client.rpush("held", 1)
            await asyncio.Event().wait()
        await client.rpush("sent", message.value)

    async with (
        Client.from_url(url) as client,
        Sessions(client, Shared) as sessions,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(queue_of(client).consume(deliver))
        for number in count():
            tag = f"{name}.{number}"
            await sessions.update(USER, _adding(tag), create=True)
            await sessions.add_to(USER, "wallets", tag, None)
            sys.stdout.write(tag + "\n")
            sys.stdout.flush()


def _adding(tag: str) -> Any:
    return lambda session: session.done.update({tag: 1})


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
