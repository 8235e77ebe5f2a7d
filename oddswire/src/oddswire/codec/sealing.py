"""Sealing: encryption that also proves where bytes belong, behind a small protocol.

====== ===== =====================================================================
offset bytes content of what `AesGcm` seals
====== ===== =====================================================================
0      1     0xF5: no UTF-8 text has such a byte, and no envelope begins with it
1      1     version of this format: 1, AES-256-GCM
2      2     number of the key, big-endian
4      12    nonce, random
16     n     ciphertext, and 16 bytes of tag
====== ===== =====================================================================

Authenticated, and not stored: the first four bytes, the owner and the place.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from oddswire.errors import CodecError

if TYPE_CHECKING:
    from oddswire.codec.keyring import Keyring

HEADER_BYTES = 4
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD = HEADER_BYTES + NONCE_BYTES + TAG_BYTES
_MARK = 0xF5
_VERSION = 1
_CIPHERS = 4096


@runtime_checkable
class Sealer(Protocol):
    """Encrypts and authenticates bytes; write one for a KMS or another cipher.

    Attributes:
        overhead: Bytes, at most, that sealing adds.
    """

    overhead: int

    def seal(self, data: bytes, owner: str, place: bytes) -> bytes:
        """Return `data` sealed for one owner and one place; never twice the same.

        Args:
            data: Anything.
            owner: Whose it is.
            place: Where it will be stored. Bytes sealed for another place or owner
                must not open.
        """

    def open(self, data: bytes, owner: str, place: bytes) -> bytes:
        """Return what `seal` was given for this owner and place.

        Raises:
            CodecError: ``key``: sealed under a key that is not there. ``damaged``:
                changed, or of another owner or place. ``foreign``: never sealed.
        """

    def key_number(self, data: bytes) -> int:
        """Return the number of the key that these bytes are sealed under."""

    @property
    def primary(self) -> int:
        """The number of the key that seals now."""


def place(*parts: str) -> bytes:
    """Return parts as bytes that no other parts give: each one behind its length."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


class AesGcm:
    """AES-256-GCM with a random nonce and a key for each owner, from a `Keyring`.

    Args:
        keyring: The master keys. Replace it by `Sessions.retire` only.

    Attributes:
        keyring: As given.
        overhead: 32 bytes.
    """

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.overhead = OVERHEAD
        # Deriving takes longer than sealing; a user's sections come together.
        self._cipher = lru_cache(_CIPHERS)(self._make)

    def __repr__(self) -> str:
        return f"AesGcm({self.keyring!r})"

    @property
    def primary(self) -> int:
        """The number of the key that seals now."""
        return self.keyring.primary

    def _make(self, number: int, owner: str) -> AESGCM | None:
        key = self.keyring.key_for(number, owner)
        return None if key is None else AESGCM(key)

    def seal(self, data: bytes, owner: str, place: bytes) -> bytes:
        """Return header, nonce, ciphertext and tag."""
        number = self.keyring.primary
        cipher = self._cipher(number, owner)
        if cipher is None:
            raise CodecError(f"no key {number}", reason="key")
        head = bytes((_MARK, _VERSION)) + number.to_bytes(2, "big")
        nonce = os.urandom(NONCE_BYTES)
        return head + nonce + cipher.encrypt(nonce, data, _bound(head, owner, place))

    def open(self, data: bytes, owner: str, place: bytes) -> bytes:
        """Return the plain bytes.

        Raises:
            CodecError: ``foreign``, ``newer``, ``key`` or ``damaged``.
        """
        number = self.key_number(data)
        cipher = self._cipher(number, owner)
        if cipher is None:
            raise CodecError(
                f"sealed under key {number}, which is not in the keyring", reason="key"
            )
        head, nonce = data[:HEADER_BYTES], data[HEADER_BYTES:][:NONCE_BYTES]
        sealed = data[HEADER_BYTES + NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, sealed, _bound(head, owner, place))
        except InvalidTag:
            raise CodecError(
                "changed since it was sealed, or sealed for another place",
                reason="damaged",
            ) from None

    def key_number(self, data: bytes) -> int:
        """Return the number of the key that these bytes say they are sealed under.

        Raises:
            CodecError: ``foreign``, ``newer`` or ``damaged``: nothing sealed by this.
        """
        if not data or data[0] != _MARK:
            raise CodecError("not sealed", reason="foreign")
        if len(data) < OVERHEAD:
            raise CodecError("cut short", reason="damaged")
        if data[1] != _VERSION:
            raise CodecError(f"sealed in format {data[1]}", reason="newer")
        return int.from_bytes(data[2:4], "big")

    def use(self, keyring: Keyring) -> None:
        """Take another keyring from now on."""
        self.keyring = keyring
        self._cipher.cache_clear()


def _bound(head: bytes, owner: str, place: bytes) -> bytes:
    name = owner.encode()
    return head + len(name).to_bytes(4, "big") + name + place
