"""`Home`: the name of the data that a server has; another one when it may lack some."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from oddswire.client import keyspace
from oddswire.keys import Family

if TYPE_CHECKING:
    from oddswire import Client

# In the slot of the queue of alerts: on a cluster it is the node of these that counts.
_MARK = Family("home", group="alerts")


class Home:
    """Names the Redis that alerts are queued in: this run of the server, this data.

    A server that was emptied has no mark any more and gets a new one. A server that
    restarted, or took over from another, has another run id: what it has may be older.

    Args:
        client: Where.
        prefix: What the key of the mark begins with.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._key = keyspace(client, prefix).key(_MARK)
        self._client = client.at(self._key)

    async def read(self) -> str:
        """Return the name of the data that the server has now.

        Raises:
            OddswireError: The server cannot be asked.
        """
        fresh = secrets.token_hex(8)
        mark = await self._client.set(self._key, fresh, nx=True, get=True)
        server = await self._client.info("server")
        text = fresh if mark is None else bytes(mark).decode(errors="replace")
        return f"{server['run_id']}:{text[:64]}"
