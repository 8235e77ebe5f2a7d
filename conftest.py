"""What every test run keeps to, and the fixtures that every test may use.

`Reporting` refuses a test that does not say what it promises, counts the kinds, and
writes `build/requirements.json`, from which `docs/render_features.py` makes
`results/features.md`. `tests/test_reporting.py` of the library runs it on small suites.
"""

# ruff: noqa: D102, D103 (hooks do what pytest says they do)

from __future__ import annotations

import gc
import json
import os
import platform
import re
import shutil
import signal
import sys
import tomllib
import uuid
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from blockbuster import blockbuster_ctx
from hypothesis import settings

# Before any test module: pytest calls those oddswire.tests.test_..., and would take the
# repository's folder for the package if the real one were not imported yet.
import oddsbot
import oddswire
from oddswire.settings import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oddswire import EmbeddedServer

pytest_plugins = ["pytester", "oddswire.testing.fixtures", "support.fixtures"]

KINDS = ("basic", "advanced", "errors", "performance", "integration")

# A verdict is about the change, so the first two find the same examples each time;
# `long` is for looking for new ones.
settings.register_profile(
    "default", max_examples=50, deadline=None, derandomize=True, print_blob=True
)
settings.register_profile("ci", settings.get_profile("default"), max_examples=200)
settings.register_profile(
    "long", settings.get_profile("default"), max_examples=5_000, derandomize=False
)


