"""The cache's own connection, on which the server says what has changed.

Replies and messages of one connection come in the order in which the server made them.
All code that changes memory runs in the parser, in the same order. So a value never
enters memory after the message that it has changed.

The connection is tracked without NOLOOP: the server sends a message for our own writes
too. (With NOLOOP, evictions that our own commands cause would be silent:
docs/decisions/0018.) A write goes through three steps:

1. The script reads the key, so that the server tracks it for this connection, and then
   writes and reads it again.
2. The parser takes the reply. Its hook calls `expect_echo` with the value.
3. The parser takes the message that follows the reply directly. That one is our own
   echo and brings the value into memory; every other message takes the key out.

Where CLIENT TRACKING is refused, or does not hold what it promises, there is a second
way: every write publishes the names of its keys on one channel, and the commands go
over a connection that is subscribed to it. The order is the same, and the heartbeat
proves as much. No message tells of writes by other means (guides/cache.md has the
bound).
"""

from __future__ import annotations

import asyncio
import secrets
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from oddswire import scripts
from oddswire.connection.multiplexer import CallLabel
from oddswire.connection.packing import pack
from oddswire.errors import (
    ConnectionLost,
    OddswireError,
    Outcome,
    ReadOnly,
    Unavailable,
)
from oddswire.events import Degradation, Disconnected, Event
from oddswire.scripts import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from oddswire.client import Client


class Hook(Protocol):
    """Called by the parser with a reply, or with the error that ended the call."""

    def __call__(self, reply: Any, /, *, current: bool) -> None:
        """Take it; `current`: nothing was dropped since the call was made."""


class Listener(Protocol):
    """Called by the parser with the name of a key that has changed."""

    def __call__(self, name: bytes, expected: Any, /, *, own: bool) -> None:
        """Take it; `own`: by our own write, with what was expected of it."""


LABEL = CallLabel("cache")
_UNLINK = scripts.load("cache_unlink")


