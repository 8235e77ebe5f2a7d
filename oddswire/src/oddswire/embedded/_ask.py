"""One command to one server, for a starter that has no client yet.

Each command has its own connection, without a retry and without a pool. A cancelled
command closes its connection, so a cancelled start leaves nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis
from redis.exceptions import ResponseError


async def ask(url: str, *command: str | int) -> Any:
    """Send one command in RESP3 and return its reply, texts decoded.

    Raises:
        ResponseError: The server refused the command, or the password.
        OSError: The server cannot be reached, or closed the connection.
    """
    parts = urlsplit(url)
    reader, writer = await (
        asyncio.open_unix_connection(unquote(parts.path))
        if parts.scheme == "unix"
        else asyncio.open_connection(parts.hostname, parts.port)
    )
    try:
        hello = ("HELLO", "3", "AUTH", "default", unquote(parts.password or ""))
        for sent in (hello, command):
            # hiredis annotates its argument as a tuple of one item; it takes any.
            writer.write(hiredis.pack_command(sent))  # type: ignore[arg-type]
        parser = hiredis.Reader(
            replyError=ResponseError, encoding="utf-8", notEnoughData=...
        )
        for _ in (hello, command):
            while (reply := parser.gets()) is ...:
                if not (data := await reader.read(65_536)):
                    raise ConnectionResetError("the server closed the connection")
                parser.feed(data)
            if isinstance(reply, ResponseError):
                raise reply
        return reply
    finally:
        writer.close()


async def info(url: str, section: str) -> dict[str, str]:
    """Ask for one section of INFO, as a mapping."""
    text: str = await ask(url, "INFO", section)
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value for name, colon, value in lines if colon}
