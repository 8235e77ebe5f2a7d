"""`Script`: run a Lua script by its digest."""

from __future__ import annotations

import hashlib
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.client import NEVER_DECODE
from redis.crc import key_slot
from redis.exceptions import NoScriptError

from oddswire.connection.packing import pack
from oddswire.errors import InvalidKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from oddswire.client import Client

# A script's reply is bytes, also of a client that decodes: it may hold sealed values.
_RAW = {NEVER_DECODE: True}

PackedCall = tuple[bytes, tuple[Any, ...]]
"""A call of a script that is sent many times: its bytes, and the command in parts."""


class Script:
    """A Lua script, run by EVALSHA and sent whole where the server does not have it.

    Args:
        name: For errors.
        source: Lua. It must touch no keys but those it is given.

    Attributes:
        name: As given.
        source: As given.
        sha: The digest that EVALSHA takes.
    """

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"Script({self.name!r})"

    def run(
        self, client: Client, keys: Sequence[str | bytes], args: Sequence[Any] = ()
    ) -> Coroutine[Any, Any, Any]:
        """Run it and return its reply, strings as bytes.

        It is repeated only where it provably did not run. Cancelled or timed out, it
        may have run, or may run yet.

        Args:
            client: Where. A server that lost the script costs a second call, with a
                deadline of its own.
            keys: Every key it touches, all in one slot; the library's own keys are by
                construction, others by `require_one_slot`.
            args: Text, bytes and numbers.

        Raises:
            OddswireError: As from any command.
        """
        send = client.execute_command
        return self.run_by(
            partial(send, **_RAW) if client.decodes else send, keys, args
        )

    async def run_by(
        self,
        send: Callable[..., Awaitable[Any]],
        keys: Sequence[str | bytes],
        args: Sequence[Any] = (),
    ) -> Any:
        """Run it by a function that sends the words of a command; see `run`."""
        command = ("EVALSHA", self.sha, len(keys), *keys, *args)
        try:
            return await send(*command)
        except NoScriptError:
            return await send(*self._whole(command))

    def pack(self, keys: Sequence[str | bytes], args: Sequence[Any] = ()) -> PackedCall:
        """Return a call for `run_packed`."""
        command = ("EVALSHA", self.sha, len(keys), *keys, *args)
        return pack(command), command

    async def run_packed(self, client: Client, call: PackedCall) -> Any:
        """Run a call that was packed before; see `run`. The reply has no text."""
        data, command = call
        try:
            return await client.execute_packed(data, command)
        except NoScriptError:
            return await client.execute_command(*self._whole(command))

    def _whole(self, command: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what to send after an EVALSHA that was answered with NOSCRIPT."""
        # The server restarted, failed over or was flushed. NOSCRIPT is a refusal:
        # nothing ran. EVAL loads and runs the script in one round trip.
        return ("EVAL", self.source, *command[2:])


def load(name: str) -> Script:
    """Return the script in `<name>.lua` of this package.

    Raises:
        FileNotFoundError: There is none.
    """
    source = files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    return Script(name, source)


def require_one_slot(name: str, keys: Sequence[str | bytes]) -> None:
    """Make sure that a script may run on these keys in a cluster.

    Raises:
        InvalidKey: They are in different slots: they need a common `{tag}`.
    """
    if len(keys) < 2:
        return
    first = _tag(keys[0])
    # Mostly so, and much cheaper than the slots themselves.
    if first and all(_tag(key) == first for key in keys):
        return
    slots = {key_slot(key.encode() if isinstance(key, str) else key) for key in keys}
    if len(slots) > 1:
        raise InvalidKey(
            f"script {name!r}: its {len(keys)} keys are in {len(slots)} slots; give "
            "them a common {tag}"
        )


def _tag(key: str | bytes) -> bytes:
    """Return what alone decides on the slot of a key; empty: all of it does."""
    data = key.encode() if isinstance(key, str) else key
    tag, closed, _ = data.partition(b"{")[2].partition(b"}")
    return tag if closed else b""
