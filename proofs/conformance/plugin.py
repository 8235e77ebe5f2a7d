"""The pytest plugin that runs redis-py's suite once as it is and once with `Client`.

`run.py` loads it with ``-p plugin`` before the suite's own conftest, in an interpreter
whose `redis` is the unpacked source distribution.
"""

# ruff: noqa: D102 - hooks do what pytest says they do

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
from on_cluster import OnCluster, looks_inside

from oddswire.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

# The fixture `create_redis` makes clients of two variants; results/conformance.md says
# why this one does not count.
_SINGLE = (True,)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that `run.py` passes."""
    group = parser.getgroup("conformance")
    group.addoption("--subject", choices=("stock", "ours"), required=True)
    group.addoption("--report", type=Path, required=True, help="where the results go")
    group.addoption("--claim-version", help="server version that skips are decided by")
    group.addoption("--on-cluster", action="store_true", help="the server is a node")
    group.addoption("--only", type=Path, help="a JSON list of the tests to run")


# Before the suite's conftest takes the class under its name.
@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Put our class of a cluster where the suite looks for redis-py's."""
    option = early_config.known_args_namespace
    if option.on_cluster and option.subject == "ours":
        redis.asyncio.RedisCluster = redis.asyncio.cluster.RedisCluster = OnCluster


def pytest_configure(config: pytest.Config) -> None:
    """Put `Client` where the suite looks for redis-py's class."""
    ledger = Ledger(config)
    config.pluginmanager.register(ledger)
    if config.option.subject == "ours" and not config.option.on_cluster:
        ledger.swap()


class Ledger:
    """The outcome of each test, and which connections the server says were used."""

    def __init__(self, config: pytest.Config) -> None:
        self._option = config.option
        self._server = redis.Redis.from_url(config.option.redis_url)
        self._servers = [self._server]
        if config.option.on_cluster:
            found = self._server.execute_command("CLUSTER SLOTS")
            # As its callback has them, or in RESP3 as they come.
            owners = (
                [each["primary"] for each in found.values()]
                if isinstance(found, dict)
                else [each[2][:2] for each in found]
            )
            self._servers = [redis.Redis(host=h, port=p) for h, p in owners]
        self._outcomes: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._on_command_connections = 0
        self._in_all = 0
        # Of a cluster: tests that are about redis-py's own parts, and tests in which
        # our client was given nothing to do.
        self._inner = 0
        self._without_ours: list[str] = []

    def swap(self) -> None:
        """Replace `redis.asyncio.Redis` by `Client`, its commands counted."""
        ledger = self

        class Subject(Client):
            async def aclose(self, *arguments: Any, **options: Any) -> None:
                connection = self._command.current
                if connection is not None:
                    transport = connection._transport
                    host, port = transport.get_extra_info("sockname")
                    ledger.count_connection(f"{host}:{port}")
                await super().aclose(*arguments, **options)

        redis.asyncio.Redis = Subject

    def count_connection(self, address: str) -> None:
        """Add what the server counted on a command connection about to be closed."""
        for client in self._server.client_list():
            if client["addr"] == address:
                # Without the two that the handshake sent: HELLO or PING, and INFO.
                self._on_command_connections += int(client["tot-cmds"]) - 2

    # After the suite's conftest has asked the server for its version.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        if self._option.claim_version:
            info = sys.modules["tests.conftest"].REDIS_INFO
            info["version"] = self._option.claim_version

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        only = self._option.only
        wanted = None if only is None else set(json.loads(only.read_text()))
        kept = [
            item
            for item in items
            if _variant(item) != _SINGLE and (wanted is None or item.nodeid in wanted)
        ]
        if self._option.on_cluster:
            inner = [item for item in kept if looks_inside(item)]
            self._inner = len(inner)
            kept = [item for item in kept if item not in inner]
        config.hook.pytest_deselected(items=[i for i in items if i not in set(kept)])
        items[:] = kept

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        before, given = self._calls(), OnCluster.calls
        result = yield
        if OnCluster.calls == given:
            self._without_ours.append(item.nodeid)
        after = self._calls()
        # Some tests reset the server's counters.
        self._in_all += after - before if after >= before else after
        return result

    def _calls(self) -> int:
        return sum(
            command["calls"]
            for server in self._servers
            for name, command in server.info("commandstats").items()
            # Its own questions, and what connections say of themselves.
            if name not in {"cmdstat_info", "cmdstat_client|list", "cmdstat_hello"}
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        self._outcomes[report.nodeid] = outcome
        if isinstance(report.longrepr, tuple):  # of a test that was skipped
            self._reasons[report.nodeid] = str(report.longrepr[2])
        elif report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = crash.message if crash else str(report.longrepr)
            self._reasons[report.nodeid] = text.strip().partition("\n")[0][:200]

    def pytest_sessionfinish(self) -> None:
        result = {
            "redis": redis.__version__,
            "redis_file": redis.__file__,
            "commands": {
                "all": self._in_all,
                "command_connection": self._on_command_connections
                + OnCluster.on_command_connections,
            },
            "on_cluster": self._option.on_cluster,
            "inner": self._inner,
            "without_ours": self._without_ours,
            "outcomes": self._outcomes,
            "reasons": self._reasons,
        }
        self._option.report.write_text(json.dumps(result, indent=1), encoding="utf-8")


def _variant(item: pytest.Item) -> object:
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("create_redis")
