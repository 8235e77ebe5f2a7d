"""A process that may not hold what a sealed bomb claims to be."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from oddswire.codec import AesGcm, Keyring, PlainNames, Zstd
from oddswire.errors import CodecError
from oddswire.sessions import Session
from oddswire.sessions._codec import SessionCodec, SessionSchema
from oddswire.sessions._scripts import Expiry, SessionHeader

bomb = Zstd().compress(bytes(400_000_000))
sealer = AesGcm(Keyring({1: os.urandom(32)}))
codec = SessionCodec(
    SessionSchema(Session),
    sealer=sealer,
    names=PlainNames(),
    compressor=Zstd(),
    expiry=Expiry(1, 0),
    space="p:",
    compress_above=256,
    max_size=1_000_000,
)
blob = sealer.seal(b"\1" + bomb, "1", codec._place(1, "g", "D"))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)
try:
    codec.unpack(
        1, SessionHeader(b"", 1, 1, 1, 1, 0, 1, on=True, generation="g"), "D", blob
    )
except CodecError as error:
    print(error.reason)
