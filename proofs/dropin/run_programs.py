"""``make dropin``: programs built on redis-py, each in an environment of its own.

A folder of ``programs/`` has `program.toml` (what is required, and what the program
shows), `requirements.lock` (``make lock-dropin``) and `program.py`, whose ``run(url)``
returns what it saw, by name; where the source distribution has tests of Redis that
run with one server, they run too (`own_tests.py`). Each runs on two servers of its
own: once on redis-py's class, once with `oddswire.Client` in its place. What it saw
must be the same, and ours may open one connection more for each pool: commands have
one beside those that block. Exit status 1: there is a difference. A whole run rewrites
its part of docs/results/dropin.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import own_tests
import redis

from oddswire.embedded import EmbeddedServer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "dropin"
PAGE = ROOT / "docs" / "results" / "dropin.md"
OURS = ROOT / "oddswire" / "src"

HEADING = "\n## Programs\n"

_TEXT = """
Each in an environment of its own, with the releases that its lock names, once on
redis-py and once with `oddswire.Client` in its place: a small program that uses it
(`proofs/dropin/programs/`), whose results have to be the same with both, and the tests
of Redis of its source distribution, where it has some that run with one server: those
that pass with redis-py, and how many of them pass with ours. The last column is how
many connections the small program asked the server for, with redis-py and with ours.

| program | what | redis-py | results | the same | own tests | pass | connections |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"""

_OVERRIDDEN = """
\\* Asks for an older redis-py than ours needs ({pins}).
It ran with both classes on the one in the table, which its requirements exclude.
"""


class Row(NamedTuple):
    """What one program showed.

    Attributes:
        name: Its folder.
        what: What of it is used.
        version: Of the program, as its lock has it.
        redis: Version of redis-py it ran on.
        asked: The pin of redis-py that was overridden, or empty.
        same: Names of the results that were the same with both.
        differ: What differs, by name.
        connections: With redis-py, with ours.
        tests: Its own tests, where they run.
        missing: Why it could not run; empty: it ran.
    """

    name: str
    what: str
    version: str
    redis: str
    asked: str
    same: list[str]
    differ: dict[str, str]
    connections: tuple[int, int]
    tests: own_tests.Compared | None = None
    missing: str = ""


def locked(folder: Path, name: str) -> str:
    """Return the version that a lock has of a package; empty: none."""
    for line in (folder / "requirements.lock").read_text().splitlines():
        found, _, version = line.partition("==")
        if found.lower().replace("_", "-") == name.lower().replace("_", "-"):
            return version.split()[0]
    return ""


def install(folder: Path) -> Path:
    """Return the Python of the program's environment, made if its lock is another.

    Raises:
        CalledProcessError: It cannot be installed; the reason is in `stderr`.
    """
    home = BUILD / folder.name / ".venv"
    lock = folder / "requirements.lock"
    stamp = home / ".installed"
    python = home / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != lock.read_text():
        uv = Path(sys.executable).with_name("uv")
        made = ["venv", "--quiet", "--clear", "--python", sys.executable, home]
        filled = ["pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        filled += ["--only-binary", ":all:", "--python", python, "-r", lock]
        for command in (made, filled):
            subprocess.run([uv, *command], check=True, capture_output=True, text=True)
        stamp.write_text(lock.read_text())
    return python


async def run(python: Path, folder: Path, subject: str) -> dict[str, Any]:
    """Run a program on a server of its own; return what it printed, and connections."""
    async with EmbeddedServer() as server:
        with redis.Redis.from_url(server.url) as admin:
            # Some take a host and a port only.
            admin.config_set("requirepass", "")
            before = admin.info("stats")["total_connections_received"]
            process = await asyncio.create_subprocess_exec(
                *(python, HERE / "subject.py", subject, folder / "program.py"),
                f"redis://{server.host}:{server.port}/0",
                cwd=BUILD / folder.name,
                env=os.environ | {"PYTHONPATH": str(OURS)},  # noqa: TID251 - its environment
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await process.communicate()
            after = admin.info("stats")["total_connections_received"]
    (BUILD / folder.name / f"{subject}.log").write_bytes(out + err)
    last = out.decode().strip().rpartition("\n")[2]
    try:
        result: dict[str, Any] = json.loads(last)
    except ValueError:
        result = {"error": err.decode().strip().rpartition("\n")[2] or "said nothing"}
    return result | {"connections": after - before}


def compare(stock: dict[str, Any], ours: dict[str, Any]) -> dict[str, str]:
    """Return what differs, by name."""
    for subject, result in (("redis-py", stock), ("ours", ours)):
        if "error" in result:
            return {"the run": f"{subject}: {result['error']}"}
    if stock["calls"] or not ours["calls"]:
        return {"the run": "it did not use the class that it was to use"}
    differ = {
        name: f"{value} with redis-py, {ours['outcomes'].get(name)} with ours"
        for name, value in stock["outcomes"].items()
        if ours["outcomes"].get(name) != value
    }
    if ours["connections"] > stock["connections"] + ours["pools"]:
        differ["connections"] = (
            f"{stock['connections']} with redis-py, {ours['connections']} with ours, "
            f"on {ours['pools']} pools"
        )
    return differ


async def show(folder: Path) -> Row:
    """Install a program, run it with both classes, and return its row."""
    program = tomllib.loads((folder / "program.toml").read_text())
    package = program["requires"][0].partition("==")[0].partition("[")[0]
    row = Row(
        name=folder.name,
        what=program["what"],
        version=locked(folder, package),
        redis=locked(folder, "redis"),
        asked=program.get("redis", ""),
        same=[],
        differ={},
        connections=(0, 0),
    )
    try:
        python = install(folder)
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().rpartition("\n")[2]
        return row._replace(missing=why or "uv gave no reason")
    stock, ours = await asyncio.gather(
        *(run(python, folder, subject) for subject in ("stock", "ours"))
    )
    differ = compare(stock, ours)
    row = row._replace(tests=await show_tests(python, folder, program.get("tests")))
    return row._replace(
        same=[name for name in stock.get("outcomes", ()) if name not in differ],
        differ=differ,
        connections=(stock["connections"], ours["connections"]),
    )


async def show_tests(
    python: Path, folder: Path, tests: dict[str, Any] | None
) -> own_tests.Compared | None:
    """Run a program's own tests with both classes, if it has some that can run."""
    if tests is None:
        return None
    try:
        source = own_tests.fetch(BUILD / folder.name, tests)
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().rpartition("\n")[2]
        return own_tests.Compared(0, {"its own tests": why}, {})
    path = os.pathsep.join(str(each) for each in (HERE, folder, OURS))

    async def on(subject: str) -> dict[str, Any]:
        async with EmbeddedServer() as server:
            with redis.Redis.from_url(server.url) as admin:
                admin.config_set("requirepass", "")
            return await own_tests.run(
                python, folder, source, subject, server.url, path
            )

    stock, ours = await asyncio.gather(on("stock"), on("ours"))
    return own_tests.compare(stock, ours, tests.get("clocked", {}))


