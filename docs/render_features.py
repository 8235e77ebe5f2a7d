"""Write results/features.md from docs/requirements.toml and the last whole test run.

`make test` leaves build/requirements.json: per row its tests and their outcomes. The
page depends on nothing else, so it changes only when a result or a row changes.
With --check the page is compared instead of written.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROWS = DOCS / "requirements.toml"
RESULTS = DOCS.parent / "build" / "requirements.json"
PAGE = DOCS / "results" / "features.md"

HEAD = """\
# Features

Every capability of the described system, and what shows that it is there. This page
is written by `docs/render_features.py` from `docs/requirements.toml` and the last whole
run of `make test`; do not edit it.

| state | meaning |
|---|---|
| shown | every test of the row passed, and none was skipped |
| begun | its tests pass and cover a part: the note under the table says which |
| partly | it has tests, and at least one failed or was skipped |
| missing | it has no test |
"""

Row = dict[str, str]
Tests = list[dict[str, str]]


def state_of(row: Row, tests: Tests) -> str:
    """Return shown, begun, partly or missing."""
    if not tests:
        return "missing"
    if any(test["outcome"] != "passed" for test in tests):
        return "partly"
    return "begun" if "begun" in row else "shown"


def tests_of(tests: Tests) -> str:
    """Return each test function by file, with its passed and its total cases."""
    cases: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for test in tests:
        path, _, name = test["test"].partition("::")
        file = path.replace("/tests/", "/")
        cases[file, name.partition("[")[0]][test["outcome"]] += 1
    return "<br>".join(
        f"{file}: `{name}` {found['passed']}/{found.total()}"
        for (file, name), found in sorted(cases.items())
    )


def folded(tests: Tests) -> str:
    """Return how many cases passed of how many; the tests unfold below."""
    if not tests:
        return ""
    passed = sum(test["outcome"] == "passed" for test in tests)
    return (
        f"<details><summary>{passed}/{len(tests)}</summary>{tests_of(tests)}</details>"
    )


def cell(text: str) -> str:
    """Return *text* so that it stays one cell of a table."""
    return text.replace("|", "\\|")


def link_to(page: str | None) -> str:
    """Return a link where the page is written, its name where it is not yet."""
    if page is None:
        return ""
    name = page.removesuffix(".md")
    return f"[{Path(name).name}](../{page})" if (DOCS / page).exists() else name


def render(rows: list[Row], results: dict[str, Tests]) -> str:
    """Return the page."""
    states = {row["row"]: state_of(row, results.get(row["row"], [])) for row in rows}
    counts = Counter(states.values())
    parts = [HEAD]
    parts.append(
        f"Of {len(rows)} rows: "
        + ", ".join(
            f"{counts[state]} {state}"
            for state in ("shown", "begun", "partly", "missing")
        )
        + ".\n"
    )
    for group in dict.fromkeys(row["group"] for row in rows):
        parts.append(f"## {group}\n")
        columns = "row | capability | proof asked for | page | cases passed | state"
        table = [f"| {columns} |", "|---|---|---|---|---|---|"]
        notes = []
        for row in (row for row in rows if row["group"] == group):
            name, tests = row["row"], results.get(row["row"], [])
            table.append(
                f"| {name} | {cell(row['capability'])} | {cell(row['proof'])}"
                f" | {link_to(row.get('page'))} | {folded(tests)} | {states[name]} |"
            )
            if "begun" in row and states[name] != "missing":
                notes.append(f"- **{name}**, so far: {row['begun']}")
            if "differs" in row:
                notes.append(f"- **{name}** differs: {row['differs']}")
        parts.append("\n".join(table) + "\n")
        if notes:
            parts.append("\n".join(notes) + "\n")
    return "\n".join(parts)


def main() -> None:
    """Write or check the page."""
    if not RESULTS.exists():
        print("features: `make test` first; docs/results/features.md stays as it is")
        return
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    with ROWS.open("rb") as file:
        page = render(tomllib.load(file)["row"], results)
    same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page
    if "--check" in sys.argv[1:]:
        if not same:
            sys.exit(
                "features: results/features.md is not what the tests say: `make docs`"
            )
    elif not same:
        PAGE.write_text(page, encoding="utf-8")
        print("features: docs/results/features.md changed")


if __name__ == "__main__":
    main()
