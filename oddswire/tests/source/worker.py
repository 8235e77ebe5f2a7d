"""A process that changes one session and kills itself, or changes until it is killed.

Arguments: URL, then lists of prefix, file of the source, call, and where to die:
"before" or "after", a dot, and the name of a step; or "never". Each list is a process
of its own, forked. What was acknowledged is printed, and how each process ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress

from desk import Desk, Person, Sessions

from oddswire import Client
from oddswire.errors import SessionError
from support.hooks import session_steps


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
    steps = {"save": (source, "save"), "delete": (source, "delete")}
    owner, name = (session_steps(sessions) | steps)[step]
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


def run_all(url, *lists):
    """Run each list in a process, and tell how it ended."""
    if len(lists) == 4:
        asyncio.run(main(url, *lists))
    children = []
    for at in range(0, len(lists), 4):
        child = os.fork()
        if child == 0:
            asyncio.run(main(url, *lists[at : at + 4]))
            os._exit(0)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    run_all(*sys.argv[1:])
