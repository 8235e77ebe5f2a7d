"""What the code looks like, in numbers: `python benchmarks/house.py [--json]`.

Lines by package; the files that one call passes through (``sys.setprofile`` on the
running library, against a real server); comment lines for 100 lines of code in the
files that hold a protocol; reaches of tests into private parts.
"""

# ruff: noqa: T201 - a command talks

from __future__ import annotations

import argparse
import ast
import asyncio
import io
import json
import subprocess
import sys
import tokenize
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from oddswire import Client, EmbeddedServer
from oddswire.cache import Cache
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow
from oddswire.sessions import Collection, Indexed, Record, Sessions, SourceRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (ROOT / "oddswire/src/oddswire", ROOT / "oddsbot/src/oddsbot")
# Files that hold a protocol, by a word of their name.
PROTOCOLS = (
    *("sessions/_write_through", "sessions/_sessions", "sessions/_rebuild"),
    "sessions/_local",
    *("cache/_flights", "cache/_loader", "cache/_wire", "cache/_tracking"),
    *("connection/pool", "connection/multiplexer", "connection/reconnect"),
    *("queue/_worker", "queue/_store"),
)


class Size:
    """Lines of files.

    Attributes:
        files: How many there are.
        lines: All of theirs.
        code: Those that are no docstring, no comment and not blank.
        comments: Those with a comment.
    """

    def __init__(self) -> None:
        self.files = self.lines = self.code = self.comments = 0

    def add(self, path: Path) -> None:
        """Count a file."""
        text = path.read_text(encoding="utf-8")
        self.files += 1
        self.lines += text.count("\n")
        docs = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ) and ast.get_docstring(node, clean=False):
                first = node.body[0]
                docs |= set(range(first.lineno, (first.end_lineno or 0) + 1))
        code, comments = set(), set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                comments.add(token.start[0])
            elif token.type not in (
                *(tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
                tokenize.ENDMARKER,
            ):
                code |= set(range(token.start[0], token.end[0] + 1))
        self.code += len(code - docs)
        self.comments += len(comments)


def sizes() -> dict[str, Size]:
    """Return the size of each package, and of all."""
    found: dict[str, Size] = {}
    for source in SOURCES:
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source).parts
            package = parts[0] if len(parts) > 1 else "(top)"
            for name in (f"{source.name}.{package}", source.name):
                found.setdefault(name, Size()).add(path)
    return found


def densities() -> dict[str, float]:
    """Return the comment lines for 100 lines of code of each file with a protocol."""
    found = {}
    for path in sorted(SOURCES[0].rglob("*.py")):
        name = path.relative_to(SOURCES[0]).with_suffix("").as_posix()
        if name in PROTOCOLS:
            size = Size()
            size.add(path)
            found[name] = 100 * size.comments / size.code
    return found


class Person(Record):
    """A session."""

    city: Annotated[str, Indexed()] = ""
    wallets: Annotated[dict[str, str], Collection(9, index="wallet")] = {}  # noqa: RUF012


def move(person: Person) -> None:
    """Change what is durable: one that changes nothing takes a shorter way."""
    person.city = "Rome" if person.city == "Paris" else "Paris"


class Shelf:
    """A source of record in memory."""

    def __init__(self) -> None:
        self.kept: dict[int, SourceRecord] = {}

    async def load(self, user_ids: Any) -> list[SourceRecord]:
        """Return records."""
        return [self.kept[each] for each in user_ids if each in self.kept]

    async def save(self, kept: SourceRecord, expected: int) -> bool:
        """Write a record over a version."""
        there = self.kept.get(kept.user_id)
        if (there.version if there else 0) != expected:
            return False
        self.kept[kept.user_id] = kept
        return True

    async def delete(self, user_id: int, expected: int) -> bool:
        """Delete a record."""
        del expected
        return self.kept.pop(user_id, None) is not None

    async def move(self, user_id: int, expected: int, kept: SourceRecord) -> bool:
        """Move a record."""
        del expected
        self.kept.pop(user_id, None)
        self.kept[kept.user_id] = kept
        return True

    async def scan(self, after: int | None, limit: int) -> list[SourceRecord]:
        """Return records in order."""
        ids = sorted(each for each in self.kept if after is None or each > after)
        return [self.kept[each] for each in ids[:limit]]


