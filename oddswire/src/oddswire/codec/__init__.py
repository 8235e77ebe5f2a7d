"""Values to bytes and back: msgspec types, checked, compressed, versioned.

`Codec` is what the other parts use. `oddswire.codec.envelope` has the format of the
bytes, `oddswire.codec.compression` the protocol for another compression.
"""

from oddswire.codec._codec import Codec
from oddswire.codec.compression import Compressor, Zstd
from oddswire.codec.envelope import Envelope

__all__ = ["Codec", "Compressor", "Envelope", "Zstd"]
