"""docs/results/chaos.md from what a run found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# Faults

This page is written by `make chaos`; no figure in it was entered by hand. It breaks a
real server or the link to it while a client works, and judges what came of it. `make
test` runs each row for a moment with our client, with 1 and with 20 tasks.

Each task writes a value that carries its key, reads it, increments a counter and adds a
key of its own, over and over, with {deadline:g} s for each call. **acked**: answered
well. **refused**: refused by the server, or provably not sent. **unknown**: nothing is
known, it may have run. **lost**: acknowledged and not there at the end, or a counter
outside acknowledged .. acknowledged + unknown; - where the fault itself takes data
away, so that it is not judged. **wrong**: a reply of another key.
**late**: past the deadline and a tenth, time for which the event loop itself was late
not counted. **back**: seconds from the end of the fault to the first good call begun
after it, without that time. **conns**: new connections from the fault on.

Some rows look at a part of the library under that load: a rate limit, two caches,
topics, sessions and the queue of processes that are killed; see their verdict.

What our client has to make of a row is in the criteria below the table; a row in which
it misses one says so.
"""


_ELSEWHERE = {
    7: "a cluster: slots move, classic and atomic, a primary is killed, one is frozen "
    "(`client/test_cluster_faults.py`)",
    19: "TLS: expired, another host's, an unknown authority's certificate, ours "
    "missing, TLS to a plain port and the reverse, a certificate that is renewed "
    "(`client/test_tls.py`)",
    20: "the server's clock jumps by hours, both ways, under limits and locks "
    "(`ratelimit/test_stepped_server.py`); `oddswire doctor` tells of a clock that is "
    "off (`cli/test_doctor.py`)",
    26: "a damaged append-only file: the server does not start, and says why "
    "(`embedded/test_data.py`); what to do is in [operations](../guides/operations.md)",
}


def render(found: dict[str, Any]) -> str:
    """Return the page."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield _HEAD.format(deadline=0.5)
    figures = (
        *("acked", "refused", "unknown", "lost", "wrong", "late"),
        *("longest, s", "back, s", "conns"),
    )
    yield _row("", "fault", "client", "tasks", *figures, "")
    yield _row("---:", "---", "---", "---:", *("---:" for _ in figures), "---")
    shown = ""
    for each in found["rows"]:
        name = f"{each['fault']}, {each['seconds']:g} s"
        fault, shown = ("" if name == shown else name), name
        back = "never" if each["recovery"] is None else f"{each['recovery']:.2f}"
        verdict = ""
        if each["client"] == "oddswire":
            verdict = "missed: " + "; ".join(each["missed"]) if each["missed"] else "ok"
        yield _row(
            each["row"], fault, each["client"], each["tasks"], f"{each['acked']:,}",
            each["refused"], each["unknown"], _count(each["lost"]), len(each["wrong"]),
            len(each["late"]), f"{each['longest']:.2f}", back, each["connections"],
            verdict,
        )  # fmt: skip
    yield ""
    for each in found["skipped"]:
        yield f"- Row {each['row']}, {each['client']}: {each['why']}."
    if found["skipped"]:
        yield ""
    yield (
        "The peers are at their defaults but for the timeout, and are shown for one "
        "task. A counter of theirs that is off means that one call ran twice. "
        "valkey-glide holds up the event loop while it connects, so the proxy that "
        "breaks its link runs on a loop of its own."
    )
    yield ""
    yield from _failovers(found["failovers"])
    yield from _criteria()
    yield "## Judged by tests of their own"
    yield ""
    yield "The files are in `oddswire/tests/`."
    yield ""
    for number, what in _ELSEWHERE.items():
        yield f"- {number}: {what}."


def _failovers(found: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Sentinel (rows 5 and 6)"
    yield ""
    yield (
        "Three sentinels, a primary and two replicas, `down-after` 1 s; four tasks "
        "that write. The primary changes by command, is killed, is stopped and goes on "
        "after the switch, or is cut off from replicas and sentinels and goes on for "
        "clients. Replication is asynchronous, so the server loses what it had "
        "acknowledged and not passed on; **later** are the lost writes that were "
        "acknowledged half a second or more after the new primary was announced. "
        "**back**: seconds from the announcement to the first write that the new "
        "primary acknowledged; *never*: none in 15 s."
    )
    yield ""
    figures = ("acked", "failed", "lost", "later", "away, s", "back, s")
    yield _row("", "`min-replicas-to-write`", "client", *figures)
    yield _row("---", "---:", "---", *("---:" for _ in figures))
    for each in found:
        yield _row(
            each["how"], 1 if each["safe"] else 0, each["client"],
            f"{each['acknowledged']:,}", each["failed"], each["lost"],
            each["lost_later"], f"{each['away']:.2f}",
            "never" if each["back"] is None else f"{each['back']:.2f}",
        )  # fmt: skip
    yield ""


def _criteria() -> Iterator[str]:
    yield "## What our client has to make of them"
    yield ""
    for row in ROWS:
        texts = "; ".join(text for text, _ in row.criteria)
        yield f"- {row.number}, {row.name}: {texts}."
    yield ""


def _count(lost: list[str] | None) -> str:
    return "-" if lost is None else str(len(lost))


def _row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"
