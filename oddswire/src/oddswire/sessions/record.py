"""What a session is made of: `Record`, its fields' marks, and the ready-made `Session`.

A field without a mark is what the user asked for: it has no expiry. Marks are put on
with `Annotated`:

>>> class UserSession(Record):
...     language: Annotated[str, Indexed()] = "en"
...     wallets: Annotated[dict[str, Wallet], Collection(50, index="wallet")] = {}
...     dialog: Annotated[dict[str, str], Expiring()] = {}
...     token: Annotated[str | None, Secret()] = None
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import msgspec

from oddswire._numbers import check_int, shown
from oddswire.errors import SettingsError

_MOST_MEMBERS = 1_000_000_000


class Expiring(msgspec.Struct, frozen=True):
    """Conversation state: gone when the session was idle for its time to live."""


class Secret(msgspec.Struct, frozen=True):
    """Authentication state: expires like a conversation, and is never compressed.

    The length of compressed text tells about a secret that stands beside text which
    somebody else chose.
    """


class Indexed(msgspec.Struct, frozen=True):
    """`users_for(<field>, value)` finds the users of a `str` field; "" is no entry."""


class Collection(msgspec.Struct, frozen=True):
    """A `dict[str, V]` whose members come and go without reading the rest.

    Attributes:
        limit: Members that a user may have, at least 1.
        index: `users_for(<index>, key)` finds the users that have a member; None: no
            index.

    Raises:
        SettingsError: The limit is no such number, or the index no name.
    """

    limit: int
    index: str | None = None

    def __post_init__(self) -> None:
        check_int("limit of a Collection", self.limit, 1, _MOST_MEMBERS, SettingsError)
        if self.index is not None and not (
            isinstance(self.index, str) and self.index.isprintable() and self.index
        ):
            raise SettingsError(
                f"index of a Collection {shown(self.index)}: accepted is a name or None"
            )


class Record(msgspec.Struct, kw_only=True):
    """What every session has. The server fills these in; changes to them are dropped.

    A subclass gives every field a default: a session that begins, and the fields of a
    conversation that has ended, have those.

    Attributes:
        user_id: Whose.
        version: Grows with each change, also over deletion and creation.
        created_at: Seconds since 1970, by the server.
        last_activity: The same; exact to `touch_interval`.
        is_active: Whether `deactivate` was not called.
    """

    schema: ClassVar[int] = 1
    """Grows when stored fields change their meaning; see `migrations`."""
    migrations: ClassVar[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
    """From a schema to the next one: fields as plain data, to fields as plain data."""

    user_id: int = 0
    version: int = 0
    created_at: float = 0.0
    last_activity: float = 0.0
    is_active: bool = True


class Session(Record):
    """A session for any bot; write a `Record` of your own for typed preferences.

    Attributes:
        preferences: What the user asked for; does not expire.
        metadata: Whatever belongs to the user; does not expire.
        conversation: Where a dialogue stands; expires.
        auth: Authentication state; expires, never compressed.
    """

    preferences: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    conversation: Annotated[dict[str, Any], Expiring()] = {}
    auth: Annotated[dict[str, Any], Secret()] = {}
