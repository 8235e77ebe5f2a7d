"""`LoopGuard`: the event loop and the process that connections belong to."""

from __future__ import annotations

import asyncio
import os

from oddswire.errors import WrongLoop


class LoopGuard:
    """The first event loop that uses a connection owns it.

    A socket that two loops or two processes read from gives each of them the other's
    replies.

    Attributes:
        loop: The owner; None until the first `check`.
    """

    __slots__ = ("_pid", "loop")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def is_this_process(self) -> bool:
        """Whether the owner is this process, not the one it was forked from."""
        return self._pid == os.getpid()

    def check(self) -> None:
        """Become the owner, or make sure that the running loop is.

        Raises:
            WrongLoop: Another loop, or the process this one was forked from, owns it.
        """
        if self.loop is not None and self._pid != os.getpid():
            # First: in the child of a fork no loop runs, and asyncio says just that.
            raise WrongLoop(
                "this client belongs to the process that was forked: "
                "open one client per process, after the fork"
            )
        loop = asyncio.get_running_loop()
        if self.loop is None:
            self.loop, self._pid = loop, os.getpid()
        elif self.loop is not loop:
            raise WrongLoop(
                "this client belongs to another event loop: open one client per loop"
            )
