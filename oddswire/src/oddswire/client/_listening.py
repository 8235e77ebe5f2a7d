"""What listens on a connection of its own, for as long as nothing is said there.

redis-py ends a read by the timeout of a command where it means to wait for ever: in
`PubSub` before its line 8, in `Monitor` on every line.
"""

from __future__ import annotations

from typing import Any, Self

from redis.asyncio.client import Monitor as RedisMonitor
from redis.asyncio.client import PubSub as RedisPubSub

# Seconds; redis-py 7 knows no infinity here, and uvloop none anywhere.
_FOREVER = 1e9


class PubSub(RedisPubSub):
    """redis-py's pub/sub object; silence is no error."""

    async def parse_response(self, block: bool = True, timeout: float = 0) -> Any:  # noqa: FBT001, FBT002 - redis-py's signature
        """Return what comes next, or None if nothing does within `timeout` seconds.

        Args:
            block: Wait for ever, whatever the timeout of a command is.
            timeout: Seconds, when not.
        """
        return await super().parse_response(
            block=False, timeout=_FOREVER if block else timeout
        )


class Monitor(RedisMonitor):
    """redis-py's MONITOR; silence is no error."""

    connection: Any
    _usual: float | None = None

    async def __aenter__(self) -> Self:
        """Lease a connection and send MONITOR on it."""
        await super().__aenter__()
        self._usual = self.connection.socket_timeout
        self.connection.socket_timeout = None
        return self

    async def __aexit__(self, *args: object) -> None:
        """Close the connection and give it back."""
        self.connection.socket_timeout = self._usual
        await super().__aexit__(*args)
