"""`SnapshotReader`: snapshots for an exporter, whichever thread it runs in."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oddswire.metrics.metrics import Metrics
    from oddswire.metrics.snapshot import Snapshot

_PATIENCE = 5.0


class SnapshotReader:
    """Takes snapshots in the thread of the event loop, where the parts count.

    Servers of prometheus_client and readers of OpenTelemetry have threads of their
    own. Were the counters read there, a dict could grow while it is copied.

    Args:
        metrics: Of the process; the reader is made in the thread of its loop.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._thread = threading.get_ident()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def read(self) -> Snapshot:
        """Return a snapshot of this moment.

        Raises:
            TimeoutError: The loop did not come to it within 5 s; from another thread.
            RuntimeError: The loop is closed, or the reader was made outside of one;
                from another thread.
        """
        if threading.get_ident() == self._thread:
            return self._metrics.snapshot()
        if self._loop is None:
            raise RuntimeError(
                "make the exporter in the coroutine that opened the metrics: this is "
                "another thread"
            )
        coroutine = self._snapshot()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise
        try:
            return future.result(_PATIENCE)
        finally:
            future.cancel()

    async def _snapshot(self) -> Snapshot:
        return self._metrics.snapshot()
