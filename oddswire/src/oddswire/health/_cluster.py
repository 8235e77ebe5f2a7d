"""The checks of a cluster: those of each primary, and what they know of the slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from oddswire.health.report import Check, Status, Verdict, unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddswire.health._reading import Reading

_SLOTS = 16_384
_WHY = "keys of a slot that nobody serves can neither be read nor written"
_ORDER = (Status.PASS, Status.UNKNOWN, Status.WARN, Status.FAIL)


def cluster_check(seen: Reading) -> Check:
    """Return the check of what a node knows of its cluster."""
    return Check.of("cluster", _WHY, _judged(seen.cluster))


def _judged(info: dict[str, str] | None) -> Verdict:
    if info is None:
        return unknown(
            "CLUSTER INFO was not answered", "ACL SETUSER <user> +cluster|info"
        )
    try:
        served, nodes = int(info["cluster_slots_ok"]), int(info["cluster_size"])
        state = info["cluster_state"]
    except (KeyError, ValueError):
        return unknown("CLUSTER INFO of this server lacks its slots")
    whole = served == _SLOTS and state == "ok"
    return Verdict(
        status=Status.PASS if whole else Status.FAIL,
        seen=f"state {state}, {served:,} of {_SLOTS:,} slots served by {nodes} nodes",
        fix="CLUSTER NODES tells which nodes are down, and which slots nobody owns",
        values={"state": state, "slots": served, "nodes": nodes},
    )


def worst_of(reports: Sequence[tuple[str, Sequence[Check]]]) -> tuple[Check, ...]:
    """Return each check as it is on the node where it is worst.

    Args:
        reports: Of each node: its address, and its checks in the same order.
    """
    merged = []
    for checks in zip(*[each for _, each in reports], strict=True):
        number = max(range(len(checks)), key=lambda at: _ORDER.index(checks[at].status))
        check, node = checks[number], reports[number][0]
        merged.append(
            msgspec.structs.replace(
                check,
                seen=f"{node}: {check.seen}",
                values={**check.values, "node": node},
            )
        )
    return tuple(merged)
