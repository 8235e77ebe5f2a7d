"""The first page says what the pages behind it say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.basic
@pytest.mark.requirement("O6")
def test_every_figure_of_the_first_lines_was_printed():
    """Each figure of the README's first list stands on the page that it links to."""
    text = (ROOT / "README.md").read_text("utf-8").partition("![")[0]
    points = re.findall(r"^- (.*?)(?=^- |\Z)", text, re.MULTILINE | re.DOTALL)
    checked = 0
    for point in points:
        pages = re.findall(r"\]\((docs/results/[\w.]+)\)", point)
        figures = re.findall(r"\d[\d,]*\.\d+%|\d+,\d{3}", point)
        for figure in figures:
            checked += 1
            assert any(figure in (ROOT / page).read_text("utf-8") for page in pages), (
                figure
            )
    assert checked >= 6


@pytest.mark.basic
@pytest.mark.requirement("O6")
def test_the_six_files_have_what_the_page_begins_at():
    """Each file of docs/reading.md is there, with the functions that are named."""
    text = (ROOT / "docs" / "reading.md").read_text("utf-8")
    source = ROOT / "oddswire" / "src" / "oddswire"
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (.+?) \|", text, re.MULTILINE)
    assert len(rows) == 6
    for file, begin in rows:
        code = (source / file).read_text("utf-8")
        for name in re.findall(r"`(\w+)`", begin):
            assert re.search(rf"^ *(async )?(def|class) {name}\b", code, re.MULTILINE)
    for file in re.findall(r"`((?:\w+/)+\w+\.\w+)`", text):
        assert (source / file).exists(), file
