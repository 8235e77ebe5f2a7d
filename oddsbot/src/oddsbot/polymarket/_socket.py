"""`Socket`: a websocket that is made again for as long as it is wanted.

It is a part of a stream, which says what is asked for, what counts as a sign of life,
and what its consumer is told.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import ClientError, ClientWSTimeout, WSMsgType

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import ClientSession, ClientWebSocketResponse


def reconnect_delay(attempt: int, jitter: float, *, base: float, cap: float) -> float:
    """Return the seconds to wait before a try to connect.

    The first try is made at once. The n-th after it waits ``base * 2**n``, at most
    `cap`, scaled to between a half and all of it by `jitter`, so that the clients of
    one server that went away do not come back together.

    Args:
        attempt: Tries that failed so far.
        jitter: A random number from 0 to 1.
        base: Seconds.
        cap: Seconds.
    """
    if attempt == 0:
        return 0.0
    # The exponent is held down: 2.0**1100 is an error, not infinity.
    return min(cap, base * 2.0 ** min(attempt - 1, 60)) * (0.5 + jitter / 2)


class Socket:
    """One connection at a time; one task connects and receives.

    Args:
        session: Makes the connections; stays the caller's.
        url: Where.
        name: Of the task that sends PINGs.
        max_message: Bytes of a message; a longer one ends the connection.
        ping_every: Seconds between PINGs.
        stale_after: Seconds of waiting without a sign of life, after which the
            connection counts as ended; None: never.
        connect_timeout: Seconds for a try to connect.
        backoff: The base and the cap of `reconnect_delay`, in seconds. A connection
            that gave no sign of life, or ended sooner than the base after it began,
            counts as a failed try.
        clock: Tells seconds, monotonic.
        jitter: Gives random numbers from 0 to 1.
        failed: Called with the number and the reason of each try that failed.

    Attributes:
        connections: Made so far.
        reason: Why the last connection ended.
        stale: Whether it is that it was silent.
    """

    def __init__(
        self,
        session: ClientSession,
        url: str,
        *,
        name: str,
        max_message: int,
        ping_every: float,
        stale_after: float | None,
        connect_timeout: float,
        backoff: tuple[float, float],
        clock: Callable[[], float],
        jitter: Callable[[], float],
        failed: Callable[[int, str], object] = lambda *_: None,
    ) -> None:
        self.connections = 0
        self.reason = ""
        self.stale = False
        self._session = session
        self._url = url
        self._name = name
        self._max_message = max_message
        self._ping_every = ping_every
        self._stale_after = stale_after
        self._connect_timeout = connect_timeout
        self._base, self._cap = backoff
        self._clock = clock
        self._jitter = jitter
        self._failed = failed
        self._ws: ClientWebSocketResponse | None = None
        self._pinger: asyncio.Task[None] | None = None
        self._attempt = 0
        self._connected_at = 0.0
        self._lived = False
        self._silence = 0.0  # seconds waited since the last sign of life
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection now; it may be silent or about to fail."""
        return self._ws is not None

    @property
    def closed(self) -> bool:
        """Whether it was closed for good."""
        return self._closed

    async def connect(self) -> int | None:
        """Try until there is a connection.

        Returns:
            How many tries it took; None: it was closed meanwhile.
        """
        tries = 0
        while True:
            delay = reconnect_delay(
                self._attempt, self._jitter(), base=self._base, cap=self._cap
            )
            tries += 1
            self._attempt += 1
            await asyncio.sleep(delay)
            if self._closed:
                return None
            try:
                async with asyncio.timeout(self._connect_timeout):
                    ws = await self._session.ws_connect(
                        self._url,
                        max_msg_size=self._max_message,
                        # Not aiohttp's 10 s: a dead peer never answers a close.
                        timeout=ClientWSTimeout(ws_close=1.0),
                    )
            except (ClientError, OSError, TimeoutError) as error:
                self._failed(tries, str(error) or type(error).__name__)
                continue
            break
        if self._closed:  # by another task, while this one waited
            await ws.close()
            return None
        self.connections += 1
        self.reason, self.stale = "", False
        self._ws = ws
        self._connected_at = self._clock()
        self._lived = False
        self._silence = 0.0
        self._pinger = asyncio.get_running_loop().create_task(
            self._ping(ws), name=self._name
        )
        return tries

    def rest(self) -> None:
        """Begin to count the silence anew: until now nothing was missing."""
        self._silence = 0.0

    def hear(self) -> None:
        """Note a sign of life."""
        self._silence = 0.0
        self._lived = True

    async def receive(self) -> str | bytes | None:
        """Return the next message that is no PONG.

        Only the time spent waiting counts as silence, so that a slow consumer ends no
        connection. Cancelled, nothing is lost.

        Returns:
            None: the connection ended, and has to be dropped.
        """
        ws = self._ws
        loop = asyncio.get_running_loop()
        if self.stale:  # the caller goes on all the same
            self.reason, self.stale = "", False
        while ws is not None:
            began = loop.time()
            deadline = None
            if self._stale_after is not None:
                deadline = began + self._stale_after - self._silence
            message = None
            try:
                async with asyncio.timeout_at(deadline):
                    message = await ws.receive()
            except TimeoutError:
                pass
            finally:
                # Also of a consumer that gives up waiting: it may come back at once.
                self._silence += loop.time() - began
            if message is None:
                self.reason = f"no data for {self._stale_after:g} s"
                self.stale = True
                return None
            if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                self.reason = (
                    self.reason or f"the connection ended (code {ws.close_code})"
                )
                return None
            data: str | bytes = message.data
            if data not in {"PONG", b"PONG"}:
                return data
        return None

    async def send(self, text: str) -> bool:
        """Send a text; False: there is no connection, or it is about to end."""
        if self._ws is None:
            return False
        try:
            await self._ws.send_str(text)
        except (ClientError, OSError):
            return False  # the reader finds out by itself
        return True

    async def replace(self, reason: str) -> None:
        """End the connection, so that the next one is made at once.

        Args:
            reason: Becomes `reason`.
        """
        if self._ws is not None:
            self._attempt = 0
            self.reason = reason
            await self._ws.close()

    async def drop(self) -> None:
        """Let go of a connection that ended."""
        ws, self._ws = self._ws, None
        pinger, self._pinger = self._pinger, None
        # Back to "at once" only after a connection that was worth something: a server
        # that greets and hangs up must not be called in a tight loop.
        if self._lived and self._clock() - self._connected_at >= self._base:
            self._attempt = 0
        if pinger is not None:
            pinger.cancel()
            await asyncio.wait([pinger])
        if ws is not None:
            await ws.close()

    async def close(self) -> None:
        """Close the connection; none is made any more."""
        self._closed = True
        await self.drop()

    async def _ping(self, ws: ClientWebSocketResponse) -> None:
        while not ws.closed:
            await asyncio.sleep(self._ping_every)
            try:
                await ws.send_str("PING")
            except (ClientError, OSError):
                return  # the reader finds out by itself
