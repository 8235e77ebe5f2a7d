"""``python -m oddswire.cli``: the command where no script is on PATH."""

from __future__ import annotations

from oddswire.cli import main

if __name__ == "__main__":
    main()
