"""`Health`: one look at the server, the link and this process."""

from __future__ import annotations

import asyncio
from inspect import iscoroutinefunction
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from oddswire._numbers import check_duration, shown
from oddswire.client import keyspace
from oddswire.counters import Window
from oddswire.errors import OddswireError, SettingsError
from oddswire.health import _process
from oddswire.health._cluster import cluster_check, worst_of
from oddswire.health._reading import Reading, read
from oddswire.health._server import NAMES, server_checks
from oddswire.health.report import Check, Report, Verdict, unknown, worst
from oddswire.health.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.client import Client

_BUILT_IN = NAMES | {"cluster"} | {name for name, _, _ in _process.CHECKS}


class Health:
    """Reports the state of a client and its server; each report is a new look.

    No state is kept between two checks and no task runs: a report describes the time in
    which `check` ran. It asks six PINGs and one INFO on the command connection.

    Of a cluster each primary is looked at, and CLUSTER INFO too, as of a node alone; a
    check is that of the node where it is worst, which its `seen` begins with.

    Args:
        client: Whose server, or cluster. A client with ``transport="pool"`` opens its
            command connection for this.
        durable: Whether the server holds what users asked for; False for a cache,
            which may evict and forget.
        thresholds: Where warnings and failures begin.
        timeout: Seconds that a check may take.

    Raises:
        SettingsError: An argument is of another type, or out of range.

    Example:
        >>> report = await Health(client).check()
        >>> [check.fix for check in report.checks if check.status != "pass"]
        []
    """

    def __init__(
        self,
        client: Client,
        *,
        durable: bool = True,
        thresholds: Thresholds | None = None,
        timeout: float = 2.0,
    ) -> None:
        keyspace(client, None)  # it has to be a client
        if thresholds is not None and not isinstance(thresholds, Thresholds):
            raise SettingsError(
                f"thresholds must be oddswire.health.Thresholds, not "
                f"{shown(thresholds)}"
            )
        check_duration("timeout", timeout, 0.001, inf, SettingsError)
        self._client = client
        self._durable = durable
        self._thresholds = thresholds or Thresholds()
        self._timeout = timeout
        # A program that is looked at often must not seem to fail less for it.
        self._asked = Window()
        self._added: dict[str, tuple[str, Callable[[], Verdict]]] = {}

    @property
    def added(self) -> tuple[str, ...]:
        """The names of the checks that parts added."""
        return tuple(self._added)

    def add(self, name: str, why: str, look: Callable[[], Verdict]) -> None:
        """Add a check of a part; each report has it, behind those of the server.

        Args:
            name: Of the check.
            why: Why it matters.
            look: Returns the state of the part, from memory: it must not block. If it
                raises, or returns no verdict, the check is `unknown`, and says so.

        Raises:
            SettingsError: There is a check of this name, or an argument is of another
                type.
        """
        if not isinstance(name, str) or not name:
            raise SettingsError(f"a check has a name, a text, not {shown(name)}")
        if name in self._added or name in _BUILT_IN:
            raise SettingsError(f"there is a check {name!r} already")
        if not callable(look) or iscoroutinefunction(look):
            raise SettingsError(
                f"look of check {name!r} must be a plain function that returns a "
                f"Verdict, not {shown(look)}"
            )
        self._added[name] = (why, look)

    async def check(self) -> Report:
        """Look once.

        A server that is away, refuses or may not be asked is in the report, and no
        exception. Cancelled, nothing is left behind.
        """
        started = monotonic()
        if self._client.is_cluster:
            looked = await self._look_at_nodes()
        else:
            looked = self._judge(await read(self._client, self._timeout, self._asked))
        checks = (
            *looked,
            *(
                Check.of(name, why, _careful(look))
                for name, (why, look) in self._added.items()
            ),
        )
        took = monotonic() - started
        return Report(status=worst(checks), checks=checks, took=took)

    async def _look_at_nodes(self) -> tuple[Check, ...]:
        began = monotonic()
        try:
            nodes = await self._client.bounded(self._timeout).primaries()
        except OddswireError as error:
            seen = Reading(stats=self._client.stats(), unreachable=error)
            return self._judge(seen)
        left = max(0.0, self._timeout - (monotonic() - began))

        async def look(node: Client) -> tuple[str, tuple[Check, ...]]:
            seen = await read(node, left, self._asked)
            return node.address, self._judge(seen)

        return worst_of(await asyncio.gather(*[look(node) for node in nodes]))

    def _judge(self, seen: Reading) -> tuple[Check, ...]:
        limits = self._thresholds
        return (
            *(
                Check.of(name, why, look(seen, limits))
                for name, why, look in _process.CHECKS
            ),
            *server_checks(seen, limits, durable=self._durable),
            *([cluster_check(seen)] if self._client.in_cluster else []),
        )


def _careful(look: Callable[[], Verdict]) -> Verdict:
    try:
        verdict = look()
        if isinstance(verdict, Verdict):
            return verdict
        return unknown(
            f"it returned {type(verdict).__name__}", "let this part return a Verdict"
        )
    except Exception as error:  # noqa: BLE001 - a part that cannot say how it is ends no report
        return unknown(type(error).__name__, "mend the check of this part")
