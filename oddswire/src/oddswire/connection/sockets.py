"""`open_socket`: a TCP socket to a name, whose addresses are tried side by side."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from oddswire._tasks import spawn
from oddswire.connection.threads import in_own_thread

if TYPE_CHECKING:
    from collections.abc import Iterable

# Seconds after which the next address of a name is tried beside the one before: RFC
# 8305's recommendation.
_NEXT_ADDRESS = 0.25


async def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is connected to the first address that answers (RFC 8305).

    asyncio looks names up in the application's threads: while all of them are busy, no
    connection could be made. uvloop, and a loop with a task factory, would try the
    addresses one after the other. Cancelled, no socket stays open.

    Raises:
        OSError: The name is unknown, or no address takes a connection.
    """

    def look_up(flags: int = 0) -> list[Any]:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)

    try:
        ipaddress.ip_address(host)
    except ValueError:
        found = await in_own_thread(look_up)
    else:
        found = look_up(socket.AI_NUMERICHOST)
    if len(found) == 1:
        return await _connected(found[0])
    return await _first(_by_turns(found))


async def _connected(address: Any) -> socket.socket:
    family, kind, protocol, _, where = address
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setblocking(False)  # noqa: FBT003
        await asyncio.get_running_loop().sock_connect(opened, where)
    except BaseException:
        opened.close()
        raise
    return opened


async def _first(addresses: list[Any]) -> socket.socket:
    """Return the first socket that is connected; the others are closed."""
    untried = iter(addresses)
    trying: set[asyncio.Task[socket.socket]] = set()
    left = len(addresses)
    errors: list[BaseException] = []
    winner: socket.socket | None = None
    try:
        while winner is None and (left or trying):
            if left:
                left -= 1
                attempt = _connected(next(untried))
                trying.add(spawn(attempt, name="oddswire address tried"))
            done, trying = await asyncio.wait(
                trying,
                timeout=_NEXT_ADDRESS if left else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                if (error := task.exception()) is not None:
                    errors.append(error)
                elif winner is None:
                    winner = task.result()
                else:
                    task.result().close()
    finally:
        for task in trying:
            task.add_done_callback(_close)
            task.cancel()
    if winner is not None:
        return winner
    if len({str(error) for error in errors}) == 1:
        raise errors[0]
    raise OSError(", ".join(map(str, errors)) or "the name has no address")


def _close(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _by_turns(addresses: Iterable[Any]) -> list[Any]:
    """Return the addresses, those of two families by turns, in their order."""
    families: dict[int, list[Any]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in turns if address is not None]
