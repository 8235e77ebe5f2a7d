"""The private directory of a server, the locks that say it lives, and the sweep.

A lock is a flock on a directory. The server process inherits its descriptor, so the
lock is free exactly when both this process and the server are gone, however they went.
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


class Home:
    """Everything of one server on disk: its private directory and its data.

    The methods block, each for a few system calls; run them in a thread.

    Attributes:
        locks: Descriptors that the server process has to inherit.
        config: The configuration file.
        unix_socket: The path of the socket.
        data: The directory for the server's data.
    """

    def __init__(self, data_dir: str | os.PathLike[str] | None) -> None:
        self.locks: list[int] = []
        self._given = None if data_dir is None else Path(data_dir).absolute()
        self._directory: Path | None = None

    @property
    def directory(self) -> Path:
        """The private directory; `open` made it."""
        if self._directory is None:
            raise RuntimeError("the directory is not made yet")
        return self._directory

    @property
    def config(self) -> Path:
        return self.directory / _CONFIG

    @property
    def unix_socket(self) -> Path:
        return self.directory / "socket"

    @property
    def data(self) -> Path:
        return self._given or self.directory / "data"

    def open(self) -> None:
        """Sweep what dead servers left, make the directory, take the locks.

        Raises:
            EmbeddedFailed: A directory cannot be made or written.
        """
        root = _root()
        try:
            _sweep(root)
            self._directory, lock = _make_private(root)
            self.locks.append(lock)
            self.write_config("")  # at once: the sweep empties only what has one
            if self._given is None:
                self.data.mkdir(mode=0o700)
        except OSError as error:
            raise EmbeddedFailed(
                f"cannot make a directory in {root}: {error.strerror}; "
                "point TMPDIR at a writable one"
            ) from error

    def claim_data(self) -> bool:
        """Take the lock of the data directory, unless another server holds it.

        Returns:
            Whether this server has its data directory to itself now.

        Raises:
            EmbeddedFailed: The directory cannot be made, written or locked.
        """
        if self._given is None:
            return True
        lock = _claim(self._given)
        if lock is not None:
            self.locks.append(lock)
        return lock is not None

    def write_config(self, text: str) -> None:
        """Replace the configuration file, readable by this user only.

        Raises:
            EmbeddedFailed: It cannot be written: no space is left, as a rule.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            with os.fdopen(
                os.open(self.config, flags, 0o600), "w", encoding="ascii"
            ) as file:
                file.write(text)
        except OSError as error:
            raise EmbeddedFailed(
                f"cannot write {self.config}: {error.strerror}; make room there, or "
                "point TMPDIR elsewhere"
            ) from error

    def close(self) -> None:
        """Remove the private directory and let go of the locks; may be repeated."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
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
        # A sweep may find the directory before it is locked. Then it is locked by the
        # sweep, or gone: either way leave it to the sweep and make another.
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
                # Without our file in it the directory may be somebody's data with an
                # unlucky name: rmdir removes it only when it is empty.
                if (directory / _CONFIG).is_file():
                    shutil.rmtree(directory, ignore_errors=True)
                else:
                    directory.rmdir()
            finally:
                os.close(lock)


def _claim(data_dir: Path) -> int | None:
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
    """Take the lock of a directory: a descriptor, or None when somebody holds it."""
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
