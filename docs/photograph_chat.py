"""Write docs/chat.png: the demo after an alert and a killed Redis.

Run it when the chat page changes: ``.venv/bin/python docs/photograph_chat.py``.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from support.browser import Browser  # noqa: E402 - tests/ is not installed

MESSAGES = "document.querySelectorAll('#log > *').length"
LINE = "document.querySelector('#line').innerText"


async def main() -> None:
    """Start the demo, talk to its bot by the buttons of its page, photograph it."""
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "oddsbot", "demo", "--browser"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with Browser() as browser:
            await browser.size(900, 760)
            await browser.open(await _address(demo))
            for number, button in enumerate(("1", "2", "3"), 1):
                await browser.run(
                    "[...document.querySelectorAll('#panel button')].find("
                    f"(b) => b.innerText.startsWith('{button}')).click()"
                )
                await browser.until(f"{MESSAGES} >= {2 * number}", 40)
            await browser.run("document.querySelector('#panel .danger').click()")
            await browser.until(f"/[1-9]\\d* delivered.*killed/.test({LINE})", 90)
            await browser.screenshot(HERE / "chat.png")
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
