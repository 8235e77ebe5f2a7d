"""The tests that a program's source distribution has, on one class.

`program.toml` names them in a table ``tests``: `sdist` (name and version) and its
`sha256`, `paths`, `only` (pytest's ``-k``), `conftest` (false: theirs starts
containers; `own_fixtures.py` stands in), and `clocked`: tests that are decided by a
time, with the reason.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path


class Compared(NamedTuple):
    """The program's own tests with both classes.

    Attributes:
        passed: How many pass with redis-py.
        differ: Those of them that do not with ours, and why.
        clocked: Those that are not counted, and why.
    """

    passed: int
    differ: dict[str, str]
    clocked: dict[str, str]


def fetch(home: Path, tests: dict[str, Any]) -> Path:
    """Download and unpack the source distribution, unless that was done before.

    Raises:
        CalledProcessError: It cannot be had; the reason is in `stderr`.
        SystemExit: It is not the file that this was written for.
    """
    name, _, version = tests["sdist"].partition("==")
    stem = f"{name.replace('-', '_')}-{version}"
    archive = home / f"{stem}.tar.gz"
    if not archive.exists():
        wanted = home / "sdist.txt"
        wanted.write_text(f"{tests['sdist']} --hash=sha256:{tests['sha256']}\n")
        # With isolation: pip asks their build backends for the metadata.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", name, "--require-hashes", "--dest", str(home)]
        command += ["--requirement", str(wanted)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != tests["sha256"]:
        raise SystemExit(f"{archive.name} is not the file with the pinned hash")
    if not (home / stem).exists():
        with tarfile.open(archive) as bundle:
            bundle.extractall(home, filter="data")
    return home / stem


async def run(
    python: Path, folder: Path, source: Path, subject: str, url: str, path: str
) -> dict[str, Any]:
    """Run the tests; return the plugin's report.

    Args:
        python: Of the program's environment.
        folder: Of the program, here.
        source: The source distribution, unpacked.
        subject: ``"stock"`` or ``"ours"``.
        url: Of a server of its own.
        path: Where modules are looked for, besides the source's.
    """
    tests = tomllib.loads((folder / "program.toml").read_text())["tests"]
    report = source.parent / f"tests-{subject}.json"
    report.unlink(missing_ok=True)
    options = ["--noconftest"] if not tests.get("conftest", True) else []
    if (folder / "own_fixtures.py").exists():
        options += ["-p", "own_fixtures"]
    if "only" in tests:
        options += ["-k", tests["only"]]
    at = urlsplit(url)
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", "pytest", "-p", "suite", "-q", "--tb=short", *options),
        *("-p", "no:warnings", "-p", "no:cacheprovider", "--timeout=60"),
        *("--override-ini=addopts=", "--override-ini=filterwarnings="),
        *("--override-ini=asyncio_mode=auto", "--rootdir", source),
        *("--confcutdir", source, "--subject", subject, "--report", report),
        *("--server", f"redis://{at.hostname}:{at.port}", *tests["paths"]),
        cwd=source,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(source), path])},  # noqa: TID251 - its environment
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    (source.parent / f"tests-{subject}.log").write_bytes(output)
    if process.returncode not in {0, 1} or not report.exists():
        last = output.decode(errors="replace").strip().rpartition("\n")[2]
        return {"error": last, "calls": 0, "outcomes": {}, "reasons": {}}
    result: dict[str, Any] = json.loads(report.read_text())
    return result


def compare(
    stock: dict[str, Any], ours: dict[str, Any], clocked: dict[str, str]
) -> Compared:
    """Return how many pass with redis-py, and which of them do not with ours."""
    for subject, result in (("redis-py", stock), ("ours", ours)):
        if "error" in result:
            why = f"{subject}: {result['error']}"
            return Compared(0, {"its own tests": why}, {})
    if stock["calls"] or not ours["calls"]:
        return Compared(0, {"its own tests": "not the class that it was to use"}, {})
    passed, differ = 0, {}
    for test, outcome in stock["outcomes"].items():
        if outcome != "passed" or test.rpartition("::")[2] in clocked:
            continue
        passed += 1
        if ours["outcomes"].get(test) != "passed":
            differ[test] = ours["reasons"].get(test, "did not run")
    return Compared(passed, differ, clocked)
