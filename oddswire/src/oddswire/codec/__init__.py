"""Values to bytes and back: msgspec types, checked, compressed, versioned, sealed.

`Codec` is what the other parts use. `oddswire.codec.envelope` has the format of the
bytes, `compression` and `sealing` the protocols for another compression and another
cipher, `keyring` the keys, `naming` what stands in keys for users and values.
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
