"""A process with a server of its own: ``parent.py watched|"" DATA_DIR|""``.

It prints the server's pid, then does what each line on its standard input says, and
lives on until somebody ends it.
"""

from __future__ import annotations

import asyncio
import sys

from oddswire.embedded import EmbeddedServer
from support.hooks import ask, info, watched_by_process


async def main(watched, data_dir):
    """Run the server and answer."""
    server = EmbeddedServer(data_dir=data_dir or None, aof=bool(data_dir))
    watched_by_process(server, watched == "watched")
    async with server:
        print(server.pid, flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            if line == b"pids\n":
                over = [
                    await info(url, "server") for url in (server.url, server.unix_url)
                ]
                print(*(answer["process_id"] for answer in over), flush=True)
            if line == b"set\n":
                print(await ask(server.url, "GETSET", "key", "value"), flush=True)
        await asyncio.Event().wait()


sys.stdin.readline()
asyncio.run(main(*sys.argv[1:]))
