"""The site in a real browser: on a phone and at a desk, light and dark."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from support.browser import CONTRAST, WIDE, Browser

pytestmark = [
    pytest.mark.system("chromium", package="chromium"),
    pytest.mark.requirement("O6"),
    pytest.mark.timeout(600),
]

DOCS = Path(__file__).parents[2] / "docs"
PHONE, DESK = (390, 844), (1280, 900)
# What a reader sees first, code, and the widest tables.
MAIN = (
    *("index", "tutorial", "coming-from/redis-py", "guides/cache", "guides/errors"),
    *("reference/configuration", "reference/api/oddswire.logs", "results/performance"),
    *("results/chaos", "results/guarantees"),
)
# Tables that would be scrolled sideways where they stand.
CUT = """[...document.querySelectorAll("article table.docutils")].filter(
  (e) => e.parentElement.scrollWidth > e.parentElement.clientWidth + 1)
  .map((e) => e.textContent.trim().slice(0, 60))"""
# A name of a few letters that is broken at the end of a line.
BROKEN = """[...document.querySelectorAll("article table.docutils code")].filter(
  (e) => e.textContent.length <= 20 && e.getClientRects().length > 1)
  .map((e) => e.textContent)"""


# Nearly all of the time of a build is theirs, and only one of them is looked at.
NOT_LOOKED_AT = "decisions/*,reference/api/oddsbot.*,reference/api/oddswire.[!l]*"


async def build(site: Path) -> None:
    """Build the pages that are looked at; `make docs` builds all, and warns."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sphinx", "-q", "-b", "html", DOCS, site),
        *("-D", f"exclude_patterns={NOT_LOOKED_AT}"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


@pytest.mark.integration
async def test_no_page_and_no_table_scrolls_sideways(tmp_path):
    """Each page fits a phone, the main ones a desk too, and can be read in the dark."""
    await build(tmp_path)
    async with Browser() as browser:
        await browser.size(*PHONE)
        for path in DOCS.rglob("*.md"):
            page = path.relative_to(DOCS).with_suffix("")
            if page.parts[0] == "decisions" or page.parts[:2] == ("reference", "api"):
                continue
            await browser.open((tmp_path / f"{page}.html").as_uri())
            assert await browser.run(WIDE) <= 0, page
            assert await browser.run(CUT) == [], page
        for size in (PHONE, DESK):
            for dark in (False, True):
                await browser.size(*size, dark=dark)
                for page in MAIN:
                    await browser.open((tmp_path / f"{page}.html").as_uri())
                    assert await browser.run(WIDE) <= 0, page
                    assert await browser.run(CUT) == [], page
                    assert await browser.run(BROKEN) == [], page
                    assert await browser.run(CONTRAST) == [], (page, dark)
        assert browser.errors == []
