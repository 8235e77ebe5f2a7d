"""The server's configuration file, and which options a caller may add to it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from oddswire.errors import EmbeddedFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# The starter sets these options itself: its promises depend on them.
_OURS = {
    "bind": "it listens on 127.0.0.1 only",
    "daemonize": "it has to stay a child of this process",
    "dir": "give data_dir instead",
    "include": "give the options themselves",
    "logfile": "the log is read to know when the server is ready",
    "loglevel": "the log is read to know when the server is ready",
    "pidfile": "the process id is .pid",
    "port": "the port is chosen free; read it from .port",
    "requirepass": "give password instead",
    "supervised": "it has to stay a child of this process",
    "unixsocket": "the socket is private; read its path from .unix_socket",
    "unixsocketperm": "the socket is private",
}
# A session's hash has a few fields, and one of them is longer than the usual 64 bytes.
# Packed, the hash takes less memory; the bounds keep the cost of a change low.
_PACKED = ("hash-max-listpack-entries 128", "hash-max-listpack-value 256")
# How often a second the server looks for a signal to end; the default is 10.
_ENDS_SOON = "hz 50"
_NAME = re.compile(r"--([a-z][a-z0-9-]*)")


def option_lines(args: Iterable[str]) -> list[str]:
    """Turn command-line style options into lines of the configuration file.

    Args:
        args: As for the server's command line: ``("--maxmemory", "1mb")``. The strings
            after an option, up to the next one that starts with ``--``, are its values.

    Returns:
        One line per option, in order, values quoted.

    Raises:
        EmbeddedFailed: The first string is no option, an option's name is malformed,
            or `EmbeddedServer` sets the option itself.
    """
    lines: list[str] = []
    for arg in args:
        if not arg.startswith("--"):
            if not lines:
                raise EmbeddedFailed(
                    f"args: {arg!r} follows no option; write ('--maxmemory', '1mb')"
                )
            lines[-1] += f" {quote(arg)}"
            continue
        match = _NAME.fullmatch(arg.lower())
        if match is None:
            raise EmbeddedFailed(
                f"args: {arg!r} is no option; give an option and its values as "
                "separate strings: ('--maxmemory', '1mb')"
            )
        name = match[1]
        if name in _OURS:
            raise EmbeddedFailed(f"args: {arg} is not yours to set: {_OURS[name]}")
        lines.append(name)
    return lines


def config_text(
    *,
    port: int,
    unix_socket: str,
    directory: str,
    password: str,
    aof: bool,
    options: Sequence[str],
) -> str:
    """Write the whole configuration file.

    Args:
        port: The TCP port on 127.0.0.1; 0: the server does not listen on TCP.
        unix_socket: The path of the private socket.
        directory: Where the server keeps its data.
        password: The password of the default user.
        aof: Whether to append each write to a file, fsynced every second.
        options: Lines of `option_lines`; they come last, so they win.
    """
    return "\n".join(
        [
            "bind 127.0.0.1",
            f"port {port}",
            f"unixsocket {quote(unix_socket)}",
            "unixsocketperm 700",
            f"dir {quote(directory)}",
            f"requirepass {quote(password)}",
            'logfile ""',
            "daemonize no",
            'save ""',
            f"appendonly {'yes' if aof else 'no'}",
            "appendfsync everysec",
            *_PACKED,
            _ENDS_SOON,
            *options,
            "",
        ]
    )


def quote(value: str) -> str:
    """Quote a value as the server's configuration parser reads it: plain ASCII."""
    return f'"{"".join(_escaped(os.fsencode(value)))}"'


def _escaped(value: bytes) -> Iterator[str]:
    for byte in value:
        if byte in b'\\"':
            yield f"\\{byte:c}"
        elif 0x20 <= byte < 0x7F:
            yield chr(byte)
        else:
            yield f"\\x{byte:02x}"
