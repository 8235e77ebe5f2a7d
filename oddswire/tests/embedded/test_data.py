"""What happens to the data: kept, thrown away, or claimed by two servers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from oddswire.embedded import EmbeddedServer
from oddswire.errors import EmbeddedFailed
from support.hooks import ask, limit

pytestmark = pytest.mark.usefixtures("root")

# By default a reply does not wait for a disk that is still busy with the last second.
ALWAYS = ("--appendfsync", "always")


@pytest.mark.advanced
@pytest.mark.parametrize("aof", [True, False])
async def test_kill_and_restart(aof):
    """Acknowledged writes survive kill -9 with `aof`; without it they are gone."""
    async with EmbeddedServer(aof=aof, args=ALWAYS) as server:
        for number in range(100):
            await ask(server.unix_url, "SET", f"key:{number}", number)
        server.kill()
        await server.wait_exit()
        await server.restart()
        assert await ask(server.unix_url, "DBSIZE") == (100 if aof else 0)


@pytest.mark.basic
async def test_data_dir_outlives_the_server(tmp_path):
    """Another server on the same directory finds the data; the directory is made."""
    where = tmp_path / "not" / 'there "yet"'
    async with EmbeddedServer(data_dir=where, aof=True) as server:
        await ask(server.url, "SET", "key", "value")
    async with EmbeddedServer(data_dir=str(where), aof=True) as server:
        assert await ask(server.url, "GET", "key") == "value"


@pytest.mark.errors
async def test_second_server_is_refused(monkeypatch, tmp_path):
    """A directory in use is refused, also by another path, and freed at the end."""
    limit(monkeypatch, "data directory", 0.1)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    async with EmbeddedServer(data_dir=tmp_path / "data") as first:
        for path in (tmp_path / "data", tmp_path / "link"):
            with pytest.raises(EmbeddedFailed, match=f"{path}: another server uses"):
                await EmbeddedServer(data_dir=path).__aenter__()
        # Neither a stopped nor a killed server frees it: it may be started again.
        first.kill()
        await first.wait_exit()
        with pytest.raises(EmbeddedFailed, match="another server"):
            await EmbeddedServer(data_dir=tmp_path / "data").__aenter__()
        await first.restart()
    async with EmbeddedServer(data_dir=tmp_path / "link") as second:
        assert await ask(second.url, "PING")


@pytest.mark.errors
async def test_data_dir_below_a_file(tmp_path):
    """A path that cannot be a directory is refused by name, before any start."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(EmbeddedFailed, match=f"data directory {path}: ") as caught:
            await EmbeddedServer(data_dir=path).__aenter__()
        assert "\n" not in str(caught.value)


@pytest.mark.errors
async def test_data_dir_on_a_read_only_file_system():
    """A place where not even root may write is refused by name."""
    with pytest.raises(
        EmbeddedFailed, match=r"data directory /proc/oddswire: .*; give"
    ):
        await EmbeddedServer(data_dir="/proc/oddswire").__aenter__()


@pytest.mark.errors
def test_data_dir_of_somebody_else(root):
    """A directory without permission to write is refused by name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as outer:
        Path(outer).chmod(0o755)
        data = Path(outer, "data")
        data.mkdir(mode=0o555)
        ran = subprocess.run(
            [sys.executable, Path(__file__).with_name("nobody.py"), data],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "TMPDIR": "/tmp"},  # noqa: TID251 - its environment
        )
    assert ran.stdout == (
        f"data directory {data}: not writable by this user; "
        "change its owner, or give another one\n"
    )


@pytest.mark.requirement("O4")
@pytest.mark.errors
async def test_a_damaged_append_only_file_is_named(tmp_path):
    """A byte that flipped in the middle is no empty server: it says what is damaged."""
    async with EmbeddedServer(data_dir=tmp_path, aof=True, args=ALWAYS) as server:
        for number in range(100):
            await ask(server.unix_url, "SET", f"key:{number}", number)
        server.kill()
        await server.wait_exit()
        (file,) = tmp_path.glob("*/*.incr.aof")
        data = bytearray(file.read_bytes())
        data[len(data) // 2 :] = data[len(data) // 2 :].replace(b"*3", b"!3", 1)
        file.write_bytes(data)
        with pytest.raises(EmbeddedFailed, match="Bad file format"):
            await server.restart()
