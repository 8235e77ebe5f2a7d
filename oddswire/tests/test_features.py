"""The pages that are made from code, or could contradict it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def features():
    """Return the module, which is a script of docs/ and not on the path."""
    spec = importlib.util.spec_from_file_location(
        "render_features", DOCS / "render_features.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OUTCOMES = st.sampled_from(["passed", "failed", "skipped"])
TESTS = st.lists(
    st.builds(
        lambda name, case, outcome: {
            "test": f"oddswire/tests/test_a.py::test_{name}[{case}]",
            "outcome": outcome,
        },
        st.sampled_from("xyz"),
        st.integers(0, 9),
        OUTCOMES,
    ),
    max_size=6,
)


@pytest.mark.basic
@given(tests=TESTS, begun=st.booleans())
def test_row_is_shown_only_by_passing_tests(features, tests, begun):
    """A row is shown only if it has tests, all passed, and it is not merely begun."""
    row = {"row": "A1", "begun": "a part"} if begun else {"row": "A1"}

    state = features.state_of(row, tests)

    all_passed = bool(tests) and {test["outcome"] for test in tests} == {"passed"}
    assert (state == "shown") == (all_passed and not begun)
    assert (state == "begun") == (all_passed and begun)
    assert (state == "missing") == (not tests)


@pytest.mark.basic
@given(tests=st.permutations([("x", 1), ("x", 2), ("y", 1)]))
def test_page_does_not_depend_on_order(features, tests):
    """The page is the same whatever order the results come in."""
    found = [
        {"test": f"oddsbot/tests/test_a.py::test_{name}[{n}]", "outcome": "passed"}
        for name, n in tests
    ]

    cell = features.tests_of(found)

    assert cell == (
        "oddsbot/test_a.py: `test_x` 2/2<br>oddsbot/test_a.py: `test_y` 1/1"
    )


@pytest.mark.errors
def test_without_results_the_page_stays(features, tmp_path, monkeypatch, capsys):
    """On a fresh checkout the committed page stays, and one line says what to do."""
    page = tmp_path / "features.md"
    page.write_text("committed")
    monkeypatch.setattr(features, "PAGE", page)
    monkeypatch.setattr(features, "RESULTS", tmp_path / "absent.json")

    features.main()

    assert page.read_text() == "committed"
    assert "`make test` first" in capsys.readouterr().out


@pytest.mark.basic
def test_every_row_is_complete_and_named_once():
    """Each row has its four texts, and no name stands twice."""
    rows = tomllib.loads((DOCS / "requirements.toml").read_text())["row"]

    names = [row["row"] for row in rows]
    assert len(names) == len(set(names))
    for row in rows:
        assert {"row", "group", "capability", "proof"} <= row.keys()
        assert row.keys() <= {
            *("row", "group", "capability", "proof", "page", "begun", "differs")
        }
        assert all(row.values())


SURFACE = tomllib.loads(Path(__file__).with_name("surface.toml").read_text())


@pytest.mark.basic
@pytest.mark.parametrize("module", SURFACE)
def test_what_code_relies_on_is_there(module):
    """Every name of the surface can be imported from its module."""
    for name in SURFACE[module].split():
        assert hasattr(importlib.import_module(module), name), (module, name)


@pytest.mark.basic
def test_every_guarantee_has_its_test():
    """Each row of docs/results/guarantees.md names tests, and each of them is there."""
    page = (DOCS / "results" / "guarantees.md").read_text()
    tables = re.findall(r"^\| promise .+\n\|[-| ]+\n((?:\|.+\n)+)", page, re.MULTILINE)
    rows = "".join(tables).splitlines()

    assert len(rows) > 10
    for row in rows:
        tests = re.findall(r"`(\w+/tests/[\w/]+\.py)::(\w+)`", row)
        assert tests, row
        for file, name in tests:
            assert f"def {name}(" in (DOCS.parent / file).read_text(), (file, name)


@pytest.mark.basic
@pytest.mark.parametrize("page", ["security", "alerts"])
def test_every_test_that_a_guide_names_is_there(page):
    """What a page says that a test tries, a test of that name tries."""
    text = (DOCS / "guides" / f"{page}.md").read_text()
    tests = re.findall(r"`(?:([\w/]+\.py)::)?(test_\w+)`", text)
    everywhere = "".join(
        path.read_text() for path in DOCS.parent.glob("oddsbot/tests/**/test_*.py")
    )

    assert len(tests) > 4
    for file, name in tests:
        folder = "" if file.startswith("oddsbot/") else "oddswire/tests/"
        code = (DOCS.parent / folder / file).read_text() if file else everywhere
        assert f"def {name}(" in code, (file, name)
