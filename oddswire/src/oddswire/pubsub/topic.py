"""`Topic`: what is published, as which type, and what happens to it under way."""

from __future__ import annotations

import builtins
import re
from enum import StrEnum
from fnmatch import translate
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from oddswire._numbers import is_number, shown
from oddswire.errors import InvalidKey, TopicError
from oddswire.keys import TOPIC, KeySpace

T = TypeVar("T")

MAX_KEY_BYTES = 256
"""Of a key, UTF-8: it travels with each message."""

_BAD = re.compile(r"[\s\x00-\x1f\x7f]")


class Delivery(StrEnum):
    """What a subscriber may rely on.

    - `VOLATILE`: at most once. What was lost is announced by a `Gap`, and gone.
    - `LATEST`: the newest value of each key. Older ones are left out, and a value never
      goes back to an older version.
    - `LOG`: every message in order, replayed after an interruption, or a `Gap`.
    """

    VOLATILE = "volatile"
    LATEST = "latest"
    LOG = "log"


class Topic(msgspec.Struct, Generic[T], frozen=True):
    """One named sequence of messages of one type; all its keys share one order.

    Args:
        name: ``[A-Za-z0-9_.-]`` and the like; the same in every process.
        type: What msgspec decodes: a `msgspec.Struct`, a tagged union, ``int``, ...
        delivery: The promise.
        history: Messages that a LOG keeps at least.
        retention: Seconds for which a LOG keeps them, counted from the last message;
            for a LATEST topic, how long its values outlive the last publish.
        max_size: Bytes that an encoded value may have.

    Raises:
        TopicError: A name or a number that cannot be.
    """

    name: str
    type: builtins.type[T]  # by its module: in here `type` is this very field
    delivery: Delivery = msgspec.field(default=Delivery.VOLATILE)
    history: int = msgspec.field(default=1000)
    retention: float = msgspec.field(default=3600.0)
    max_size: int = msgspec.field(default=1024 * 1024)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TopicError("a topic needs a name, a text that is not empty")
        try:
            KeySpace("oddswire:").key(TOPIC, self.name, "")
        except InvalidKey as error:
            raise TopicError(f"topic {self.name!r:.80}: {error}") from None
        if not isinstance(self.delivery, Delivery):
            raise TopicError(f"topic {self.name}: delivery is a Delivery")
        for number in (self.history, self.max_size):
            if type(number) is not int or number < 1:
                raise TopicError(
                    f"topic {self.name}: history and max_size are whole numbers above 0"
                )
        if not is_number(self.retention, 1.0, 10 * 365 * 86_400):
            raise TopicError(
                f"topic {self.name}: retention is 1 second to 10 years, not "
                f"{shown(self.retention)}"
            )

    def __getitem__(self, key: str) -> Keyed[T]:
        """Return the part of the topic with this key.

        Raises:
            TopicError: The key is empty, too long, or has white space in it.
        """
        return Keyed(self, _checked(self.name, key))

    def matching(self, pattern: str) -> Matching[T]:
        """Return the part whose keys match: ``*``, ``?`` and ``[...]`` as in a shell.

        Raises:
            TopicError: The pattern is empty, too long, or has white space in it.
        """
        return Matching(self, _checked(self.name, pattern))


class Keyed(msgspec.Struct, Generic[T], frozen=True):
    """A topic and one key, made by ``topic[key]``."""

    topic: Topic[T]
    key: str


class Matching(msgspec.Struct, Generic[T], frozen=True):
    """A topic and a pattern of keys, made by ``topic.matching(pattern)``."""

    topic: Topic[T]
    pattern: str


Source: TypeAlias = "Topic[T] | Keyed[T] | Matching[T]"


class Selection:
    """Which keys of a topic a subscription wants."""

    __slots__ = ("_key", "_pattern", "everything", "topic")

    def __init__(self, source: Source[Any]) -> None:
        self._key: bytes | None = None
        self._pattern: re.Pattern[str] | None = None
        match source:
            case Keyed(topic=topic, key=key):
                self._key = key.encode()
            case Matching(topic=topic, pattern=pattern):
                self._pattern = re.compile(translate(pattern))
            case Topic() as topic:
                pass
            case _:
                raise TopicError(
                    f"a topic, topic[key] or topic.matching(...) is subscribed to, "
                    f"not {type(source).__name__}"
                )
        self.topic: Topic[Any] = topic
        self.everything = self._key is None and self._pattern is None

    def takes(self, key: bytes) -> bool:
        """Whether messages with this key are wanted."""
        if self._key is not None:
            return key == self._key
        if self._pattern is not None:
            return self._pattern.match(key.decode(errors="replace")) is not None
        return True


def _checked(name: str, key: str) -> str:
    # What is not text would be another key in another process.
    if not isinstance(key, str) or not key or _BAD.search(key):
        raise TopicError(
            f"topic {name}: a key is text without white space, not {shown(key)}"
        )
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise TopicError(f"topic {name}: a key is valid Unicode") from None
    if size > MAX_KEY_BYTES:
        raise TopicError(f"topic {name}: a key has at most {MAX_KEY_BYTES} bytes")
    return key
