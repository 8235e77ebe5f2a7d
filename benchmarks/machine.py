"""What the figures were measured on."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import platform
import shutil
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis.asyncio as aredis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oddswire.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("oddswire", "redis", "hiredis", "coredis", "valkey-glide", "uvloop")

# Above this somebody else takes part of a core from whoever is measured.
QUIET = 0.5


@contextmanager
def one_core(server: int) -> Iterator[None]:
    """Run this process and the server, by its process id, on the same core.

    Over two, a lone call is mostly the time in which an idle core is woken, twice, and
    on a virtual machine that is the hypervisor's business, not a client's.
    """
    usual = {pid: os.sched_getaffinity(pid) for pid in (0, server)}
    core = {min(usual[0])}
    try:
        for pid in usual:
            _pin(pid, core)
        yield
    finally:
        for pid, cores in usual.items():
            _pin(pid, cores)


def _pin(pid: int, cores: set[int]) -> None:
    for thread in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


async def describe(server: EmbeddedServer) -> dict[str, Any]:
    """Return the machine, the versions, the commit and how busy it is."""
    async with aredis.Redis.from_url(server.url) as client:
        info = await client.info("server")
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),  # noqa: TID251 - a command
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "server": f"{info.get('server_name', 'redis')} "
        f"{info.get('valkey_version', info['redis_version'])}",
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit(ROOT),
        "load": round(os.getloadavg()[0], 2),
    }


def commit(checkout: Path) -> str:
    """Return the commit of a checkout, with ``-dirty`` where it was changed."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    return subprocess.run(  # noqa: S603 - git, with a path of ours
        command, capture_output=True, text=True, check=False
    ).stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or sys.platform


async def redis_benchmark(server: EmbeddedServer) -> dict[str, float] | None:
    """Return what the server's own load generator, in C, reaches; None: not on PATH."""
    program = shutil.which("valkey-benchmark") or shutil.which("redis-benchmark")
    if program is None:
        return None
    rates = {}
    for name, extra in (("not pipelined", ()), ("pipelined by 50", ("-P", "50"))):
        process = await asyncio.create_subprocess_exec(
            *(program, "-h", server.host, "-p", str(server.port)),
            *("-a", server.password),
            *("-c", "50", "-n", "500000", "-d", "100", "-t", "get", "--csv", *extra),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        last = output.decode().strip().splitlines()[-1]
        rates[f"redis-benchmark -c 50, {name}, GETs/s"] = float(last.split('"')[3])
    return rates
