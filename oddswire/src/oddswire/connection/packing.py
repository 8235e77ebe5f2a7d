"""From a command's words and arguments to the bytes that ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import hiredis
from redis.exceptions import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# hiredis types its argument as a tuple of one item.
pack = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)
"""Pack ``("SET", key, value)``; text becomes UTF-8.

Of a memoryview with gaps it silently takes what lies in memory behind its first byte,
and an int that Python makes no text of ends the process: hiredis 3.5 looks at no error
there. So it is not for what comes from callers and may be one of these.

Raises:
    TypeError: An item is no text, bytes or number.
    UnicodeEncodeError: Text with a lone surrogate.
"""


MOST_BITS = 2_000
"""Of an int that `pack` gets; Python may be set to refuse 641 digits, 2,127 bits."""


def pack_as_redis_py(
    words: Sequence[str], arguments: Iterable[Any], encode: Callable[[Any], Any]
) -> bytes:
    """Pack a command the long way: with redis-py's encoder and its errors.

    Args:
        words: The name of the command.
        arguments: What follows it.
        encode: redis-py's `Encoder.encode`.

    Raises:
        DataError: An argument that is no text, bytes or number, text that cannot be
            encoded, or an int of thousands of digits.
    """
    try:
        # bytes(): redis-py encodes bytearray and memoryview as themselves.
        return pack((*words, *(bytes(encode(argument)) for argument in arguments)))
    except UnicodeError as error:
        raise unencodable(error) from None
    except ValueError as error:
        raise DataError(f"a number that cannot be packed: {error}") from None


def unencodable(error: UnicodeError) -> DataError:
    """Return the error for text that cannot be encoded, such as a lone surrogate."""
    return DataError(f"text that cannot be encoded: {error}")
