"""`ReadLease`: for how long the answers of one server may be believed.

A primary that was deposed and does not know it yet goes on answering reads. Where
``min-replicas-to-write`` is set it cannot acknowledge a write without its replicas. So
an answer is believed only if the same connection has acknowledged a write that was sent
at most `length` seconds before the read:

1. The write is an UNLINK of a key that never exists. A replica refuses it (READONLY), a
   primary without its replicas too (NOREPLICAS); a full memory does not, and nothing is
   stored or replicated.
2. It travels in front of the read on the same connection, so its reply is there first,
   and a read costs no round trip more.
3. A refusal ends the lease at once. Another connection may lead to another server, and
   begins without a lease.

MOVED, CLUSTERDOWN and TRYAGAIN neither acknowledge nor refuse: the read beside it is
sent elsewhere, or again, and the write with it.

MISCONF counts as an acknowledgement: the server checks it before the replicas, and a
full disk must not make a cache useless.
"""

from __future__ import annotations

import contextlib
import math
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from redis.exceptions import AskError

from oddswire._tasks import retrieve
from oddswire.connection.errors import clone_error
from oddswire.connection.multiplexer import CallLabel
from oddswire.connection.packing import pack
from oddswire.errors import (
    ClusterDown,
    CommandRejected,
    Misconfigured,
    NoPermission,
    NoReplicas,
    OutOfMemory,
    ReadOnly,
    TryAgain,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.client._client import Client
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.errors import OddswireError

T = TypeVar("T")

_LABEL = CallLabel("read lease")


class ReadTicket(NamedTuple):
    """A read that begins.

    Attributes:
        connection: What it is sent on, if that is there already.
        at: When it begins, by the boot-time clock.
    """

    connection: Multiplexer | None
    at: float


class ReadLease:
    """Whether reads on the command connection of a client are believed.

    Args:
        client: Returns the client; which one it is may change.
        key: A key that no program writes.
        now: The boot-time clock.
        length: Seconds.
        on_reply: Called by the parser with when an acknowledged write was sent, or with
            None when it was refused.

    Attributes:
        connection: Whose server acknowledged last.
        until: Reads on that connection which begin before this are believed.
        command: The write.
    """

    def __init__(
        self,
        client: Callable[[], Client],
        key: str,
        now: Callable[[], float],
        *,
        length: float = 2.0,
        on_reply: Callable[[float | None], None] = lambda _: None,
    ) -> None:
        self.connection: Multiplexer | None = None
        self.until = -math.inf
        self.length = length
        self._client = client
        self.use(key)
        self._now = now
        self._on_reply = on_reply
        self._refusal: OddswireError | None = None
        self._refused_at = 0.0

    def use(self, key: str) -> None:
        """Write this key from now on."""
        self.command = ("UNLINK", key)
        self._data = pack(self.command)

    def begin(self, *, renew: bool = False) -> ReadTicket:
        """Begin a read that is sent before the next `await`.

        Args:
            renew: Renew the lease though it holds.
        """
        client = self._client()
        connection = client.command_connection()
        now = self._now()
        if connection is not None and (
            renew or now >= self.until or connection is not self.connection
        ):
            self.renew(connection)
        return ReadTicket(connection, now)

    def accept(self, ticket: ReadTicket) -> bool:
        """Whether a read that was answered is believed; False: read again.

        Raises:
            ReadOnly, NoReplicas: The server is no primary, or one that may have been
                deposed.
            OddswireError: The server refused the write for another reason.
        """
        connection, at = ticket
        if connection is None or connection is not self._client().command_connection():
            return False
        if connection is self.connection and at < self.until:
            return True
        if self._refusal is not None and self._refused_at >= at:
            self._client().on_refused_write(self._refusal, connection.connected_at)
            raise clone_error(self._refusal, self._refusal.outcome)
        return False

    async def read(self, call: Callable[[], Awaitable[T]], *, renew: bool = False) -> T:
        """Return what a read answers, once its server is believed.

        Args:
            call: Reads on the command connection; it may be called again.
            renew: Renew the lease though it holds.

        Raises:
            OddswireError: As from `call` and `accept`.
        """
        if not self._client().multiplexed:
            await self._ask(renew=renew)
            return await call()
        while True:
            ticket = self.begin(renew=renew)
            result = await call()
            if self.accept(ticket):
                return result

    async def _ask(self, *, renew: bool) -> None:
        """Renew the lease by a call of its own, where each call has its connection."""
        sent = self._now()
        if sent < self.until and not renew:
            return
        with contextlib.suppress(OutOfMemory, Misconfigured):
            await self._client().execute_command(*self.command)
        self.until = sent + self.length

    def renew(self, connection: Multiplexer) -> None:
        """Send the write on a connection; no task waits for its reply."""
        sent = self._now()
        future = connection.send(
            self._data,
            self._client().timeout,
            _LABEL,
            raw=True,
            on_reply=partial(self.replied, connection, sent),
        )
        future.add_done_callback(retrieve)  # the hook has the outcome

    def replied(self, connection: Multiplexer, sent: float, reply: Any) -> None:
        """From the parser: take the reply to the write."""
        if isinstance(reply, Exception) and not isinstance(
            reply, OutOfMemory | Misconfigured
        ):
            if isinstance(reply, AskError | ClusterDown | TryAgain):
                return
            if isinstance(reply, CommandRejected | NoPermission):
                self._refusal, self._refused_at = reply, self._now()
            if isinstance(reply, ReadOnly | NoReplicas):
                self.until = -math.inf
                self._on_reply(None)
            return
        if connection is not self.connection:
            self.connection, self.until = connection, -math.inf
        self.until = max(self.until, sent + self.length)
        self._on_reply(sent)
