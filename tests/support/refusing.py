"""A link to a real server that refuses what it is sent, while it is told to."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import suppress

from oddswire.testing._frames import Frames
from oddswire.testing.proxy import close_listener

_ANSWERED_BY_PUSHES = {b"SUBSCRIBE", b"UNSUBSCRIBE"}
# A server that refuses commands still greets.
_GREETING = {b"HELLO", b"AUTH", b"CLIENT", b"INFO"}
_BLOCKING = {b"BLPOP", b"XREAD"}
_PRIMARY = b"$4\r\nrole\r\n$6\r\nmaster\r\n"
_REPLICA = b"$4\r\nrole\r\n$5\r\nslave\r\n"


class Refusing:
    """``async with Refusing(server) as link``: clients that speak RESP3 go to `url`.

    Attributes:
        refused: How often each command was refused, by its name; a script by its hash.
    """

    def __init__(self, server):
        self._server = server
        self._links = set()
        self._tasks = set()
        self._error = self._only = None
        self.refused = Counter()

    async def __aenter__(self):
        self._listener = await asyncio.start_server(self._take, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        self.url = f"redis://:{self._server.password}@127.0.0.1:{port}/0"
        return self

    async def __aexit__(self, *_):
        await close_listener(self._listener, self._end)

    async def _end(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def refuse(self, text, only=None):
        """Answer every command with this error, those that block already too.

        Args:
            text: The error.
            only: What alone is refused, as it is counted.
        """
        self._error, self._only = f"-{text}\r\n".encode(), only
        if only is None:
            for link in self._links:
                link.end_blocking(self._error)

    def blocks(self, name):
        """Whether a command of this name waits at the server for its answer."""
        return any(link.first == name for link in self._links)

    def accept(self):
        """Bring what comes from now on to the server."""
        self._error = None

    def _said(self, reply):
        """Return a reply of the server; a replica greets as one."""
        if self._error is not None and self._error.startswith(b"-READONLY"):
            return reply.replace(_PRIMARY, _REPLICA)
        return reply

    def _refuses(self, what):
        return self._error is not None and self._only in (None, what)

    async def _take(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_connection(
            self._server.host, self._server.port
        )
        link = _Link(writer, self.refused, self._said)
        self._links.add(link)
        down = asyncio.get_running_loop().create_task(link.replies(up_reader))
        self._tasks.add(down)
        try:
            with suppress(
                ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
            ):
                async for name, what, words, data in _commands(reader):
                    link.greets &= name in _GREETING
                    if self._refuses(what) and not link.greets:
                        link.refuse(what, self._error)
                    else:
                        link.forward(name, words)
                        up_writer.write(data)
        finally:
            self._links.discard(link)
            writer.transport.abort()
            up_writer.transport.abort()


class _Pushes:
    """The answers to a command that come as one push for each channel."""

    def __init__(self, count):
        self._left = count

    def is_last(self):
        """Count one that came; whether it was the last."""
        self._left -= 1
        return self._left <= 0


class _Link:
    """The replies that a client still has to get on one connection, in order."""

    def __init__(self, writer, refused, said):
        self.greets = True
        self._said = said
        self._writer = writer
        self._refused = refused
        # Names of commands at the server, pushes to come, errors that wait for their
        # turn: a server answers a refused PING behind the SUBSCRIBE before it.
        self._due = deque()
        # Replies of the server to what was answered here.
        self._swallow = 0

    @property
    def first(self):
        return self._due[0] if self._due else None

    def forward(self, name, words):
        self._due.append(_Pushes(words - 1) if name in _ANSWERED_BY_PUSHES else name)

    def refuse(self, what, error):
        self._refused[what] += 1
        self._due.append((error,))
        self._flush()

    def end_blocking(self, error):
        if self._due and self._due[0] in _BLOCKING:
            self._refused[self._due.popleft()] += 1
            self._swallow += 1
            self._due.appendleft((error,))
            self._flush()

    def _flush(self):
        while self._due and isinstance(self._due[0], tuple):
            self._writer.write(self._due.popleft()[0])

    async def replies(self, reader):
        frames, reply = Frames(), bytearray()
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                at = 0
                while at < len(data):
                    taken = frames._follow(data[at:], stop=True)
                    reply += data[at : at + taken]
                    at += taken
                    if frames.between:
                        self._reply(bytes(reply))
                        reply.clear()
        self._writer.transport.abort()

    def _reply(self, reply):
        if reply.startswith(b">"):
            self._writer.write(reply)
            answers = reply.split(b"\r\n", 3)[2].upper() in _ANSWERED_BY_PUSHES
            if answers and isinstance(self.first, _Pushes) and self.first.is_last():
                self._due.popleft()
                self._flush()
        elif self._swallow:
            self._swallow -= 1
        else:
            self._due.popleft()
            self._writer.write(self._said(reply))
            self._flush()


async def _commands(reader):
    """Yield the name of each command, what it counts as, its words and its bytes."""
    while header := await reader.readline():
        data, words = [header], []
        for _ in range(int(header[1:])):
            size = await reader.readline()
            value = await reader.readexactly(int(size[1:]) + 2)
            data += (size, value)
            words.append(value[:-2])
        name = words[0].upper()
        what = words[1] if name == b"EVALSHA" else name
        yield name, what, len(words), b"".join(data)
