"""Where the time of a command goes, layer by layer, and what counting costs.

Each layer runs with 100 tasks over the one below it, so the difference between two
lines is what the upper one adds. The first is what asyncio itself takes.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import socket
import textwrap
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import machine
import redis.asyncio as aredis
from hiredis import pack_command
from peers import TASKS, VALUE, fill, key
from timing import Effort, figure, latency, rate, ratio, rounds
from yardsticks import AsyncioAlone, open_bare

from oddswire.client import Client, _dialer
from oddswire.connection import multiplexer
from oddswire.connection.multiplexer import CallLabel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oddswire.embedded import EmbeddedServer

ASYNCIO = "asyncio: a task switch and a future"
SEND = "connection.send of packed bytes"
EXECUTE = "client.execute_command('GET', key)"
GET = "client.get(key)"
EXECUTE_SET = "client.execute_command('SET', ...)"
SET = "client.set(key, value, ex=100)"
UNCOUNTED = "client.get(key), counting taken out"
BARE = "a bare asyncio protocol"
BUILT_ON = {
    SEND: ASYNCIO,
    EXECUTE: SEND,
    GET: EXECUTE,
    EXECUTE_SET: SEND,
    SET: EXECUTE_SET,
}


async def measure(
    server: EmbeddedServer, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return microseconds per command by layer, and the cost of counting."""
    say("layers")
    async with AsyncExitStack() as stack:
        client = Client.from_url(server.url)
        stack.push_async_callback(client.aclose)
        await fill(client)
        with _uncounted() as silent_client:
            silent = silent_client.from_url(server.url)
            stack.push_async_callback(silent.aclose)
            await silent.ping()
        turn = AsyncioAlone()
        send, label = client._command.current.send, CallLabel("GET")  # noqa: SLF001 - the layer below
        packed = [pack_command(("GET", key("get", task))) for task in range(TASKS)]

        async def connection(data: bytes) -> None:
            await send(data, 5.0, label)

        layers: dict[str, list[Any]] = {
            ASYNCIO: [turn] * TASKS,
            SEND: [partial(connection, data) for data in packed],
            EXECUTE: [
                partial(client.execute_command, "GET", key("get", task))
                for task in range(TASKS)
            ],
            GET: [partial(client.get, key("get", task)) for task in range(TASKS)],
            UNCOUNTED: [partial(silent.get, key("get", task)) for task in range(TASKS)],
            EXECUTE_SET: [
                partial(
                    client.execute_command, "SET", key("set", task), VALUE, "EX", 100
                )
                for task in range(TASKS)
            ],
            SET: [
                partial(client.set, key("set", task), VALUE, ex=100)
                for task in range(TASKS)
            ],
        }
        values = await rounds(
            {
                name: partial(rate, calls, effort.seconds)
                for name, calls in layers.items()
            },
            effort,
        )
    alone = await _alone(server, effort)
    return {
        "us": {
            name: figure([1e6 / each for each in rates]).median
            for name, rates in values.items()
        },
        "built_on": {ASYNCIO: None, **BUILT_ON},
        "get_per_switch": ratio(values[ASYNCIO], values[GET]),
        "get_per_bare": ratio(alone["one core"][GET], alone["one core"][BARE]),
        "per_second": {
            "the bare multiplexer, untyped": figure(values[SEND]).median,
            f"asyncio alone: {TASKS} tasks": figure(values[ASYNCIO]).median,
        },
        "counting": figure(
            [
                1.0 - with_it / without
                for with_it, without in zip(values[GET], values[UNCOUNTED], strict=True)
            ]
        ),
        "alone_us": {
            where: {name: 1e6 * figure(times).median for name, times in each.items()}
            for where, each in alone.items()
        },
        "wrappers_us": _wrappers(),
    }


