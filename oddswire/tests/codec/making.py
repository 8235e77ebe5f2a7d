"""Prints a frame of zeros: ``making.py MEBIBYTES``."""

from __future__ import annotations

import sys

from oddswire.codec.compression import zstd

writer = zstd.ZstdCompressor(1)
zeros = bytes(1024 * 1024)
parts = [writer.compress(zeros) for _ in range(int(sys.argv[1]))]
sys.stdout.buffer.write(b"".join(parts) + writer.flush())
