"""Values to bytes and back: msgspec types, checked, compressed, versioned, sealed.

The other parts use `Codec`. The format of the bytes is in `oddswire.codec.envelope`,
the protocols for another compression and another cipher in `compression` and `sealing`,
the keys in `keyring`. `naming` makes the names of users and values in Redis keys.
"""

from oddswire.codec._codec import Codec
from oddswire.codec.compression import Compressor, Zstd
from oddswire.codec.envelope import Envelope
from oddswire.codec.keyring import Keyring
from oddswire.codec.naming import BlindNames, Names, PlainNames
from oddswire.codec.sealing import AesGcm, Sealer

__all__ = [
    "AesGcm",
    "BlindNames",
    "Codec",
    "Compressor",
    "Envelope",
    "Keyring",
    "Names",
    "PlainNames",
    "Sealer",
    "Zstd",
]
