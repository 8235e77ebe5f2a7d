"""`Packing`: one field's bytes, compressed and sealed for their place, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from oddswire.codec.envelope import Envelope
from oddswire.codec.sealing import place
from oddswire.errors import CodecError, SessionDamaged
from oddswire.sessions._layout import AUTH

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.codec import Compressor, Sealer
    from oddswire.sessions._header import Header

_PLAIN = b"\0"
_TOTAL = 32
_pack = msgspec.msgpack.Encoder().encode


class Packing:
    """Seals and opens fields.

    Args:
        schema: Of what is written.
        sealer: None leaves everything readable.
        compressor: Of fields.
        space: The prefix of the keys: what is sealed under one does not open under
            another.
        compress_above: Smaller fields are not compressed.
        max_size: Bytes that a field may have, before compression and after.
    """

    def __init__(
        self,
        schema: int,
        *,
        sealer: Sealer | None,
        compressor: Compressor,
        space: str,
        compress_above: int,
        max_size: int,
    ) -> None:
        self.sealer = sealer
        self.max_size = max_size
        self._schema = schema
        self._compressor = compressor
        self._space = space
        self._compress_above = compress_above

    def check_size(self, field: str, body: bytes) -> None:
        """Refuse a field that is too large.

        Raises:
            CodecError: ``too_large``.
        """
        if len(body) > self.max_size:
            raise CodecError(
                f"{field.partition(':')[0]}: {len(body)} bytes, the limit is "
                f"{self.max_size}",
                reason="too_large",
            )

    def pack(self, user_id: int, generation: str, field: str, body: bytes) -> bytes:
        """Return the bytes to store in a field.

        Raises:
            CodecError: ``too_large``.
        """
        self.check_size(field, body)
        inside, compressor = body, None
        if len(body) > self._compress_above and field != AUTH:
            smaller = self._compressor.compress(body)
            if len(smaller) <= len(body) * 0.9:
                inside, compressor = smaller, self._compressor.id
        if self.sealer is None:
            return Envelope(
                body=inside,
                compressed=compressor is not None,
                compressor=compressor or 0,
            ).to_bytes()
        # What it is compressed by is inside, where nobody can change it.
        kind = _PLAIN if compressor is None else bytes((1 + compressor,))
        where = self._place(self._schema, generation, field)
        return self.sealer.seal(kind + inside, str(user_id), where)

    def unpack(self, user_id: int, header: Header, field: str, data: bytes) -> bytes:
        """Return the body that `pack` was given; authenticates before all else.

        Raises:
            CodecError: With its reason.
        """
        if self.sealer is None:
            if len(data) > self.max_size + 64:
                raise CodecError("larger than its limit", reason="too_large")
            envelope = Envelope.from_bytes(data)
            kind = 1 + envelope.compressor if envelope.compressed else 0
            inside = envelope.body
        else:
            if len(data) > self.max_size + 1 + self.sealer.overhead:
                raise CodecError("larger than its limit", reason="too_large")
            where = self._place(header.schema, header.generation, field)
            opened = self.sealer.open(data, str(user_id), where)
            if not opened:
                raise CodecError("sealed without content", reason="damaged")
            kind, inside = opened[0], opened[1:]
        if kind == 0:
            return inside
        if self._compressor.id != kind - 1:
            raise CodecError(f"compressed by compressor {kind - 1}", reason="type")
        return self._compressor.decompress(inside, self.max_size)

    # --- the header, and with it the set of fields

    def seal_header(self, user_id: int, text: str, main: bytes, short: bytes) -> bytes:
        """Return the seal of a header's text and of the totals of both hashes."""
        assert self.sealer is not None  # noqa: S101 - nobody asks without sealing
        return self.sealer.seal(short, str(user_id), self._header_place(text, main))

    def open_header(self, user_id: int, header: Header, main: bytes) -> bytes:
        """Return the total of the expiring hash that a header was sealed with.

        Raises:
            CodecError: The header or the durable hash is not what was sealed.
        """
        assert self.sealer is not None  # noqa: S101 - nobody asks without sealing
        if len(header.seal) > _TOTAL + self.sealer.overhead:
            raise CodecError("larger than its limit", reason="too_large")
        where = self._header_place(header.text, main)
        return self.sealer.open(header.seal, str(user_id), where)

    def _header_place(self, text: str, main: bytes) -> bytes:
        return place(self._space, "session header", text, main.hex())

    def _place(self, schema: int, generation: str, field: str) -> bytes:
        return place(self._space, "session", str(schema), generation, field)


def encoded(value: Any) -> bytes:
    try:
        return _pack(value)
    except Exception as error:  # noqa: BLE001 - hooks of the type may raise anything
        raise CodecError(f"cannot be stored: {error}", reason="type") from None


def decoded(
    decode: Callable[[bytes], Any],
    body: bytes,
    error: type[CodecError | SessionDamaged] = CodecError,
) -> Any:
    try:
        return decode(body)
    except (RecursionError, MemoryError):
        raise error("nested too deeply", reason="too_large") from None
    except msgspec.ValidationError as failure:
        raise error(str(failure), reason="type") from None
    except Exception as failure:  # noqa: BLE001 - hooks of the type may raise anything
        raise error(f"refused: {type(failure).__name__}", reason="damaged") from None
