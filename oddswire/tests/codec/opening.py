"""Opens bombs from stdin in little memory: ``opening.py naive|ours SPARE_BYTES``."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from oddswire.codec import Codec, Envelope, compression
from oddswire.errors import CodecError

_LIMIT = 16 * 1024 * 1024

how, spare = sys.argv[1], int(sys.argv[2])
bombs = sys.stdin.buffer.read()
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + spare, held + spare))
for each in bombs.split(b"--") if how == "ours" else ():
    data = Envelope(body=each, compressed=True).to_bytes()
    try:
        Codec(bytes, max_size=_LIMIT).decode(data)
        print("opened")
    except CodecError as error:
        print(error.reason)
if how == "naive":
    try:
        compression.zstd.decompress(bombs)
    except MemoryError:
        print("out of memory")
