"""Read what a gzip file still holds, even when its end is missing or damaged."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from .errors import RecordingError

if TYPE_CHECKING:
    from pathlib import Path

_GZIP = 31  # zlib's name for "a gzip header and trailer"
# Small, because an error in a chunk loses what that chunk had decoded.
_CHUNK = 1024


def gunzip(path: Path) -> tuple[bytes, str | None]:
    """Return the bytes of a gzip file, and a warning when some are missing.

    Raises:
        RecordingError: The file cannot be opened, or nothing of it can be read.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise RecordingError(
            f"{path} cannot be opened ({error.strerror}): check the file's permissions"
        ) from error
    parts: list[bytes] = []
    warning = None
    try:
        while packed:
            packed = _member(packed, parts)
    except zlib.error as error:
        warning = f"{path.name} is damaged ({error})"
    except EOFError:
        warning = f"{path.name} is cut off"
    text = b"".join(parts)
    if not text:
        raise RecordingError(
            f"{path} holds nothing that gzip can read: copy it again from its source"
        )
    if warning is not None:
        lines = text.count(b"\n")
        warning += f": only its first {lines} lines could be read; copy it again"
    return text, warning


def _member(packed: bytes, parts: list[bytes]) -> bytes:
    """Decode one gzip member into `parts`; return what follows it."""
    decoder = zlib.decompressobj(_GZIP)
    for at in range(0, len(packed), _CHUNK):
        parts.append(decoder.decompress(packed[at : at + _CHUNK]))
        if decoder.eof:
            return decoder.unused_data + packed[at + _CHUNK :]
    raise EOFError
