"""Where one reply ends and the next begins, in a stream of RESP. No I/O."""

from __future__ import annotations

_AGGREGATES = b"*%~>|"
_BULKS = b"$!="


class Frames:
    """Follows a stream of replies; it knows when one top-level reply has ended."""

    def __init__(self) -> None:
        self._line = bytearray()  # the header that has not ended yet
        self._skip = 0  # bytes left of a bulk string and its line end
        self._nested: list[int] = []  # elements left of each open aggregate
        self._pending = b""

    @property
    def between(self) -> bool:
        """Whether the next byte begins a reply."""
        return not (self._line or self._skip or self._nested)

    def inject(self, data: bytes) -> bytes:
        """Return what may be sent now: `data`; within a reply nothing, see `feed`."""
        if self.between:
            return data
        self._pending += data
        return b""

    def feed(self, data: bytes) -> bytes:
        """Return `data`, with the injected bytes where the current reply ends."""
        if not self._pending:
            self._follow(data)
            return data
        at = self._follow(data, stop=True)
        if not self.between:
            return data
        pending, self._pending = self._pending, b""
        self._follow(data[at:])
        return data[:at] + pending + data[at:]

    def _follow(self, data: bytes, *, stop: bool = False) -> int:
        at = 0
        while at < len(data):
            if self._skip:
                taken = min(self._skip, len(data) - at)
                self._skip -= taken
                at += taken
                if not self._skip:
                    self._ended()
            else:
                end = data.find(b"\n", at)
                if end < 0:
                    self._line += data[at:]
                    return len(data)
                self._line += data[at : end + 1]
                at = end + 1
                self._header(bytes(self._line))
                self._line.clear()
            if stop and self.between:
                return at
        return at

    def _header(self, line: bytes) -> None:
        kind, number = line[:1], line[1:].strip()
        if kind in _AGGREGATES and kind:
            count = int(number) if number.isdigit() else 0  # -1: null
            if kind in b"%|":
                count *= 2
            # An attribute stands before the value it belongs to.
            count += kind == b"|"
            if count > 0:
                self._nested.append(count)
            else:
                self._ended()
        elif kind in _BULKS and kind and number.isdigit():
            self._skip = int(number) + 2
        else:
            self._ended()

    def _ended(self) -> None:
        """End an element, and each aggregate of which it was the last element."""
        while self._nested:
            self._nested[-1] -= 1
            if self._nested[-1]:
                return
            self._nested.pop()
