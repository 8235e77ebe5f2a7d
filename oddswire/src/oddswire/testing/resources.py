"""`Resources`: how many sockets, tasks and threads a program has."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec


class Resources(msgspec.Struct, frozen=True):
    """The resources of this process. Compare those before a step with those after it.

    Attributes:
        sockets: Open sockets; 0 where the system does not show them (only Linux does).
        tasks: Tasks of the running loop, the current one included.
        threads: Threads of the process; 0 where the system does not show them.
    """

    sockets: int
    tasks: int
    threads: int

    @classmethod
    def now(cls) -> Resources:
        """Count them. Call it in a running loop."""
        return cls(
            sockets=_sockets(),
            tasks=len(asyncio.all_tasks()),
            threads=_count(Path("/proc/self/task")),
        )

    def leaked(self, before: Resources) -> list[str]:
        """Return one line for each count that is higher than before."""
        return [
            f"{name}: {getattr(self, name)}, {getattr(before, name)} before"
            for name in self.__struct_fields__
            if getattr(self, name) > getattr(before, name)
        ]


def _sockets() -> int:
    found = 0
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return 0
    for descriptor in folder.iterdir():
        try:
            found += str(descriptor.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    return found


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