class TrackingConnection:
    """Sends the commands of the cache, and takes the messages of changes.

    Args:
        client: Whose server; the connection is another than its command connection.
        timeout: Seconds for one call.
        channel: Where writes are published; empty: nowhere.
        of: Which node, as the events of its connections say.

    Attributes:
        epoch: Changes whenever all of memory was dropped.
        untracked: No message tells of changes: the client's own connection is used, and
            nothing may be kept in memory.
        by_pubsub: Messages come on the channel, not from the server's tracking.
        client: Sends the commands.
        expected: Own writes whose echo comes next: what is known of them, by key.
    """

    def __init__(
        self, client: Client, timeout: float, channel: str = "", *, of: str = ""
    ) -> None:
        self.epoch = 0
        self.untracked = False
        self.by_pubsub = False
        self.channel = channel
        self._name = secrets.token_hex(8)
        self.timeout = timeout
        self._base = client
        self._of = f" {of}" if of else ""
        self._listeners: list[tuple[bytes, Listener]] = []
        self._on_drop: list[Callable[[], None]] = []
        self.expected: dict[bytes, Any] = {}
        self.client = client.tracked(self._on_push)
        self._degraded = {
            mode: Degradation(client.events, "cache", mode, monotonic)
            for mode in ("published", "untracked")
        }
        self._unsubscribe = client.events.subscribe(self._on_event, Disconnected)

    @property
    def run_id(self) -> str:
        """Which server process answers; empty where it does not tell."""
        info = self.client._command.server_info  # noqa: SLF001 - one library
        return info.run_id if info is not None else ""

    # --- listening

    def listen(self, prefix: bytes, listener: Listener) -> None:
        """Call `listener` with each change of a key with this prefix."""
        self._listeners.append((prefix, listener))

    def on_drop(self, handler: Callable[[], None]) -> None:
        """Call `handler` when all of memory is void."""
        self._on_drop.append(handler)

    def expect_echo(self, name: bytes, what: Any) -> None:
        """From a hook: the next message is the echo of our own write of that key."""
        if self.by_pubsub:
            # This process ignores its own messages. Others come from later writes.
            self._dispatch(name, what, own=True)
        else:
            self.expected[name] = what

    def drop(self) -> None:
        """Make void all of memory."""
        # A reply that is on its way was made before: its hook sees another epoch.
        self.epoch += 1
        self.expected.clear()
        for handler in self._on_drop:
            handler()

    def _on_event(self, event: Event) -> None:
        # Out of step on any connection: memory may hold what was computed from the
        # wrong replies.
        name = ("subscriber" if self.by_pubsub else "tracked") + self._of
        if event.connection == name or (
            isinstance(event, Disconnected) and event.protocol_desync
        ):
            self.drop()

    def _on_push(self, message: list[Any]) -> None:
        if message[0] != b"invalidate":
            return
        names = message[1]
        if names is None:  # flushed
            self.drop()
            return
        for name in names:
            # A message that comes between a reply and its echo would be taken for the
            # echo. There is none: a script is one step for the server.
            own = name in self.expected
            expected = self.expected.pop(name, None)
            self._dispatch(name, expected, own=own)

    def _on_message(self, message: list[Any]) -> None:
        if message[0] == b"unsubscribe":  # unasked: by the server's ACL
            self.drop()
        if message[0] != b"message":
            return
        sender, *names = message[2].split()
        if sender != self._name.encode():
            for name in names:
                self._dispatch(name, None, own=False)

    def _dispatch(self, name: bytes, expected: Any, *, own: bool) -> None:
        for prefix, listener in self._listeners:
            if name.startswith(prefix):
                listener(name, expected, own=own)

    # --- sending

    def script(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any],
        hook: Hook | None = None,
        *,
        repeatable: bool = False,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Run a script and return its reply; see `call`."""
        publishing = with_publish(script) if self.channel else None
        if publishing is not None:
            script = publishing
            args = (*args, self.channel, self.message(*keys))

        def send(*words: Any) -> Coroutine[Any, Any, Any]:
            return self.call(words, hook, repeatable=repeatable, timeout=timeout)

        return script.run_by(send, keys, args)

    async def unlink(
        self, names: Sequence[str], hook: Hook, *, timeout: float | None = None
    ) -> int:
        """Remove keys; see `call`. Returns how many there were."""
        how: dict[str, Any] = {"repeatable": True, "timeout": timeout}
        if self.channel:
            return int(await self.script(_UNLINK, names, (), hook, **how))
        return int(await self.call(("UNLINK", *names), hook, **how))

    def message(self, *names: str, sender: str = "") -> str:
        """Return the message that these keys were written."""
        return " ".join((sender or self._name, *names))

    def call(
        self,
        args: tuple[Any, ...],
        hook: Hook | None = None,
        *,
        repeatable: bool = False,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Send a command and return its reply; see `send`."""
        return self.send(pack(args), hook, repeatable=repeatable, timeout=timeout)

    async def send(
        self,
        data: bytes,
        hook: Hook | None = None,
        *,
        repeatable: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Send a packed command and return its reply.

        Args:
            data: The command.
            hook: Called by the parser, also if the caller gave up.
            repeatable: May be sent again after a lost connection.
            timeout: Seconds; default: the cache's.

        Raises:
            OddswireError: No reply, or the server refused. The hook was called.
        """
        deadline = monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            used = self.client
            try:
                on_reply = self._on_reply(hook)
                sent = monotonic()
                connection = self.client.ready_connection()
                if connection is None:
                    reply = await self.client.send_once(
                        data, deadline, LABEL, raw=True, on_reply=on_reply
                    )
                else:
                    # The usual case, without a coroutine of its own.
                    future = connection.send(
                        data, deadline - sent, LABEL, raw=True, on_reply=on_reply
                    )
                    try:
                        reply = await future
                    except asyncio.CancelledError:
                        connection.abandon()
                        raise
                if isinstance(reply, Exception):
                    if isinstance(reply, OddswireError):
                        self.client.on_refused_write(reply, sent)
                    raise reply
            except (ConnectionLost, Unavailable, ReadOnly) as error:
                if not self.untracked and _refused(error):
                    await self.fall_back(used)
                    continue
                # Once more, on the next connection. The call may have run, so it is
                # repeated only if it may run twice, or if it was not sent.
                safe = repeatable or error.outcome is Outcome.NOT_SENT
                late = monotonic() >= deadline
                if not safe or late or isinstance(error, Unavailable):
                    raise
                repeatable = False
            else:
                return reply

    def _on_reply(self, hook: Hook | None) -> Callable[[Any], None]:
        # Without a connection now, this is the epoch of the next one. If that is lost
        # too before the call is sent, the reply is of another epoch, and not kept.
        epoch = self.epoch

        def on_reply(reply: Any) -> None:
            # The echo of an own write follows its reply directly, or never comes.
            self.expected.clear()
            if hook is not None:
                hook(reply, current=epoch == self.epoch and not self.untracked)

        return on_reply

    async def fall_back(self, used: Client) -> None:
        """Do without tracking, and then without messages.

        Args:
            used: The client that failed; nothing changes if another is in use by now.
        """
        if used is not self.client:
            return
        self.by_pubsub = bool(self.channel) and not self.by_pubsub
        self.untracked = not self.by_pubsub
        self.client = (
            self._base.subscriber(self._on_message, self.channel)
            if self.by_pubsub
            else self._base
        )
        # Before the old connection is closed: its messages are lost from here on.
        self.drop()
        self._say_mode()
        await used.aclose()

    async def retry_tracking(self, timeout: float) -> bool:
        """Try CLIENT TRACKING once more; False: it is refused, and nothing changes.

        A self-test can fail for a reason that passes: in the middle of a failover the
        two connections that it needs reach two servers.

        Raises:
            OddswireError: The server did not answer.
        """
        candidate = self._base.tracked(self._on_push)
        try:
            await candidate.open_connection(timeout)
        except BaseException as error:
            # Also when it is cancelled: nobody else knows of this connection.
            await candidate.aclose()
            if isinstance(error, OddswireError) and _refused(error):
                return False
            raise
        # The heartbeat proves the new connection before memory is believed again.
        used, self.client = self.client, candidate
        self.untracked = self.by_pubsub = False
        self.drop()
        if used is not self._base:
            await used.aclose()
        return True

    def proven(self) -> None:
        """The self-test held: what is promised of this mode holds again."""
        self._say_mode()

    def _say_mode(self) -> None:
        modes = {"published": self.by_pubsub, "untracked": self.untracked}
        for mode, entered in modes.items():
            if entered:
                self._degraded[mode].begin(
                    "the server refuses CLIENT TRACKING, or it does not hold"
                )
            else:
                self._degraded[mode].end()

    async def aclose(self) -> None:
        """Close the connection; all of memory is void."""
        self._unsubscribe()
        self.drop()
        if not self.untracked:
            await self.client.aclose()


def _refused(error: OddswireError) -> bool:
    return (
        isinstance(error, Unavailable)
        and error.outcome is Outcome.REJECTED
        and ("CLIENT TRACKING" in str(error) or "SUBSCRIBE" in str(error))
    )


# These write leases alone, and a waiter for a lease looks again by itself.
_WITHOUT_MESSAGE = {"cache_look", "cache_renew", "cache_release"}

_PUBLISHING = """local reply = (function()
{source}
end)()
-- {{nonce, 0}}: it was there, and nothing was written.
if type(reply) ~= 'table' or reply[2] ~= 0 then
  redis.call('PUBLISH', ARGV[#ARGV - 1], ARGV[#ARGV])
end
return reply
"""


@cache
def with_publish(script: Script) -> Script | None:
    """Return a script that also publishes its last argument; None: no need to.

    The last two arguments are the channel and the message. Writing and publishing are
    one step, so no process reads the new value and misses the message that it is new.
    """
    if script.name in _WITHOUT_MESSAGE:
        return None
    return Script(f"{script.name}, published", _PUBLISHING.format(source=script.source))