async def passed(call: Callable[[], Awaitable[Any]]) -> tuple[int, int, int]:
    """Return how many calls, files and changes of file a call passes through."""
    names: list[str] = []
    here = str(SOURCES[0])

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(here):
            names.append(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        await call()
    finally:
        sys.setprofile(None)
    changes = sum(a != b for a, b in pairwise(names))
    return len(names), len(set(names)), changes


async def ways() -> dict[str, tuple[int, int, int]]:
    """Return what each call passes through; the parser's turn counts, too."""
    found = {}
    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url) as client,
        Cache(client, prefix="h:") as cache,
        RateLimiter(client, [Rule("r", SlidingWindow(100, 10), key="user")]) as limiter,
        Sessions(client, Person, prefix="h:") as plain,
        Sessions(client, Person, prefix="i:", source=Shelf()) as sourced,
    ):

        async def load() -> int:
            return 1

        for sessions in (plain, sourced):
            await sessions.update(1, lambda _: None, create=True)
        await client.set("k", "v")
        await cache.get_or_set("m:1", load, tags=("t",))
        await cache.get_or_set("m:1", load, tags=("t",))
        await limiter.hit("r", user=1)
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "GET": lambda: client.get("k"),
            "L1 hit": lambda: cache.get_or_set("m:1", load, tags=("t",)),
            "cold load": lambda: cache.get_or_set("m:2", load, tags=("t",)),
            "session update": lambda: plain.update(1, move),
            "session update with a source": lambda: sourced.update(1, move),
            "limiter hit": lambda: limiter.hit("r", user=1),
        }
        for name, call in calls.items():
            # The smallest of a few: a heartbeat may fall into one of them.
            times = 1 if "cold" in name else 5
            found[name] = min([await passed(call) for _ in range(times)])
    return found | await announced()


async def announced() -> dict[str, tuple[int, int, int]]:
    """Return what an update passes through until the feed has announced it."""
    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url) as client,
        Sessions(client, Person, prefix="h:", source=Shelf()) as sessions,
    ):
        await sessions.update(1, lambda _: None, create=True)

        async def update() -> None:
            await sessions.update(1, move)
            await asyncio.sleep(0.2)  # the feed waits for a change, and announces it

        await sessions.get(1)  # from here on changes are followed
        await asyncio.sleep(1.0)
        return {
            "an update until it is announced": min(
                [await passed(update) for _ in range(3)], key=lambda found: found[1]
            )
        }


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    packages, comments = sizes(), densities()
    found = asyncio.run(ways())
    reaches = subprocess.run(  # noqa: S603 - our own
        [sys.executable, ROOT / ".ci/check_reaches.py"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    if told.json:
        table = {
            "packages": {name: vars(size) for name, size in packages.items()},
            "ways": found,
            "comments": comments,
            "reaches": reaches,
        }
        print(json.dumps(table))
        return
    print(f"{'package':<26}{'files':>6}{'lines':>8}{'code':>8}{'comments':>9}")
    for name, size in sorted(packages.items(), key=lambda each: each[0]):
        print(
            f"{name:<26}{size.files:>6}{size.lines:>8}{size.code:>8}{size.comments:>9}"
        )
    print(f"\n{'one call':<30}{'calls':>6}{'files':>6}{'changes of file':>17}")
    for name, (count, files, changes) in found.items():
        print(f"{name:<30}{count:>6}{files:>6}{changes:>17}")
    print(f"\n{'a protocol':<30}comment lines for 100 of code")
    for name, density in comments.items():
        print(f"{name:<30}{density:.1f}")
    print(f"\n{reaches}")


if __name__ == "__main__":
    main()
