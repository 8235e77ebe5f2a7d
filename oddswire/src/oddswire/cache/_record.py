"""The bytes of an entry in Redis.

====== ===== =====================================================================
offset bytes content, numbers big-endian
====== ===== =====================================================================
0      1     0xC1: no UTF-8 text and no MessagePack begins so
1      1     kind: 3 value, 4 what a deleted entry with a version leaves behind (1
             and 2 had their version elsewhere)
2      8     fresh until; `cache_expire.lua` sets it to 0
10     8     version, 0 without; the scripts compare these bytes
18     8     usable until
26     8     stored at
34     4     milliseconds that loading took
38     4     mean seconds between loads, in milliseconds
42     2     loads since the first; those of them that brought a change
44     8     digest of the content
52     8     nonce of the namespace
60     1     number of tags
61     24 n  digest of each tag, its nonce, its soft nonce
...    4     CRC-32 of all between "fresh until" and this
...          the value, as `oddswire.codec` wrote it
====== ===== =====================================================================

Times are milliseconds of the Redis server's clock, so hosts need not agree on the time.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from oddswire._numbers import shown
from oddswire.errors import CodecError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

VALUE = 3
TOMBSTONE = 4
NONCE_BYTES = 8
TAG_NONCE_BYTES = 16
"""A tag has one of each kind, hard and soft."""
MAX_TAGS = 16
PROCESS = bytes(8)
"""In place of a tag's digest: the nonces behind it stand for the server process that an
entry was written to. On a cluster every entry has it."""
SEEN_BYTES = 61
"""So many bytes at the beginning tell one record of a key from another."""

_MARK = 0xC1
_TAG_BYTES = 24
_HEAD = struct.Struct(">BBQQQQIIBB8s8sB")
_CRC = struct.Struct(">I")
_CRC_BYTES = 4
_CHECKED_FROM = 10
_TOMBSTONE_BYTES = 18
_U32 = 2**32 - 1
_U64 = 2**64 - 1

# Reads what every hit needs, of a record that is whole.
hit_of = cast("Callable[[bytes], Hit]", struct.Struct(">2xQ8xQ8xI14x8sB").unpack_from)
_VALUE = bytes((_MARK, VALUE))
_KINDS = (_VALUE, bytes((_MARK, TOMBSTONE)))

assert _HEAD.size == SEEN_BYTES  # noqa: S101 - the table above


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An entry, its value still in bytes.

    Attributes:
        fresh_until, usable_until, stored_at: Milliseconds of the server's clock.
        cost: Milliseconds that loading took.
        interval: Mean milliseconds between loads.
        refreshes: Loads since the first one.
        changes: Those that brought another value.
        content: Digest of the value's bytes.
        namespace: Nonce of the namespace when the load began.
        tags: (digest, nonces) of each tag when the load began.
        version: The source's version of the value; 0: none.
        body: The value.
    """

    fresh_until: int
    usable_until: int
    stored_at: int
    namespace: bytes
    body: bytes
    tags: tuple[tuple[bytes, bytes], ...] = ()
    version: int = 0
    cost: int = 0
    interval: int = 0
    refreshes: int = 0
    changes: int = 0
    content: bytes = bytes(8)

    def to_bytes(self) -> bytes:
        """Return what is stored."""
        head = _HEAD.pack(
            _MARK,
            VALUE,
            self.fresh_until,
            self.version,
            self.usable_until,
            self.stored_at,
            min(self.cost, _U32),
            min(self.interval, _U32),
            self.refreshes,
            self.changes,
            self.content,
            self.namespace,
            len(self.tags),
        ) + b"".join(digest + nonce for digest, nonce in self.tags)
        return head + _CRC.pack(zlib.crc32(head[_CHECKED_FROM:])) + self.body


class Details(NamedTuple):
    """What a record says beside what a hit needs.

    Attributes:
        stored_at: Milliseconds of the server's clock.
        cost: Seconds that loading took.
        interval: Mean seconds between loads.
        refreshes: Loads since the first one.
        changes: Those that brought another value.
        content: Digest of the value's bytes.
    """

    version: int
    usable_until: int
    stored_at: int
    cost: float
    interval: float
    refreshes: int
    changes: int
    content: bytes


def details_of(data: bytes) -> Details:
    """Return what a refresh needs to know of a record that `parse_header` took."""
    _, _, _, version, usable, stored, cost, interval, *rest = _HEAD.unpack_from(data)
    refreshes, changes, content, _, _ = rest
    return Details(
        version,
        usable,
        stored,
        cost / 1000,
        interval / 1000,
        refreshes,
        changes,
        content,
    )


Hit = tuple[int, int, int, bytes, int]
"""Fresh until, usable until, cost, nonce of the namespace, number of tags."""


def parse_header(data: bytes) -> tuple[Hit, bytes] | None:
    """Return what a hit needs of a whole record, and its value in bytes.

    None for what a deleted entry left.

    Raises:
        CodecError: ``foreign`` or ``damaged``.
    """
    if data[:2] != _VALUE or len(data) < SEEN_BYTES:
        if data[:2] not in _KINDS:
            raise CodecError("not an entry of the cache", reason="foreign")
        if len(data) == _TOMBSTONE_BYTES and data[1] == TOMBSTONE:
            return None
        raise CodecError("an entry that is cut short", reason="damaged")
    hit = hit_of(data)
    tags = hit[4]
    end = SEEN_BYTES + _TAG_BYTES * tags if tags else SEEN_BYTES
    body = end + _CRC_BYTES
    if (
        tags > MAX_TAGS + 1
        or len(data) < body
        or _CRC.unpack_from(data, end)[0] != zlib.crc32(data[_CHECKED_FROM:end])
        or hit[0] > hit[1]
    ):
        raise CodecError("an entry that was changed", reason="damaged")
    return hit, data[body:]


def tags_of(data: bytes, count: int) -> tuple[tuple[bytes, bytes], ...]:
    """Return (digest, nonces) of each tag of a record."""
    return tuple(
        (data[at : at + 8], data[at + 8 : at + _TAG_BYTES])
        for at in range(SEEN_BYTES, SEEN_BYTES + _TAG_BYTES * count, _TAG_BYTES)
    )


def version_bytes(version: int | None) -> bytes:
    """Return a version as the scripts compare it; nothing for None.

    Raises:
        ValueError: Not a whole number from 1 to 2**64 - 1.
    """
    if version is None:
        return b""
    if type(version) is not int or not 1 <= version <= _U64:
        raise ValueError(f"version {shown(version)}: a whole number from 1 to {_U64}")
    return version.to_bytes(8, "big")


def check_version(version: Any) -> int | None:
    """Return a version as it was given.

    Raises:
        SettingsError: Not a whole number from 1 to 2**64 - 1.
    """
    try:
        version_bytes(version)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return version if version is None else int(version)


def digest(data: bytes) -> bytes:
    """Return eight bytes that stand for `data`."""
    return hashlib.blake2b(data, digest_size=8).digest()
