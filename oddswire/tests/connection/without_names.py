"""Ends while a name server is silent: `without_names.py`."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import NoReturn

from oddswire import Client
from oddswire.errors import Unavailable


def silent(*_: object, **__: object) -> NoReturn:
    """Take the time of a resolver whose name servers do not answer."""
    time.sleep(60)
    raise socket.gaierror


async def main() -> None:
    """Give up on a call, and say so."""
    async with Client(host="redis.example", connect_timeout=0.2) as client:
        try:
            await client.bounded(0.5).get("k")
        except Unavailable:
            sys.stdout.write("gave up\n")


socket.getaddrinfo = silent
asyncio.run(main())
