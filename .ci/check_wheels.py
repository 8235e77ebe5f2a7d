"""Build both wheels, import everything from them and open the demo, without src/.

What works from a checkout can be missing in a wheel: a data file, py.typed, a module
that only the editable install finds.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / "build" / "wheels"
SITE = ROOT / "build" / "wheel-site"
PACKAGES = ("oddswire", "oddsbot")

# Runs in a child: sees the installed wheels before the editable install.
IMPORT_ALL = """
import importlib, importlib.metadata, importlib.util, json, pkgutil, sys

def broken(name):
    raise

report = {"modules": {}, "metadata": {}}
for package in sys.argv[1:]:
    root = importlib.import_module(package)
    report["modules"][package] = root.__file__
    for info in pkgutil.walk_packages(root.__path__, package + ".", broken):
        if info.name.endswith(".__main__"):  # importing it would run it
            report["modules"][info.name] = importlib.util.find_spec(info.name).origin
        else:
            report["modules"][info.name] = importlib.import_module(info.name).__file__
    found = importlib.metadata.distribution(package)
    report["metadata"][package] = {
        "name": found.metadata["Name"],
        "version": found.version,
        "where": str(found.locate_file("")),
    }
print(json.dumps(report))
"""


class WheelError(Exception):
    """A wheel is not what the checkout is."""


def run(*command: str, doing: str, **options: object) -> str:
    """Return what *command* printed, or say what it was for and what it said."""
    done = subprocess.run(  # noqa: PLW1510 (the return code is looked at)
        command, capture_output=True, text=True, **options
    )
    if done.returncode:
        raise WheelError(f"{doing} failed:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def build() -> list[Path]:
    """Build the wheels and unpack them into SITE."""
    for folder in (WHEELS, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(
        *(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(WHEELS)),
        *(str(ROOT / package) for package in PACKAGES),
        doing="building the wheels",
    )
    wheels = sorted(WHEELS.glob("*.whl"))
    run(
        *(*pip, "install", "--no-deps", "--no-index", "--no-compile"),
        *("--target", str(SITE), *map(str, wheels)),
        doing="installing the wheels",
    )
    return wheels


def import_all() -> dict[str, dict]:
    """Import every module in a child that cannot see the checkout's folders."""
    with tempfile.TemporaryDirectory() as elsewhere:
        output = run(
            *(sys.executable, "-P", "-W", "error", "-c", IMPORT_ALL, *PACKAGES),
            doing="importing every module from the wheels",
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(SITE)},  # noqa: TID251 (its own child)
        )
    return json.loads(output)


def files_below(folder: Path) -> set[str]:
    """Return the files of a package, relative to it, without compiled ones."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def check(report: dict[str, dict]) -> None:
    """Raise `WheelError` for the first thing that is not as in the checkout."""
    for module, file in report["modules"].items():
        if not Path(file).is_relative_to(SITE):
            raise WheelError(f"{module} was imported from {file}, not from its wheel")
    for package in PACKAGES:
        source, installed = (
            files_below(ROOT / package / "src" / package),
            files_below(SITE / package),
        )
        if source != installed:
            missing, extra = sorted(source - installed), sorted(installed - source)
            raise WheelError(f"{package}: missing {missing}, not in src/ {extra}")
        if "py.typed" not in installed:
            raise WheelError(f"{package}: no py.typed, type checkers would ignore it")
        project = tomllib.loads((ROOT / package / "pyproject.toml").read_text())
        wanted = {"name": package, "version": version_of(package, project["project"])}
        found = report["metadata"][package]
        if {key: found[key] for key in wanted} != wanted:
            raise WheelError(f"{package}: metadata {found}, pyproject.toml {wanted}")
        if not Path(found["where"]).is_relative_to(SITE):
            raise WheelError(f"{package}: metadata read from {found['where']}")


def version_of(package: str, project: dict[str, str]) -> str:
    """Return the version that the project names, or that its source has."""
    if "version" in project:
        return project["version"]
    source = ROOT / package / "src" / package / "_version.py"
    return str(runpy.run_path(str(source))["VERSION"])


def try_demo() -> str:
    """Open the demo's page from the wheels, without a network where that is allowed."""
    alone = ("unshare", "-rn")
    probe = shutil.which("unshare") and shutil.which("ip")
    if not probe or subprocess.run((*alone, "true"), check=False).returncode:
        alone = ()
    with tempfile.TemporaryDirectory() as elsewhere:
        took = run(
            *(*alone, sys.executable, "-P", str(ROOT / ".ci" / "try_demo.py")),
            *(["--alone"] if alone else []),
            doing="opening the demo from the wheels",
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(SITE)},  # noqa: TID251 (its own child)
        ).strip()
    return f"its demo opens in {took} s" + (", without a network" if alone else "")


def main() -> None:
    """Build, import, compare, open the demo; print one line."""
    try:
        wheels = build()
        report = import_all()
        check(report)
        opened = try_demo()
    except WheelError as fault:
        sys.exit(f"wheels: {fault}")
    sizes = ", ".join(f"{w.name} {w.stat().st_size / 1024:.0f} KiB" for w in wheels)
    print(f"wheels: {len(report['modules'])} modules import from {sizes}, {opened}")


if __name__ == "__main__":
    main()
