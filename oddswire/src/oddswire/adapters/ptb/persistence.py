"""`Persistence`: the data of users, chats and the bot, live in Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Coroutine
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.client import NEVER_DECODE
from telegram.ext import BasePersistence

from oddswire._numbers import check_int
from oddswire.adapters import _values
from oddswire.client import keyspace
from oddswire.errors import CodecError, OddswireError, SettingsError, WrongType
from oddswire.events import Degradation
from oddswire.keys import PTB_CONVERSATIONS, PTB_DATA
from oddswire.logs import LogLines, log_line

if TYPE_CHECKING:
    from telegram.ext import PersistenceInput

    from oddswire.client import Client

_log = logging.getLogger("oddswire.adapters")

Data = dict[Any, Any]
_Fields = dict[bytes, bytes]
_Name = tuple[str, int]

_Writing = Coroutine[Any, Any, None]

_CALLBACKS = "callbacks"
_MOST_REPORTED = 10_000


class _Change(NamedTuple):
    """What is to be written of a dict.

    Attributes:
        new: Fields that are new or have another value.
        gone: Fields that are there no more.
        refused: What is left out, by key as a text: too large, or not to be stored.
    """

    new: _Fields
    gone: list[bytes]
    refused: dict[str, CodecError]


class Persistence(BasePersistence[Data, Data, Data]):
    """A hash for each user, chat and bot, a field for each key of its dict.

    Data is read before each handler, and what a handler changed is written: key by key,
    so processes that change different keys keep each other's changes. Write at once
    with `UpdateProcessor`; without it, the application writes each `update_interval`.
    What changed here and was not written yet survives a read. A dict comes back in its
    order.

    A value that cannot be stored, or is too large, is left out: the others are written,
    and the application's error handlers get one error for it. A stored value that
    cannot be read is left out and named in the log once. It stays in Redis until its
    key is set or dropped; a key of another type stays until it is written.

    At the start only bot data, callback data and conversations are read; the data of a
    user comes with the first update. Conversations and callback data are this process's
    own until the next start.

    Args:
        client: Where. It stays yours to close.
        prefix: What the keys begin with; None: as its settings say.
        preload: Read the data of all users and chats at the start, for applications
            that iterate over `user_data`.
        max_size: Bytes that the data of one user, chat or bot may have; of callback
            data, those of one keyboard: how many there are is the framework's to limit.
        store_data: As `BasePersistence`.
        update_interval: As `BasePersistence`.

    Raises:
        SettingsError: The size is out of range.
    """

    __slots__ = (
        "_client",
        "_degraded",
        "_keys",
        "_lines",
        "_max_size",
        "_preload",
        "_refused",
        "_reported",
        "_seen",
        "_unsaved",
    )

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
        check_int("max_size", max_size, 1, _values.MAX_SIZE, SettingsError)
        super().__init__(store_data, update_interval)
        self._keys = keyspace(client, prefix)
        self._client = client.reading_from("primary")
        self._max_size = max_size
        self._preload = preload
        # What each dict was when it was last read or written, to tell what changed.
        self._seen: dict[_Name, _Fields] = {}
        # What could not be written yet: fields that are new, and those that are gone.
        self._unsaved: dict[_Name, _Change] = {}
        self._degraded = Degradation(
            client.events, "bot_data", "unsaved", time.monotonic
        )
        # Keys that are not written, and whose error was raised already.
        self._refused: dict[_Name, set[str]] = {}
        # Fields that cannot be read, and the log says so.
        self._reported: set[tuple[str, bytes]] = set()
        self._lines = LogLines(_log)

    # --- at the start

    async def get_bot_data(self) -> Data:
        """Return the bot's data.

        Raises:
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
        name = (_CALLBACKS, 0)
        data, left_out = _callbacks_of(await self._load(name))
        if left_out:
            self._lines.write(
                logging.WARNING,
                "value_left_out",
                key=self._key(name),
                reason=f"{left_out} fields are of an unknown kind",
            )
        return data

    async def get_conversations(self, name: str) -> Any:
        """Return the states of a handler's conversations.

        Raises:
            OddswireError: As `get_bot_data`.
        """
        key = self._conversations(name)
        return self._readable(key, await self._read(key))[1]

    # --- before each handler

    async def refresh_user_data(self, user_id: int, user_data: Data) -> None:
        """Bring a user's data up to date, in place.

        Raises:
            OddswireError: As any command; `user_data` stays as it was.
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
            CodecError: A value cannot be stored, or is too large, and this was not said
                of its key before; the others were written. Or it is no dict.
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
        try:
            fields = _fields_of_callbacks(data)
        except CodecError as error:
            return _raising(error)
        return self._save((_CALLBACKS, 0), fields)

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
            await self._put(hash_, {}, [field])
        else:
            await self._put(hash_, {field: _values.encode(new_state)}, [])

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
            log_line(
                _log,
                logging.ERROR,
                "records_not_written",
                count=len(self._unsaved),
                reason=failed,
            )
            raise failed

    # --- how

    def _key(self, name: _Name) -> str:
        return self._keys.key(PTB_DATA, self.bot.id, *name)

    def _conversations(self, name: str) -> str:
        return self._keys.key(PTB_CONVERSATIONS, self.bot.id, name)

    async def _read(self, key: str) -> _Fields:
        # Bytes, whatever the client decodes to.
        raw = {NEVER_DECODE: True}
        fields: _Fields = {}
        try:
            fields = await self._client.execute_command("HGETALL", key, **raw)
        except WrongType as error:
            self._report(key, b"", error)
        return fields

    async def _load(self, name: _Name) -> Data:
        key = self._key(name)
        fields, data = self._readable(key, await self._read(key))
        self._seen[name] = fields
        return data

    def _readable(self, key: str, fields: _Fields) -> tuple[_Fields, Data]:
        """Return what can be read of a hash, in its order, as it is and decoded."""
        there: _Fields = {}
        data: Data = {}
        for field, stored in sorted(fields.items(), key=_place):
            try:
                name, value = _key_of(field), _value_of(stored)
            except CodecError as error:
                # Not written over: it counts neither as here nor as gone.
                self._report(key, field, error)
                continue
            there[field] = stored
            data[name] = value
        return there, data

    def _report(self, key: str, field: bytes, error: OddswireError) -> None:
        """Say once that something stored is left out."""
        if (key, field) in self._reported:
            return
        if len(self._reported) >= _MOST_REPORTED:
            self._reported.clear()
        self._reported.add((key, field))
        self._lines.write(logging.WARNING, "value_left_out", key=key, reason=error)

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
        key = self._key(name)
        while True:
            seen = self._seen.get(name)
            fields = await self._read(key)
            # Else it was written meanwhile, and what was read may be older than that.
            if self._seen.get(name) is seen:
                break
        seen = seen or {}
        if fields == seen:
            return
        # All of it is read before anything is changed.
        there, values = self._readable(key, fields)
        for field in there.keys() | seen.keys():
            if there.get(field) == seen.get(field):
                continue
            each = _key_of(field)
            # What changed here too, and was not written yet, is the newer.
            if _field_of(data, each) != _without_place(seen.get(field)):
                continue
            if field in there:
                data[each] = values[each]
            else:
                data.pop(each, None)
        self._seen[name] = there
        _sort(data, there)

    def _save(self, name: _Name, data: Data) -> _Writing:
        # The changes are read now, not when the coroutine has its turn: the application
        # makes it with a copy of the data, and a read in between would make that copy
        # look like a change back.
        try:
            return self._write_and_say(name, self._changed(name, data))
        except CodecError as error:
            return _raising(error)

    def _changed(self, name: _Name, data: Data) -> _Change:
        seen = self._seen.get(name, {})
        values, refused = _encoded(data)
        kept = {field for field in seen if field in values}
        fields = {field: value for field, value in values.items() if value is not None}
        for field in self._too_large(name, fields, seen):
            size = len(field) + len(fields.pop(field))
            refused[field.decode()] = CodecError(
                f"its {size} bytes would bring the {name[0]} data above its cap of "
                f"{self._max_size}",
                reason="too_large",
            )
        new = {
            field: value
            for field, value in _placed(fields, seen).items()
            if seen.get(field) != value
        }
        return _Change(new, [field for field in seen if field not in kept], refused)

    def _too_large(self, name: _Name, fields: _Fields, seen: _Fields) -> list[bytes]:
        """Return the fields to leave out, so that the rest is within the cap."""
        sizes = {field: len(field) + len(value) for field, value in fields.items()}
        if name[0] == _CALLBACKS:
            return [field for field, size in sizes.items() if size > self._max_size]
        # What is left out stays as it was, which has a size too.
        before = {
            field: len(field) + len(_values.place_of(stored)[1])
            for field, stored in seen.items()
        }
        total = sum(sizes.values())
        left_out = []
        for field in sorted(sizes, key=lambda it: before.get(it, 0) - sizes[it]):
            more = sizes[field] - before.get(field, 0)
            if total <= self._max_size or more <= 0:
                break
            left_out.append(field)
            total -= more
        return left_out

    async def _write_and_say(self, name: _Name, change: _Change) -> None:
        await self._write(name, change)
        known = self._refused.pop(name, set())
        if not change.refused:
            return
        self._refused[name] = set(change.refused)
        said = [key for key in change.refused if key not in known]
        if said:
            error = change.refused[said[0]]
            raise CodecError(
                f"{name[0]} data is stored without {_listed(said)}: {error}",
                reason=error.reason,
            )

    async def _write(self, name: _Name, change: _Change) -> None:
        new, gone, _ = change
        if not (new or gone):
            self._unsaved.pop(name, None)  # what is there is what is here
            return
        self._unsaved[name] = change
        try:
            await self._put(self._key(name), new, gone)
        except OddswireError as error:
            self._degraded.begin(error)
            raise
        # By now another read may have seen more; this much is there.
        seen = {**self._seen.get(name, {}), **new}
        for field in gone:
            seen.pop(field, None)
        self._seen[name] = seen
        # Unless there is a newer change to write already.
        if self._unsaved.get(name) is change:
            del self._unsaved[name]
        if not self._unsaved:
            self._degraded.end()

    async def _put(self, key: str, new: _Fields, gone: list[bytes]) -> None:
        """Write fields of a hash; a key of another type goes for them."""
        values: dict[Any, Any] = dict(new)
        for foreign in (False, True):
            try:
                async with self._client.pipeline(transaction=True) as pipe:
                    if foreign:
                        pipe.unlink(key)
                    if new:
                        pipe.hset(key, mapping=values)
                    if gone:
                        pipe.hdel(key, *gone)
                    await pipe.execute()
            except WrongType:
                if foreign:
                    raise
            else:
                return

    async def _drop(self, name: _Name) -> None:
        await self._client.unlink(self._key(name))
        self._seen.pop(name, None)
        self._unsaved.pop(name, None)
        self._refused.pop(name, None)


async def _raising(error: CodecError) -> None:
    raise error


def _encoded(
    data: Data,
) -> tuple[dict[bytes, bytes | None], dict[str, CodecError]]:
    """Return fields and values, and what cannot be stored: its field has None."""
    if not isinstance(data, dict):
        raise CodecError(
            f"the data of a user, chat or bot is a dict, not {type(data).__name__}",
            reason="type",
        )
    fields: dict[bytes, bytes | None] = {}
    refused: dict[str, CodecError] = {}
    for key, value in data.items():
        try:
            field = _values.encode(key)
        except CodecError as error:
            refused[f"a key of type {type(key).__name__}"] = error
            continue
        try:
            fields[field] = _values.encode(value)
        except CodecError as error:
            fields[field] = None
            refused[field.decode()] = error
    return fields, refused


def _placed(fields: _Fields, seen: _Fields) -> _Fields:
    """Return the fields with places that go up as the dict goes.

    What has a place keeps it where it can: writing a value for its place alone could
    undo what another process made of it.
    """
    places = {field: _values.place_of(stored)[0] for field, stored in seen.items()}
    highest = max(places.values(), default=0)
    last = (-inf, b"")
    found = {}
    for field, value in fields.items():
        place = places.get(field)
        if place is None or (place, field) <= last:
            highest += 1
            place = highest
        last = (place, field)
        found[field] = _values.placed(place, value)
    return found


def _sort(data: Data, there: _Fields) -> None:
    """Bring a dict into the order of what is stored; what is not comes last."""

    def place(key: Any) -> tuple[float, bytes]:
        try:
            field = _values.encode(key)
        except CodecError:
            return inf, b""
        stored = there.get(field)
        return (inf, b"") if stored is None else (_values.place_of(stored)[0], field)

    keys = sorted(data, key=place)
    if keys != list(data):
        items = [(key, data[key]) for key in keys]
        data.clear()
        data.update(items)


def _place(item: tuple[bytes, bytes]) -> tuple[int, bytes]:
    return _values.place_of(item[1])[0], item[0]


def _value_of(stored: bytes) -> Any:
    return _values.decode(_values.place_of(stored)[1])


def _without_place(stored: bytes | None) -> bytes | None:
    return None if stored is None else _values.place_of(stored)[1]


def _listed(keys: list[str]) -> str:
    shown = ", ".join(key[:40] for key in keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"


def _fields_of_callbacks(data: Any) -> Data:
    """Return callback data with a key for each keyboard and query."""
    try:
        keyboards, queries = data
        fields: Data = {
            ("keyboard", uuid): (used, buttons) for uuid, used, buttons in keyboards
        }
        return fields | {("query", each): uuid for each, uuid in queries.items()}
    except (TypeError, ValueError, AttributeError):
        raise CodecError(
            "callback data is a list of keyboards and a dict of queries, as "
            "CallbackDataCache.persistence_data is",
            reason="type",
        ) from None


def _callbacks_of(fields: Data) -> tuple[Any, int]:
    """Return callback data as the framework has it, and the number of unknown fields.

    The first is None if there is no callback data.
    """
    left_out = 0
    keyboards: list[tuple[Any, ...]] = []
    queries: dict[Any, Any] = {}
    for key, value in fields.items():
        match key, value:
            case ("keyboard", uuid), (used, buttons):
                keyboards.append((uuid, used, buttons))
            case ("query", query), uuid:
                queries[query] = uuid
            case "data", (list() as old, dict() as old_queries):
                # All of it was one value once.
                keyboards += old
                queries |= old_queries
            case _:
                left_out += 1
    return (keyboards, queries) if keyboards or queries else None, left_out


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
