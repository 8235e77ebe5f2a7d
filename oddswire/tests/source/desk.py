"""A source in an SQLite file that fails, kills or waits where it is told."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from typing import Annotated

import msgspec

from oddswire.errors import SourceError, SourceUnavailable
from oddswire.sessions import (
    Collection,
    Expiring,
    Indexed,
    Record,
    Secret,
    Sessions,
    SourceRecord,
)

__all__ = ["Desk", "Person", "Sessions", "SourceRecord"]


class Person(Record):
    """A session with every kind of field."""

    city: Annotated[str, Indexed()] = ""
    count: int = 0
    wallets: Annotated[dict[str, str], Collection(20, index="wallet")] = {}
    dialog: Annotated[list[str], Expiring()] = []
    token: Annotated[str, Secret()] = ""


class Desk:
    """Keeps records in a table of a file, for any number of processes.

    Attributes:
        before: By method: what happens before it does anything.
        after: What happens when it has committed.
        calls: Names of the methods called.
    """

    def __init__(self, path):
        self._db = sqlite3.connect(
            path, isolation_level=None, timeout=10, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS kept (id INTEGER PRIMARY KEY, data BLOB)"
        )
        self._lock = threading.Lock()
        self.before, self.after, self.calls = {}, {}, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Close the file."""
        self._db.close()

    async def _step(self, faults, name):
        fault = faults.get(name) or faults.get("*")
        match fault:
            case None:
                return
            case "away":
                raise SourceUnavailable("the source is away")
            case "lost":
                raise SourceError("the answer was lost")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case asyncio.Event():
                await fault.wait()
            case _:
                result = fault()
                if asyncio.iscoroutine(result):
                    await result

    async def _do(self, name, work):
        self.calls.append(name)
        await self._step(self.before, name)
        result = await asyncio.to_thread(self._transaction, work)
        await self._step(self.after, name)
        return result

    def _transaction(self, work):
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                return work()
            finally:
                self._db.execute("COMMIT")

    def rows(self):
        """Return every record by user."""
        return {
            user_id: msgspec.msgpack.decode(data, type=SourceRecord)
            for user_id, data in self._db.execute("SELECT * FROM kept ORDER BY id")
        }

    def _version(self, user_id):
        row = self.rows().get(user_id)
        return row.version if row else 0

    def put(self, kept):
        """Write a record, whatever was there."""
        self._db.execute(
            "INSERT OR REPLACE INTO kept VALUES (?, ?)",
            (kept.user_id, msgspec.msgpack.encode(kept)),
        )
        return True

    def _drop(self, user_id):
        self._db.execute("DELETE FROM kept WHERE id = ?", (user_id,))
        return True

    async def load(self, user_ids):
        """Return records."""
        return await self._do(
            "load", lambda: [k for u, k in self.rows().items() if u in user_ids]
        )

    async def save(self, kept, expected):
        """Write a record over a version."""

        def work():
            return self._version(kept.user_id) == expected and self.put(kept)

        return await self._do("save", work)

    async def delete(self, user_id, expected):
        """Delete a version."""

        def work():
            return self._version(user_id) == expected and self._drop(user_id)

        return await self._do("delete", work)

    async def move(self, user_id, expected, kept):
        """Give a record to another user."""

        def work():
            if self._version(user_id) != expected or self._version(kept.user_id):
                return False
            return self._drop(user_id) and self.put(kept)

        return await self._do("move", work)

    async def scan(self, after, limit):
        """Return a page."""
        return await self._do(
            "scan",
            lambda: [k for u, k in self.rows().items() if after is None or u > after][
                :limit
            ],
        )
