"""Processes that make one call and are killed -9 at one step of it.

Arguments: URL, beginning of prefixes, sealing keys. It finds out by itself which steps
each call has, and has a process killed at each of them, on sessions of its own. A line
is printed for each: prefix, call, name of the step, how the process ended, and which
steps it had come to. Before them, one for the whole call: "all" in place of a step.
With a call and a step too, a process is only stopped there: "stopped" is printed, and
it goes on with the next line of input.

A step is a command (named by its script) before it is sent, half sent, sent, and
answered; and memory (`near`, `mirror`) before and after it is changed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections import Counter
from contextlib import suppress
from typing import Annotated

from oddswire import Client
from oddswire.codec import Keyring
from oddswire.connection.multiplexer import Multiplexer
from oddswire.errors import SessionGone
from oddswire.scripts import Script
from oddswire.sessions import Collection, Expiring, Indexed, Record, Secret, Sessions
from oddswire.sessions import _scripts as scripts
from support.hooks import (
    advance_server_clock,
    forget_generations,
    half_of,
    mirror_complete,
    session_steps,
)

NAME = "dying"
"""Of the wires of processes that are to die."""
AT_ONCE = 6
HOUR = 3600

SCRIPTS = {
    each.sha.encode(): name.lower()
    for name, each in vars(scripts).items()
    if isinstance(each, Script)
}
CHANGING = {"save", "member", "touch", "switch", "delete", "reap", "move"}


class Person(Record):
    """A session with every kind of field."""

    city: Annotated[str, Indexed()] = ""
    note: str = ""
    wallets: Annotated[dict[str, str], Collection(20, index="wallet")] = {}
    dialog: Annotated[list[str], Expiring()] = []
    token: Annotated[str, Secret()] = ""


def born(person):
    """Fill a session, each kind of field."""
    person.city, person.dialog, person.token = "Oslo", ["where?"], "secret"
    person.wallets = {"0xaa": "whale", "0xbb": ""}


def moved(person):
    """Change each kind of field."""
    person.city, person.dialog, person.token = "Rome", ["there"], ""
    person.wallets = {"0xbb": "seal", "0xcc": ""}


async def held(sessions):
    """Change a session while it is held."""
    async with sessions.exclusive(1) as person:
        moved(person)


CALLS = {
    # What is called, and how many changes it announces (None: the log is dropped).
    "update": (lambda s: s.update(1, moved), 1),
    "begin": (lambda s: s.update(5, born, create=True), 1),
    "exclusive": (held, 1),
    "add": (lambda s: s.add_to(1, "wallets", "0xcc", "new"), 1),
    "remove": (lambda s: s.remove_from(1, "wallets", "0xaa"), 1),
    "touch": (lambda s: s.touch(1), 0),
    "off": (lambda s: s.deactivate(1), 1),
    "on": (lambda s: s.activate(4), 1),
    "revoke": (lambda s: s.revoke(1), 1),
    "migrate": (lambda s: s.migrate(1, 5), 2),
    "delete": (lambda s: s.delete(1), 1),
    "erase": (lambda s: s.erase(1), None),
    "sweep": (lambda s: s.sweep(), 0),
    "reencrypt": (lambda s: s.reencrypt(), 3),
}


def open_sessions(client, prefix, keys, **options):
    """Return sessions of one process; without keys nothing is sealed."""
    keyring = Keyring.from_text(keys) if keys else None
    return Sessions(client, Person, prefix=prefix, keyring=keyring, **options)


async def prepare(client, prefix, keys):
    """Store two users that are alike, one whose time is over, one switched off."""
    # Without the newest key, so that there is something to encrypt again.
    sessions = open_sessions(client, prefix, keys.partition("\n")[2])
    advance_server_clock(sessions, -48 * HOUR)
    await sessions.update(3, lambda p: p.dialog.append("over"), create=True)
    advance_server_clock(sessions, 47.5 * HOUR)
    for user in (1, 2, 4):
        await sessions.update(user, born, create=True)
    await sessions.deactivate(4)


class Steps:
    """Notes each step of a call, and kills the process at one of them.

    Args:
        last: Where to die; "" nowhere.
        told: Of each step, when it is reached.
        deadly: By which signal.
    """

    def __init__(self, last, told, deadly=signal.SIGKILL):
        self.last = last
        self.told = told
        self.deadly = deadly
        self.seen = []
        self.on = False
        self._count = Counter()

    def reach(self, step):
        """Come to a step."""
        self.seen.append(step)
        self.told(step)
        if step == self.last:
            os.kill(os.getpid(), self.deadly)

    def number(self, name):
        """Return a name with how often it came."""
        self._count[name] += 1
        return f"{name}{self._count[name]}"

    def watch_wires(self):
        """Have each command of the command wire be four steps."""
        send = Multiplexer.send

        def stepwise(wire, data, *args, **kwargs):
            # The heartbeat comes by the clock, at another step each time.
            if not self.on or b"-beat" in data:
                return send(wire, data, *args, **kwargs)
            digest = data.split(b"\r\n")[4:5]
            name = self.number(SCRIPTS.get(digest[0] if digest else b"", "command"))
            self.reach(f"{name}.before")
            if name.rstrip("0123456789") not in CHANGING:
                return send(wire, data, *args, **kwargs)
            if self.last == f"{name}.half":
                half_of(wire, data)
            self.reach(f"{name}.half")
            future = send(wire, data, *args, **kwargs)
            self.reach(f"{name}.sent")
            future.add_done_callback(lambda _: self.reach(f"{name}.answered"))
            return future

        Multiplexer.send = stepwise

    def watch(self, owner, method, name):
        """Have a method be two steps."""
        function = getattr(owner, method)

        def stepwise(*args):
            if not self.on:
                return function(*args)
            numbered = self.number(name)
            self.reach(f"{numbered}.before")
            function(*args)
            return self.reach(f"{numbered}.after")

        setattr(owner, method, stepwise)


async def live(told, url, prefix, call, keys, where, deadly=signal.SIGKILL):
    """Make the call, telling of each step, and die at one of them."""
    steps = Steps(where, told, deadly)
    steps.watch_wires()
    async with Client.from_url(url, client_name=NAME) as client:
        await prepare(client, prefix, keys)
        sessions = open_sessions(client, prefix, keys)
        async with sessions:
            make, announced = CALLS[call]
            while not mirror_complete(sessions):
                await sessions.users_for("city", "Oslo")
            for user in (1, 2, 4):
                await sessions.get(user, fresh=True)
            forget_generations(sessions)
            for step, name in (("keep", "near"), ("forget", "near"), ("mirror",) * 2):
                steps.watch(*session_steps(sessions)[step], name)
            steps.on = True
            with suppress(SessionGone if deadly == signal.SIGSTOP else ()):
                await make(sessions)
            if deadly == signal.SIGSTOP:
                return
            last = f"mirror{announced}.after"
            while announced and last not in steps.seen:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            # Dropped, the log is not followed on: memory is built anew, at any time.
            steps.on = False


def fork(*args):
    """Live in a process of its own; return its id, and a file of its steps."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, os.fdopen(reader)
    os.close(reader)
    try:
        asyncio.run(live(lambda step: os.write(writer, f"{step}\n".encode()), *args))
        os._exit(0)
    except BaseException:  # noqa: BLE001 - no child ever goes on in the parent's code
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def run_all(url, prefix, keys):
    """Kill a process at each step of each call."""
    cases = []
    for call in CALLS:
        where = f"{prefix}-{call}:"
        child, said = fork(url, where, call, keys, "")
        with said:
            steps = said.read().split()
        _, status = os.waitpid(child, 0)
        print(where, call, "all", os.waitstatus_to_exitcode(status), *steps)
        cases += [(call, number, step) for number, step in enumerate(steps)]
    running = {}
    while cases or running:
        while cases and len(running) < AT_ONCE:
            call, number, step = cases.pop(0)
            where = f"{prefix}-{call}-{number}:"
            child, said = fork(url, where, call, keys, step)
            running[child] = said, where, call, step
        child, status = os.wait()
        said, *case = running.pop(child)
        with said:
            print(*case, os.waitstatus_to_exitcode(status), *said.read().split())


def stop_at(url, prefix, keys, call, step):
    """Stop a process at a step, and let it go on."""
    child, said = fork(url, prefix, call, keys, step, signal.SIGSTOP)
    _, status = os.waitpid(child, os.WUNTRACED)
    print("stopped" if os.WIFSTOPPED(status) else "ended", flush=True)
    sys.stdin.readline()
    os.kill(child, signal.SIGCONT)
    _, status = os.waitpid(child, 0)
    said.close()
    print(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    (run_all if len(sys.argv) == 4 else stop_at)(*sys.argv[1:])
