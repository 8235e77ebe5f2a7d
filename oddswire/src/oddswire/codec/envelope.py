"""The envelope around every stored value: its format, and a checksum.

====== ===== =====================================================================
offset bytes content
====== ===== =====================================================================
0      1     0xF8 + version; no UTF-8 text begins with such a byte, nor does JSON, a
             pickle or a zstd frame, so that data of other programs differs from ours
1      1     flags: bit 0 compressed, bit 1 sealed, bits 4-7 id of the compressor
2      4     CRC-32 of bytes 0, 1 and the body, little-endian
6      n     body
====== ===== =====================================================================

The checksum finds accidents. An attacker who can write to the server can compute it;
sealing protects against that.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import msgspec

from oddswire.errors import CodecError

if TYPE_CHECKING:
    from oddswire.codec.compression import Compressor

VERSION = 1
HEADER_BYTES = 6

COMPRESSED = 0b0000_0001
SEALED = 0b0000_0010
_UNKNOWN = 0b0000_1100

_MARK = 0xF8
_NEWEST = 0xFF


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """An opened envelope.

    Attributes:
        body: What is inside, as it was stored.
        compressed: Whether `body` is compressed.
        sealed: Whether `body` is encrypted.
        compressor: Id of the compressor, 0 to 15; 0 when not compressed.
    """

    body: bytes
    compressed: bool = False
    sealed: bool = False
    compressor: int = 0

    @classmethod
    def around(cls, body: bytes, compressor: Compressor, above: int) -> Envelope:
        """Return an envelope, its body compressed if that saves at least a tenth.

        Args:
            body: What goes in.
            compressor: Of bodies.
            above: Bytes; a body that has no more is left as it is.
        """
        if len(body) > above:
            smaller = compressor.compress(body)
            if len(smaller) <= len(body) * 0.9:
                return cls(body=smaller, compressed=True, compressor=compressor.id)
        return cls(body=body)

    def content(self, compressor: Compressor, limit: int) -> bytes:
        """Return what `around` was given.

        Args:
            compressor: Of bodies.
            limit: Bytes, at most.

        Raises:
            CodecError: ``type``: sealed, or compressed by another compressor;
                ``too_large`` or ``damaged``: as from that.
        """
        if self.sealed:
            raise CodecError("sealed, and this codec has no key", reason="type")
        if not self.compressed:
            return self.body
        if self.compressor != compressor.id:
            raise CodecError(
                f"compressed by compressor {self.compressor}, this codec has "
                f"{compressor.id}",
                reason="type",
            )
        return compressor.decompress(self.body, limit)

    def to_bytes(self) -> bytes:
        """Return the bytes to store."""
        flags = self.compressor << 4
        flags |= COMPRESSED if self.compressed else 0
        flags |= SEALED if self.sealed else 0
        head = bytes((_MARK + VERSION, flags))
        return head + _checksum(head, self.body) + self.body

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """Open what `to_bytes` returned.

        Raises:
            CodecError: ``foreign``: no envelope of ours. ``newer``: written by a later
                version. ``damaged``: cut short or changed.
        """
        mark = data[0] if data else 0
        if not _MARK < mark <= _NEWEST:
            raise CodecError("not a value of oddswire", reason="foreign")
        if mark != _MARK + VERSION:
            raise CodecError(
                f"envelope version {mark - _MARK}, this program knows {VERSION}: "
                "it was written by a newer one",
                reason="newer",
            )
        head, stored, body = data[:2], data[2:HEADER_BYTES], data[HEADER_BYTES:]
        if stored != _checksum(head, body):
            raise CodecError("cut short or changed", reason="damaged")
        flags = head[1]
        # After the checksum: a flipped bit is an accident, not the future.
        if flags & _UNKNOWN:
            raise CodecError(
                "envelope with unknown flags: it was written by a newer program",
                reason="newer",
            )
        return cls(
            body=body,
            compressed=bool(flags & COMPRESSED),
            sealed=bool(flags & SEALED),
            compressor=flags >> 4,
        )


_PLAIN = bytes((_MARK + VERSION, 0))
_PLAIN_CRC = zlib.crc32(_PLAIN)
_header_of = struct.Struct("<HI").unpack_from
_PLAIN_NUMBER = int.from_bytes(_PLAIN, "little")


def plain_body(data: bytes) -> bytes | None:
    """Return the body of a whole envelope without flags, None for anything else.

    For speed alone: most values are such, and `Envelope.from_bytes` takes three times
    as long for them. It says what is wrong with the others.
    """
    if len(data) < HEADER_BYTES:
        return None
    body = data[HEADER_BYTES:]
    begins, stored = _header_of(data)
    if begins == _PLAIN_NUMBER and stored == zlib.crc32(body, _PLAIN_CRC):
        return body
    return None


def _checksum(head: bytes, body: bytes) -> bytes:
    return zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little")
