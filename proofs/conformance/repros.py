"""What goes wrong with other clients, tried on them and on ours.

Each function provokes one fault with the client that `open_client` opens and returns
what was seen and whether that is right. The numbers are those of
results/conformance.md.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socketserver
import sys
import threading
from contextlib import AsyncExitStack, suppress
from importlib.metadata import requires
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import hiredis
import redis.asyncio as aredis
from clients import OPEN, NotOffered, Target

from oddswire.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Open = Callable[[AsyncExitStack, Target], Awaitable[Any]]


class Seen(NamedTuple):
    """What a client did, and whether that is right; None: it has no such feature."""

    text: str
    right: bool | None


_PATIENCE = 20.0  # seconds; a client that takes longer hangs
_TIMEOUT = 0.1


def target(server: EmbeddedServer, **changes: Any) -> Target:
    """Return where `server` is."""
    return Target(server.host, server.port, server.password)._replace(**changes)


def short(error: BaseException) -> str:
    """Return an error in a few words."""
    if isinstance(error, BaseExceptionGroup):
        return short(error.exceptions[0])
    return type(error).__name__


async def killed_while_idle(server: EmbeddedServer, open_client: Open) -> Seen:
    """The server closes an idle connection; the next command, retries off."""
    async with AsyncExitStack() as stack:
        client = await open_client(stack, target(server, retries=False))
        await client.ping()
        await _kill_others(server)
        try:
            await client.ping()
        except Exception as error:  # noqa: BLE001 - what it is, is the result
            return Seen(f"{short(error)}", right=False)
        return Seen("answered", right=True)


async def _kill_others(server: EmbeddedServer) -> None:
    async with aredis.Redis.from_url(server.url) as admin:
        mine = await admin.client_id()
        others = {int(client["id"]) for client in await admin.client_list()} - {mine}
        for each in others:
            await admin.client_kill_filter(_id=str(each))
        while others & {int(client["id"]) for client in await admin.client_list()}:
            pass


async def cancelled_while_authenticating(
    server: EmbeddedServer, open_client: Open
) -> Seen:
    """A call is cancelled while credentials are fetched; who is the next one?"""
    async with aredis.Redis.from_url(server.url) as admin:
        await admin.acl_setuser(
            "bob", enabled=True, passwords=["+secret"], categories=["+@all"]
        )
        # So that a connection that forgot to authenticate can say who it is.
        await admin.config_set("requirepass", "")
    asked = asyncio.Event()

    async def credentials() -> tuple[str, str]:
        asked.set()
        await asyncio.sleep(0.2)  # a token service that takes its time
        return "bob", "secret"

    async with AsyncExitStack() as stack:
        opened = target(server, credentials=credentials)
        client = await open_client(stack, opened)
        first = asyncio.ensure_future(client.whoami())  # noqa: TID251 - awaited below
        async with asyncio.timeout(2):
            await asked.wait()
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        user = await client.whoami()
        user = user.decode() if isinstance(user, bytes) else user
        return Seen(f"next command runs as {user!r}", user == "bob")


async def incremented_across_a_stall(server: EmbeddedServer, open_client: Open) -> Seen:
    """ONE incr while the server stands still for 0.75 s, timeout 0.1 s."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        client = await open_client(stack, target(server, timeout=_TIMEOUT))
        await client.ping()
        server.kill(signal.SIGSTOP)
        loop.call_later(0.75, server.kill, signal.SIGCONT)
        said = None
        try:
            await client.incr("counter")
        except Exception as error:  # noqa: BLE001 - what it is, is the result
            outcome = getattr(error, "outcome", None)
            said = short(error) + (f", outcome {outcome.value}" if outcome else "")
        # Nothing tells that no further INCR is on its way: give them time to arrive.
        await asyncio.sleep(1.5)
        async with aredis.Redis.from_url(server.url) as admin:
            value = int(await admin.get("counter") or 0)
        said_so = said is not None
        return Seen(f"value {value}, {said or 'no error'}", value == 1 and said_so)


async def read_from_a_stopped_server(server: EmbeddedServer, open_client: Open) -> Seen:
    """ONE get from a server that is stopped, timeout 0.1 s."""
    async with AsyncExitStack() as stack:
        client = await open_client(stack, target(server, timeout=_TIMEOUT))
        await client.ping()
        server.kill(signal.SIGSTOP)
        started = perf_counter()
        try:
            async with asyncio.timeout(10):
                await client.get("key")
            said = "answered"
        except Exception as error:  # noqa: BLE001 - what it is, is the result
            said = short(error)
        finally:
            took = perf_counter() - started
            server.kill(signal.SIGCONT)
        return Seen(f"{said} after {took:.2f} s", took < 1.5 * _TIMEOUT)


async def argument_that_cannot_be_packed(
    server: EmbeddedServer, open_client: Open
) -> Seen:
    """A call whose argument cannot be packed, between two good ones."""
    async with AsyncExitStack() as stack:
        client = await open_client(stack, target(server))
        await client.set("key", "value")
        replies = await asyncio.gather(
            client.get("key"),
            client.set("other", object()),
            client.get("key"),
            return_exceptions=True,
        )
        after = await client.get("key")
        refused = isinstance(replies[1], Exception)
        right = refused and [replies[0], replies[2], after] == [b"value"] * 3
        said = short(replies[1]) if refused else f"stored {replies[1]!r}"
        return Seen(f"{said}; the others {'right' if right else 'harmed'}", right)


