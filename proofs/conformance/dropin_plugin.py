"""The pytest plugin of `dropin.py`: our client in redis-py's place, before the suites.

The suites import clients of other databases at their beginning and use them only with
those; they are not installed, so empty modules stand in. Their servers are started by a
plugin for containers, which is not there either: the one server is `dropin.py`'s.
"""

# ruff: noqa: D102 - hooks do what pytest says they do

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
import redis
import redis.asyncio

from oddswire.client import Client

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable

_ABSENT = (
    *("motor", "motor.motor_asyncio", "pymemcache", "pymemcache.client", "valkey"),
    *("pymongo", "pymongo.errors", "pymongo.uri_parser", "bson", "memcachio", "etcd3"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that `dropin.py` passes."""
    group = parser.getgroup("dropin")
    group.addoption("--subject", choices=("stock", "ours"), required=True)
    group.addoption("--report", type=Path, required=True, help="where the results go")
    group.addoption("--server", required=True, help="its URL, without a database")
    group.addoption("--only", default="", help="text that a test's name must contain")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks of cashews, which it declares in what it does not pack."""
    for mark in ("redis", "integration"):
        config.addinivalue_line("markers", f"{mark}: of cashews")


class LazyFixture:
    """`pytest_lazy_fixtures.lf`: a parameter that names a fixture."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Put `Client` where the projects look for redis-py's class, before they look."""
    roots = {name for name in _ABSENT if "." not in name and find_spec(name) is None}
    for name in _ABSENT:
        if name.partition(".")[0] in roots:
            sys.modules[name] = _empty(name)
    lazy = ModuleType("pytest_lazy_fixtures")
    lazy.lf = LazyFixture  # type: ignore[attr-defined]
    sys.modules.setdefault("pytest_lazy_fixtures", lazy)
    option = early_config.known_args_namespace
    ledger = Ledger(option)
    early_config.pluginmanager.register(ledger)
    if option.subject == "ours":
        ledger.swap()


def _empty(name: str) -> Any:
    module = MagicMock(name=name)
    # Caught by the suites, so they have to be exceptions.
    module.PyMongoError = type("PyMongoError", (Exception,), {})
    module.InvalidURI = type("InvalidURI", (Exception,), {})
    return module


class Ledger:
    """The outcome of each test, and how many commands our client was given."""

    def __init__(self, option: argparse.Namespace) -> None:
        self._option = option
        self._outcomes: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self.calls = 0

    def swap(self) -> None:
        """Replace `redis.asyncio.Redis` by `Client`, its calls counted."""
        ledger = self

        class Subject(Client):
            async def execute_command(self, *args: Any, **options: Any) -> Any:
                ledger.calls += 1
                return await super().execute_command(*args, **options)

        redis.asyncio.Redis = Subject  # type: ignore[misc]
        redis.asyncio.client.Redis = Subject  # type: ignore[misc]

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, request: Any) -> None:
        if isinstance(getattr(request, "param", None), LazyFixture):
            request.param = request.getfixturevalue(request.param.name)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        kept = [item for item in items if self._option.only in item.nodeid]
        config.hook.pytest_deselected(items=[i for i in items if i not in set(kept)])
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        self._outcomes[report.nodeid] = outcome
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else str(report.longrepr or "")
        if report.failed:
            self._reasons[report.nodeid] = text.strip().partition("\n")[0][:300]

    def pytest_sessionfinish(self) -> None:
        result = {
            "calls": self.calls,
            "outcomes": self._outcomes,
            "reasons": self._reasons,
        }
        self._option.report.write_text(json.dumps(result, indent=1), encoding="utf-8")


# --- what the suites get from elsewhere


@pytest.fixture(scope="session")
def docker_services() -> Any:
    """Of limits: containers; the server is there already."""
    return MagicMock()


@pytest.fixture
def redis_dsn(request: pytest.FixtureRequest) -> str:
    """Of cashews, whose source distribution has no conftest."""
    return f"{request.config.option.server}/"


@pytest.fixture
def backend_factory() -> Callable[..., Any]:
    """Of cashews, as above."""
    return lambda backend, *args, **options: backend(*args, **options)


@pytest.fixture
async def cache(redis_dsn: str) -> AsyncIterator[Any]:
    """Of cashews, as above: a cache in Redis."""
    from cashews import Cache

    cache = Cache()
    cache.setup(redis_dsn)
    await cache.init()
    await cache.clear()
    yield cache
    await cache.close()
