"""Addresses of wallets, checked as EIP-55 says."""

from __future__ import annotations

import re

from Crypto.Hash import keccak

_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]{40}\Z")


class AddressError(ValueError):
    """It is no address; the text says what to send instead."""


def checked_address(text: str) -> str:
    """Return an address in lower case.

    Args:
        text: As a person sent it. In mixed case its checksum has to be right: a letter
            that was mistyped is then noticed.

    Raises:
        AddressError: It has another form, or the checksum is wrong.
    """
    if not _ADDRESS.match(text):
        raise AddressError(
            "That is no address of a wallet: 0x and 40 digits or letters from a to f. "
            "Copy it from the profile's page."
        )
    digits = text[2:]
    lower = digits.lower()
    if digits not in (lower, digits.upper()) and digits != _checksummed(lower):
        raise AddressError(
            "A letter of that address is wrong: its checksum does not fit. "
            "Copy it again from the profile's page."
        )
    return f"0x{lower}"


def _checksummed(lower: str) -> str:
    """Return the 40 characters with the capital letters of EIP-55."""
    digest = keccak.new(digest_bits=256, data=lower.encode()).hexdigest()
    return "".join(
        letter.upper() if int(nibble, 16) > 7 else letter
        for letter, nibble in zip(lower, digest, strict=False)
    )
