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
    7: "the same on a cluster, at each step (`client/test_cluster_faults.py`)",
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


def cluster_section(found: list[dict[str, Any]]) -> str:
    """Return the section of row 7."""
    return "\n".join(_clusters(found))


def with_section(text: str, section: str, before: str) -> str:
    """Return a page with a section in the place of the one of the same heading.

    Args:
        text: The page.
        section: It begins with its heading.
        before: Heading of the section that it stands before, where it is new.
    """
    heading = section.partition("\n")[0]
    start = text.find(f"{heading}\n")
    if start < 0:
        start = end = text.index(f"{before}\n")
    else:
        end = text.index("\n## ", start) + 1
    return f"{text[:start]}{section.rstrip()}\n\n{text[end:]}"


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
    yield from _clusters(found["clusters"])
    yield from _criteria()
    yield "## Judged by tests of their own"
    yield ""
    yield "The files are in `oddswire/tests/`."
    yield ""
    for number, what in _ELSEWHERE.items():
        yield f"- {number}: {what}."


def _clusters(found: list[dict[str, Any]]) -> Iterator[str]:
    if not found:
        return
    yield "## A cluster (row 7)"
    yield ""
    yield (
        "Three primaries with a replica each; 30 tasks set, read and count 60 keys of "
        "all nodes, with 10 s for a call of ours and redis-py's client of a cluster at "
        "its defaults but for a socket timeout of 1 s. Where slots move the servers "
        "keep what they acknowledged, and a counter that says less is lost. A replica "
        "that takes over may lack the last writes; there only a counter above "
        "acknowledged + unknown is wrong, for a call ran twice."
    )
    yield ""
    figures = ("acked", "refused", "unknown", "lost", "wrong", "longest, s")
    yield _row("fault", "client", *figures, "errors")
    yield _row("---", "---", *("---:" for _ in figures), "---")
    for each in found:
        errors = ", ".join(f"{name} {n}" for name, n in sorted(each["errors"].items()))
        yield _row(
            each["fault"], each["client"], f"{each['acked']:,}", each["refused"],
            each["unknown"], "-" if each["lost"] is None else each["lost"],
            each["wrong"], f"{each['longest']:.2f}", errors,
        )  # fmt: skip
    yield ""


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
