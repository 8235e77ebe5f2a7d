"""Each fault for a moment, with our client; `make chaos` is the long form."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from redis.credentials import CredentialProvider

from oddswire import Client, EmbeddedServer

CHAOS = Path(__file__).parents[3] / "proofs" / "chaos"


def _load(name):
    spec = importlib.util.spec_from_file_location(name, CHAOS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


load = _load("load")
_load("worker")
_load("parts")
rows = _load("rows")


class Ours(CredentialProvider):
    """Our client as the rows see it."""

    def __init__(self, proxy, password):
        self.credentials = {"password": password}
        self.client = Client(
            host=proxy.host,
            port=proxy.port,
            credential_provider=self,
            command_timeout=load.DEADLINE,
            connect_timeout=1.0,
        )
        self.get, self.set, self.incr = (
            self.client.get,
            self.client.set,
            self.client.incr,
        )

    async def get_credentials_async(self):
        """Return what holds now."""
        return "default", self.credentials["password"]


@pytest.mark.requirement("O4", "C4", "C7")
@pytest.mark.errors
@pytest.mark.parametrize("tasks", [1, 20])
@pytest.mark.parametrize(
    "row", rows.ROWS, ids=[f"{row.number} {row.name}" for row in rows.ROWS]
)
async def test_client_passes_through_the_fault(row, tasks, soon_silent):
    """Nothing is lost, mixed up, late or left behind, and it goes on at once."""

    async def open_ours(stack, proxy):
        ours = Ours(proxy, server.password)
        stack.push_async_callback(ours.client.aclose)
        return ours

    async with EmbeddedServer(aof=row.aof, args=row.args) as server:
        result = await load.run(
            server,
            open_ours,
            row.fault,
            tasks=tasks,
            seconds=0.6,  # longer than the deadline of a call
            keeps=row.keeps,
        )
    missed = [text for text, holds in row.criteria if not holds(result)]
    assert missed == [], result
    assert result.acked > 50
