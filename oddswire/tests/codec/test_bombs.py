"""Compression bombs: in a process that may not hold what they claim to be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__)
MIB = 1024 * 1024


def _bomb(mebibytes: int) -> bytes:
    """Return a frame of zeros, made in a process so that this one stays small."""
    return _run("making.py", mebibytes)


def _run(program: str, *args: object, stdin: bytes = b"") -> bytes:
    return subprocess.run(
        [sys.executable, HERE.with_name(program), *map(str, args)],
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
    assert _run("opening.py", "naive", spare, stdin=bomb) == b"out of memory\n"
    assert _run("opening.py", "ours", spare, stdin=bomb) == b"too_large\n"


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

    said = _run("opening.py", "ours", 64 * MIB, stdin=frames)
    assert dict(zip(answers, said.split(), strict=True)) == answers
