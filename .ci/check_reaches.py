"""Count where tests reach into private parts, and compare with the list of what may.

A reach is an attribute `_name` of anything but `self` or `cls`, an import of a private
module or name, and a private name in a string that a test patches. `tests/support` is
the place for them; `.ci/reaches.toml` lists each other one with its reason.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("oddswire/tests", "oddsbot/tests")
LIST = Path(__file__).with_name("reaches.toml")
AT_MOST = 60
# Public, by the conventions of the standard library.
PUBLIC = {"_asdict", "_exit", "_fields", "_make", "_replace"}
PATCHED = re.compile(r"oddswire\.[\w.]*\._\w+|oddsbot\.[\w.]*\._\w+")


def private(name: str) -> bool:
    """Whether a name is private, and no `__dunder__`."""
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def reaches(tree: ast.AST) -> Iterator[str]:
    """Yield each reach of a file, as it is written there."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=attr) if private(attr):
                yield ast.unparse(node)
            case ast.ImportFrom(module=module, names=names):
                parts = [*(module or "").split("."), *(each.name for each in names)]
                if any(map(private, parts)):
                    yield ast.unparse(node)
            case ast.Import(names=names):
                if any(
                    private(part) for each in names for part in each.name.split(".")
                ):
                    yield ast.unparse(node)
            case ast.Constant(value=str(text)) if PATCHED.fullmatch(text):
                yield repr(text)


def main() -> None:
    """Compare, and print one line."""
    listed = {each["file"]: each for each in tomllib.loads(LIST.read_text())["reach"]}
    found: Counter[str] = Counter()
    problems = []
    for folder in TESTS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            here = list(reaches(ast.parse(path.read_text(encoding="utf-8"))))
            name = path.relative_to(ROOT).as_posix()
            found[name] = len(here)
            may = listed.get(name, {}).get("count", 0)
            if len(here) > may:
                problems.append(
                    f"{name}: {len(here)} reaches into private parts, {may} listed: "
                    f"{'; '.join(here)}"
                )
            elif len(here) < may:
                problems.append(f"{name}: {may} reaches are listed, {len(here)} left")
    problems += [
        f"{name}: listed, and is no file of tests"
        for name in listed
        if name not in found
    ]
    problems += [
        f"{name}: listed without a reason"
        for name, each in listed.items()
        if not each.get("reason", "").strip()
    ]
    total = found.total()
    if total >= AT_MOST:
        problems.append(f"{total} reaches in all, fewer than {AT_MOST} are allowed")
    if problems:
        sys.exit(
            "\n".join(problems) + "\nreach the behaviour by the public API, or by a "
            "hook in tests/support/hooks.py; a reach that has to stay is listed in "
            ".ci/reaches.toml with its reason"
        )
    print(f"reaches: {total} into private parts, each with its reason")


if __name__ == "__main__":
    main()
