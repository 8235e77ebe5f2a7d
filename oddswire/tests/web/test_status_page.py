from __future__ import annotations

import os
import signal

import pytest

from oddswire import Client
from oddswire.cache import Namespace
from oddswire.queue import QueueKey
from oddswire.ratelimit import Rule, SlidingWindow
from support import eventually
from support.browser import CONTRAST, UNNAMED, WIDE, Browser
from support.status_site import serving

pytestmark = pytest.mark.system("chromium", package="chromium")

RULES = [
    Rule("commands", SlidingWindow(3, 60.0), key="user"),
    Rule("polymarket", SlidingWindow(500, 60.0)),
]
QUEUES = [QueueKey("alerts", dict), QueueKey("digests", dict)]
SENTENCE = "document.getElementById('sentence').innerText"
# Tables and lists whose headings a screen reader would not find.
UNTITLED = """[...document.querySelectorAll("table, section, svg")].filter((e) => !(
  e.caption || e.getAttribute("aria-label")
  || document.getElementById(e.getAttribute("aria-labelledby"))))
  .map((e) => e.outerHTML)"""

# Tables that do not fit where they stand.
CUT = """[...document.querySelectorAll("table")].filter(
  (e) => e.parentElement.scrollWidth > e.parentElement.clientWidth + 1)
  .map((e) => e.caption.textContent)"""


async def use(wire):
    """Give each part something to show."""
    for number in range(40):
        await wire.cache.get_or_set(f"market:{number % 7}", lambda _: 64)
        await wire.cache.get_or_set(f"book:{number}", lambda _: 64)
        await wire.limiter.hit("commands", user=number % 5)
        await wire.limiter.hit("polymarket")
    for user in range(12):
        await wire.queues[QUEUES[0]].enqueue(user, {})


@pytest.mark.integration
@pytest.mark.requirement("O1")
async def test_people_read_the_page_and_see_an_outage_come_and_go(own, tmp_path):
    """On a phone and a desk, light and dark: the page reads well and stays true."""
    namespaces = [Namespace(name="market"), Namespace(name="book")]
    async with (
        serving(
            url=own.url,
            rules=RULES,
            queues=QUEUES,
            namespaces=namespaces,
            interval=0.5,
        ) as site,
        Browser() as browser,
    ):
        await use(site.wire)
        await site.ready()
        await eventually(lambda: len(site.status.overview().latency) > 2)
        await eventually(lambda: site.status.overview().queues)
        for name, size, dark in (
            ("phone-light", (360, 780), False),
            ("phone-dark", (360, 780), True),
            ("desk-light", (1280, 900), False),
            ("desk-dark", (1280, 900), True),
        ):
            await browser.size(*size, dark=dark)
            await browser.open(f"{site.url}/status")
            assert await browser.run(WIDE) <= 0
            assert await browser.run(CUT) == []
            assert await browser.run(CONTRAST) == []
            await browser.screenshot(tmp_path / f"{name}.png")
        assert await browser.run(UNNAMED) == []
        assert await browser.run(UNTITLED) == []
        assert await browser.run("document.querySelectorAll('h1').length") == 1
        text = await browser.run("document.body.innerText")
        for words in ("Serving", "Limited most: commands", "market"):
            assert words in text

        # By keyboard: first the skip link, then what scrolls, and focus stays there.
        await browser.key("Tab", 9)
        assert await browser.run("document.activeElement.className") == "skip"
        await browser.key("Tab", 9)
        assert await browser.run("document.activeElement.className") == "scroll"

        os.kill(own.pid, signal.SIGSTOP)
        try:
            await browser.until(f"{SENTENCE}.includes('Redis does not answer')")
            assert "Failing" in await browser.run("document.title")
            assert await browser.run(CONTRAST) == []
            await browser.screenshot(tmp_path / "outage.png")
        finally:
            os.kill(own.pid, signal.SIGCONT)
        await browser.until(f"{SENTENCE}.includes('Serving')")
        async with Client.from_url(own.url) as admin:
            await admin.execute_command("CLIENT", "KILL", "TYPE", "normal")
        await browser.until(
            "document.getElementById('events').innerText.includes('lost')"
        )
        assert await browser.run("document.activeElement.className") == "scroll"
        assert browser.errors == []


@pytest.mark.errors
@pytest.mark.requirement("O1")
async def test_a_page_whose_process_is_gone_says_that_it_is_old(server, prefix):
    """A page that gets no answer any more says so, and does not go on looking well."""
    async with Browser() as browser:
        async with serving(url=server.url, prefix=prefix, interval=0.5) as site:
            await site.ready()
            await browser.size(1280, 900)
            await browser.open(f"{site.url}/status")
            assert await browser.run("document.getElementById('lost').hidden")
        await browser.until("!document.getElementById('lost').hidden")
