"""``make dropin``: what others built on redis-py, unmodified, on our client.

aiogram's storage, the asyncio storage of limits and the Redis backend of cashews run
with the tests of their own source distributions, once on redis-py's class and once on
`oddswire.Client` in its place. What passes with the first must pass with the second;
`REASONS` has the exceptions, and `CLOCKED` what is not counted. Exit status 1: there is
a difference. Writes docs/results/dropin.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tarfile
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import redis

from oddswire.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "dropin"
PAGE = ROOT / "docs" / "results" / "dropin.md"

# Where the tests of limits look for their server.
_LIMITS_PORT = 7379


class Project(NamedTuple):
    """A project, the release that .venv-peers has of it, and its tests of Redis.

    Attributes:
        name: As on PyPI.
        version: Of the source distribution and of the package.
        sha256: Of the source distribution.
        what: What is run, for the page.
        tests: Paths in the source distribution.
        only: Text that the name of a test must contain.
    """

    name: str
    version: str
    sha256: str
    what: str
    tests: tuple[str, ...]
    only: str = ""

    @property
    def folder(self) -> Path:
        """Where it is unpacked."""
        return BUILD / f"{self.name}-{self.version}"


PROJECTS = (
    Project(
        "aiogram",
        "3.31.0",
        "f2c5064fe52d88898c86af62261c405440a014216e45dd99b2c6555a5602ce30",
        "`RedisStorage`, `RedisEventIsolation`",
        ("tests/test_fsm/storage", "tests/test_fsm/test_context.py"),
        only="redis",
    ),
    Project(
        "limits",
        "5.8.0",
        "c9e0d74aed837e8f6f50d1fcebcf5fd8130957287206bc3799adaee5092655da",
        "`async+redis://` with `implementation=redispy`, every strategy",
        # tests/aio/test_storage.py takes coredis, whatever it is told.
        ("tests/aio/test_strategy.py", "tests/aio/storage/test_redis.py"),
        only="[redis]",
    ),
    Project(
        "cashews",
        "7.6.0",
        "fc2456d9153ca424f26b040ef053d000f9092c65b1ad6e6330f66fea95d503f0",
        "`redis://`, client-side caching too",
        tuple(
            f"tests/test_{name}.py"
            for name in (
                *("backend_commands", "blooms", "bugs", "cache", "invalidate"),
                *("circuit_breaker", "client_side_cache", "iterators_cache"),
                *("lock_decorator", "rate_limit", "redis_down"),
                *("tags_feature", "transaction"),
            )
        ),
    ),
)

REASONS = {
    "test_from_url": (
        "gives the class a mock for a connection pool, so that its redis_connect_func "
        "is a mock too; ours refuses a pool that runs a function on each connection"
    ),
}

CLOCKED = {
    "tests/test_backend_commands.py::test_expire": (
        "sets a value for 10 ms and looks 10 ms later: whether it is still there is "
        "decided by the time that the calls themselves take, and ours take less"
    ),
}

_PASSED = {"passed", "xpassed"}

_HEAD = """\
# Drop-in

This page is written by `make dropin`: what others built on redis-py, with the tests of
their own source distributions, once on redis-py {redis} and once with
`oddswire.Client` in the place of `redis.asyncio.Redis`. Nothing of theirs is changed.
A test counts when it passes with redis-py here; others want servers that are not
there, or fail with both.

