"""JSON text of any size, a slice at a time.

The decoder holds the interpreter while it works, so a worker thread would not free the
loop. Therefore a long text is cut into pieces first, and each piece is decoded by
itself. What takes several steps is a generator that yields between two of them: `paced`
runs it in the loop, and lets others have their turn about every millisecond.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]

SLICE = 32 * 1024
"""Bytes that are decoded in one step."""
LONGEST = 128 * 1024
"""Bytes of a value that no slice divides: a text, a number, an event of a frame."""
_SMALL = 1024
_MOST_MEMBERS = 20_000
_DEEPEST = 16
_TURN = 0.001  # seconds
# Only the end of a value is wanted: no number is worked out.
_scanner = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
_SPACE = re.compile(r"[ \t\n\r]{0,1000}")


async def paced(steps: Steps[T]) -> T:
    """Run steps to their end and return their result; others run in between.

    Cancelled, the steps end where they are.
    """
    began = time.perf_counter()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        if time.perf_counter() - began > _TURN:
            await asyncio.sleep(0)
            began = time.perf_counter()


async def release(value: Any) -> None:
    """Let go of a decoded answer, whose lists are empty then; others run in between.

    To free a hundred thousand objects at once holds the loop for some ten milliseconds.
    """
    parts = value.values() if isinstance(value, dict) else (value,)
    for part in parts:
        if isinstance(part, list):
            await paced(_emptying(part))


def _emptying(values: list[Any]) -> Steps[None]:
    while values:
        values.pop()
        yield


def at_once(steps: Steps[T], most: int | None = None) -> T:
    """Run steps to their end and return their result; nobody runs in between.

    Args:
        steps: The steps.
        most: How many at most; None: all.

    Raises:
        ValueError: There are more.
    """
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        count += 1
        if most is not None and count > most:
            raise ValueError("it has more elements than are read one by one")


def decoding(
    text: bytes | bytearray, decode: Callable[[bytes], Any], size: int = SLICE
) -> Steps[Any]:
    """Decode a JSON text of any size.

    Args:
        text: In UTF-8.
        decode: Decodes one piece.
        size: Bytes of a piece.

    Raises:
        ValueError: It is not JSON; or, where it is no small piece, it has a text or
            number of more than 128 KiB, a key of more than 1 KiB, or a list or object
            of more than 20,000 members.
    """
    if len(text) <= size:
        return decode(bytes(text))
    value = _Value(text, decode, size)
    found, end = yield from value.at(skip_space(text, 0), _DEEPEST)
    if skip_space(text, end) != len(text):
        raise ValueError(f"there is more after the end, at {end}")
    return found


def end_of(text: str | bytes | bytearray, at: int, size: int) -> int | None:
    """Return where the value that begins at a place ends; None: not within `size`."""
    if size > _SMALL and (end := end_of(text, at, _SMALL)) is not None:
        return end  # most values are small, and to cut a large window is work
    window = _window(text, at, size)
    try:
        _, length = _scanner.raw_decode(window)
    except (ValueError, RecursionError):
        return None
    # A number at the end of the window may go on behind it.
    cut = length == len(window) < len(text) - at and window[-1] not in '"]}el'
    return None if cut else at + length


def skip_space(text: str | bytes | bytearray, at: int) -> int:
    """Return where what is no white space begins; at most 1,000 are skipped."""
    space = _SPACE.match(_window(text, at, 1_000))
    return at + (space.end() if space else 0)


def is_at(text: str | bytes | bytearray, at: int, character: str) -> bool:
    """Return whether a character stands at a place."""
    return _window(text, at, 1) == character


def _window(text: str | bytes | bytearray, at: int, size: int) -> str:
    window = text[at : at + size]
    # Latin 1: what gives JSON its structure is ASCII, and a window may cut a character.
    return window if isinstance(window, str) else window.decode("latin-1")


class _Value:
    """Decodes a value that is longer than a piece: each member by itself."""

    def __init__(
        self, text: bytes | bytearray, decode: Callable[[bytes], Any], size: int
    ) -> None:
        self._text = text
        self._decode = decode
        self._size = size

    def at(self, at: int, depth: int) -> Steps[tuple[Any, int]]:
        """Decode the value at a place; return it, and where it ends."""
        text = self._text
        end = end_of(text, at, self._size)
        if end is None and is_at(text, at, "{") and depth:
            return (yield from self._object(at, depth - 1))
        if end is None and is_at(text, at, "[") and depth:
            return (yield from self._array(at, depth - 1))
        if end is None:
            yield
            end = end_of(text, at, LONGEST)
        if end is None:
            raise ValueError(f"malformed, too long or too deep at {at}")
        return self._decode(bytes(text[at:end])), end

    def _array(self, at: int, depth: int) -> Steps[tuple[list[Any], int]]:
        found: list[Any] = []
        at = skip_space(self._text, at + 1)
        try:
            while not (is_at(self._text, at, "]") and not found):
                yield
                value, at = yield from self.at(at, depth)
                found.append(value)
                at = skip_space(self._text, at)
                if is_at(self._text, at, "]"):
                    break
                at = self._next(at, len(found))
        except (ValueError, RecursionError):
            yield from _emptying(found)
            raise
        return found, at + 1

    def _object(self, at: int, depth: int) -> Steps[tuple[dict[str, Any], int]]:
        text = self._text
        found: dict[str, Any] = {}
        members = 0
        at = skip_space(text, at + 1)
        while not (is_at(text, at, "}") and not members):
            yield
            end = end_of(text, at, _SMALL) if is_at(text, at, '"') else None
            colon = at if end is None else skip_space(text, end)
            if not is_at(text, colon, ":"):
                raise ValueError(f"a key was expected at {at}")
            key = self._decode(bytes(text[at:end]))
            value, at = yield from self.at(skip_space(text, colon + 1), depth)
            found[key] = value
            members += 1
            at = skip_space(text, at)
            if is_at(text, at, "}"):
                break
            at = self._next(at, members)
        return found, at + 1

    def _next(self, at: int, members: int) -> int:
        if not is_at(self._text, at, ","):
            raise ValueError(f"a comma was expected at {at}")
        if members >= _MOST_MEMBERS:
            raise ValueError(f"more than {_MOST_MEMBERS} members")
        return skip_space(self._text, at + 1)
