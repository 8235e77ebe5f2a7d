"""Sphinx: offline, and a warning fails the build."""

from __future__ import annotations

import logging
from typing import Any

from oddswire._version import VERSION
from oddswire.metrics import FAMILIES, Family

project = "oddswire"
author = "the oddswire authors"
version = release = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# The reference is made of the docstrings, in which one backtick is code.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Types of annotations are names of private modules and of other projects.
# An annotation "RateLimiter" may mean two classes; the reader sees which by its module.
suppress_warnings = ["ref.python"]
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"oddswire {release}"
html_copy_source = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_js_files = ["tables.js"]

# Sphinx prints what the log of a module that it imports says at INFO.
logging.getLogger("alembic").setLevel(logging.WARNING)


def line_of(family: Family) -> str:
    """Return a metric with its kind, labels and meaning."""
    labels = "".join(f", ``{label}``" for label in family.labels)
    return f"- ``{family.name}`` ({family.kind}{labels}): {family.help}"


def describe_families(*event: Any) -> None:
    """Give the constant with the metrics their meanings."""
    *_, obj, _, lines = event
    if obj is FAMILIES:
        lines[:] = ["Every metric with its meaning:", ""]
        lines += map(line_of, FAMILIES)


def setup(app: Any) -> None:
    """Connect it."""
    app.connect("autodoc-process-docstring", describe_families)
