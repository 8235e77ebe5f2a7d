"""`HeaderSeal`: one seal over a session's header and every field that is stored of it.

Each field is sealed alone, so a missing one would look like one that never was. The
seal behind the header is over the header's text and a digest of each field; a reader
finds the same, or the session is damaged. The fields of the conversation expire by
themselves: their digest is inside the seal, and is compared only while the conversation
lives.

A script writes the header, by the server's time, and has no key. So:

1. The caller computes the header that the script will write, by its own idea of the
   server's time, and seals it.
2. The script takes that time when it is right to a second, computes the header too, and
   compares: also whether the header that is stored is still the one that was read.
3. When they differ, the script writes nothing and returns its time and the header. The
   caller adopts them, if only a touch came between, and begins again at 1.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import msgspec

from oddswire.errors import CodecError, SessionDamaged
from oddswire.sessions._header import HEADER, Header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

NOTHING = b""
"""The digest of no fields."""


class Seals(msgspec.Struct, frozen=True):
    """A digest of each stored field.

    Attributes:
        main: Of the durable hash, without the header.
        short: Of the expiring one; empty when the conversation has ended.
    """

    main: dict[bytes, bytes] = {}
    short: dict[bytes, bytes] = {}

    def after(
        self,
        main: Mapping[str, bytes],
        main_gone: Iterable[str],
        short: Mapping[str, bytes],
        short_gone: Iterable[str],
    ) -> Seals:
        """Return the digests after a change."""
        return Seals(
            _changed(self.main, main, main_gone),
            _changed(self.short, short, short_gone),
        )


def _changed(
    before: Mapping[bytes, bytes], fields: Mapping[str, bytes], gone: Iterable[str]
) -> dict[bytes, bytes]:
    left = {name.encode() for name in gone}
    after = {name: each for name, each in before.items() if name not in left}
    return after | digests({name.encode(): data for name, data in fields.items()})


def digests(fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return a digest of each field but the header."""
    return {
        name: hashlib.blake2b(data, digest_size=16).digest()
        for name, data in fields.items()
        if name != HEADER.encode()
    }


def total(each: Mapping[bytes, bytes]) -> bytes:
    """Return one digest of named digests, in any order; `NOTHING` of none."""
    if not each:
        return NOTHING
    every = hashlib.blake2b(digest_size=32)
    for name in sorted(each):
        every.update(len(name).to_bytes(4, "big") + name + each[name])
    return every.digest()


class Sealing(Protocol):
    """What seals and opens a header; `Packing` does."""

    def seal_header(self, user_id: int, text: str, main: bytes, short: bytes) -> bytes:
        """Return a header's seal, over totals of the two hashes."""

    def open_header(self, user_id: int, header: Header, main: bytes) -> bytes:
        """Return the total of the expiring hash; raises `CodecError`."""


class HeaderSeal:
    """What a script is given to write one header of one session.

    Args:
        sealing: Seals.
        user_id: Whose the header will be.
        before: The header that was read; None where there was none.
        was: Digests of what was read; None: nothing that came between is adopted.
        main: Total of the durable hash as it will be stored.
        short: Total of the expiring one.
        follows: The header after `before`, at a time in microseconds, where the newest
            version of what was deleted is the third.
    """

    def __init__(
        self,
        sealing: Sealing,
        user_id: int,
        before: Header | None,
        was: Seals | None,
        main: bytes,
        short: bytes,
        follows: Callable[[Header | None, int, int], Header],
    ) -> None:
        self._sealing = sealing
        self._user_id = user_id
        self._before = before
        self._was = was
        self._main = main
        self._short = short
        self._lived = was is not None and bool(was.short)
        self._follows = follows

    @property
    def before(self) -> bytes:
        """The header that was read, as it is stored."""
        return NOTHING if self._before is None else self._before.raw

    def header(self, now: int, last: int) -> bytes:
        """Return the header to write at a time, with its seal."""
        before = self._before
        after = self._follows(before, now, last)
        over = before is not None and before.expiry <= now // 1000
        # A touch after the end of the conversation deletes what was left of it.
        short = NOTHING if over and self._lived else self._short
        seal = self._sealing.seal_header(self._user_id, after.text, self._main, short)
        return after.text.encode() + b" " + seal

    def adopt(self, raw: bytes) -> bool:
        """Go on from the header that is stored; False when more than it is another."""
        if raw == self.before:
            return True
        if self._was is None or self._before is None:
            return False
        try:
            header = Header.parse(raw)
            opened = self._sealing.open_header(
                self._user_id, header, total(self._was.main)
            )
        except (CodecError, SessionDamaged):
            return False
        if header.version != self._before.version or opened != total(self._was.short):
            return False
        self._before = header
        return True
