"""A status application that listens, for the tests of what it answers."""

from __future__ import annotations

from contextlib import asynccontextmanager

import aiohttp

import oddswire
from oddswire.web.status import Status
from support.waiting import eventually

TOKEN = "t0ken-of-this-test-0123456789"


class Site:
    """A status application that listens, and a client of it."""

    def __init__(self, wire, status, port, http):
        self.wire = wire
        self.status = status
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self._http = http

    async def get(self, path, *, method="GET", **headers):
        """Return (status, body, headers) of a request."""
        async with self._http.request(
            method, f"{self.url}{path}", headers=headers
        ) as answer:
            return answer.status, await answer.text(), answer.headers

    async def ready(self):
        """Wait until the first look was good."""
        await eventually(lambda: self.status.overview().ready)


@asynccontextmanager
async def serving(*, token=None, interval=0.1, **options):
    """Serve the status of a wire; yield its `Site`."""
    async with (
        oddswire.connect(command_timeout=0.5, retries=0, **options) as wire,
        Status(
            wire.metrics, wire.health, token=token, interval=interval, sample=interval
        ) as status,
        status.listener() as listener,
        aiohttp.ClientSession() as http,
    ):
        yield Site(wire, status, listener.port, http)
