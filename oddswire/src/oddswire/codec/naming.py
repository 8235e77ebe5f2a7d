"""The names of users and indexed values in keys: as they are, or under a secret."""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

if TYPE_CHECKING:
    from oddswire.codec.keyring import Keyring

_HALF = 1 << 63
_DIGITS = re.compile(r"0|-?[1-9][0-9]{0,18}")
_BLIND = re.compile(r"[A-Za-z0-9_-]{22}")
_CACHED = 16_384


@runtime_checkable
class Names(Protocol):
    """Names users and indexed values in keys."""

    def of_user(self, user_id: int) -> str:
        """Return the name of a user; always the same one."""

    def user(self, name: str) -> int:
        """Return the user of a name.

        Raises:
            ValueError: It is no name of a user.
        """

    def of_value(self, index: str, value: str) -> str:
        """Return the name of an index's value; always the same one."""


class PlainNames:
    """Users and values as they are: a reader of the server can read them."""

    __slots__ = ()

    def of_user(self, user_id: int) -> str:
        """Return the digits."""
        return str(user_id)

    def user(self, name: str) -> int:
        """Return the number.

        Raises:
            ValueError: It is none, or not written as `of_user` does.
        """
        # "007", "1_0", "+7" and digits of other scripts are no names: two names must
        # not be one user.
        if _DIGITS.fullmatch(name) is None or not -_HALF <= (user := int(name)) < _HALF:
            raise ValueError("not the name of a user")
        return user

    def of_value(self, index: str, value: str) -> str:  # noqa: ARG002 - the protocol's
        """Return the value."""
        return value


class BlindNames:
    """Names that only the key opens; the same user or value has the same name.

    A value's name is 96 bits of an HMAC-SHA256. A user's is one AES block, which is a
    permutation under the key and no digest, for an index has to give its users back.
    A reader of the server sees which users share a value, and not which value.

    Args:
        keyring: Its naming key is used, which does not rotate.
    """

    __slots__ = ("_decryptor", "_encryptor", "_key", "of_user", "of_value", "user")

    def __init__(self, keyring: Keyring) -> None:
        self._key = keyring.naming_key("value")
        # A single block, never two under one message: there is no mode to get wrong.
        mode = modes.ECB()  # noqa: S305 - see above
        cipher = Cipher(algorithms.AES(keyring.naming_key("user")), mode)
        self._encryptor = cipher.encryptor()
        self._decryptor = cipher.decryptor()
        self.of_user = lru_cache(_CACHED)(self._of_user)
        self.user = lru_cache(_CACHED)(self._user)
        self.of_value = lru_cache(_CACHED)(self._of_value)

    def _of_user(self, user_id: int) -> str:
        block = (user_id + _HALF).to_bytes(16, "big")
        return urlsafe_b64encode(self._encryptor.update(block))[:22].decode()

    def _user(self, name: str) -> int:
        # A decryptor keeps what is no whole block, and would give every later name
        # another user: so what is decrypted is one block, always.
        block = urlsafe_b64decode(name + "==") if _BLIND.fullmatch(name) else b""
        if len(block) == 16:
            number = int.from_bytes(self._decryptor.update(block), "big")
            # The last character has bits that are in no block.
            if number < 2 * _HALF and self.of_user(number - _HALF) == name:
                return number - _HALF
        raise ValueError("not the name of a user under this key")

    def _of_value(self, index: str, value: str) -> str:
        labelled = f"{len(index)}:{index}{value}".encode()
        digest = hmac.digest(self._key, labelled, "sha256")
        return urlsafe_b64encode(digest[:12]).decode()
