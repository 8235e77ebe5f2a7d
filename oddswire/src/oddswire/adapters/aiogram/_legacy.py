"""What aiogram's own RedisStorage left behind, read and never changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
from aiogram.fsm.storage.base import DefaultKeyBuilder, KeyBuilder
from redis.client import NEVER_DECODE

from oddswire.errors import WrongType

if TYPE_CHECKING:
    from aiogram.fsm.storage.base import StorageKey

    from oddswire.client import Client


class Record(msgspec.Struct, frozen=True):
    """A conversation there.

    Attributes:
        state: Its state, as it is.
        data: Its data; what is no dict could not be read.
        milliseconds: How long the longer-lived of both stays there; 0: for ever.
    """

    state: bytes | None
    data: Any
    milliseconds: int


class Legacy:
    """The records of a RedisStorage with that prefix, or that key builder."""

    def __init__(self, client: Client, keys: str | KeyBuilder) -> None:
        self._client = client
        self._keys = DefaultKeyBuilder(prefix=keys) if isinstance(keys, str) else keys

    async def read(self, key: StorageKey, mark: str) -> Record | None:
        """Return a record, unless there is none or the mark says it was taken over.

        Raises:
            OddswireError: As any command.
        """
        try:
            names = [self._keys.build(key, "state"), self._keys.build(key, "data")]
        except ValueError:
            return None  # a destiny that it was not configured for: it kept none
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.exists(mark)
            for name in names:
                # Bytes, whatever the client decodes to: it may be no text.
                pipe.execute_command("GET", name, **{NEVER_DECODE: True})
                pipe.pttl(name)
            replies = await pipe.execute(raise_on_error=False)
        for reply in replies:
            # What is no text at all is a record that cannot be read.
            if isinstance(reply, Exception) and not isinstance(reply, WrongType):
                raise reply
        taken, state, state_left, data, data_left = replies
        if taken or (state is None and data is None):
            return None
        # -1: for ever; -2: gone meanwhile, which leaves the other's.
        lasting = -1 in (state_left, data_left)
        return Record(
            # No text: as ours it is an error when it is read, too.
            state=b"\xff" if isinstance(state, WrongType) else state,
            data={} if data is None else _read(data),
            milliseconds=0 if lasting else max(1, state_left, data_left),
        )


def _read(value: bytes | WrongType) -> Any:
    if isinstance(value, WrongType):
        return None
    try:
        # The module that RedisStorage writes with: it lets NaN through.
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
