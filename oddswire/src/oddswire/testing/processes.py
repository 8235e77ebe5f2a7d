"""`frozen`: stop a process for the time of a block."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oddswire.embedded import EmbeddedServer


@contextmanager
def frozen(process: EmbeddedServer | int) -> Iterator[None]:
    """Stop a process (SIGSTOP) for the block, and continue it afterwards (SIGCONT).

    Its sockets stay open, and the kernel accepts connections for it; nothing answers.
    If the process was killed meanwhile, nothing is sent.
    """
    pid = process if isinstance(process, int) else process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
