"""Compression: zstd, behind a protocol for another one."""

from __future__ import annotations

import sys
from typing import Protocol, runtime_checkable

from oddswire.errors import CodecError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@runtime_checkable
class Compressor(Protocol):
    """Compresses and decompresses bytes.

    Attributes:
        id: 0 to 15, written beside what it compressed, so that no other one is asked to
            decompress it. 0 is zstd; take another for yours.
    """

    id: int

    def compress(self, data: bytes) -> bytes:
        """Return `data` compressed; it may come out longer."""

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return what `compress` was given.

        `data` may come from an attacker: never hold much more than `limit` bytes, even
        if the data claims to be larger.

        Raises:
            CodecError: ``too_large`` if it would exceed `limit` bytes, ``damaged`` if
                it is not what `compress` returned.
        """


class Zstd:
    """Zstandard, one frame without a dictionary.

    Args:
        level: 1 (fast) to 19 (small).
    """

    __slots__ = ("id", "level")

    def __init__(self, level: int = 3) -> None:
        self.id = 0
        self.level = level

    def compress(self, data: bytes) -> bytes:
        """Return one frame."""
        return zstd.compress(data, self.level)

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return the content of the one frame that `data` is.

        The size and the window a frame states are not believed: the output is cut
        just above `limit`, and a window of more than twice that is refused.

        Raises:
            CodecError: ``too_large`` or ``damaged``.
        """
        # The window of a frame made in one call is its whole content at most; below 10
        # and above 30 the format has no windows that every build accepts.
        window = min(max(limit.bit_length(), 10), 30)
        reader = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: window}
        )
        try:
            # One byte more than allowed tells "as much" from "more".
            content = reader.decompress(data, max_length=limit + 1)
        except zstd.ZstdError as error:
            reason = "too_large" if "too much memory" in str(error) else "damaged"
            raise CodecError(
                f"not a usable zstd frame: {error}", reason=reason
            ) from None
        if len(content) > limit:
            raise CodecError(
                f"more than {limit} bytes decompressed", reason="too_large"
            )
        if not reader.eof or reader.unused_data:
            raise CodecError(
                "a zstd frame is cut short or followed by something", reason="damaged"
            )
        return content
