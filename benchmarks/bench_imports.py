"""What importing `Client` adds to importing redis-py's asyncio client."""

from __future__ import annotations

import asyncio
import os
import sys
from statistics import median
from subprocess import PIPE
from typing import TYPE_CHECKING

from timing import Effort, rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.embedded import EmbeddedServer

# CPU time: files that are read for the first time are not in it.
_PROCESS = """
from time import process_time
began = process_time()
{}
print(process_time() - began)
"""


async def measure(
    server: EmbeddedServer,  # noqa: ARG001 - as every group
    effort: Effort,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Return milliseconds of both, each in interpreters of their own."""
    say("imports")

    async def took(statement: str) -> float:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _PROCESS.format(statement)),
            stdout=PIPE,
            # Compiled once, as a package that was installed is: with this variable set,
            # as images of containers have it, a checkout is compiled by each process.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},  # noqa: TID251
        )
        output, _ = await process.communicate()
        return 1e3 * float(output)

    values = await rounds(
        {
            "theirs": lambda: took("import redis.asyncio"),
            "ours": lambda: took("import oddswire; oddswire.Client"),
        },
        effort,
    )
    theirs, ours = median(values["theirs"]), median(values["ours"])
    return {"theirs_ms": theirs, "ours_ms": ours, "more_ms": ours - theirs}
