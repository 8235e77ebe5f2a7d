"""After `make docs`: links lead somewhere, the reference is whole, pages stay short.

Addresses outside the repository are not asked: `make check` needs no network.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from sphinx.util.inventory import InventoryFile

import oddswire

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "docs"
# What GitHub shows and Sphinx does not read.
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "oddswire/README.md",
    "oddsbot/README.md",
]
# The layer below the client, and the command: no interfaces of the library.
NOT_IN_THE_REFERENCE = ("oddswire.connection", "oddswire.cli")
# What a reader is asked to read, outside results and decisions.
MOST_WORDS = 24_000
FENCES = re.DOTALL | re.MULTILINE


class Links(HTMLParser):
    """The addresses and the anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: set[str] = set()
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect them."""
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.addresses.add(value)
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)


@cache
def html(page: Path) -> Links:
    """Return the links of a built page."""
    links = Links()
    links.feed(page.read_text("utf-8"))
    return links


def broken_on_the_site() -> list[str]:
    """Return each link of the built site that leads nowhere."""
    found = []
    for page in sorted(SITE.rglob("*.html")):
        if "_static" in page.parts:
            continue
        for address in html(page).addresses:
            path, _, anchor = unquote(address.partition("?")[0]).partition("#")
            if re.match(r"[a-z]+:", address):
                continue
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (
                anchor
                and target.suffix == ".html"
                and anchor not in html(target).anchors
            ):
                found.append(f"{page.relative_to(SITE)}: {address}")
    return found


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in titles
    }


def broken_on_pages() -> list[str]:
    """Return each link of the pages beside the site that leads nowhere."""
    found = []
    for name in PAGES:
        page = ROOT / name
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        for address in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = address.partition("#")
            if re.match(r"[a-z]+:", address):
                continue
            target = page.parent / path if path else page
            if not target.exists() or (
                anchor and target.suffix == ".md" and anchor not in headings(target)
            ):
                found.append(f"{name}: {address}")
    return found


def public_names() -> set[str]:
    """Return every public name by its module: of `__all__`, else defined there."""
    names = set()
    for info in pkgutil.walk_packages(oddswire.__path__, "oddswire."):
        if info.name.startswith(NOT_IN_THE_REFERENCE) or "._" in info.name:
            continue
        module = importlib.import_module(info.name)
        if hasattr(module, "__all__"):
            names |= {f"{info.name}.{name}" for name in module.__all__}
        elif info.name.count(".") == (2 if ".adapters." in info.name else 1):
            names |= {
                f"{info.name}.{name}"
                for name, value in vars(module).items()
                if not name.startswith("_")
                and callable(value)
                and getattr(value, "__module__", "") == info.name
            }
    return names


def not_in_the_reference() -> list[str]:
    """Return the public names that the site does not describe."""
    text = (SITE / "objects.inv").read_bytes()
    inventory = InventoryFile.loads(text, uri="")
    described = {name for kind in inventory.data.values() for name in kind}
    packages = {name.rpartition(".")[0] for name in described}
    return sorted(
        name
        for name in public_names() - described
        # What a package passes on is described there once, not again in its file.
        if not any(
            f"{package}.{name.rpartition('.')[2]}" in described
            for package in packages
            if name.startswith(f"{package}.")
        )
    )


def words() -> Counter[str]:
    """Return the words of each page outside results and decisions.

    A word has a letter or a digit: the bars of a table are none. Tables count, also
    those that are made from code. Code blocks do not: tests run them. Nor do the
    docstrings, which the reference shows.
    """
    count: Counter[str] = Counter()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs")
        if name.parts[0] not in ("results", "decisions"):
            text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=FENCES)
            count[str(name)] = sum(
                bool(re.search(r"\w", each)) for each in text.split()
            )
    return count


def too_long() -> list[str]:
    """Return a line with the longest pages if all of them have too many words."""
    count = words()
    if count.total() <= MOST_WORDS:
        return []
    longest = ", ".join(f"{page} {number}" for page, number in count.most_common(5))
    return [f"docs: {count.total()} words, at most {MOST_WORDS}; longest: {longest}"]


def main() -> None:
    """Print what is wrong, or one line."""
    wrong = [f"link: {each}" for each in broken_on_the_site() + broken_on_pages()]
    wrong += [f"not in the reference: {each}" for each in not_in_the_reference()]
    wrong += too_long()
    if wrong:
        sys.exit("\n".join(wrong))
    pages = len(list(SITE.rglob("*.html")))
    print(
        f"docs: {pages} pages, every link and {len(public_names())} public names,"
        f" {words().total()} words outside results and decisions"
    )


if __name__ == "__main__":
    main()
