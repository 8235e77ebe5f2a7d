"""Write docs/chat.png and docs/chat-phone.png: the demo after a killed Redis.

Run it when the page changes: ``.venv/bin/python docs/photograph_chat.py``.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from support.browser import Browser  # noqa: E402 - tests/ is not installed

BUTTON = "document.querySelector('#tour .success[value*=\"{}\"]')"
TOUR = "document.querySelector('#tour').innerText"
LINE = "document.querySelector('#line').innerText"


async def main() -> None:
    """Start the demo, take its tour by the buttons, photograph it at its end."""
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "oddsbot", "demo", "--browser"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with Browser() as browser:
            await browser.size(1280, 800)
            await browser.open(await _address(demo))
            for value in ("/alert", "kill"):
                await browser.until(f"!!{BUTTON.format(value)}", 90)
                await browser.run(f"{BUTTON.format(value)}.click()")
            await browser.until(f"/tour again/.test({TOUR})", 120)
            await browser.screenshot(HERE / "chat.png")
            await browser.size(390, 844, dark=True)
            await browser.screenshot(HERE / "chat-phone.png")
            print(await browser.run(LINE))
    finally:
        demo.terminate()
        await demo.wait()


async def _address(demo: asyncio.subprocess.Process) -> str:
    assert demo.stdout is not None  # noqa: S101 - it is a pipe
    async for line in demo.stdout:
        if found := re.search(rb"http://\S+", line):
            return found[0].decode()
    raise RuntimeError("the demo printed no address")


if __name__ == "__main__":
    asyncio.run(main())
