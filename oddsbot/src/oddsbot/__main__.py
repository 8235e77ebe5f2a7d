"""``python -m oddsbot``."""

from __future__ import annotations

from oddsbot.cli import main

if __name__ == "__main__":
    main()
