"""Numbers as people write them."""

from __future__ import annotations


def size(count: float) -> str:
    """Return a number of bytes: ``"3.2 MiB"``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def short(seconds: float) -> str:
    """Return a time of a call: ``"75 us"``, ``"4.1 ms"``, ``"1.2 s"``."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1.0:
        return f"{seconds * 1e3:.2g} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.3g} s"


def long(seconds: float) -> str:
    """Return a time that people wait: ``"3 days"``, ``"12 seconds"``."""
    for length, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
