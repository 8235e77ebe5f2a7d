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
MAX_BYTES = 1024**3
"""Of a recording, unpacked: a day of a market has some megabytes."""


def gunzip(path: Path) -> tuple[bytes, str | None]:
    """Return the bytes of a gzip file, and a warning when some are missing.

    Raises:
        RecordingError: The file cannot be opened, nothing of it can be read, or it is
            larger than any recording.
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
    size = sum(map(len, parts))
    for at in range(0, len(packed), _CHUNK):
        parts.append(decoder.decompress(packed[at : at + _CHUNK]))
        size += len(parts[-1])
        if size > MAX_BYTES:
            raise RecordingError(f"it unpacks to more than {MAX_BYTES} bytes")
        if decoder.eof:
            return decoder.unused_data + packed[at + _CHUNK :]
    raise EOFError
