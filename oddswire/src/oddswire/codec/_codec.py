"""`Codec`: one type's values to bytes and back."""

from __future__ import annotations

import re
from typing import Generic, NoReturn, TypeVar

import msgspec

from oddswire.codec.compression import Compressor, Zstd
from oddswire.codec.envelope import HEADER_BYTES, Envelope, plain_body
from oddswire.codec.untyped import check_untyped, find_untyped
from oddswire.errors import CodecError

T = TypeVar("T")

_UNSUPPORTED = re.compile("Encoding objects of type (.+) is unsupported")


class Codec(Generic[T]):
    """Turns values of one type into bytes for storage, and back.

    The bytes are an `Envelope` around MessagePack. `decode` returns a value of the type
    or raises `CodecError`, also for damaged bytes. Where the type says nothing (`Any`,
    a bare ``dict``), only MessagePack's own types are taken: None, bool, int, float,
    str, bytes, list, dict and a datetime in UTC. Another value is refused, since it
    would come back with another type. Fields that the type does not have are
    ignored, so that an older program reads what a newer one wrote; a missing field
    takes its default, and one without a default is an error.

    Args:
        type: The type: a `msgspec.Struct`, or anything that msgspec decodes.
        compress_above: Bodies of more bytes than this are compressed, if that saves at
            least a tenth.
        max_size: Bytes that a body may have, before compression and after
            decompression. Decoded objects take several times as much.
        compressor: Default: zstd.

    Raises:
        TypeError: msgspec does not support the type.
        ValueError: A size is negative, or the id of the compressor is not 0 to 15.

    Example:
        >>> codec = Codec(Watch)
        >>> codec.decode(codec.encode(watch)) == watch
        True
    """

    __slots__ = (
        "_decoder",
        "_encoder",
        "_untyped",
        "compress_above",
        "compressor",
        "max_size",
    )

    def __init__(
        self,
        type: type[T],  # noqa: A002 - the word that msgspec's decoders use
        *,
        compress_above: int = 1024,
        max_size: int = 16 * 1024 * 1024,
        compressor: Compressor | None = None,
    ) -> None:
        self.compressor: Compressor = Zstd() if compressor is None else compressor
        if compress_above < 0 or max_size < 0:
            raise ValueError("compress_above and max_size are numbers of bytes, >= 0")
        if not 0 <= self.compressor.id <= 15:
            raise ValueError("the id of a compressor is 0 to 15")
        self.compress_above = compress_above
        self.max_size = max_size
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(type)
        self._untyped = find_untyped(type)

    def encode(self, value: T) -> bytes:
        """Return the bytes of a value; see `encode_checked`."""
        return self.encode_checked(value)[0]

    def encode_checked(self, value: T) -> tuple[bytes, T]:
        """Return the bytes of a value, and the value as `decode` will return it.

        Nothing is written that cannot be read: the bytes were decoded once.

        Raises:
            CodecError: ``type``: not a value of the type, or one that would come back
                with another. ``too_large``: more than
                `max_size` bytes, or nested too deeply.
        """
        try:
            body = self._encoder.encode(value)
        except Exception as error:  # noqa: BLE001 - hooks of the type may raise anything
            _refuse(error)
        if len(body) > self.max_size:
            raise CodecError(
                f"{len(body)} bytes, the limit is {self.max_size}", reason="too_large"
            )
        # A Struct does not check its fields when it is made, a decoder does.
        decoded = self._decoded(body)
        if self._untyped is not None:
            check_untyped(self._untyped, value)
        envelope = Envelope.around(body, self.compressor, self.compress_above)
        return envelope.to_bytes(), decoded

    def decode(self, data: bytes) -> T:
        """Return the value that `encode` was given.

        Raises:
            CodecError: Its `reason` is ``foreign``, ``newer``, ``damaged``,
                ``too_large`` or ``type``.
        """
        if len(data) > self.max_size + HEADER_BYTES:
            raise CodecError(
                f"{len(data)} bytes, the limit is {self.max_size}", reason="too_large"
            )
        plain = plain_body(data)
        if plain is not None:
            # As `_decoded`, but here: most values come this way.
            try:
                return self._decoder.decode(plain)
            except Exception as error:  # noqa: BLE001 - hooks of the type may raise anything
                _refuse(error)
        envelope = Envelope.from_bytes(data)
        return self._decoded(envelope.content(self.compressor, self.max_size))

    def _decoded(self, body: bytes) -> T:
        try:
            return self._decoder.decode(body)
        except Exception as error:  # noqa: BLE001 - hooks of the type may raise anything
            _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    match error:
        case RecursionError() | MemoryError():
            reason, text = "too_large", "nested too deeply, or too large for memory"
        case msgspec.ValidationError():
            reason, text = "type", str(error)
        case UnicodeDecodeError():
            reason, text = "damaged", "a text in it is not UTF-8"
        case msgspec.DecodeError():
            reason, text = "damaged", str(error)
        case OverflowError():
            reason, text = "type", "a number in it has more than 64 bits"
        case UnicodeEncodeError():
            reason, text = "type", "a text in it is not valid Unicode"
        case TypeError() if kind := _UNSUPPORTED.fullmatch(str(error)):
            reason = "type"
            text = (
                f"a {kind[1]} in it cannot be stored: use plain data, a msgspec.Struct "
                "or a dataclass"
            )
        case _:
            # Its text may hold the value, and errors end up in logs.
            reason, text = "type", f"refused with {type(error).__name__}"
    raise CodecError(text, reason=reason) from None
