"""A process that changes one session and kills itself, or changes until it is killed.

Arguments: URL, prefix, file of the source, the call, and where to die: "before" or
"after", a dot, and the name of a step; or "never". What was acknowledged is printed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress

from source_desk import Desk, Person, Sessions

from oddswire import Client
from oddswire.errors import SessionError

STEPS = ("mark", "save", "delete", "store", "restore")


def dying(function, when):
    """Return a function that kills this process before it, or when it has returned."""

    async def call(*args, **kwargs):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    return call


def arm(sessions, source, where):
    """Have the process die at a step."""
    when, _, step = where.partition(".")
    owner, name = {
        "mark": (sessions._backing.ledger, "mark"),
        "save": (source, "save"),
        "delete": (source, "delete"),
        "store": (sessions._store, "save"),
        "restore": (sessions._backing.ledger, "restore"),
    }[step]
    setattr(owner, name, dying(getattr(owner, name), when))


async def main(url, prefix, path, what, where):
    """Make the call."""
    with Desk(path) as source:
        async with Client.from_url(url) as client:
            sessions = Sessions(client, Person, prefix=prefix, source=source)
            if where != "never":
                arm(sessions, source, where)
            match what:
                case "update":
                    await sessions.update(1, rename, create=True)
                case "off":
                    await sessions.deactivate(1)
                case "delete":
                    await sessions.delete(1)
                case _:
                    await count(sessions)


def rename(person):
    """Change a session."""
    person.city = "Rome"


async def count(sessions):
    """Count on for ever, and tell of each count that was acknowledged."""
    while True:

        def one_more(person):
            person.count += 1

        with suppress(SessionError):
            person = await sessions.update(1, one_more, create=True)
            sys.stdout.write(f"{person.count}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
