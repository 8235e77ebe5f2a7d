"""`Finding`: one thing that was looked at."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEEN = 300


class State(StrEnum):
    """How it came out."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        name: What.
        state: How it came out.
        seen: What was seen, one line.
        fix: What to do; empty where there is nothing.
    """

    name: str
    state: State
    seen: str
    fix: str = ""


def as_json(findings: Sequence[Finding]) -> str:
    """Return findings as one object of JSON."""
    worst = worst_of(findings)
    return msgspec.json.encode({"status": worst, "findings": list(findings)}).decode()


def as_text(findings: Sequence[Finding]) -> str:
    """Return findings for people: a line each, and what to do below it."""
    lines = []
    for each in findings:
        lines.append(f"{each.state:<5} {each.name}: {plain(each.seen, _SEEN)}")
        if each.fix:
            lines.append(f"      {plain(each.fix, _SEEN)}")
    return "\n".join(lines)


def worst_of(findings: Sequence[Finding]) -> State:
    """Return the worst state of all."""
    states = {each.state for each in findings}
    for state in (State.FAIL, State.WARN):
        if state in states:
            return state
    return State.PASS
