"""Every Python block of every page runs as it is printed there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks():
    """Return the page and the text of its blocks, of each page that has some."""
    for page in sorted([ROOT / "README.md", *DOCS.rglob("*.md")]):
        if found := BLOCK.findall(page.read_text("utf-8")):
            yield str(page.relative_to(ROOT)), found
