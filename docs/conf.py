"""Sphinx: offline, and a warning fails the build."""

from __future__ import annotations

import tomllib
from pathlib import Path

_project = tomllib.loads(
    (Path(__file__).parents[1] / "oddswire" / "pyproject.toml").read_text()
)["project"]

project = "oddswire"
author = "the oddswire authors"
version = release = _project["version"]

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"oddswire {release}"
html_copy_source = False
