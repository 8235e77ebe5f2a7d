"""Write docs/demo.svg: the demo's terminal, half way through its recording.

Run it when the view changes: ``.venv/bin/python docs/draw_demo.py``.
"""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from oddsbot.demo import Options
from oddsbot.demo.run import run
from oddsbot.demo.view import View
from oddsbot.standin.polymarket import sample
from oddswire import Settings

if TYPE_CHECKING:
    from oddsbot.demo.stage import Stage

HERE = Path(__file__).parent


async def main() -> None:
    """Play 10 s at speed 120 and draw what a person would see then."""
    view = View(Console(file=io.StringIO()))
    picture = Console(record=True, file=io.StringIO(), width=106)

    async def show(stage: Stage) -> None:
        try:
            await view.show(stage)
        finally:
            picture.print(view.draw(stage))

    await run(
        Options(recording=sample(), seconds=9.0, speed=120.0),
        Settings(),
        stop=asyncio.Event(),
        write=view.write,
        view=show,
    )
    svg = picture.export_svg(title="make demo")
    # Rich's template fetches its font from elsewhere; a picture should fetch nothing.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (HERE / "demo.svg").write_text(svg + "\n")


asyncio.run(main())
