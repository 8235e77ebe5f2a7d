"""The oldest server that is tested with, and which tests run on it too.

Debian's Redis 7.0 knows no CLIENT SETINFO and no expiry of hash fields, and words its
refusals otherwise. Where it is not installed these runs are skipped by name.
"""

from __future__ import annotations

import shutil

import pytest

from oddswire import EmbeddedServer
from oddswire.testing.fixtures import on_its_own_thread

_OLDEST = pytest.param(
    "redis-server", marks=pytest.mark.system("redis-server", package="redis-server")
)

_ON_BOTH = {
    "test_coherence",
    "test_either_server",
    "test_exclusive",
    "test_fallback",
    "test_fences",
    "test_hosted",
    "test_pipelines",
    "test_refresh",
    "test_scripts",
    "test_tiers",
}

# They wait, for the same on every server.
_ONCE = {"test_blocking_longer_than_the_command_timeout"}


def pytest_generate_tests(metafunc):
    """Run the tests of these files on the oldest server as well."""
    name = metafunc.module.__name__.rpartition(".")[2]
    if (
        name in _ON_BOTH
        and metafunc.function.__name__ not in _ONCE
        and "program" in metafunc.fixturenames
    ):
        metafunc.parametrize(
            "program", [None, _OLDEST], ids=["newest", "oldest"], indirect=True
        )


@pytest.fixture(scope="session")
def program(request):
    """The server's program; None: the one that comes along."""
    name = getattr(request, "param", None)
    return None if name is None else shutil.which(name)


@pytest.fixture(scope="session")
def oldest_server():
    """One for the whole run, as `redis_server` is."""
    program = shutil.which("redis-server")
    with on_its_own_thread(lambda: EmbeddedServer(binary=program)) as server:
        yield server


@pytest.fixture(scope="session")
def server(request, program):
    """One real server for the whole run; see the root's `server`."""
    return request.getfixturevalue(
        "redis_server" if program is None else "oldest_server"
    )


@pytest.fixture
async def own(program):
    """A server of the test's own."""
    async with EmbeddedServer(binary=program) as server:
        yield server
