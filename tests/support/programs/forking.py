"""Runs `oddsbot` in processes forked from this one, which has imported everything.

Each message on the socket that is its stdin asks for one: JSON with `args`, `environ`,
`folder`, and the descriptors that become stdout and stderr. It is answered by the
process's id, and at its end by the id and the exit code, a line each.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading

# What the commands would import one by one.
import oddsbot.check
import oddsbot.demo.browser
import oddsbot.demo.run
import oddsbot.demo.view  # noqa: F401
from oddsbot.cli import main

LARGEST = 65_536


def reap(asks) -> None:
    """Say which processes ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        asks.sendall(f"{pid} {os.waitstatus_to_exitcode(status)}\n".encode())


def become(asked, out, err) -> None:
    """Be the process that was asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nothing, out, err)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(asked["folder"])
    os.environ.clear()  # noqa: TID251 - it is that of the command
    os.environ.update(asked["environ"])  # noqa: TID251
    sys.argv = ["oddsbot", *asked["args"]]
    main()


def serve(asks) -> None:
    """Fork a process for each message."""
    signal.signal(signal.SIGCHLD, lambda *_: reap(asks))
    while True:
        message, descriptors, _, _ = socket.recv_fds(asks, LARGEST, 2)
        if not message:
            return
        pid = os.fork()
        if not pid:
            asks.close()
            become(json.loads(message), *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        asks.sendall(f"{pid}\n".encode())


# A thread would not be in the forked process.
assert threading.active_count() == 1
gc.collect()
gc.freeze()
with socket.socket(fileno=os.dup(0)) as asked_by:
    serve(asked_by)
