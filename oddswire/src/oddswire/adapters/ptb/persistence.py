"""`Persistence`: the data of users, chats and the bot, live in Redis."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from redis.client import NEVER_DECODE
from telegram.ext import BasePersistence

from oddswire.adapters import _values
from oddswire.client import keyspace
from oddswire.errors import CodecError, OddswireError, SettingsError
from oddswire.keys import PTB_CONVERSATIONS, PTB_DATA

if TYPE_CHECKING:
    from telegram.ext import PersistenceInput

    from oddswire.client import Client

_log = logging.getLogger("oddswire.adapters")

Data = dict[Any, Any]
_Fields = dict[bytes, bytes]
_Name = tuple[str, int]

_Change = tuple[_Fields, list[bytes]]
_Writing = Coroutine[Any, Any, None]

_CALLBACKS = "callbacks"


class Persistence(BasePersistence[Data, Data, Data]):
    """A hash for each user, chat and bot, a field for each key of its dict.

    Data is read before each handler, and what a handler changed is written: key by key,
    so processes that change different keys keep each other's changes. Write at once
    with `UpdateProcessor`; without it, the application writes each `update_interval`.
    What changed here and was not written yet survives a read.

    At the start only bot data, callback data and conversations are read; the data of a
    user comes with the first update. Conversations and callback data are this process's
    own until the next start.

    Args:
        client: Where. It stays yours to close.
        prefix: What the keys begin with; None: as its settings say.
        preload: Read the data of all users and chats at the start, for applications
            that iterate over `user_data`.
        max_size: Bytes that the data of one user, chat or bot may have.
        store_data: As `BasePersistence`.
        update_interval: As `BasePersistence`.

    Raises:
        SettingsError: The size is out of range.
    """

    __slots__ = ("_client", "_keys", "_max_size", "_preload", "_seen", "_unsaved")

    def __init__(
        self,
        client: Client,
        *,
        prefix: str | None = None,
        preload: bool = False,
        max_size: int = 1_048_576,
        store_data: PersistenceInput | None = None,
        update_interval: float = 60,
    ) -> None:
        if max_size < 1:
            raise SettingsError(f"max_size {max_size!r}: accepted are bytes above 0")
        super().__init__(store_data, update_interval)
        self._client = client
        self._keys = keyspace(client, prefix)
        self._max_size = max_size
        self._preload = preload
        # What each dict was when it was last read or written, to tell what changed.
        self._seen: dict[_Name, _Fields] = {}
        # What could not be written yet: fields that are new, and those that are gone.
        self._unsaved: dict[_Name, _Change] = {}

    # --- at the start

    async def get_bot_data(self) -> Data:
        """Return the bot's data.

        Raises:
            CodecError: It cannot be read.
            OddswireError: As any command.
        """
        return await self._load(("bot", 0))

    async def get_user_data(self) -> dict[int, Data]:
        """Return the data of all users if `preload`, else of none.

        Raises:
            OddswireError: As `get_bot_data`.
        """
        return await self._load_all("user")

    async def get_chat_data(self) -> dict[int, Data]:
        """Return the data of all chats if `preload`, else of none.

        Raises:
            OddswireError: As `get_bot_data`.
        """
        return await self._load_all("chat")

    async def get_callback_data(self) -> Any:
        """Return the callback data, or None.

        Raises:
            OddswireError: As `get_bot_data`.
        """
        return (await self._load((_CALLBACKS, 0))).get("data")

    async def get_conversations(self, name: str) -> Any:
        """Return the states of a handler's conversations.

        Raises:
            OddswireError: As `get_bot_data`.
        """
        return _decoded(await self._read(self._conversations(name)))

    # --- before each handler

    async def refresh_user_data(self, user_id: int, user_data: Data) -> None:
        """Bring a user's data up to date, in place.

        Raises:
            CodecError: It cannot be read; `user_data` stays as it was.
            OddswireError: As any command.
        """
        await self._refresh(("user", user_id), user_data)

    async def refresh_chat_data(self, chat_id: int, chat_data: Data) -> None:
        """Bring a chat's data up to date, in place.

        Raises:
            OddswireError: As `refresh_user_data`.
        """
        await self._refresh(("chat", chat_id), chat_data)

    async def refresh_bot_data(self, bot_data: Data) -> None:
        """Bring the bot's data up to date, in place.

        Raises:
            OddswireError: As `refresh_user_data`.
        """
        await self._refresh(("bot", 0), bot_data)

    # --- after it

    def update_user_data(self, user_id: int, data: Data) -> _Writing:
        """Write what changed of a user's data.

        What cannot be written now is tried again with the next update of the user, and
        by `flush`.

        Raises:
            CodecError: It cannot be stored, or is too large; nothing was written.
            OddswireError: As any command; it may have been written.
        """
        return self._save(("user", user_id), data)

    def update_chat_data(self, chat_id: int, data: Data) -> _Writing:
        """Write what changed of a chat's data.

        Raises:
            OddswireError: As `update_user_data`.
        """
        return self._save(("chat", chat_id), data)

    def update_bot_data(self, data: Data) -> _Writing:
        """Write what changed of the bot's data.

        Raises:
            OddswireError: As `update_user_data`.
        """
        return self._save(("bot", 0), data)

    def update_callback_data(self, data: Any) -> _Writing:
        """Write the callback data, if it changed.

        Raises:
            OddswireError: As `update_user_data`.
        """
        return self._save((_CALLBACKS, 0), {"data": data})

    async def update_conversation(
        self, name: str, key: tuple[int | str, ...], new_state: object | None
    ) -> None:
        """Write the state of a conversation; None ends it.

        Raises:
            CodecError: The state cannot be stored.
            OddswireError: As any command; it may have been written.
        """
        hash_ = self._conversations(name)
        field = _values.encode(key)
        if new_state is None:
            await self._client.hdel(hash_, field)
        else:
            await self._client.hset(hash_, field, _values.encode(new_state))

    async def drop_user_data(self, user_id: int) -> None:
        """Delete a user's data.

        Raises:
            OddswireError: As any command; it may have been done.
        """
        await self._drop(("user", user_id))

    async def drop_chat_data(self, chat_id: int) -> None:
        """Delete a chat's data.

        Raises:
            OddswireError: As any command; it may have been done.
        """
        await self._drop(("chat", chat_id))

    async def flush(self) -> None:
        """Try once more to write what could not be written.

        Raises:
            OddswireError: It failed again; the rest was tried too.
        """
        failed: OddswireError | None = None
        for name, change in list(self._unsaved.items()):
            try:
                await self._write(name, change)
            except OddswireError as error:
                failed = error
        if failed is not None:
            _log.error("%d records could not be written", len(self._unsaved))
            raise failed

    # --- how

    def _key(self, name: _Name) -> str:
        return self._keys.key(PTB_DATA, self.bot.id, *name)

    def _conversations(self, name: str) -> str:
        return self._keys.key(PTB_CONVERSATIONS, self.bot.id, name)

    async def _read(self, key: str) -> _Fields:
        # Bytes, whatever the client decodes to.
        raw = {NEVER_DECODE: True}
        fields: _Fields = await self._client.execute_command("HGETALL", key, **raw)
        return fields

    async def _load(self, name: _Name) -> Data:
        fields = await self._read(self._key(name))
        data = _decoded(fields)
        self._seen[name] = fields
        return data

    async def _load_all(self, kind: str) -> dict[int, Data]:
        if not self._preload:
            return {}
        pattern = self._keys.pattern(PTB_DATA, self.bot.id, kind)
        found = {}
        async for key in self._client.scan_iter(pattern, count=1000):
            parts = self._keys.parse(PTB_DATA, key)
            if parts is not None:
                found[parts[2]] = await self._load((kind, parts[2]))
        return found

    async def _refresh(self, name: _Name, data: Data) -> None:
        while True:
            seen = self._seen.get(name)
            there = await self._read(self._key(name))
            # Else it was written meanwhile, and what was read may be older than that.
            if self._seen.get(name) is seen:
                break
        seen = seen or {}
        changed = [
            field
            for field in there.keys() | seen.keys()
            if there.get(field) != seen.get(field)
        ]
        # All of it is read before anything is changed.
        values = _decoded({field: there[field] for field in changed if field in there})
        for field in changed:
            key = _key_of(field)
            # What changed here too, and was not written yet, is the newer.
            if _field_of(data, key) != seen.get(field):
                continue
            if field in there:
                data[key] = values[key]
            else:
                data.pop(key, None)
        self._seen[name] = there

    def _save(self, name: _Name, data: Data) -> _Writing:
        # What changed is told now, not when the coroutine has its turn: the application
        # makes it with a copy of the data, and a read in between would make that copy
        # look like a change back.
        try:
            return self._write(name, self._changed(name, data))
        except CodecError as error:
            return _raising(error)

    def _changed(self, name: _Name, data: Data) -> _Change:
        fields = _encoded(data)
        size = sum(len(field) + len(value) for field, value in fields.items())
        if size > self._max_size:
            raise CodecError(
                f"{name[0]} data of {size} bytes is above its cap of {self._max_size}",
                reason="too_large",
            )
        seen = self._seen.get(name, {})
        new = {
            field: value for field, value in fields.items() if seen.get(field) != value
        }
        return new, [field for field in seen if field not in fields]

    async def _write(self, name: _Name, change: _Change) -> None:
        new, gone = change
        if not (new or gone):
            self._unsaved.pop(name, None)  # what is there is what is here
            return
        self._unsaved[name] = change
        key = self._key(name)
        values: dict[Any, Any] = dict(new)
        async with self._client.pipeline(transaction=True) as pipe:
            if new:
                pipe.hset(key, mapping=values)
            if gone:
                pipe.hdel(key, *gone)
            await pipe.execute()
        # By now another read may have seen more; this much is there.
        seen = {**self._seen.get(name, {}), **new}
        for field in gone:
            seen.pop(field, None)
        self._seen[name] = seen
        # Unless there is a newer change to write already.
        if self._unsaved.get(name) is change:
            del self._unsaved[name]

    async def _drop(self, name: _Name) -> None:
        await self._client.unlink(self._key(name))
        self._seen.pop(name, None)
        self._unsaved.pop(name, None)


async def _raising(error: CodecError) -> None:
    raise error


def _encoded(data: Data) -> _Fields:
    if not isinstance(data, dict):
        raise CodecError(
            f"the data of a user, chat or bot is a dict, not {type(data).__name__}",
            reason="type",
        )
    return {_values.encode(key): _values.encode(value) for key, value in data.items()}


def _decoded(fields: _Fields) -> Data:
    return {_key_of(field): _values.decode(value) for field, value in fields.items()}


def _key_of(field: bytes) -> Any:
    key = _values.decode(field)
    try:
        hash(key)
    except TypeError:
        raise CodecError("a stored key is none", reason="damaged") from None
    return key


def _field_of(data: Data, key: Any) -> bytes | None:
    """Return a value as it would be stored; None if there is none."""
    if key not in data:
        return None
    try:
        return _values.encode(data[key])
    except CodecError:
        return b""  # equal to nothing that is stored
