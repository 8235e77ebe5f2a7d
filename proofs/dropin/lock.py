"""``make lock-dropin``: a requirements.lock beside each program.toml, or those named.

What a program requires is resolved together with what oddswire requires. Where the
program's own pin of redis-py excludes every release that oddswire supports, that one
pin is overridden, and its row on the page says so.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS = HERE.parents[1] / "oddswire" / "pyproject.toml"


def lock(folder: Path) -> None:
    """Write the lock of one program.

    Raises:
        CalledProcessError: Its requirements cannot be met; uv has said why.
    """
    program = tomllib.loads((folder / "program.toml").read_text())
    needs = tomllib.loads(OURS.read_text())["project"]["dependencies"]
    command = [Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet"]
    command += ["--universal", "--generate-hashes", "--python-version", "3.11"]
    command += ["--no-header", "--no-annotate", "--output-file", "requirements.lock"]
    if "redis" in program:
        (line,) = (need for need in needs if need.startswith("redis"))
        override = folder / "override.txt"
        override.write_text(f"{line}\n")
        command += ["--override", override.name]
    try:
        subprocess.run(
            [*command, "-"],
            input="\n".join([*program["requires"], *needs]).encode(),
            cwd=folder,
            check=True,
        )
    finally:
        (folder / "override.txt").unlink(missing_ok=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(p.name for p in (HERE / "programs").iterdir()):
        lock(HERE / "programs" / name)
