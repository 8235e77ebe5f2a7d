"""The cache's own wire, on which the server says what has changed.

Replies and messages of one connection come in the order in which the server made them,
and everything here that changes what is held runs in the parser, in that order. So a
value is never put into memory after the message that it has changed.

The wire is tracked without NOLOOP: the server then tells us of our own writes too.
(With it, evictions that our own commands cause would be silent: docs/decisions/0018.)
A script that writes reads the key before and after, so exactly one message follows its
reply; that one brings what we wrote into memory, every other one takes the key out.

Where CLIENT TRACKING is refused, or does not hold what it promises, there is a second
way: every write publishes the names of its keys on one channel, and the commands go
over a wire that is subscribed to it. The order is the same, and the heartbeat proves as
much. What is written by other means is not told (docs/cache.md has the bound).
"""

from __future__ import annotations

import asyncio
import secrets
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import NoScriptError

from oddswire import scripts
from oddswire.cache._telling import told
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

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from oddswire.client import Client
    from oddswire.scripts import Script


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


class TrackedWire:
    """Sends the commands of the cache.

    Args:
        client: Whose server; the wire is another than its command wire.
        timeout: Seconds for one call.
        channel: Where writes are told; empty: nowhere.

    Attributes:
        epoch: Changes whenever all that is held was dropped.
        plain: Nobody tells us of changes: the client's own wire is used, and nothing
            may be held.
        listens: Changes are told on the channel, not by the server.
        client: Who sends.
        expected: Own writes whose message comes next: what is known of them, by key.
    """

    def __init__(self, client: Client, timeout: float, channel: str = "") -> None:
        self.epoch = 0
        self.plain = False
        self.listens = False
        self.channel = channel
        self._name = secrets.token_hex(8)
        self.timeout = timeout
        self._base = client
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
        greeting = self.client._command.server_info  # noqa: SLF001 - one library
        return greeting.run_id if greeting is not None else ""

    # --- listening

    def listen(self, prefix: bytes, listener: Listener) -> None:
        """Have the changes of keys with a prefix told to `listener`."""
        self._listeners.append((prefix, listener))

    def on_drop(self, handler: Callable[[], None]) -> None:
        """Have `handler` called when all that is held is void."""
        self._on_drop.append(handler)

    def expect(self, name: bytes, what: Any) -> None:
        """From a hook: our own write of that key will be told next."""
        if self.listens:
            # We do not tell ourselves. What comes from here on was written later.
            self._tell(name, what, own=True)
        else:
            self.expected[name] = what

    def drop(self) -> None:
        """Make void all that is held."""
        self.epoch += 1
        self.expected.clear()
        for handler in self._on_drop:
            handler()

    def _on_event(self, event: Event) -> None:
        # Out of step on any connection: what was computed from wrong replies may be
        # held as well.
        if event.connection == ("subscriber" if self.listens else "tracked") or (
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
            own = name in self.expected
            expected = self.expected.pop(name, None)
            self._tell(name, expected, own=own)

    def _on_message(self, message: list[Any]) -> None:
        if message[0] == b"unsubscribe":  # unasked: by the server's ACL
            self.drop()
        if message[0] != b"message":
            return
        sender, *names = message[2].split()
        if sender != self._name.encode():
            for name in names:
                self._tell(name, None, own=False)

    def _tell(self, name: bytes, expected: Any, *, own: bool) -> None:
        for prefix, listener in self._listeners:
            if name.startswith(prefix):
                listener(name, expected, own=own)

    # --- sending

    async def script(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any],
        hook: Hook | None = None,
        *,
        repeatable: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Run a script and return its reply; see `call`."""
        loud = told(script) if self.channel else None
        if loud is not None:
            script = loud
            args = (*args, self.channel, self.message(*keys))
        rest = (str(len(keys)), *keys, *args)
        try:
            return await self.call(
                ("EVALSHA", script.sha, *rest),
                hook,
                repeatable=repeatable,
                timeout=timeout,
            )
        except NoScriptError:
            return await self.call(
                ("EVAL", script.source, *rest),
                hook,
                repeatable=repeatable,
                timeout=timeout,
            )

    async def unlink(
        self, names: Sequence[str], hook: Hook, *, timeout: float | None = None
    ) -> int:
        """Remove keys; see `call`. Returns how many there were."""
        if self.channel:
            return int(
                await self.script(
                    _UNLINK, names, (), hook, repeatable=True, timeout=timeout
                )
            )
        return int(
            await self.call(("UNLINK", *names), hook, repeatable=True, timeout=timeout)
        )

    def message(self, *names: str, sender: str = "") -> str:
        """Return what is published when these keys were written."""
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
            hook: Called in the parser, also if the caller gave up.
            repeatable: May be sent again after a lost connection.
            timeout: Seconds; default: the cache's.

        Raises:
            OddswireError: No reply, or the server refused. The hook was told.
        """
        deadline = monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            used = self.client
            try:
                on_reply = self._telling(hook)
                sent = monotonic()
                wire = self.client.ready_connection()
                if wire is None:
                    reply = await self.client.send_once(
                        data, deadline, LABEL, raw=True, on_reply=on_reply
                    )
                else:
                    # The usual case, without a coroutine of its own.
                    future = wire.send(
                        data, deadline - sent, LABEL, raw=True, on_reply=on_reply
                    )
                    try:
                        reply = await future
                    except asyncio.CancelledError:
                        wire.abandon()
                        raise
                if isinstance(reply, Exception):
                    if isinstance(reply, OddswireError):
                        self.client.on_refused_write(reply, sent)
                    raise reply
            except (ConnectionLost, Unavailable, ReadOnly) as error:
                if not self.plain and _refused(error):
                    await self.step_down(used)
                    continue
                safe = repeatable or error.outcome is Outcome.NOT_SENT
                if not safe or isinstance(error, Unavailable):
                    raise
                if monotonic() >= deadline:
                    raise
                repeatable = False
            else:
                return reply

    def _telling(self, hook: Hook | None) -> Callable[[Any], None]:
        # If there is no wire now, this is the epoch of the next one; if that is lost
        # too before the call is sent, its reply is not of this epoch, and not held.
        epoch = self.epoch

        def on_reply(reply: Any) -> None:
            # The message of an own write follows its reply directly, or never.
            self.expected.clear()
            if hook is not None:
                hook(reply, current=epoch == self.epoch and not self.plain)

        return on_reply

    async def step_down(self, used: Client) -> None:
        """Do without what this client was for: tracking, then listening.

        Args:
            used: Who did not do; nothing is changed if another is in use by now.
        """
        if used is not self.client:
            return
        self.listens = bool(self.channel) and not self.listens
        self.plain = not self.listens
        self.client = (
            self._base.subscriber(self._on_message, self.channel)
            if self.listens
            else self._base
        )
        self.drop()
        self._say_mode()
        await used.aclose()

    async def step_up(self, timeout: float) -> bool:
        """Try CLIENT TRACKING once more; False: it is refused, and nothing changes.

        A self-test can fail for a reason that passes: in the middle of a failover the
        two connections that it needs reach two servers.

        Raises:
            OddswireError: The server did not answer.
        """
        candidate = self._base.tracked(self._on_push)
        try:
            await candidate.open_connection(timeout)
        except OddswireError as error:
            await candidate.aclose()
            if _refused(error):
                return False
            raise
        used, self.client = self.client, candidate
        self.plain = self.listens = False
        self.drop()
        if used is not self._base:
            await used.aclose()
        return True

    def proven(self) -> None:
        """The self-test held: what is promised of this mode holds again."""
        self._say_mode()

    def _say_mode(self) -> None:
        modes = {"published": self.listens, "untracked": self.plain}
        for mode, entered in modes.items():
            if entered:
                self._degraded[mode].begin(
                    "the server refuses CLIENT TRACKING, or it does not hold"
                )
            else:
                self._degraded[mode].end()

    async def aclose(self) -> None:
        """Close the wire; what is held is void."""
        self._unsubscribe()
        self.drop()
        if not self.plain:
            await self.client.aclose()


def _refused(error: OddswireError) -> bool:
    return (
        isinstance(error, Unavailable)
        and error.outcome is Outcome.REJECTED
        and ("CLIENT TRACKING" in str(error) or "SUBSCRIBE" in str(error))
    )