async def _alone(
    server: EmbeddedServer, effort: Effort
) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of a lone task's GET by round, down to a bare socket."""
    get = pack_command(("GET", key("get", 0)))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client.from_url(server.url))
        bare = await open_bare(stack, server.host, server.port, server.password)
        plain = stack.enter_context(
            socket.create_connection((server.host, server.port))
        )
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        async def blocking(packed: bytes) -> None:
            plain.sendall(packed)
            plain.recv(4096)

        await blocking(pack_command(("AUTH", server.password)))
        calls = {
            "a blocking socket": partial(blocking, get),
            BARE: partial(bare.call, get),
            GET: partial(client.get, key("get", 0)),
        }
        each = {
            name: partial(latency, call, effort.seconds) for name, call in calls.items()
        }
        values = await rounds(each, effort)
        with machine.one_core(server.pid):
            on_one_core = await rounds(each, effort)
    return {"usual": values, "one core": on_one_core}


def _wrappers() -> dict[str, float]:
    """Return what redis-py's methods take to build a command, sending nothing."""

    class Nothing(aredis.Redis):  # type: ignore[misc]
        def execute_command(self, *args: Any, **options: Any) -> None:
            del args, options

    client = Nothing()
    calls = {
        "get": lambda: client.get("key"),
        "set ex": lambda: client.set("key", VALUE, ex=100),
        "hget": lambda: client.hget("key", "field"),
        "incr": lambda: client.incr("key"),
        "evalsha": lambda: client.evalsha("0" * 40, 1, "key"),
    }
    return {name: min(_time(call) for _ in range(5)) for name, call in calls.items()}


def _time(call: Callable[[], Any], times: int = 20_000) -> float:
    started = perf_counter()
    for _ in range(times):
        call()
    return (perf_counter() - started) / times * 1e6


# --- the same code without its counters

_COUNTERS = frozenset({"calls", "slow", "writes", "bytes_in", "bytes_out", "pushes"})


class _WithoutCounting(ast.NodeTransformer):
    """Removes statements that only count; `commands` and `bytes` are flow control."""

    def __init__(self) -> None:
        self.removed = 0

    def _remove(self) -> ast.stmt:
        self.removed += 1
        return ast.Pass()

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        target = node.target
        if isinstance(target, ast.Attribute) and target.attr in _COUNTERS:
            return self._remove()
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        call = node.value
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "observe"
        ):
            return self._remove()
        return node

    def visit_If(self, node: ast.If) -> ast.stmt:
        if "slow_above" in ast.unparse(node.test):
            return self._remove()
        self.generic_visit(node)
        if all(isinstance(each, ast.Pass) for each in node.body) and not node.orelse:
            return self._remove()
        return node


def _without_counting(owner: type, *names: str) -> type:
    """Return a subclass with the same methods less the statements that count.

    Raises:
        RuntimeError: There were none: the methods have changed.
    """
    change = _WithoutCounting()
    methods: dict[str, Any] = {}
    for name in names:
        function = getattr(owner, name)
        source = textwrap.dedent(inspect.getsource(function))
        tree = ast.fix_missing_locations(change.visit(ast.parse(source)))
        file = inspect.getsourcefile(function) or ""
        flags = __future__.annotations.compiler_flag
        code = compile(tree, file, "exec", flags, True)  # noqa: FBT003 - by position only
        exec(code, function.__globals__, methods)  # noqa: S102 - our own source
    if not change.removed:
        raise RuntimeError(f"{owner.__name__} counts nothing in {', '.join(names)}")
    return type(f"Uncounted{owner.__name__}", (owner,), methods)


@contextmanager
def _uncounted() -> Iterator[type[Client]]:
    """Yield a client class; its connections made in this block are uncounted too."""
    connection = multiplexer.Multiplexer
    _dialer.Multiplexer = _without_counting(  # type: ignore[attr-defined]
        connection, "send", "_flush", "data_received", "_resume", "_read"
    )
    try:
        yield _without_counting(Client, "execute_command")
    finally:
        _dialer.Multiplexer = connection  # type: ignore[attr-defined]