def render(rows: list[Row]) -> str:
    """Return the part of the page."""
    lines = [_TEXT]
    for row in rows:
        mark = "\\*" if row.asked else ""
        start = f"| {row.name} {row.version} | {row.what} | {row.redis}{mark} |"
        if row.missing:
            lines.append(f"{start} not installed | | | | |")
            continue
        results = len(row.same) + len(row.differ)
        stock, ours = row.connections
        own = "| |"
        if row.tests is not None:
            passed = row.tests.passed
            own = f"{passed} | {passed - len(row.tests.differ)} |"
        lines.append(f"{start} {results} | {len(row.same)} | {own} {stock}, {ours} |")
    pins = [f"{row.name} {row.asked}" for row in rows if row.asked]
    if pins:
        lines.append(_OVERRIDDEN.format(pins=", ".join(pins)).rstrip())
    missing = [f"- {row.name}: {row.missing}" for row in rows if row.missing]
    if missing:
        lines += ["", "Those that could not be installed:", "", *missing]
    differ = [
        f"- {row.name}, {name}: {what}"
        for row in rows
        for name, what in (row.differ | _tests_of(row).differ).items()
    ]
    clocked = [
        f"- {row.name}, `{test}`: {why}"
        for row in rows
        for test, why in _tests_of(row).clocked.items()
    ]
    if clocked:
        lines += ["", "Tests that are not counted, with either:", "", *clocked]
    if differ:
        lines += ["", "Those that differ and should not:", "", *differ]
    return "\n".join(lines) + "\n"


def _tests_of(row: Row) -> own_tests.Compared:
    return row.tests or own_tests.Compared(0, {}, {})


async def main(only: list[str]) -> int:
    """Run the programs named, or all of them; 0 if none differs."""
    names = only or sorted(each.name for each in (HERE / "programs").iterdir())
    rows = []
    for name in names:
        if not (HERE / "programs" / name / "program.toml").exists():
            raise SystemExit(f"proofs/dropin/programs has no {name}")
        row = await show(HERE / "programs" / name)
        rows.append(row)
        stock, ours = row.connections
        tests = _tests_of(row)
        print(
            row.missing
            or f"{name}: {len(row.same)} results the same, {len(row.differ)} differ; "
            f"connections {stock}, {ours}; {tests.passed} tests of its own, "
            f"{len(tests.differ)} differ",
            file=sys.stderr,
        )
        for what, how in (row.differ | tests.differ).items():
            print(f"  differs: {what}: {how[:500]}", file=sys.stderr)
    if not only:
        head = PAGE.read_text(encoding="utf-8").partition(HEADING)[0]
        PAGE.write_text(head + HEADING + render(rows), encoding="utf-8")
    return int(any(row.differ or row.missing or _tests_of(row).differ for row in rows))


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
