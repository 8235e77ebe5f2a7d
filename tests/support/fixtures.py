"""The fixtures that the tests of both distributions share."""

from __future__ import annotations

import shutil

import pytest

from oddswire import Client, EmbeddedServer


@pytest.fixture(scope="session")
def program(request):
    """The server's program; None: the one that comes along."""
    name = getattr(request, "param", None)
    return None if name is None else shutil.which(name)


@pytest.fixture
async def own(program):
    """A server of the test's own, to flush, count, configure or kill."""
    async with EmbeddedServer(binary=program) as server:
        yield server


@pytest.fixture
async def client(server):
    """A client of the server that the whole run shares."""
    async with Client.from_url(server.url) as client:
        yield client
