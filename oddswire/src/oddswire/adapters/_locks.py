"""One holder of a key among all processes: a token with a lease that is renewed.

Stands behind `Turns` alone. It is a lock for order, not for safety: a holder whose
process stood still for longer than the lease is overtaken, and is told so in the log.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from oddswire.errors import ConversationBusy, OddswireError, Outcome
from oddswire.scripts import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio.client import PubSub

    from oddswire.client import Client

_log = logging.getLogger("oddswire.adapters")

_LOCK = load("conversation_lock")
_UNLOCK = load("conversation_unlock")
_RENEW = load("conversation_renew")

_WIRES = (
    4  # exclusive wires that waiting may take at once; the pool has others to serve
)
_LOOK_AGAIN = 1.0  # seconds until somebody who waits looks by himself
_WITHOUT_WIRE = 0.1  # the same without a wire to be woken on
_GIVE_BACK = 1.0  # seconds that giving back may take


class TokenLocks:
    """Locks by name.

    Args:
        client: Where they are kept.
        lease: Seconds after which a lock of a dead process is free.

    Attributes:
        lost: Locks that another process had before their holder was done.
    """

    def __init__(self, client: Client, lease: float) -> None:
        self._client = client
        self._lease = lease
        self._milliseconds = ceil(lease * 1000)
        self._wires = 0
        self.lost = 0

    @asynccontextmanager
    async def hold(self, key: str, until: float) -> AsyncIterator[None]:
        """Hold a lock for a block; leaving it never raises.

        Cancelled while it is taken or given back, it may stay for its lease.

        Args:
            key: Its key.
            until: By `time.monotonic`: when to give up.

        Raises:
            ConversationBusy: It did not become free.
            OddswireError: Redis could not be asked.
        """
        token = secrets.token_hex(8)
        try:
            await self._take(key, token, until)
        except BaseException as error:
            # The call that was under way may have taken it.
            if getattr(error, "outcome", Outcome.UNKNOWN) is Outcome.UNKNOWN:
                await self._give_back(key, token, taken=False)
            raise
        renewing = asyncio.get_running_loop().create_task(
            self._renew(key, token), name="oddswire lock renewal"
        )
        try:
            yield
        finally:
            renewing.cancel()
            try:
                # First: a cancellation of the wait below must not keep the lock.
                await self._give_back(key, token, taken=True)
            finally:
                await asyncio.wait([renewing])

    async def _take(self, key: str, token: str, until: float) -> None:
        left = await self._try(key, token)
        if not left:
            return
        async with AsyncExitStack() as stack:
            subscription = await self._subscribed(stack, key)
            while left:
                pause = self._pause(left, until)
                try:
                    if subscription is None:
                        await asyncio.sleep(min(pause, _WITHOUT_WIRE))
                    else:
                        # The first message says that the subscription stands: who gives
                        # the lock back after that wakes us, and who did so before is
                        # seen by the next try.
                        await subscription.get_message(timeout=pause)
                except (RedisError, OSError):
                    subscription = None
                left = await self._try(key, token)

    async def _subscribed(self, stack: AsyncExitStack, key: str) -> PubSub | None:
        """Return a subscription to be woken on; None if there is no wire for it."""
        if self._wires == _WIRES:
            return None
        self._wires += 1
        stack.callback(self._wire_is_free)
        try:
            async with asyncio.timeout(_LOOK_AGAIN):
                subscription: PubSub = await stack.enter_async_context(
                    self._client.pubsub()
                )
                await subscription.subscribe(_channel(key))
        except (RedisError, OSError):  # TimeoutError is an OSError
            return None
        return subscription

    def _wire_is_free(self) -> None:
        self._wires -= 1

    async def _try(self, key: str, token: str) -> float:
        """Return 0 if we have it, else seconds after which it is free."""
        reply = await _LOCK(self._client, [key], [token, self._milliseconds])
        return int(reply) / 1000

    def _pause(self, left: float, until: float) -> float:
        rest = until - monotonic()
        if rest <= 0:
            raise ConversationBusy(
                "another process handles an update of this conversation for longer "
                "than the timeout"
            )
        return min(left, rest, _LOOK_AGAIN)

    async def _renew(self, key: str, token: str) -> None:
        ends = monotonic() + self._lease
        while True:
            await asyncio.sleep(self._lease / 3)
            asked = monotonic()
            try:
                held = await _RENEW(self._client, [key], [token, self._milliseconds])
            except OddswireError:
                held = None
            if held:
                ends = asked + self._lease
            elif held == 0 or monotonic() >= ends:
                self._note_lost()
                return

    async def _give_back(self, key: str, token: str, *, taken: bool) -> None:
        # What was done under the lock is done: no error of ours may undo that.
        try:
            client = self._client.bounded(_GIVE_BACK)
            held = await _UNLOCK(client, [key], [token, _channel(key)])
        except OddswireError as error:
            _log.warning("a lock was not given back, it ends by its lease: %r", error)
            return
        if taken and not held:
            self._note_lost()

    def _note_lost(self) -> None:
        self.lost += 1
        _log.warning(
            "a lock ended before its handler was done: two may have run at a time"
        )


def _channel(key: str) -> str:
    return f"{key}:free"
