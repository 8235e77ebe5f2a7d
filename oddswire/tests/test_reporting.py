"""The rules of every test run (conftest.py at the root), on small suites."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import redis.asyncio
from blockbuster import BlockingError

ROOT = Path(__file__).resolve().parents[2]

# Whole runs, of which some start a process that imports everything again.
pytestmark = pytest.mark.timeout(120)

ROWS = """
[[row]]
row = "A1"
[[row]]
row = "A2"
"""

PASSES = '''
    import pytest

    @pytest.mark.basic
    @pytest.mark.requirement("A1")
    def test_sums():
        """One and one is two."""
        assert 1 + 1 == 2
'''


@pytest.fixture
def project(pytester, monkeypatch):
    """A checkout with our conftest.py and pytest settings and no test yet."""
    monkeypatch.delenv("FORBID_SKIPS", raising=False)
    for name in ("conftest.py", "pyproject.toml"):
        (pytester.path / name).write_text((ROOT / name).read_text())
    (pytester.path / "docs").mkdir()
    (pytester.path / "docs" / "requirements.toml").write_text(ROWS)
    for package in ("oddswire", "oddsbot"):
        (pytester.path / package / "tests").mkdir(parents=True)
    return pytester


def add_test(project, name, text):
    """Put a file of tests where a whole run finds it."""
    file = project.makepyfile(**{name: text})
    return file.rename(project.path / "oddswire" / "tests" / file.name)


def results_of(project):
    """Return what the run wrote; in another environment the file has its name too."""
    (file,) = (project.path / "build").glob("requirements*.json")
    return json.loads(file.read_text())


# In processes of their own, as `make test` runs them, and as by hand.
PROCESSES = pytest.mark.parametrize("processes", [["-n1"], []], ids=["apart", "here"])


@pytest.mark.basic
@pytest.mark.requirement("T1")
@PROCESSES
def test_whole_run_writes_outcomes_by_row(project, processes):
    """A whole run, failures included, leaves the outcome of each test of a row."""
    add_test(project, "test_good", PASSES)
    add_test(
        project,
        "test_bad",
        '''
        import pytest

        @pytest.mark.errors
        @pytest.mark.requirement("A1", "A2")
        @pytest.mark.parametrize("n", [1, 2])
        def test_is_one(n):
            """It is one."""
            assert n == 1
        ''',
    )

    done = project.runpytest(*processes)

    done.assert_outcomes(passed=2, failed=1)
    done.stdout.fnmatch_lines(
        [
            "kinds: 1 basic, 0 advanced, 2 errors, 0 performance, 0 integration",
            "requirements: 2 of 2 rows have a test, see build/requirements*.json",
        ]
    )
    one, two = (f"oddswire/tests/test_bad.py::test_is_one[{n}]" for n in (1, 2))
    good = "oddswire/tests/test_good.py::test_sums"
    bad = [{"test": one, "outcome": "passed"}, {"test": two, "outcome": "failed"}]
    assert {
        "A1": [*bad, {"test": good, "outcome": "passed"}],
        "A2": bad,
    } == results_of(project)


@pytest.mark.advanced
@pytest.mark.parametrize(
    "part",
    [
        ["oddswire/tests/test_good.py"],
        ["-k", "good"],
        ["-m", "basic"],
        ["--deselect", "oddswire/tests/test_other.py::test_sums"],
        ["--ignore", "oddswire/tests/test_other.py"],
        ["--collect-only"],
    ],
    ids=lambda part: part[0].strip("-").partition("/")[0],
)
def test_part_of_a_run_leaves_the_results(project, part):
    """A run of a part neither writes nor merges: it would look like lost rows."""
    add_test(project, "test_good", PASSES)
    add_test(project, "test_other", PASSES.replace("basic", "advanced"))
    results = project.path / "build" / "requirements.json"
    results.parent.mkdir()
    results.write_text("older")

    done = project.runpytest(*part)

    assert done.ret == 0
    assert results.read_text() == "older"


@pytest.mark.advanced
@pytest.mark.parametrize(
    ("needs", "runs", "processes"),
    [
        ('python="3.11"', 2, []),
        ('python="99.0"', 1, []),
        ('redis_py="7.4"', 2, []),
        ('redis_py="99"', 1, []),
        ('python="3.11", redis_py="99"', 1, ["-n1"]),
    ],
)
def test_test_of_a_newer_version_is_no_part_of_the_run(project, needs, runs, processes):
    """It is deselected, not skipped, and without it the run is whole."""
    add_test(project, "test_good", PASSES)
    marked = PASSES.replace("@pytest", f"@pytest.mark.needs({needs})\n    @pytest", 1)
    add_test(project, "test_newer", marked)

    done = project.runpytest(*processes)

    done.assert_outcomes(passed=runs, deselected=0 if processes else 2 - runs)
    assert len(results_of(project)["A1"]) == runs


@pytest.mark.advanced
def test_stopped_run_leaves_no_results(project):
    """A run that stops at its first failure did not run everything."""
    bad = PASSES.replace("== 2", "== 3")
    add_test(project, "test_one", bad)
    add_test(project, "test_two", bad)

    done = project.runpytest("-x")

    done.assert_outcomes(failed=1)
    assert not (project.path / "build").exists()


@pytest.mark.errors
@pytest.mark.requirement("T1")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('"""One and one is two."""', ""), "*needs a docstring*"),
        (("@pytest.mark.basic", ""), "*needs exactly one kind*has none"),
        (
            ("@pytest.mark.basic", "@pytest.mark.basic\n    @pytest.mark.errors"),
            "*needs exactly one kind*has basic and errors",
        ),
        (('"A1"', '"Z9"'), "*no row 'Z9' in docs/requirements.toml"),
        (("test_sums()", "test_sums(shared_data)"), "*needs @pytest.mark.shared"),
    ],
    ids=["docstring", "no kind", "two kinds", "row", "shared"],
)
def test_breach_of_the_rules_is_refused(project, change, says):
    """A test that breaks a rule ends the run before any test, and is named."""
    add_test(project, "test_rules", PASSES.replace(*change))

    done = project.runpytest("-k", "nothing")

    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([f"*oddswire/tests/test_rules.py::test_sums{says}"])


@pytest.mark.errors
@pytest.mark.requirement("T1")
def test_breach_of_the_rules_fails_its_test_where_processes_share_the_run(project):
    """A process of several cannot end the run, so the test that breaks a rule fails."""
    add_test(project, "test_rules", PASSES.replace("@pytest.mark.basic", ""))

    done = project.runpytest("-n1")

    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["*test_rules.py::test_sums: needs exactly one kind*"])


SKIPS = {
    "skip": 'pytest.skip("no reason at all")',
    "skip of a module": None,
    "xfail": 'pytest.xfail("no reason at all")',
}


@pytest.mark.errors
@pytest.mark.parametrize(
    ("how", "processes"), [*((how, []) for how in SKIPS), ("skip of a module", ["-n1"])]
)
def test_forbidden_skip_fails_the_run(project, monkeypatch, how, processes):
    """With FORBID_SKIPS=1 a run with a skip or an xfail fails and lists them."""
    add_test(project, "test_good", PASSES)
    if SKIPS[how] is None:
        skipping = (
            'import pytest\npytest.skip("no reason at all", allow_module_level=1)'
        )
    else:
        skipping = PASSES.replace("assert 1 + 1 == 2", SKIPS[how])
    add_test(project, "test_skips", skipping)

    allowed = project.runpytest(*processes)
    wrote = (project.path / "build").exists()
    monkeypatch.setenv("FORBID_SKIPS", "1")
    forbidden = project.runpytest(*processes)

    assert allowed.ret == pytest.ExitCode.OK
    assert wrote == (how != "skip of a module")  # whose tests nobody has seen
    assert forbidden.ret == pytest.ExitCode.TESTS_FAILED
    forbidden.stdout.fnmatch_lines(
        ["*FORBID_SKIPS*", "oddswire/tests/test_skips.py*: no reason at all"]
    )


@pytest.mark.errors
def test_absent_system_package_is_named(project):
    """A test that needs an absent package is skipped with the line that installs it."""
    mark = '@pytest.mark.system("no-such-server", package="no-such-package")\n    '
    tls = PASSES.replace("@pytest.mark.basic", mark + "@pytest.mark.basic")
    add_test(project, "test_tls", tls)

    done = project.runpytest()

    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(
        ["*needs no-such-server: sudo apt-get install no-such-package"]
    )
    assert results_of(project)["A1"][0]["outcome"] == "skipped"


@pytest.mark.advanced
@PROCESSES
def test_shared_tests_go_with_the_recordings(project, processes):
    """Without the recordings their tests are deselected and the results left alone."""
    add_test(project, "test_good", PASSES)
    mark = "@pytest.mark.shared\n    @pytest.mark.basic"
    reads = PASSES.replace("@pytest.mark.basic", mark).replace(
        "test_sums()", "test_reads(shared_data)"
    )
    add_test(project, "test_reads", reads)
    recordings = project.path.parent / "shared" / "polymarket-data"

    without = project.runpytest(*processes)
    wrote_without = (project.path / "build").exists()
    recordings.mkdir(parents=True, exist_ok=True)
    try:
        with_them = project.runpytest(*processes)
    finally:
        recordings.rmdir()

    without.assert_outcomes(passed=1)
    assert not wrote_without
    with_them.assert_outcomes(passed=2)
    assert len(results_of(project)["A1"]) == 2


@pytest.mark.basic
async def test_blocking_call_of_ours_raises():
    """A call that blocks the loop raises where our code made it, and only there."""
    folder = Path(importlib.util.find_spec("oddswire").origin).parent
    code = "import time; time.sleep(0)"

    exec(compile(code, "elsewhere.py", "exec"))
    with pytest.raises(BlockingError, match=r"time\.sleep"):
        exec(compile(code, str(folder / "wire.py"), "exec"))


@pytest.mark.integration
@pytest.mark.parametrize("loop", [1, 2])
async def test_one_server_serves_the_loops_of_many_tests(server, prefix, loop):
    """The server of the run answers in every test's loop, without the others' keys."""
    async with redis.asyncio.Redis.from_url(server.url) as client:
        before = await client.get(f"{prefix}loop")
        await client.set(f"{prefix}loop", loop)
        after = await client.get(f"{prefix}loop")

    assert (before, after) == (None, str(loop).encode())
