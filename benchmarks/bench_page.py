"""The demo's page in Chromium while the bot judges 5,000 made prices a second.

Prints when the page first painted, how many prices the bot judged, and the long
tasks of the page by the browser's own timing: ``python benchmarks/bench_page.py``.
"""

# ruff: noqa: T201 - a command talks

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from oddsbot.demo import Options
from oddsbot.demo.browser import show
from oddsbot.settings import Settings
from support.browser import Browser

RATE = 5_000
SECONDS = 60
WATCHED = 20.0
START = 1_790_000_000_000
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
OBSERVE = """window.slow = []; new PerformanceObserver((list) => {
  for (const each of list.getEntries()) window.slow.push(each.duration);
}).observe({ type: "longtask" }); true"""
TICKS = "document.querySelector('#figure-ticks').textContent"
TEXT = "document.querySelector('#log').textContent"
ASK = "document.querySelector('#panel [value^=\"say:http\"]').click()"


def made(folder: Path) -> Path:
    """Write a recording of one market whose price walks `RATE` times a second."""
    rng = random.Random(7)  # noqa: S311 - no secret
    bid = 500
    lines = []
    for number in range(RATE * SECONDS):
        bid = min(900, max(100, bid + rng.choice((-1, 1))))
        lines.append(
            json.dumps(
                {
                    "ts": START + number * 1000 // RATE,
                    "market_id": "0xmade",
                    "side": "UP",
                    "bids": [[bid / 1000, 10.0]],
                    "asks": [[(bid + 10) / 1000, 10.0]],
                }
            )
        )
    path = folder / "made.books.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode(), 1))
    market = {
        "market_id": "0xmade",
        "slug": "made",
        "question": "Made for a measurement?",
        "start_ts": START,
        "end_ts": START + SECONDS * 1000,
        "outcome_up": "Up",
        "outcome_down": "Down",
        "payout_up": 1.0,
        "payout_down": 0.0,
    }
    path.with_name("made.markets.json").write_text(json.dumps([market]))
    return path


async def measure(recording: Path) -> None:
    """Run the demo, open its page, ask for an alert, and watch."""
    stop, scenes = asyncio.Event(), asyncio.Queue()
    settings = Settings.from_env({"ODDSWIRE_PROFILE": "test"}, dotenv=None)
    options = Options(recording=recording, speed=1.0)
    async with asyncio.TaskGroup() as tasks, Browser() as tab:
        running = tasks.create_task(
            show(options, settings, stop=stop, opened=scenes.put_nowait)
        )
        scene = await scenes.get()
        await tab.size(1280, 800)
        await tab.open(scene.api.page_url())
        await tab.until(PAINT)
        print(f"first paint after {await tab.run(PAINT):.0f} ms")
        await tab.run(ASK)
        await tab.until(f"/Made for a measurement/.test({TEXT})", 30)
        world = scene.api.world
        world.say(next(iter(world.people)), "/alert up > 95")
        await tab.until(f"/I tell you when/.test({TEXT})", 30)
        await tab.run(OBSERVE)
        seen = []
        for _ in range(int(WATCHED)):
            await asyncio.sleep(1.0)
            seen.append(await tab.run(TICKS))
        slow = await tab.run("window.slow")
        print(f"prices that the bot judged: {', '.join(seen[3:])}")
        print(
            f"long tasks of the page in {WATCHED:.0f} s: {len(slow)} above 50 ms"
            + (f", the longest {max(slow):.0f} ms" if slow else "")
        )
        stop.set()
    account = await running
    print(f"lost {account.lost}, wrong {account.wrong}")


def main() -> None:
    """Measure, and say how busy the machine was."""
    print(f"load before: {os.getloadavg()[0]:.1f}, cores: {os.cpu_count()}")
    with tempfile.TemporaryDirectory(prefix="oddsbot-") as folder:
        asyncio.run(measure(made(Path(folder))))


if __name__ == "__main__":
    main()