| project | what | pass with redis-py | of them pass with ours |
| --- | --- | ---: | ---: |"""


def fetch(project: Project) -> None:
    """Download and unpack a source distribution, unless that was done before.

    Raises:
        SystemExit: It is not the file that this was written for, or another version
            is installed.
    """
    if version(project.name) != project.version:
        raise SystemExit(f".venv-peers has another {project.name}: change PROJECTS")
    archive = BUILD / f"{project.name}-{project.version}.tar.gz"
    if not archive.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        wanted = BUILD / f"{project.name}.txt"
        wanted.write_text(
            f"{project.name}=={project.version} --hash=sha256:{project.sha256}\n"
        )
        # With isolation: their build backends, which pip asks for the metadata, are
        # not in .venv-peers.
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        pip += ["--no-binary", project.name, "--require-hashes"]
        subprocess.run([*pip, "--dest", BUILD, "--requirement", wanted], check=True)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != project.sha256:
        raise SystemExit(f"{archive.name} is not the file with the pinned hash")
    if not project.folder.exists():
        with tarfile.open(archive) as bundle:
            bundle.extractall(BUILD, filter="data")


async def run(project: Project, subject: str) -> dict[str, Any]:
    """Run a project's tests on a server of their own; return the plugin's report."""
    report = BUILD / f"{project.name}-{subject}.json"
    report.unlink(missing_ok=True)
    async with EmbeddedServer() as server:
        # The suites' own clients give no password.
        opened = redis.Redis.from_url(server.url)
        opened.config_set("requirepass", "")
        opened.close()
        url = f"redis://{server.host}:{server.port}"
        async with _at_port(server.port):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pytest", "-p", "dropin_plugin", "-q"),
                *("--tb=no", "--override-ini=addopts=", "-p", "no:warnings"),
                *("--override-ini=asyncio_mode=auto", "--timeout=60"),
                "--override-ini=filterwarnings=",
                *("--subject", subject, "--report", str(report)),
                *("--server", url, "--only", project.only),
                *("--redis", f"{url}/0") * (project.name == "aiogram"),
                *("--rootdir", project.folder, "--confcutdir", project.folder),
                *project.tests,
                cwd=project.folder,
                env=os.environ  # noqa: TID251 - its environment
                | {
                    "PYTHONPATH": f"{project.folder}{os.pathsep}{HERE}",
                    "ASYNC_REDIS_IMPLEMENTATION": "redispy",
                },
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await process.communicate()
    if process.returncode not in {0, 1} or not report.exists():
        raise SystemExit(
            f"{project.name} on {subject} did not run:\n"
            + output.decode(errors="replace")
        )
    result: dict[str, Any] = json.loads(report.read_text())
    if (result["calls"] > 0) != (subject == "ours"):
        raise SystemExit(f"{project.name} did not use the class it was to use")
    return result


@asynccontextmanager
async def _at_port(port: int) -> AsyncIterator[None]:
    """Serve what is at a port at the one where limits expects it, too."""
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as both:
            both.create_task(pump(reader, far_writer))
            both.create_task(pump(far_reader, writer))

    listener = await asyncio.start_server(take, "127.0.0.1", _LIMITS_PORT)
    try:
        yield
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def compare(stock: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Return how many pass with both, and what differs."""
    passed, differ, excepted, stale = 0, {}, {}, []
    for test, outcome in stock["outcomes"].items():
        if outcome not in _PASSED or test in CLOCKED:
            continue
        name = test.rpartition("::")[2].partition("[")[0]
        if ours["outcomes"].get(test) in _PASSED:
            passed += 1
            if name in REASONS:
                stale.append(test)
        elif name in REASONS:
            excepted[test] = REASONS[name]
        else:
            reason = ours["reasons"].get(test, "did not run")
            differ[test] = f"{ours['outcomes'].get(test)}: {reason}"
    neither = [
        test for test, outcome in stock["outcomes"].items() if outcome not in _PASSED
    ]
    return {
        "passed": passed,
        "differ": differ,
        "excepted": excepted,
        "stale": stale,
        "neither": {test: stock["reasons"].get(test, "") for test in neither},
    }


def render(results: dict[str, dict[str, Any]]) -> str:
    """Return the page."""
    lines = [_HEAD.format(redis=redis.__version__)]
    for project in PROJECTS:
        result = results[project.name]
        missing = len(result["differ"]) + len(result["excepted"])
        lines.append(
            f"| {project.name} {project.version} | {project.what} | "
            f"{result['passed'] + missing} | {result['passed']} |"
        )
    excepted = {
        test: reason
        for result in results.values()
        for test, reason in result["excepted"].items()
    }
    if excepted:
        lines += ["", "Those that do not, on purpose:", ""]
        lines += [f"- `{test}`: {reason}" for test, reason in excepted.items()]
    lines += ["", "Those that are not counted, with either:", ""]
    lines += [f"- `{test}`: {reason}" for test, reason in CLOCKED.items()]
    differ = [test for result in results.values() for test in result["differ"]]
    if differ:
        lines += ["", "Those that differ and should not:", ""]
        lines += [f"- `{test}`" for test in differ]
    return "\n".join(lines) + "\n"


async def main() -> int:
    """Run them all."""
    results = {}
    for project in PROJECTS:
        fetch(project)
        reports = {}
        for subject in ("stock", "ours"):
            print(f"... {project.name} on {subject}", file=sys.stderr)
            reports[subject] = await run(project, subject)
        results[project.name] = compare(reports["stock"], reports["ours"])
    (BUILD / "results.json").write_text(json.dumps(results, indent=1))
    print(render(results))
    for result in results.values():
        for test, reason in result["differ"].items():
            print(f"differs: {test}: {reason}")
        for test in result["stale"]:
            print(f"passes, and is in REASONS: {test}")
    # The other part of the page is proofs/dropin/run_programs.py's.
    _, heading, programs = PAGE.read_text(encoding="utf-8").partition("\n## Programs\n")
    PAGE.write_text(render(results) + heading + programs, encoding="utf-8")
    return int(any(each["differ"] or each["stale"] for each in results.values()))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
