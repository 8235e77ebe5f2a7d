"""The configuration file: quoting, and options that are not the caller's to set."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from oddswire.embedded import EmbeddedServer
from oddswire.embedded._config import _OURS, config_text, option_lines, quote
from oddswire.errors import EmbeddedFailed

# What Python makes of any bytes of a command line or a path.
anything = st.binary().map(os.fsdecode)


def unquote(text):
    """Read one double-quoted value as the server's `sdssplitargs` does."""
    assert text[0] == text[-1] == '"'
    value, rest = bytearray(), text[1:-1]
    while rest:
        if rest[0] == '"':
            raise AssertionError("a quote inside the value")
        if rest.startswith("\\x"):
            value.append(int(rest[2:4], 16))
            rest = rest[4:]
        elif rest[0] == "\\":
            value += rest[1].encode()
            rest = rest[2:]
        else:
            value += rest[0].encode()
            rest = rest[1:]
    return bytes(value)


@pytest.mark.basic
@given(anything)
def test_quoted_value_is_one_value(value):
    """Any value is one line of plain ASCII that reads back as the same bytes."""
    quoted = quote(value)
    assert quoted.isascii()
    assert quoted.isprintable()
    assert unquote(quoted) == os.fsencode(value)


@pytest.mark.basic
@pytest.mark.usefixtures("root")
async def test_server_reads_quoted_values():
    """The real server reads back every byte from 1 to 255 as it was given."""
    value = bytes(range(1, 256))
    server = EmbeddedServer(args=("--masterauth", os.fsdecode(value)))
    async with server, Redis.from_url(server.url, protocol=3) as client:
        got = await client.execute_command("CONFIG", "GET", "masterauth")
        assert got == {b"masterauth": value}


@pytest.mark.errors
@given(st.lists(st.one_of(anything, st.sampled_from(["--save", "--maxmemory", "1"]))))
def test_options_stay_in_their_line(args):
    """Whatever the strings are: one clean line per option, or a typed refusal."""
    try:
        lines = option_lines(args)
    except EmbeddedFailed:
        return
    assert len(lines) == sum(arg.startswith("--") for arg in args)
    for line in lines:
        assert line.isprintable()
        assert line.split(" ")[0] not in _OURS


@pytest.mark.errors
@pytest.mark.parametrize("name", sorted(_OURS))
@pytest.mark.parametrize("spell", [str, str.upper])
def test_starters_options_are_refused(name, spell):
    """An option on which a promise rests is refused at construction, with a reason."""
    with pytest.raises(EmbeddedFailed, match="is not yours to set: "):
        EmbeddedServer(args=("--maxmemory", "1mb", f"--{spell(name)}", "x"))


@pytest.mark.errors
@pytest.mark.parametrize(
    "args",
    [("maxmemory", "1mb"), ("--maxmemory 1mb",), ("--a\nbind 0.0.0.0",), ("--",)],
)
def test_malformed_options(args):
    """A string that is no option is refused, with how to write one."""
    with pytest.raises(EmbeddedFailed, match=r"\('--maxmemory', '1mb'\)"):
        option_lines(args)


@pytest.mark.basic
def test_whole_file():
    """The caller's options come last, so they win over the defaults."""
    text = config_text(
        port=1,
        unix_socket="/a b",
        directory="/d",
        password='p"',
        aof=True,
        options=option_lines(["--save", "60", "1", "--appendfsync", "always"]),
    )
    assert text.splitlines() == [
        "bind 127.0.0.1",
        "port 1",
        'unixsocket "/a b"',
        "unixsocketperm 700",
        'dir "/d"',
        r'requirepass "p\""',
        'logfile ""',
        "daemonize no",
        'save ""',
        "appendonly yes",
        "appendfsync everysec",
        "hash-max-listpack-entries 128",
        "hash-max-listpack-value 256",
        "hz 50",
        'save "60" "1"',
        'appendfsync "always"',
    ]
