"""Does memory stay flat? Commands, cancelled calls, reconnections, push messages.

    python benchmarks/memory.py            a tenth of it, some seconds
    python benchmarks/memory.py --full     1,000,000 commands, 100,000 cancelled calls,
                                           1,000 reconnections, 100,000 pushes

Prints the resident memory of this process along the way; the last line says whether
any phase grew by more than its bound after its first tenth.
"""

# ruff: noqa: T201 (a script that prints)

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oddswire import Client, EmbeddedServer
from oddswire.errors import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_PAGE = 4096
_BOUND = 2 * 1024 * 1024  # bytes: what an allocator's own arenas may take


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


async def _measure(name: str, total: int, work: Callable[[int], Awaitable[Any]]) -> int:
    """Run `work` in ten steps; return the bytes that the last nine added."""
    step = total // 10
    await work(step)
    seen = [_resident()]
    for _ in range(9):
        await work(step)
        seen.append(_resident())
    grown = seen[-1] - seen[0]
    path = " ".join(f"{size / 2**20:.1f}" for size in seen)
    print(f"{total:>9,} {name:<16} {grown / 1024:>7,.0f} KiB grown   MiB: {path}")
    return grown


async def _main(scale: int) -> int:
    args = ("--save", "")
    async with EmbeddedServer(args=args) as server:
        client = Client.from_url(
            server.url, reconnect_delay=0.001, reconnect_cap=0.001, retries=3
        )
        await client.set("k", "v" * 100)

        async def commands(count: int) -> None:
            for _ in range(count // 100):
                await asyncio.gather(*(client.get("k") for _ in range(100)))

        async def cancelled(count: int) -> None:
            loop = asyncio.get_running_loop()
            for _ in range(count // 100):
                calls = [loop.create_task(client.get("k")) for _ in range(100)]
                await asyncio.sleep(0)
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)
            await client.ping()

        async def reconnections(count: int) -> None:
            for _ in range(count):
                await client.ping()
                connection = client._command.current  # noqa: SLF001 - there is no public way to lose it
                if connection is not None:
                    connection.abort(ConnectionLost("cut"))

        pushed = 0
        arrived = asyncio.Event()

        def on_push(push: list[Any]) -> None:
            nonlocal pushed
            pushed -= len(push[1] or ())  # None: the database was emptied
            if pushed <= 0:
                arrived.set()

        tracked = client.tracked(on_push, "BCAST")
        await tracked.ping()

        async def pushes(count: int) -> None:
            nonlocal pushed
            pushed = count
            arrived.clear()
            for start in range(0, count, 1_000):
                pipe = client.pipeline(transaction=False)
                for n in range(start, min(count, start + 1_000)):
                    pipe.set(f"p{n % 1_000}", "v")
                await pipe.execute()
            async with asyncio.timeout(60):
                await arrived.wait()

        grown = [
            await _measure("commands", 100_000 * scale, commands),
            await _measure("cancelled calls", 10_000 * scale, cancelled),
            await _measure("reconnections", 100 * scale, reconnections),
        ]
        await client.flushdb()
        grown.append(await _measure("pushes", 10_000 * scale, pushes))
        await tracked.aclose()
        await client.aclose()
    flat = max(grown) <= _BOUND
    print("flat" if flat else f"NOT flat: a phase grew by more than {_BOUND:,} bytes")
    return 0 if flat else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="ten times as much")
    sys.exit(asyncio.run(_main(10 if parser.parse_args().full else 1)))
