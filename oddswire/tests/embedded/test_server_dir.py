"""The private directory: what the sweep removes, and what it never touches."""

from __future__ import annotations

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from oddswire.embedded._server_dir import ServerDir


@pytest.fixture
def own_dir(root):
    """A directory that is not open yet; `open` sweeps `root`."""
    own_dir = ServerDir(None)
    yield own_dir
    own_dir.close()


def _left_behind(root, name="oddswire-abcd_123"):
    directory = root / name
    directory.mkdir(mode=0o700)
    (directory / "oddswire.conf").touch()
    (directory / "data").mkdir()
    (directory / "data" / "dump.rdb").touch()
    return directory


@pytest.mark.basic
def test_sweeps_what_is_dead(root, own_dir):
    """A directory nobody locks is removed, also one whose maker died at once."""
    _left_behind(root)
    (root / "oddswire-empty_12").mkdir()
    own_dir.open()
    assert list(root.iterdir()) == [own_dir.directory]
    assert stat.S_IMODE(own_dir.directory.stat().st_mode) == 0o700


@pytest.mark.errors
def test_spares_what_lives(root, own_dir):
    """A locked directory stays, as long as any process holds its lock."""
    living = ServerDir(None)
    living.open()
    own_dir.open()
    assert living.config.exists()
    inherited = os.dup(living.locks[0])  # as a server has it whose parent was killed
    os.close(living.locks.pop())
    second = ServerDir(None)
    second.open()
    assert living.config.exists()
    os.close(inherited)
    third = ServerDir(None)
    third.open()
    assert not living.config.exists()
    second.close()
    third.close()


@pytest.mark.errors
@pytest.mark.parametrize("name", ["oddswire-mydata01", "oddswire-x", "other"])
def test_spares_foreign_data(root, own_dir, name):
    """A directory with an unlucky name, but without our file, keeps its contents."""
    foreign = root / name
    foreign.mkdir()
    (foreign / "dump.rdb").write_text("precious")
    own_dir.open()
    assert (foreign / "dump.rdb").read_text() == "precious"
    (foreign / "dump.rdb").unlink()
    foreign.rmdir()


@pytest.mark.errors
def test_spares_other_users(root, own_dir, monkeypatch):
    """A directory of another user is left alone, whatever it is named."""
    left = _left_behind(root)
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    own_dir.open()
    assert (left / "oddswire.conf").exists()
    monkeypatch.undo()
    shutil.rmtree(left)


@pytest.mark.errors
def test_follows_no_link(root, own_dir, tmp_path):
    """A link with the name of a directory is neither followed nor removed."""
    target = _left_behind(tmp_path, "target")
    link = root / "oddswire-linked_1"
    link.symlink_to(target)
    own_dir.open()
    assert (target / "oddswire.conf").exists()
    link.unlink()


@pytest.mark.advanced
def test_makers_and_sweepers_at_once(root):
    """Under many starts at once no directory is swept while its server lives."""

    def live(_):
        own_dir = ServerDir(None)
        own_dir.open()  # it sweeps too
        whole = own_dir.config.exists() and own_dir.data.is_dir()
        own_dir.close()
        return whole and not own_dir.directory.exists()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(live, range(400)))
