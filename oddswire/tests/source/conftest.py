"""What the tests share: a source in a file, and sessions on it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "source_desk", Path(__file__).with_name("desk.py")
)
desk = importlib.util.module_from_spec(_spec)
sys.modules["source_desk"] = desk
_spec.loader.exec_module(desk)


@pytest.fixture
def source(tmp_path):
    """Return a source in a file of its own."""
    with desk.Desk(tmp_path / "source.db") as source:
        yield source


@pytest.fixture
def people(client, source, prefix):
    """Return what makes the sessions of one process, on the same source."""

    def make(**options):
        options = {"client": client, "source": source, "prefix": prefix, **options}
        return desk.Sessions(type=desk.Person, **options)

    return make