def pytest_configure(config: pytest.Config) -> None:
    env = os.environ  # noqa: TID251 (pytest is the application here)
    # A run starts hundreds of processes: each module is compiled once, by the first.
    sys.dont_write_bytecode = False
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    # A shell has its jobs in the background ignore Ctrl-C, and all that they start too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Child programs of tests take what they share from tests/support too.
    paths = (str(config.rootpath / "tests"), env.get("PYTHONPATH", ""))
    env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    settings.load_profile(env.get("HYPOTHESIS_PROFILE", "default"))
    config.pluginmanager.register(
        Reporting(config, forbid_skips=env.get("FORBID_SKIPS", "") not in ("", "0"))
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Begin with the longest tests in each process of `pytest -n --dist worksteal`.

    A process gives away no test of its last two. One that takes a minute would keep it
    when the others have nothing left.
    """
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    first = [item for item in items if _is_long(item)]
    if processes == 1 or len(items) < 100:
        return
    rest = iter([item for item in items if not _is_long(item)])
    left, ordered = len(items), []
    for number in range(processes):
        # As the scheduler divides them.
        share = left // (processes - number)
        mine = first[number::processes]
        ordered += [*mine, *islice(rest, max(0, share - len(mine)))]
        left -= share
    items[:] = [*ordered, *rest]


def _is_long(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("timeout")
    return mark is not None and mark.args[0] > 120


class Reporting:
    """Collection rules, skips, and the rows of docs/requirements.toml by outcome."""

    def __init__(self, config: pytest.Config, *, forbid_skips: bool) -> None:
        self.forbid_skips = forbid_skips
        # The page of features is made of what .venv found. Another environment of the
        # Makefile leaves a file of its own, such as requirements-3.13.json.
        other = Path(sys.prefix).name.removeprefix(".venv")
        suffix = other if other.startswith("-") else ""
        self.results = config.rootpath / "build" / f"requirements{suffix}.json"
        self.recordings = _recordings(config)
        self.rows = _rows(config.rootpath / "docs" / "requirements.toml")
        self.kinds: Counter[str] = Counter()
        self.by_row: defaultdict[str, list[str]] = defaultdict(list)
        self.outcomes: dict[str, str] = {}
        self.skips: dict[str, str] = {}
        self.unseen = 0
        self.collected = 0
        self.written = False

    # --- collection

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        # Modules and tests stay until the end: the garbage collector, which went
        # through them again and again, looks at what the tests make.
        gc.disable()
        try:
            return (yield)
        finally:
            gc.enable()
            gc.freeze()

    # First, so that what -k and -m leave out is held to the rules too.
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        problems = [line for item in items for line in self._problems(item)]
        # One of several processes cannot end the run: there its test fails.
        if problems and not hasattr(config, "workerinput"):
            raise pytest.UsageError(*dict.fromkeys(problems))
        absent = [item for item in items if not self._belongs_here(item)]
        if absent:
            items[:] = [item for item in items if item not in absent]
            config.hook.pytest_deselected(items=absent)
        for item in items:
            # With the reports, for those come from other processes too (pytest -n).
            item.user_properties += [("kind", kind) for kind in _kinds_of(item)]
            item.user_properties += [("requirement", row) for row in _rows_of(item)]

    def _problems(self, item: pytest.Item) -> Iterator[str]:
        where = item.nodeid.partition("[")[0]
        if not (getattr(item, "function", item).__doc__ or "").strip():
            yield f"{where}: needs a docstring, one sentence: what it promises"
        kinds = _kinds_of(item)
        if len(kinds) != 1:
            has = f"has {' and '.join(kinds)}" if kinds else "has none"
            yield f"{where}: needs exactly one kind ({', '.join(KINDS)}), {has}"
        for row in _rows_of(item):
            if row not in self.rows:
                yield f"{where}: no row {row!r} in docs/requirements.toml"
        if "shared_data" in getattr(item, "fixturenames", ()) and not (
            item.get_closest_marker("shared")
        ):
            yield f"{where}: uses shared_data, so it needs @pytest.mark.shared"

    def _belongs_here(self, item: pytest.Item) -> bool:
        if item.get_closest_marker("shared") and not self.recordings.is_dir():
            return False
        return _versions_suffice(item)

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        # A test of a newer Python is none of this one: without it the run is whole.
        self.unseen += sum(map(_versions_suffice, items))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = len(session.items)

    # --- processes of pytest -n: each collects everything and runs its part

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        told = getattr(node, "workeroutput", {})
        self.collected = max(self.collected, told.get("collected", 0))
        self.unseen = max(self.unseen, told.get("unseen", 0))

    # --- outcomes

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if hasattr(item.config, "workerinput"):
            for problem in self._problems(item):
                pytest.fail(problem, pytrace=False)
        for mark in item.iter_markers("system"):
            command = mark.args[0]
            if not _installed(command):
                package = mark.kwargs.get("package", command)
                pytest.skip(f"needs {command}: sudo apt-get install {package}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            for name, value in report.user_properties:
                if name == "kind":
                    self.kinds[value] += 1
                elif name == "requirement":
                    self.by_row[value].append(report.nodeid)
        if report.failed:
            self.outcomes[report.nodeid] = "failed"
        elif report.skipped:
            self._skipped(report)
            self.outcomes.setdefault(report.nodeid, "skipped")
        elif report.when == "call":
            self.outcomes.setdefault(report.nodeid, "passed")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._skipped(report)
            self.unseen += 1

    def _skipped(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = getattr(report, "wasxfail", None)
        if reason is None:
            where = report.longrepr
            reason = where[2] if isinstance(where, tuple) else str(where)
        self.skips[report.nodeid] = reason.removeprefix("Skipped: ") or "no reason"

    # --- the end of the run

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        told = getattr(session.config, "workeroutput", None)
        if told is not None:
            told |= {"collected": self.collected, "unseen": self.unseen}
            return
        if self._is_whole(session, exitstatus):
            self.results.parent.mkdir(exist_ok=True)
            text = json.dumps(self._by_row(), indent=1, sort_keys=True)
            self.results.write_text(text + "\n", encoding="utf-8")
            self.written = True
        if self.forbid_skips and self.skips and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _is_whole(self, session: pytest.Session, exitstatus: int) -> bool:
        """Whether every test there is was run: a part would look like lost rows."""
        option = session.config.option
        return (
            exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
            and session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
            and not (
                getattr(option, "lf", False) or option.ignore or option.ignore_glob
            )
            and self.unseen == 0
            and len(self.outcomes) == self.collected == self.kinds.total() > 0
        )

    def _by_row(self) -> dict[str, list[dict[str, str]]]:
        return {
            row: [
                {"test": test, "outcome": self.outcomes[test]} for test in sorted(ids)
            ]
            for row, ids in self.by_row.items()
        }

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        say = terminalreporter.write_line
        if self.forbid_skips and self.skips:
            terminalreporter.section("FORBID_SKIPS: these must run here", red=True)
            for nodeid, reason in sorted(self.skips.items()):
                say(f"{nodeid}: {reason}")
        if self.kinds:
            say("kinds: " + ", ".join(f"{self.kinds[kind]} {kind}" for kind in KINDS))
            if self.written:
                say(
                    f"requirements: {len(self.by_row)} of {len(self.rows)} rows have a "
                    f"test, see build/{self.results.name}"
                )
            else:
                say(f"requirements: not every test ran, no build/{self.results.name}")


def _installed(command: str) -> bool:
    # Debian keeps PostgreSQL's server out of PATH, one folder for each version.
    return shutil.which(command) is not None or any(
        Path("/usr/lib/postgresql").glob(f"*/bin/{command}")
    )


def _versions_suffice(item: pytest.Item) -> bool:
    wanted = {
        name: version
        for mark in item.iter_markers("needs")
        for name, version in mark.kwargs.items()
    }
    found = {"python": platform.python_version(), "redis_py": redis.__version__}
    return all(
        _numbers(found[name]) >= _numbers(version) for name, version in wanted.items()
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _kinds_of(item: pytest.Item) -> list[str]:
    names = {mark.name for mark in item.iter_markers()}
    return [kind for kind in KINDS if kind in names]


def _rows_of(item: pytest.Item) -> list[str]:
    rows = {row for mark in item.iter_markers("requirement") for row in mark.args}
    return sorted(rows)


def _rows(file: Path) -> set[str]:
    with file.open("rb") as stream:
        return {row["row"] for row in tomllib.load(stream)["row"]}


def _recordings(config: pytest.Config) -> Path:
    return config.rootpath.parent / "shared" / "polymarket-data"


# --- fixtures


@pytest.fixture(scope="session", autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call in an event loop raises, where our own code is on the stack."""
    with blockbuster_ctx([oddswire, oddsbot]) as watch:
        # redis-py looks up its own version on disk for each connection it makes.
        for function in watch.functions.values():
            function.can_block_in("redis/utils.py", "get_lib_version")
            # What this process holds is read from /proc, which is no disk.
            function.can_block_in("testing/resources.py", {"_sockets", "_count"})
            # asyncpg looks for a file of passwords with each connection it makes.
            function.can_block_in("asyncpg/connect_utils.py", {"_read_password_file"})
            # A .env is read by whoever connects without settings: once, as a module is.
            function.can_block_in("settings/_environment.py", "_dotenv")
            # A Lua script is read as a module is: once, by whoever imports it first.
            function.can_block_in("scripts/_script.py", "load")
        yield


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_ours() -> Iterator[None]:
    """`oddswire.connect()` reads the environment; that of the tests names no server."""
    with pytest.MonkeyPatch.context() as patch:
        for option in OPTIONS:
            if not option.program:
                patch.delenv(option.variable, raising=False)
        yield


@pytest.fixture(scope="session")
def shared_data(pytestconfig: pytest.Config) -> Path:
    """The folder of recordings beside the repository; mark the test `shared`."""
    return _recordings(pytestconfig)


@pytest.fixture(scope="session")
def server(redis_server: EmbeddedServer) -> EmbeddedServer:
    """One real server for the whole run.

    Take `prefix` for the keys; start an `EmbeddedServer` of your own to flush, count,
    configure or kill it.
    """
    return redis_server


@pytest.fixture
def prefix() -> str:
    """What the keys of this test begin with, on a server that others use too."""
    return f"test-{uuid.uuid4().hex[:12]}:"
