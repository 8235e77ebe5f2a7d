"""The errors of the replay, under one root; each is one line that says what to do."""

from __future__ import annotations


class ReplayError(Exception):
    """The root of the errors of `oddsbot.standin.polymarket`."""


class RecordingError(ReplayError):
    """A recording cannot be used at all: missing, unreadable, or without a book."""


class PortUnavailable(ReplayError):
    """The replay cannot listen on the port it was told to."""
