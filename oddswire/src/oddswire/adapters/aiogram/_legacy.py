"""What aiogram's own RedisStorage left behind, read and never changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
from aiogram.fsm.storage.base import DefaultKeyBuilder, KeyBuilder

from oddswire.errors import CodecError

if TYPE_CHECKING:
    from aiogram.fsm.storage.base import StorageKey

    from oddswire.client import Client


class Record(msgspec.Struct, frozen=True):
    """A conversation there.

    Attributes:
        state: Its state.
        data: Its data.
        milliseconds: How long the longer-lived of both stays there; 0: for ever.
    """

    state: str | None
    data: dict[str, Any]
    milliseconds: int


class Legacy:
    """The records of a RedisStorage with that prefix, or that key builder."""

    def __init__(self, client: Client, keys: str | KeyBuilder) -> None:
        self._client = client
        self._keys = DefaultKeyBuilder(prefix=keys) if isinstance(keys, str) else keys

    async def read(self, key: StorageKey, mark: str) -> Record | None:
        """Return a record, unless there is none or the mark says it was taken over.

        Raises:
            CodecError: It is not what RedisStorage writes.
            OddswireError: As any command.
        """
        try:
            names = [self._keys.build(key, "state"), self._keys.build(key, "data")]
        except ValueError:
            return None  # a destiny that it was not configured for: it kept none
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.exists(mark)
            for name in names:
                pipe.get(name)
                pipe.pttl(name)
            taken, state, state_left, data, data_left = await pipe.execute()
        if taken or (state is None and data is None):
            return None
        # -1: for ever; -2: gone meanwhile, which leaves the other's.
        lasting = -1 in (state_left, data_left)
        return Record(
            state=None if state is None else _text(state),
            data={} if data is None else _object(data),
            milliseconds=0 if lasting else max(1, state_left, data_left),
        )


def _text(value: bytes | str) -> str:
    try:
        return value if isinstance(value, str) else value.decode()
    except UnicodeDecodeError:
        raise CodecError("a legacy state is no text", reason="foreign") from None


def _object(value: bytes | str) -> dict[str, Any]:
    try:
        # The module that RedisStorage writes with: it lets NaN through.
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CodecError(
            "legacy data is not what RedisStorage writes", reason="foreign"
        )
    return found
