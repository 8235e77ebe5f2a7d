"""A pytest plugin: a program's own tests on one class, their server at our port.

Their tests expect a server at port 6379, where another may be: every connection to that
port goes to the one of the option. Writes each test's outcome to ``--report``.
"""

from __future__ import annotations

import asyncio.base_events
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import subject

_USUAL = 6379


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that `own_tests.py` passes."""
    group = parser.getgroup("dropin")
    group.addoption("--subject", choices=("stock", "ours"), required=True)
    group.addoption("--report", type=Path, required=True)
    group.addoption("--server", required=True)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Put `Client` where the program looks for redis-py's class, before it looks."""
    option = early_config.known_args_namespace
    if option.subject == "ours":
        subject.swap()
    _move(urlsplit(option.server).port)
    early_config.pluginmanager.register(Outcomes(option.report))


def _move(port: int | None) -> None:
    # Two ways: by name, and the short cut that asyncio has for numbers.
    by_name, by_number = socket.getaddrinfo, asyncio.base_events._ipaddr_info

    def moved(host: Any, asked: Any, *rest: Any, **more: Any) -> Any:
        return by_name(host, port if asked == _USUAL else asked, *rest, **more)

    def moved_number(host: Any, asked: Any, *rest: Any, **more: Any) -> Any:
        return by_number(host, port if asked == _USUAL else asked, *rest, **more)

    socket.getaddrinfo = moved  # type: ignore[assignment]
    asyncio.base_events._ipaddr_info = moved_number


class Outcomes:
    """The outcome of each test, and the first line of what failed."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._outcomes: dict[str, str] = {}
        self._reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a test."""
        if report.when != "call" and report.passed:
            return
        self._outcomes[report.nodeid] = report.outcome
        crash = getattr(report.longrepr, "reprcrash", None)
        if report.failed:
            text = crash.message if crash else str(report.longrepr or "")
            self._reasons[report.nodeid] = text.strip().partition("\n")[0][:300]

    def pytest_sessionfinish(self) -> None:
        """Write them."""
        result = {
            "calls": subject.Used.calls,
            "outcomes": self._outcomes,
            "reasons": self._reasons,
        }
        self._report.write_text(json.dumps(result, indent=1), encoding="utf-8")
