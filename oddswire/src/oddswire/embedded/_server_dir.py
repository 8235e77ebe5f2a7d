"""The private directory of a server, the locks that show that it lives, and the sweep.

A lock is a flock on a directory. The server process inherits its descriptor. Therefore
the lock is free exactly when this process and the server have both ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import sys
import tempfile
from pathlib import Path

if sys.platform != "win32":
    import fcntl

from oddswire.errors import EmbeddedFailed

_PREFIX = "oddswire-"
_NAME = re.compile(r"oddswire-[a-z0-9_]{8}")  # as mkdtemp makes them
_CONFIG = "oddswire.conf"
_SOCKET_PATH_MAX = 103  # bytes: macOS has 104 with the final NUL, Linux 108


class ServerDir:
    """Everything of one server on disk: its private directory and its data.

    The methods block, each for a few system calls; run them in a thread.

    Attributes:
        locks: Descriptors that the server process inherits.
        directory: The private directory. Like the paths below, `open` sets it.
        config: The configuration file.
        unix_socket: The path of the socket.
        data: The directory for the server's data.
    """

    directory: Path
    config: Path
    unix_socket: Path
    data: Path

    def __init__(self, data_dir: str | os.PathLike[str] | None) -> None:
        self.locks: list[int] = []
        self._given = None if data_dir is None else Path(data_dir).absolute()

    def open(self) -> None:
        """Sweep the directories of dead servers, make this one, and lock it.

        Raises:
            EmbeddedFailed: A directory cannot be made or written.
        """
        root = _root()
        try:
            _sweep(root)
            self.directory, lock = _make_private(root)
            self.locks.append(lock)
            self.config = self.directory / _CONFIG
            self.unix_socket = self.directory / "socket"
            self.data = self._given or self.directory / "data"
            # First the file: if this process dies here, the next sweep may remove a
            # directory with contents only because of it.
            self.write_config("")
            if self._given is None:
                self.data.mkdir(mode=0o700)
        except OSError as error:
            raise EmbeddedFailed(
                f"cannot make a directory in {root}: {error.strerror}; "
                "point TMPDIR at a writable one"
            ) from error

    def claim_data(self) -> bool:
        """Lock the data directory; return whether this server owns it now.

        Raises:
            EmbeddedFailed: The directory cannot be made, written or locked.
        """
        if self._given is None:
            return True
        lock = _lock_data(self._given)
        if lock is not None:
            self.locks.append(lock)
        return lock is not None

    def write_config(self, text: str) -> None:
        """Replace the configuration file, readable by this user only.

        Raises:
            EmbeddedFailed: It cannot be written; mostly no space is left.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            descriptor = os.open(self.config, flags, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            raise EmbeddedFailed(
                f"cannot write {self.config}: {error.strerror}; make room there, or "
                "point TMPDIR elsewhere"
            ) from error

    def close(self) -> None:
        """Remove the private directory, then release the locks; may be repeated."""
        if self.locks:
            shutil.rmtree(self.directory, ignore_errors=True)
        while self.locks:
            os.close(self.locks.pop())


def _root() -> Path:
    root = Path(tempfile.gettempdir())
    longest = root / f"{_PREFIX}12345678" / "socket"
    return root if len(os.fsencode(longest)) <= _SOCKET_PATH_MAX else Path("/tmp")  # noqa: S108 - the short one


def _make_private(root: Path) -> tuple[Path, int]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        lock = None
        # Another process may sweep the directory before this one locks it. Then the
        # sweep holds the lock, or has removed the directory: make another.
        with contextlib.suppress(FileNotFoundError):
            lock = _lock(directory)
            if lock is not None and os.path.samestat(os.fstat(lock), directory.stat()):
                return directory, lock
        if lock is not None:
            os.close(lock)


def _sweep(root: Path) -> None:
    with os.scandir(root) as entries:
        found = [entry for entry in entries if _NAME.fullmatch(entry.name)]
    for entry in found:
        with contextlib.suppress(OSError):  # another sweep was faster
            state = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
                continue
            directory = Path(entry.path)
            lock = _lock(directory)
            if lock is None:
                continue
            try:
                # Without our file the directory may be the data of somebody else, with
                # an unlucky name: rmdir removes it only when it is empty.
                if (directory / _CONFIG).is_file():
                    shutil.rmtree(directory, ignore_errors=True)
                else:
                    directory.rmdir()
            finally:
                os.close(lock)


def _lock_data(data_dir: Path) -> int | None:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
            return _lock(data_dir.resolve())
    except OSError as error:
        raise EmbeddedFailed(
            f"data directory {data_dir}: {error.strerror}; give a directory that "
            "this user can make and write"
        ) from error
    raise EmbeddedFailed(
        f"data directory {data_dir}: not writable by this user; "
        "change its owner, or give another one"
    )


def _lock(directory: Path) -> int | None:
    """Lock a directory; return the descriptor, None if another process holds it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
