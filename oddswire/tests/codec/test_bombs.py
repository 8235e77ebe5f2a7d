"""Compression bombs: in a process that may not hold what they claim to be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# The parts of one program: limit the memory, then open the bomb in one of two ways.
START = """
import resource, sys
from oddswire.codec import Codec, Envelope, Zstd
from oddswire.errors import CodecError
from oddswire.codec import compression

bomb = sys.stdin.buffer.read()
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + {spare}, size + {spare}))
"""
NAIVE = (
    START
    + """
try:
    compression.zstd.decompress(bomb)
except MemoryError:
    print("out of memory")
"""
)
OURS = (
    START
    + """
for each in bomb.split(b"--"):
    data = Envelope(body=each, compressed=True).to_bytes()
    try:
        Codec(bytes, max_size={limit}).decode(data)
        print("opened")
    except CodecError as error:
        print(error.reason)
"""
)
MIB = 1024 * 1024


def _bomb(mebibytes: int) -> bytes:
    """Return a frame of zeros, made in a process so that this one stays small."""
    program = (
        "import sys\n"
        "from oddswire.codec.compression import zstd\n"
        "writer = zstd.ZstdCompressor(1)\n"
        "zeros = bytes(1024 * 1024)\n"
        f"parts = [writer.compress(zeros) for _ in range({mebibytes})]\n"
        "sys.stdout.buffer.write(b''.join(parts) + writer.flush())\n"
    )
    return _run(program, b"")


def _run(program: str, stdin: bytes) -> bytes:
    return subprocess.run(
        [sys.executable, "-c", program],
        input=stdin,
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # noqa: TID251 - a child's
        timeout=25,
    ).stdout


def _lying(size: int, window: int | None) -> bytes:
    """Return a frame that states a content of `size` bytes and holds 8."""
    magic = (0xFD2FB528).to_bytes(4, "little")
    single = 0b0010_0000 if window is None else 0
    descriptor = bytes((0b1100_0000 | single,))
    window_byte = b"" if window is None else bytes(((window - 10) << 3,))
    block = (8 << 3 | 1).to_bytes(3, "little") + b"\xc4\x06abcdef"
    return magic + descriptor + window_byte + size.to_bytes(8, "little") + block


@pytest.mark.performance
@pytest.mark.requirement("X1")
def test_a_bomb_is_refused_in_little_memory() -> None:
    """512 MiB in a frame of kilobytes: `too_large` in 64 MiB, where plain zstd dies."""
    bomb = _bomb(512)
    spare = 64 * MIB

    assert len(bomb) < 100_000
    assert _run(NAIVE.format(spare=spare), bomb) == b"out of memory\n"
    assert _run(OURS.format(spare=spare, limit=16 * MIB), bomb) == b"too_large\n"


@pytest.mark.performance
@pytest.mark.requirement("X1")
def test_what_a_frame_claims_costs_nothing() -> None:
    """A frame that states a huge content or window is answered within 64 MiB."""
    answers = {
        (1 << 30, None): b"too_large",
        (1 << 60, None): b"too_large",
        (1 << 30, 27): b"too_large",
        (8, 41): b"too_large",
        (1 << 30, 25): b"damaged",
        # The content is all there, so no window is needed and none is made.
        (8, 30): b"opened",
    }
    # In one process, that takes a while to start; it may not hold any of them.
    frames = b"--".join(_lying(size, window) for size, window in answers)

    said = _run(OURS.format(spare=64 * MIB, limit=16 * MIB), frames)
    assert dict(zip(answers, said.split(), strict=True)) == answers
