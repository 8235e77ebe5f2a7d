"""A process that starts a server as nobody: ``nobody.py DATA_DIR``."""

from __future__ import annotations

import asyncio
import os
import sys

from oddswire.embedded import EmbeddedServer
from oddswire.errors import EmbeddedFailed


async def main(data_dir):
    """Start a server and end it."""
    async with EmbeddedServer(data_dir=data_dir):
        pass


asyncio.run(main(None))  # imports what later, as nobody, might not be readable
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    asyncio.run(main(sys.argv[1]))
except EmbeddedFailed as error:
    print(error)
