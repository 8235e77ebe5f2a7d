"""`Keyring`: the keys that seal, by number, and where they come from."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from oddswire.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

KEY_BYTES = 32
MAX_NUMBER = 65_535
_LINE = re.compile(r"(\d{1,5}|index)\s+([0-9A-Fa-f]{64})")


class Keyring:
    """Master keys by number. The first one seals; every one of them opens.

    To rotate: add a new key with a higher number behind the first one in every process,
    then put it first in every process, run `Sessions.reencrypt`, then `Sessions.retire`
    the old number; guides/codec.md has the steps. Names in keys and indexes come from a
    key that does not rotate: `index`, or one that is derived from the lowest number.

    Args:
        keys: 32 random bytes by number, 1 to 65,535; the first one seals.
        index: 32 bytes for names, as in `index_line`; give it before the lowest number
            is retired.

    Raises:
        SettingsError: No key, a number or a length that is not as above, one key twice.
    """

    __slots__ = ("_index", "_keys")

    def __init__(
        self, keys: Mapping[int, bytes], *, index: bytes | None = None
    ) -> None:
        if not keys:
            raise SettingsError("a keyring needs a key: make one with Keyring.new_line")
        for number, key in keys.items():
            if not 1 <= number <= MAX_NUMBER:
                raise SettingsError(f"key number {number}: accepted is 1 to 65535")
            if len(key) != KEY_BYTES:
                raise SettingsError(f"key {number} has {len(key)} bytes, 32 are needed")
        if len(set(keys.values())) < len(keys):
            raise SettingsError("a key is in the keyring under two numbers")
        if index is not None and len(index) != KEY_BYTES:
            raise SettingsError(f"the index key has {len(index)} bytes, 32 are needed")
        if index in keys.values():
            raise SettingsError(
                "the index key is a key that seals: take the line of Keyring.index_line"
            )
        self._keys = dict(keys)
        self._index = index

    def __repr__(self) -> str:
        return f"Keyring({', '.join(map(str, self._keys))})"

    @classmethod
    def from_text(cls, text: str, *, where: str = "keyring") -> Self:
        """Read lines of a number and 64 hexadecimal digits; the first one seals.

        A line may be ``index`` and 64 digits, empty, or a comment behind ``#``. Text
        that is 64 digits and nothing else is key 1.

        Raises:
            SettingsError: A line is of no such form. It is named by its number; what
                is in it may be a secret.
        """
        if re.fullmatch(r"[0-9A-Fa-f]{64}", text.strip()):
            return cls({1: bytes.fromhex(text.strip())})
        keys: dict[int, bytes] = {}
        index = None
        for count, line in enumerate(text.splitlines(), 1):
            entry = line.partition("#")[0].strip()
            if not entry:
                continue
            match = _LINE.fullmatch(entry)
            if match is None:
                raise SettingsError(
                    f"{where}, line {count}: not a number and 64 hexadecimal digits"
                )
            name, key = match[1], bytes.fromhex(match[2])
            if name == "index":
                index = key
            elif int(name) in keys:
                raise SettingsError(f"{where}, line {count}: key {name} is there twice")
            else:
                keys[int(name)] = key
        return cls(keys, index=index)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read the lines of a file; blocks, so call it before the loop or in a thread.

        Raises:
            SettingsError: It cannot be read, others than its owner may read it, or a
                line is wrong.
        """
        try:
            with open(path, encoding="utf-8") as file:  # noqa: PTH123 - fstat of what is read
                mode = os.fstat(file.fileno()).st_mode
                text = file.read()
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SettingsError(f"{path}: cannot be read: {why}") from None
        if mode & 0o077 and os.name == "posix":
            raise SettingsError(
                f"{path} may be read by others than its owner: chmod 600 it"
            )
        return cls.from_text(text, where=str(path))

    @classmethod
    def from_descriptor(cls, descriptor: int) -> Self:
        """Read the lines of an open file or pipe to its end, and close it; blocks.

        Raises:
            SettingsError: It cannot be read, or a line is wrong.
        """
        try:
            with os.fdopen(descriptor, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeError):
            raise SettingsError(f"descriptor {descriptor}: cannot be read") from None
        return cls.from_text(text, where=f"descriptor {descriptor}")

    @staticmethod
    def new_line(number: int) -> str:
        """Return a line with a random key, for the file."""
        return f"{number} {os.urandom(KEY_BYTES).hex()}\n"

    @property
    def primary(self) -> int:
        """The number of the key that seals."""
        return next(iter(self._keys))

    @property
    def numbers(self) -> tuple[int, ...]:
        """Every number, the primary first."""
        return tuple(self._keys)

    @property
    def naming(self) -> int | None:
        """The number of the key that names come from; None: from `index`."""
        return None if self._index is not None else min(self._keys)

    def key_for(self, number: int, owner: str) -> bytes | None:
        """Return the key of one owner under a number; None without that number.

        A key of one's own keeps random nonces from ever meeting: a key is good for
        2^32 of them (NIST SP 800-38D, 8.3), of one user and not of all.
        """
        master = self._keys.get(number)
        return None if master is None else _derived(master, f"seal:{owner}")

    def naming_key(self, purpose: str) -> bytes:
        """Return the key for one kind of names."""
        return _derived(self._names(), f"name:{purpose}")

    def _names(self) -> bytes:
        # Derived: it stays in the key file when the key that it comes from is retired,
        # and nobody gets that key from it.
        return self._index or _derived(self._keys[min(self._keys)], "names")

    def without(self, number: int) -> Keyring:
        """Return this keyring without a key.

        Raises:
            SettingsError: It is the one that seals, or the one that names come from.
        """
        if number == self.primary:
            raise SettingsError(f"key {number} seals: put another one first")
        if number == self.naming:
            raise SettingsError(
                f"names come from key {number}: add the line of Keyring.index_line "
                "to the keyring, then retire it"
            )
        rest = {each: key for each, key in self._keys.items() if each != number}
        return Keyring(rest, index=self._index)

    def index_line(self) -> str:
        """Return the line that keeps names the same when the lowest key is retired."""
        return f"index {self._names().hex()}\n"

    def examples(self, is_example: Callable[[str], bool]) -> tuple[int, ...]:
        """Return the numbers of keys of whose hexadecimal digits `is_example` holds."""
        return tuple(n for n, key in self._keys.items() if is_example(key.hex()))


def _derived(key: bytes, info: str) -> bytes:
    # Expand alone: the masters are uniformly random already (RFC 5869, 3.3).
    return HKDFExpand(hashes.SHA256(), KEY_BYTES, b"oddswire:" + info.encode()).derive(
        key
    )
