from __future__ import annotations

import importlib
import inspect
from enum import Enum
from typing import is_typeddict

import pytest

import oddswire
from support import loaded_by

NAMES = {
    "Client",
    "EmbeddedServer",
    "OddswireError",
    "Outcome",
    "Settings",
    "SimpleClient",
    "Wire",
    "connect",
}


@pytest.mark.basic
def test_public_names_are_pinned_and_few():
    """A name enters or leaves the package's face only together with this test."""
    assert set(oddswire.__all__) == NAMES
    assert len(oddswire.__all__) <= 25
    assert set(dir(oddswire)) == NAMES


@pytest.mark.basic
def test_every_public_name_resolves_to_the_object_of_its_home():
    """Lazy import gives the same object as importing it from where it lives."""
    from oddswire.client import Client
    from oddswire.wire import connect

    assert all(getattr(oddswire, name) is not None for name in NAMES)
    assert oddswire.Client is Client
    assert oddswire.connect is connect


@pytest.mark.basic
@pytest.mark.parametrize(
    "module",
    [
        "cache",
        "pubsub",
        "queue",
        "ratelimit",
        "sessions",
        "health",
        "embedded",
    ],
)
def test_help_can_tell_how_everything_public_is_called(module):
    """Editors and `help()` get the parameters of each public class and function."""
    home = importlib.import_module(f"oddswire.{module}")
    for name in home.__all__:
        thing = getattr(home, name)
        if is_typeddict(thing):
            assert thing.__doc__  # it is called as a dict
        elif inspect.isclass(thing) and not issubclass(thing, Enum | Exception):
            assert inspect.signature(thing) is not None


@pytest.mark.errors
def test_unknown_name_is_an_attribute_error():
    """A misspelt name fails as it does in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        _ = oddswire.Cleint


@pytest.mark.performance
def test_importing_the_package_imports_nothing_else():
    """`import oddswire` costs nothing before a name of it is used."""
    loaded = loaded_by("oddswire")
    assert not [name for name in loaded if name.startswith(("redis", "oddswire."))]
