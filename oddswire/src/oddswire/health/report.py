"""The result of a health check, as immutable values."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class Status(StrEnum):
    """The result of a check.

    ``UNKNOWN``: its figures could not be read. It is never a pass.
    """

    PASS = "pass"  # noqa: S105 - the word of health+json, no password
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one look: a `Check` without its name and reason.

    Attributes:
        status: As in `Check`; so are the others.
        seen: The finding.
        fix: How to mend it, if it does not pass.
        values: The finding, for programs.
    """

    status: Status
    seen: str
    fix: str = ""
    values: dict[str, float | int | str] = {}


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        name: Its name, the same in each report.
        status: Its result.
        seen: The finding, one line for people.
        why: Why it matters.
        fix: How to mend it, as exactly as can be said; empty if nothing is wrong.
        values: The finding, for programs: seconds, bytes, counts, ratios, words.
    """

    name: str
    status: Status
    seen: str
    why: str
    fix: str = ""
    values: dict[str, float | int | str] = {}

    @classmethod
    def of(cls, name: str, why: str, verdict: Verdict) -> Check:
        """Return the check of that name with this verdict; a pass has no fix."""
        return cls(
            name=name,
            status=verdict.status,
            seen=verdict.seen,
            why=why,
            fix="" if verdict.status is Status.PASS else verdict.fix,
            values=verdict.values,
        )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All checks of one moment.

    Attributes:
        status: ``"fail"`` if a check failed, else ``"warn"`` if one warns or could not
            be read, else ``"pass"``.
        checks: All of them, in the same order each time.
        took: Seconds it took to look.
    """

    status: Status
    checks: tuple[Check, ...]
    took: float

    def __getitem__(self, name: str) -> Check:
        """Return the check of that name.

        Raises:
            KeyError: There is none.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)


def unknown(reason: str, fix: str = "") -> Verdict:
    """Return the verdict on something that could not be read."""
    return Verdict(status=Status.UNKNOWN, seen=f"unknown: {reason}", fix=fix)


def worst(checks: Iterable[Check]) -> Status:
    """Return the status of all together; an unknown one counts as a warning."""
    seen = {check.status for check in checks}
    if Status.FAIL in seen:
        return Status.FAIL
    return Status.WARN if seen & {Status.WARN, Status.UNKNOWN} else Status.PASS
