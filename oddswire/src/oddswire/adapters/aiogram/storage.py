"""`Storage`: what aiogram keeps of a conversation, in one hash."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, inf
from typing import TYPE_CHECKING, Any

from aiogram.exceptions import DataNotDictLikeError
from aiogram.fsm.state import State
from aiogram.fsm.storage.base import BaseStorage, KeyBuilder

from oddswire._numbers import check_duration, check_int, shown
from oddswire.adapters import _values
from oddswire.adapters.aiogram._legacy import Legacy
from oddswire.adapters.aiogram._parts import parts
from oddswire.client import keyspace
from oddswire.clock import Clock, SystemClock
from oddswire.errors import (
    CodecError,
    CommandTimeout,
    ConnectionLost,
    OddswireError,
    Outcome,
    SettingsError,
    Unavailable,
)
from oddswire.keys import CONVERSATION, CONVERSATION_ADOPTED
from oddswire.scripts import load

if TYPE_CHECKING:
    from aiogram.fsm.storage.base import StateType, StorageKey

    from oddswire.client import Client
    from oddswire.scripts import Script

_READ = load("conversation_read")
_WRITE = load("conversation_write")
_ADOPT = load("conversation_adopt")

_STATE = b"s"
_DATA = b"d"
_FOREIGN = b"x"  # data of another storage that could not be read
_MAY_REPEAT_READ = (Unavailable, ConnectionLost, CommandTimeout)
_PAUSE = 0.1  # seconds between two tries while Redis is away
_LONGEST = 100 * 365 * 86_400.0


class Storage(BaseStorage):
    """State and data of a conversation in one hash, a field for each value.

    `update_data` merges in the server, so of updates at the same time none is lost. The
    data comes back in its order, as a dict has it. Bot and destiny are part of the key:
    several bots may share one Redis.

    Args:
        client: Where. It stays yours to close.
        prefix: What the keys begin with; None: as its settings say.
        ttl: Seconds a conversation lives after it was last read or written; None: for
            ever. What a user asked for does not belong into a conversation.
        max_size: Bytes that state and data of one conversation may have.
        wait: Seconds that a call waits for Redis to come back, beyond the client's own
            deadline. 0: the error is raised at once, and aiogram drops the update.
        legacy_prefix: The `prefix` of aiogram's own RedisStorage (``"fsm"``), or its
            key builder: conversations that it left are taken over when they are first
            used. Its records stay as they are.
        clock: For `wait`.

    Raises:
        SettingsError: One of them is out of range.
    """

    def __init__(
        self,
        client: Client,
        *,
        prefix: str | None = None,
        ttl: float | None = 86_400.0,
        max_size: int = 262_144,
        wait: float = 0.0,
        legacy_prefix: str | KeyBuilder | None = None,
        clock: Clock | None = None,
    ) -> None:
        if ttl is not None:
            check_duration("ttl", ttl, 0.001, _LONGEST, SettingsError)
        check_int("max_size", max_size, 1, _values.MAX_SIZE, SettingsError)
        check_duration("wait", wait, 0.0, inf, SettingsError)
        if not isinstance(legacy_prefix, str | KeyBuilder | None):
            raise SettingsError(
                f"legacy_prefix {shown(legacy_prefix)}: accepted is RedisStorage's "
                "prefix, such as 'fsm', or its key builder"
            )
        self._client = client
        self._keys = keyspace(client, prefix)
        self._ttl = 0 if ttl is None else ceil(ttl * 1000)
        self._max_size = max_size
        self._wait = wait
        self._legacy = None if legacy_prefix is None else Legacy(client, legacy_prefix)
        self._clock = clock or SystemClock()

    # --- aiogram's interface

    async def set_state(self, key: StorageKey, state: StateType = None) -> None:
        """Set the state; None ends it. The data stays.

        Raises:
            CodecError: It is no text and no `State`.
            OddswireError: As any command; it may have been written.
        """
        await self._write(key, "keep", self._state(state))

    async def get_state(self, key: StorageKey) -> str | None:
        """Return the state.

        Raises:
            CodecError: What is stored is no text.
            OddswireError: As any command.
        """
        (state,) = await self._read(key, _STATE)
        try:
            return None if state is None else state.decode()
        except UnicodeDecodeError:
            raise CodecError("a stored state is no text", reason="damaged") from None

    async def set_data(self, key: StorageKey, data: Mapping[str, Any]) -> None:
        """Replace the data, also data that cannot be read. The state stays.

        Raises:
            DataNotDictLikeError: It is no mapping.
            CodecError: It cannot be stored, or is too large; nothing was written.
            OddswireError: As any command; it may have been written.
        """
        await self._write(key, "replace", (), _fields(data))

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        """Return the data, which is yours to change.

        Raises:
            CodecError: What is stored cannot be read; `set_data` and `clear` still
                work.
            OddswireError: As any command.
        """
        return _values_of(await self._read(key))

    async def get_value(
        self, storage_key: StorageKey, dict_key: str, default: Any = None
    ) -> Any:
        """Return one value of the data; only that one is read.

        Raises:
            CodecError: As `get_data`.
            OddswireError: As any command.
        """
        field = _DATA + _name(dict_key)
        value, foreign = await self._read(storage_key, field, _FOREIGN)
        if value is not None:
            return _values.decode(_values.place_of(value)[1])
        if foreign is not None:
            raise _foreign()
        return default

    async def update_data(
        self, key: StorageKey, data: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Set some values of the data and return all of it, in one step.

        Raises:
            DataNotDictLikeError: It is no mapping.
            CodecError: As `set_data`; or another value cannot be read, and this update
                was written (its `outcome` is then ``unknown``).
            OddswireError: As any command; it may have been written.
        """
        found = await self._write(key, "merge", (), _fields(data))
        try:
            return _values_of(found)
        except CodecError as error:
            error.outcome = Outcome.UNKNOWN
            raise

    async def close(self) -> None:
        """Do nothing: the program that opened the client closes it."""

    # --- both at once

    async def clear(self, key: StorageKey) -> None:
        """End the conversation: state and data in one step.

        aiogram's `FSMContext.clear` is two steps.

        Raises:
            OddswireError: As any command; it may have been done.
        """
        await self._write(key, "replace", ("drop",))

    async def replace(
        self, key: StorageKey, state: StateType, data: Mapping[str, Any]
    ) -> None:
        """Set state and data in one step.

        Raises:
            CodecError: As `set_state` and `set_data`; nothing was written.
            OddswireError: As any command; it may have been written.
        """
        await self._write(key, "replace", self._state(state), _fields(data))

    # --- how

    def _state(self, state: StateType) -> tuple[str, ...]:
        text = state.state if isinstance(state, State) else state
        if text is None:
            return ("drop",)
        if not isinstance(text, str):
            raise CodecError(
                f"a state is a text or a State, not {type(text).__name__}",
                reason="type",
            )
        if len(_name(text)) > self._max_size:
            raise self._too_large(len(text))
        return ("set", text)

    async def _read(self, key: StorageKey, *field: bytes) -> Any:
        return await self._run(_READ, key, [self._ttl, *field], _MAY_REPEAT_READ)

    async def _write(
        self,
        key: StorageKey,
        how: str,
        state: tuple[str, ...],
        fields: list[bytes] | None = None,
    ) -> Any:
        what, text = (*(state or ("keep",)), "")[:2]
        arguments = [self._ttl, self._max_size, how, what, text, *(fields or ())]
        reply = await self._run(_WRITE, key, arguments, (Unavailable,))
        if isinstance(reply, int):
            raise self._too_large(reply)
        return reply

    def _too_large(self, size: int) -> CodecError:
        return CodecError(
            f"a conversation of {size} bytes is above its cap of {self._max_size}; "
            "keep ids in it and the rest elsewhere",
            reason="too_large",
        )

    async def _run(
        self,
        script: Script,
        key: StorageKey,
        arguments: list[Any],
        repeat_after: tuple[type[OddswireError], ...],
    ) -> Any:
        ours = self._keys.key(CONVERSATION, *parts(key))
        until = self._clock.monotonic() + self._wait
        while True:
            try:
                if self._legacy is not None:
                    await self._adopt(self._legacy, key, ours)
                return await script.run(self._client, [ours], arguments)
            except OddswireError as error:
                # A write that may have run is not repeated: there may be a newer one.
                again = isinstance(error, repeat_after)
                if not again or self._clock.monotonic() >= until:
                    raise
            await self._clock.sleep(_PAUSE)

    async def _adopt(self, legacy: Legacy, key: StorageKey, ours: str) -> None:
        mark = self._keys.key(CONVERSATION_ADOPTED, *parts(key))
        record = await legacy.read(key, mark)
        if record is None:
            return
        fields = [] if record.state is None else [_STATE, record.state]
        try:
            data = _fields(record.data)
        except (CodecError, DataNotDictLikeError):
            # Reading it is an error from now on; what overwrites or deletes it works.
            fields += [_FOREIGN, b"1"]
        else:
            for place, at in enumerate(range(0, len(data), 2), 1):
                fields += [data[at], _values.placed(place, data[at + 1])]
        arguments = [self._ttl, record.milliseconds, *fields]
        await _ADOPT.run(self._client, [ours, mark], arguments)


def _foreign() -> CodecError:
    return CodecError(
        "legacy data is not what RedisStorage writes; set_data and clear end it",
        reason="foreign",
    )


def _name(name: str) -> bytes:
    if not isinstance(name, str):
        raise CodecError(
            f"the keys of the data are text, not {type(name).__name__}", reason="type"
        )
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise CodecError("a text is not valid Unicode", reason="type") from None


def _fields(data: Mapping[str, Any]) -> list[bytes]:
    if not isinstance(data, Mapping):
        raise DataNotDictLikeError(
            f"Data must be a dict or dict-like object, got {type(data).__name__}"
        )
    fields = []
    for name, value in data.items():
        fields += [_DATA + _name(name), _values.encode(value)]
    return fields


def _values_of(reply: list[bytes]) -> dict[str, Any]:
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    if _FOREIGN in fields:
        raise _foreign()
    found = []
    for field, stored in fields.items():
        if field.startswith(_DATA):
            place, value = _values.place_of(stored)
            found.append((place, field[1:], value))
    found.sort()
    try:
        return {name.decode(): _values.decode(value) for _, name, value in found}
    except UnicodeDecodeError:
        raise CodecError("a stored name is no text", reason="damaged") from None
