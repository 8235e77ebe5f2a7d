"""One process of two whose keys rotate; each line that it reads is a command.

Arguments: URL, prefix. ``keys <path>`` begins again with that key file, ``use``
changes, reads and looks up every user, ``reencrypt`` and ``retire <number>`` are the
calls. Each command is answered with one line: ``ok``, or what failed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

from oddswire import Client
from oddswire.codec import Keyring
from oddswire.errors import OddswireError
from oddswire.sessions import Collection, Record, Sessions

USERS = range(3)
IDLE = 9


class Owner(Record):
    """Something durable, and an index."""

    count: int = 0
    wallets: Annotated[dict[str, str], Collection(9, index="wallet")] = {}


async def main(url, prefix):
    """Do as each line says."""
    async with Client.from_url(url) as client:
        sessions = None
        for line in sys.stdin:  # one process, one thing at a time: reading may block
            command, *rest = line.split()
            try:
                if command == "keys":
                    keyring = await asyncio.to_thread(Keyring.from_file, rest[0])
                    sessions = Sessions(client, Owner, prefix=prefix, keyring=keyring)
                elif command == "reencrypt":
                    await sessions.reencrypt()
                elif command == "retire":
                    await sessions.retire(int(rest[0]))
                else:
                    await use(sessions)
            except (OddswireError, AssertionError) as error:
                say(f"{command}: {type(error).__name__} {error}")
            else:
                say("ok")


async def use(sessions):
    """Change, read and look up every user; one is only read."""
    if await sessions.get(IDLE) is None:
        await sessions.update(IDLE, lambda s: setattr(s, "count", 1), create=True)
    for user in USERS:
        before = await sessions.get(user)
        after = await sessions.update(
            user, lambda s: setattr(s, "count", s.count + 1), create=True
        )
        assert after.count == (before.count if before else 0) + 1
        await sessions.add_to(user, "wallets", "0xaa", "whale")
    assert await sessions.users_for("wallet", "0xaa", fresh=True) == set(USERS)


def say(line):
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