async def push_frames(server: EmbeddedServer, open_client: Open) -> Seen:
    """100,000 push frames through the parser: blocks of memory lost."""
    del server
    name = open_client.__name__.removeprefix("open_")
    if name in {"coredis", "glide"}:
        return Seen("has a parser of its own", right=None)
    reader = hiredis.Reader()

    def feed(frames: int) -> None:
        for _ in range(frames // 100):
            reader.feed(b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nv\r\n" * 100)
            for _ in range(100):
                reader.gets()

    feed(1_000)
    before = sys.getallocatedblocks()
    feed(100_000)
    lost = sys.getallocatedblocks() - before
    package = "oddswire" if name == "ours" else "redis"
    wanted = next(
        each.partition(";")[0] for each in requires(package) or () if "hiredis" in each
    )
    return Seen(
        f"{max(lost, 0)} lost with hiredis {hiredis.__version__}; asks for {wanted}",
        lost < 1_000,
    )


async def map_with_an_array_key(server: EmbeddedServer, open_client: Open) -> Seen:
    """A reply that the parser chokes on (a map with an array as its key)."""
    del server
    async with AsyncExitStack() as stack:
        # In a thread: valkey-glide blocks the loop while it connects.
        poisoner = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Poisoner)
        poisoner.daemon_threads = True
        stack.callback(poisoner.server_close)
        stack.callback(poisoner.shutdown)
        threading.Thread(target=poisoner.serve_forever).start()
        port = poisoner.server_address[1]
        client = await open_client(stack, Target("127.0.0.1", port, timeout=1.0))
        said, after = [], None
        for _ in range(3):
            try:
                after = await client.get("key")
                said.append(f"{after!r}")
            except Exception as error:  # noqa: BLE001 - what it is, is the result
                after = None
                said.append(short(error))
        return Seen(", then ".join(said), said[1:] == ["b'value'"] * 2)


class _Poisoner(socketserver.BaseRequestHandler):
    """A server whose first answer to GET is poison."""

    def handle(self) -> None:
        requests = hiredis.Reader()
        while data := self.request.recv(65_536):
            requests.feed(data)
            while request := requests.gets():
                name = request[0].upper()
                if name == b"GET" and not hasattr(self.server, "poisoned"):
                    self.server.poisoned = True
                    self.request.sendall(b"%1\r\n*1\r\n:1\r\n:2\r\n")
                else:
                    self.request.sendall(_ANSWERS.get(name, b"+OK\r\n"))


_HELLO = (
    b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.4.0\r\n"
    b"$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n"
    b"$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
)
_INFO = b"role:master\r\nredis_version:7.4.0\r\n"
_ANSWERS = {
    b"HELLO": _HELLO,
    b"PING": b"+PONG\r\n",
    b"GET": b"$5\r\nvalue\r\n",
    b"INFO": b"$%d\r\n%b\r\n" % (len(_INFO), _INFO),
}


async def wrong_password(server: EmbeddedServer, open_client: Open) -> Seen:
    """ONE get with a wrong password: what the server saw of it."""
    async with aredis.Redis.from_url(server.url) as admin:
        await admin.ping()
        before = (await admin.info("stats"))["total_connections_received"]
        started = perf_counter()
        said = "no error"
        try:
            async with AsyncExitStack() as stack:
                client = await open_client(stack, target(server, password="wrong"))
                await client.get("key")
        except Exception as error:  # noqa: BLE001 - what it is, is the result
            said = short(error)
        took = perf_counter() - started
        after = (await admin.info("stats"))["total_connections_received"]
        refused = (await admin.info("errorstats"))["errorstat_WRONGPASS"]["count"]
        return Seen(
            f"{said} after {took:.2f} s: {after - before} connections, "
            f"{refused} refused",
            right=refused == 1 and said != "no error",
        )


REPROS = {
    1: killed_while_idle,
    2: cancelled_while_authenticating,
    3: incremented_across_a_stall,
    6: read_from_a_stopped_server,
    8: argument_that_cannot_be_packed,
    9: push_frames,
    10: map_with_an_array_key,
    11: wrong_password,
}


async def measure() -> list[dict[str, Any]]:
    """Run every repro with every client, each on a server of its own."""
    rows = []
    for number, repro in REPROS.items():
        results = {}
        for name, open_client in OPEN.items():
            async with EmbeddedServer() as server:
                results[name] = (await _seen(repro, server, open_client))._asdict()
        what = (repro.__doc__ or "").partition("\n")[0]
        rows.append({"number": number, "what": what, "results": results})
        print(f"... repro {number}", file=sys.stderr)
    return rows


async def _seen(repro: Any, server: EmbeddedServer, open_client: Open) -> Seen:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await repro(server, open_client)  # type: ignore[no-any-return]
    except NotOffered as why:
        return Seen(str(why), right=None)
    except TimeoutError:
        return Seen(f"hangs ({_PATIENCE:g} s)", right=False)
    except Exception as error:  # noqa: BLE001 - what it is, is the result
        return Seen(short(error), right=False)


_VERDICTS = {True: "right: ", False: "**wrong**: ", None: ""}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a table."""
    lines = [
        f"| | what happens | {' | '.join(OPEN)} |",
        f"| ---: | --- |{' --- |' * len(OPEN)}",
    ]
    for row in rows:
        cells = [
            _VERDICTS[seen["right"]] + seen["text"] for seen in row["results"].values()
        ]
        lines.append(f"| {row['number']} | {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    measured = asyncio.run(measure())
    print(json.dumps(measured) if "--json" in sys.argv else table(measured))
