"""``make dropin``: aiogram's own tests of storages, with ours in their place.

Its source distribution has them: the contract of a storage, of an isolation, and the
test of issue 1317 (state against isolation). python-telegram-bot's has none that can be
given another persistence: its tests look into a persistence of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from oddswire.embedded import EmbeddedServer

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "dropin"
VERSION = "3.31.0"
SHA256 = "f2c5064fe52d88898c86af62261c405440a014216e45dd99b2c6555a5602ce30"
TESTS = (
    "tests/test_fsm/storage/test_storages.py",
    "tests/test_fsm/storage/test_isolation.py",
    "tests/test_issues/test_1317_state_vs_isolation.py",
)
# Those of aiogram's Redis; the others of each file are for its own memory and MongoDB.
WHICH = "redis_storage or redis_isolation or TestStateVSIsolation"
PASSED = 5
"""How many there are: fewer would prove less than is said."""


def fetch() -> Path:
    """Download and unpack aiogram's source, unless that was done before.

    Raises:
        SystemExit: It is not the file that this was written for.
    """
    archive = BUILD / f"aiogram-{VERSION}.tar.gz"
    if not archive.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        wanted = BUILD / "aiogram.txt"
        wanted.write_text(f"aiogram=={VERSION} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        pip += ["--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
        subprocess.run([*pip, "--dest", BUILD, "--requirement", wanted], check=True)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{archive.name} is not the file with the pinned hash")
    folder = BUILD / f"aiogram-{VERSION}"
    if not folder.exists():
        with tarfile.open(archive) as bundle:
            bundle.extractall(BUILD, filter="data")
    package = folder / "aiogram"
    if package.exists():
        package.rename(folder / "aiogram-source")  # it would hide the installed one
    return folder


async def main() -> int:
    """Run them on a server of its own; 0 if all of them passed."""
    folder = fetch()
    report = BUILD / "report.xml"
    async with EmbeddedServer() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", "-p", "plugin", "-q", "--no-header"),
            *("--noconftest", "-c", os.devnull, "--rootdir", folder),
            *("-p", "no:cacheprovider", "--override-ini=asyncio_mode=auto"),
            "--override-ini=asyncio_default_fixture_loop_scope=function",
            *("-k", WHICH, "--url", server.url, f"--junit-xml={report}", *TESTS),
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{HERE}"},  # noqa: TID251 - its environment
        )
        status = await process.wait()
    if status == 0 and f'tests="{PASSED}"' not in report.read_text():
        raise SystemExit(f"not the {PASSED} tests that there should be")
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
