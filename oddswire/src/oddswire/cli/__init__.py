"""The `oddswire` command: `doctor`, `stats`, `acl`."""

from __future__ import annotations

import sys
from itertools import pairwise

_BAD_INPUT = 2


def main() -> None:
    """Run the command line; without the extra `cli`, say how to install it."""
    for before, word in pairwise(sys.argv):
        # The parser would print a word that it does not expect, with its password.
        if "://" in word and before != "--url" and not word.startswith("--url="):
            _refuse("give a URL as --url URL, or better as REDIS_URL")
    try:
        import typer  # noqa: F401, PLC0415 - it is an extra
    except ModuleNotFoundError:
        _refuse("the command needs its extra: pip install 'oddswire[cli]'")
    from oddswire.cli._app import app  # noqa: PLC0415 - it needs the extra

    app()


def _refuse(problem: str) -> None:
    sys.stderr.write(f"oddswire: {problem}\n")
    sys.exit(_BAD_INPUT)
