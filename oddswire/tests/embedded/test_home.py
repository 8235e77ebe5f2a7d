"""The private directory: what the sweep removes, and what it never touches."""

from __future__ import annotations

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from oddswire.embedded._home import Home


@pytest.fixture
def home(root):
    """An open home; opening it has swept `root`."""
    home = Home(None)
    yield home
    home.close()


def _left_behind(root, name="oddswire-abcd_123"):
    directory = root / name
    directory.mkdir(mode=0o700)
    (directory / "oddswire.conf").touch()
    (directory / "data").mkdir()
    (directory / "data" / "dump.rdb").touch()
    return directory


@pytest.mark.basic
def test_sweeps_what_is_dead(root, home):
    """A directory nobody locks is removed, also one whose maker died at once."""
    _left_behind(root)
    (root / "oddswire-empty_12").mkdir()
    home.open()
    assert list(root.iterdir()) == [home.directory]
    assert stat.S_IMODE(home.directory.stat().st_mode) == 0o700


@pytest.mark.errors
def test_spares_what_lives(root, home):
    """A locked directory stays, as long as any process holds its lock."""
    living = Home(None)
    living.open()
    home.open()
    assert living.config.exists()
    inherited = os.dup(living.locks[0])  # as a server has it whose parent was killed
    os.close(living.locks.pop())
    second = Home(None)
    second.open()
    assert living.config.exists()
    os.close(inherited)
    third = Home(None)
    third.open()
    assert not living.config.exists()
    second.close()
    third.close()


@pytest.mark.errors
@pytest.mark.parametrize("name", ["oddswire-mydata01", "oddswire-x", "other"])
def test_spares_foreign_data(root, home, name):
    """A directory with an unlucky name, but without our file, keeps its contents."""
    foreign = root / name
    foreign.mkdir()
    (foreign / "dump.rdb").write_text("precious")
    home.open()
    assert (foreign / "dump.rdb").read_text() == "precious"
    (foreign / "dump.rdb").unlink()
    foreign.rmdir()


@pytest.mark.errors
def test_spares_other_users(root, home, monkeypatch):
    """A directory of another user is left alone, whatever it is named."""
    left = _left_behind(root)
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    home.open()
    assert (left / "oddswire.conf").exists()
    monkeypatch.undo()
    shutil.rmtree(left)


@pytest.mark.errors
def test_follows_no_link(root, home, tmp_path):
    """A link with the name of a directory is neither followed nor removed."""
    target = _left_behind(tmp_path, "target")
    link = root / "oddswire-linked_1"
    link.symlink_to(target)
    home.open()
    assert (target / "oddswire.conf").exists()
    link.unlink()


@pytest.mark.advanced
def test_makers_and_sweepers_at_once(root):
    """Under many starts at once no directory is swept while its server lives."""

    def live(_):
        home = Home(None)
        home.open()  # it sweeps too
        whole = home.config.exists() and home.data.is_dir()
        home.close()
        return whole and not home.directory.exists()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(live, range(400)))
