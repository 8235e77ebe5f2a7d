from __future__ import annotations

import gzip
import json

import pytest

MARKET = "0xmarket"
START = 1_790_000_000_000


class Written:
    """A recording that a test writes line by line, of one market."""

    def __init__(self, folder) -> None:
        self.path = folder / "made.books.jsonl.gz"
        self._lines: list[bytes] = []
        market = {
            "market_id": MARKET,
            "slug": "made",
            "question": "Made for a test?",
            "start_ts": START,
            "end_ts": START + 1_000,
            "outcome_up": "Up",
            "outcome_down": "Down",
            "payout_up": 1.0,
            "payout_down": 0.0,
        }
        (folder / "made.markets.json").write_text(json.dumps([market]))

    def book(self, at: int, bid=None, ask=None, side="UP", **other) -> None:
        """Add a book with at most one level a side; `at` in ms from the start."""
        row = {
            "ts": START + at,
            "market_id": MARKET,
            "side": side,
            "bids": [] if bid is None else [[bid, 10.0]],
            "asks": [] if ask is None else [[ask, 10.0]],
        }
        self.line(json.dumps(row | other).encode())

    def line(self, line: bytes) -> None:
        """Add a line as it is."""
        self._lines.append(line)

    def save(self):
        """Write the file and return its path."""
        data = b"".join(line + b"\n" for line in self._lines)
        self.path.write_bytes(gzip.compress(data, 1))
        return self.path


@pytest.fixture(scope="session")
def recording_in():
    """Begin a recording in a folder."""
    return Written


@pytest.fixture
def written(tmp_path) -> Written:
    """A recording to be written."""
    return Written(tmp_path)
