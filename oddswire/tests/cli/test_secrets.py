"""No command ever prints a password, whatever is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.requirement("O2"), pytest.mark.errors]

CANARY = "c4nary-s3cret"


@pytest.mark.parametrize("command", ["doctor", "stats", "acl"])
@pytest.mark.parametrize(
    "url",
    [
        "redis://:{canary}@127.0.0.1:{port}",  # refused
        "redis://nobody:{canary}@127.0.0.1:{port}",
        "redis://:{canary}@127.0.0.1:1",  # nobody there
        "redis://:{canary}@[127.0.0.1",  # malformed
        "redis://:{canary}/x@127.0.0.1",
        "http://:{canary}@127.0.0.1",
        "redis://:{canary}%zz@127.0.0.1",
    ],
)
def test_a_password_in_a_url_is_never_printed(run, server, command, url):
    """Refused, unreachable, malformed: neither output has it, as text or JSON."""
    url = url.format(canary=CANARY, port=server.port)
    for done in (
        run(command, "--json", url=url, REDIS_COMMAND_TIMEOUT="200"),
        run(command, "--url", url, REDIS_COMMAND_TIMEOUT="200"),
    ):
        assert done.exit_code in (1, 2)
        assert CANARY not in done.output


@pytest.mark.parametrize("command", ["doctor", "stats", "acl"])
def test_the_right_password_is_never_printed(run, server, command):
    """Neither is the one that works."""
    done = run(command, "--json", url=server.url)
    assert done.exit_code == 0
    assert server.password not in done.output


@pytest.mark.parametrize("variable", ["REDIS_PASSWORD", "ODDSWIRE_CACHE_URL"])
def test_other_secrets_are_not_printed(run, server, variable):
    """A second password, wrong or in conflict with the first, is not shown."""
    value = CANARY if variable == "REDIS_PASSWORD" else f"redis://:{CANARY}@127.0.0.1:1"
    done = run(
        "doctor", url=server.url, REDIS_COMMAND_TIMEOUT="200", **{variable: value}
    )
    assert done.exit_code in (1, 2)
    assert CANARY not in done.output


@pytest.mark.parametrize(
    "words",
    [
        ["doctor", f"redis://:{CANARY}@h"],
        [f"redis://:{CANARY}@h"],
        ["doctor", "--ulr", f"redis://:{CANARY}@h"],
        ["doctor", f"--ulr=redis://:{CANARY}@h"],
        ["acl", "client", f"redis://:{CANARY}@h"],
    ],
)
def test_a_url_in_the_wrong_place_is_not_repeated(words):
    """A parser repeats what it does not expect; a URL it never gets to see."""
    done = subprocess.run(
        [sys.executable, "-m", "oddswire.cli", *words],
        capture_output=True, text=True, timeout=25, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert CANARY not in done.stdout + done.stderr
    assert "--url" in done.stderr


def test_without_its_extra_it_says_which(tmp_path):
    """Without typer the command is one line that says what to install."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("without_typer.py")],
        capture_output=True, text=True, timeout=25, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert "pip install 'oddswire[cli]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
