"""docs/described.md: each point of the description has what we made of it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

import oddswire

DOCS = Path(__file__).parents[2] / "docs"
ORIGINAL = DOCS.parents[1] / "shared" / "described" / "original.txt"
PAGE = (DOCS / "described.md").read_text("utf-8")
FEATURES = (DOCS / "results" / "features.md").read_text("utf-8")
ROW = re.compile(r"^\| (.+) \| (.+) \| \[.+\]\((.+)\) \| (.+) \|$")

# How many points the description has under each of its headings.
POINTS = {
    "Core Functionality": 7,
    "Advanced Features": 7,
    "File Structure": 9,
    "1. Redis Types": 4,
    "2. Redis Configuration": 5,
    "3. Redis Client": 9,
    "4. Session Manager": 11,
    "5. Cache Manager": 12,
    "6. Pub/Sub Client": 11,
    "Existing System Integration": 4,
    "Database Integration": 3,
    "Application Structure": 4,
    "Caching Performance": 4,
    "Connection Management": 4,
    "Memory Management": 4,
    "Session Security": 4,
    "Connection Security": 4,
    "Comprehensive Test Suite": 5,
    "Test Results": 5,
    "Metrics Collection": 5,
    "Health Monitoring": 4,
    "Deployment Considerations": 4,
    "Scalability Features": 4,
    "Ready for Phase 3 Integration": 5,
    "Integration Hooks": 4,
    "All Success Criteria Met": 8,
    "Performance Targets Achieved": 6,
    "Environment Variables": 15,
    "Conclusion": 6,
}
PARTS = (
    *("oddswire", "oddswire.client", "oddswire.sessions", "oddswire.cache"),
    *("oddswire.pubsub", "oddswire.queue", "oddswire.health", "oddswire.settings"),
)


def rows():
    """Return heading, point, ours, page and requirements of each row."""
    heading = ""
    for line in PAGE.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif (row := ROW.match(line)) and row[1] != "described":
            yield heading, *row.groups()


def resolve(dotted):
    """Return the object that the page calls so.

    Raises:
        AttributeError: There is none.
    """
    first, _, rest = dotted.partition(".")
    if first[0].isupper():  # a class without its package: `Client.stats`
        home = next(
            module
            for module in map(importlib.import_module, PARTS)
            if hasattr(module, first)
        )
        return walk(home, dotted)
    if first == "oddsbot":
        return walk(importlib.import_module(first), rest)
    return walk(oddswire, dotted)


def walk(found, dotted):
    """Return what `dotted` names below an object; modules are imported."""
    for name in dotted.split("."):
        if isinstance(found, ModuleType) and not hasattr(found, name):
            importlib.import_module(f"{found.__name__}.{name}")
        found = getattr(found, name)
    return found


@pytest.mark.basic
@pytest.mark.requirement("O6")
def test_every_point_has_its_row():
    """Under each heading there are as many rows as the description has points."""
    found: dict[str, int] = {}
    for heading, *_ in rows():
        found[heading] = found.get(heading, 0) + 1
    assert found == POINTS


@pytest.mark.basic
def test_every_row_has_a_passing_test():
    """Each row names requirements whose tests passed in the last whole run."""
    states = dict(
        re.findall(r"^\| (\w+) \|.*\| (\w+) \|$", FEATURES, re.MULTILINE),
    )
    for heading, point, _, _, requirements in rows():
        for name in requirements.split(", "):
            assert states[name] in ("shown", "begun"), (heading, point, name)


@pytest.mark.basic
def test_every_import_of_the_page_is_there():
    """Each dotted name and each class that a row has in code can be imported."""
    names = {
        name
        for _, _, ours, _, _ in rows()
        for name in re.findall(r"`([\w.]+)(?:\(.*?\))?`", ours)
        if "." in name or name[0].isupper()
    }
    assert len(names) > 60
    for name in sorted(names):
        resolve(name)


@pytest.mark.basic
@pytest.mark.shared
def test_the_points_are_those_of_the_description():
    """The headings and their counts are the description's, and no point is copied."""
    text = ORIGINAL.read_text("utf-8")
    found: dict[str, int] = {}
    heading = ""
    for line in text.splitlines():
        title = re.match(r"#+ (.*)", line)
        if title and not line.startswith(
            ("# Core", "# Conn", "# Perf", "# Sess", "# C")
        ):
            heading = re.sub(r"^[^\w]*|\s*\(`.*", "", title[1].split("… ")[-1])
            heading = re.sub(r"^\W*(ð\S* |â\S* )?", "", heading)
        elif re.match(r"- |\d+\. |âœ|[A-Z_]+=", line) or ".ts  " in line:
            found[heading] = found.get(heading, 0) + 1
            words = re.sub(r"^\W*(\d+\. )?(âœ… )?|\*\*", "", line)
            assert len(words.split()) < 4 or words not in PAGE
    assert found == POINTS
