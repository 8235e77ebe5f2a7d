from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from oddsbot.demo import Options
from oddsbot.demo.browser import show
from oddsbot.settings import Settings
from oddsbot.standin.polymarket import sample
from support import eventually
from support.browser import CONTRAST, SMALL, UNNAMED, WIDE, Browser

ADA = 1001
LIVE = "document.documentElement.dataset.live === 'yes'"
LOG = "document.querySelector('#log').textContent"
LINE = "document.querySelector('#line').textContent"


@asynccontextmanager
async def demo(speed=10.0, *, cluster=False):
    """Run the demo; give its scene, and check at its end that nothing was lost."""
    stop, scenes = asyncio.Event(), asyncio.Queue()
    settings = Settings.from_env({"ODDSWIRE_PROFILE": "test"}, dotenv=None)
    options = Options(recording=sample(), speed=speed, cluster=cluster)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(
            show(options, settings, stop=stop, opened=scenes.put_nowait)
        )
        yield await scenes.get()
        stop.set()
    account = await running
    assert (account.lost, account.wrong) == (0, 0)


async def shows(tab, *texts) -> None:
    """Wait until the chat shows each of some patterns, wherever in it."""
    for text in texts:
        try:
            await tab.until(f"/{text}/.test({LOG})", 60)
        except AssertionError:
            raise AssertionError(f"no {text!r} in {await tab.run(LOG)}") from None


def last(world) -> str:
    """Return what the bot wrote last."""
    return world.sent[-1].text if world.sent else ""


async def say(tab, text) -> None:
    """Type a message and send it."""
    await tab.run("document.querySelector('#say').focus()")
    await tab.type(text)
    await tab.key("Enter", 13)


@pytest.mark.integration
@pytest.mark.requirement("B5", "B10")
@pytest.mark.system("chromium", package="chromium")
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("width", "height", "dark"), [(390, 844, True), (1280, 800, False)]
)
async def test_a_person_gets_her_alert_although_redis_was_killed(
    tmp_path, width, height, dark
):
    """From /start to a fired alert by typing and pressing; killing Redis loses none."""
    async with demo() as scene, Browser() as tab:
        await tab.size(width, height, dark=dark)
        await tab.open(scene.api.page_url())
        await tab.until(LIVE)
        await say(tab, "/start")
        await shows(tab, "No wallet of yours")
        await tab.run("document.querySelector('#panel [value^=\"say:http\"]').click()")
        await shows(tab, "Bitcoin Up or Down", "≥")
        await tab.run("document.querySelector('#log .success').click()")
        await shows(tab, "I tell you when")
        # The price goes to and fro over this one.
        await say(tab, "/alert down 50")
        await shows(tab, "Down reaches 50¢|Down falls to 50¢")
        await tab.run("document.querySelector('#panel [value=\"act:kill\"]').click()")
        await say(tab, "/alerts")
        await shows(tab, "2 alerts")
        await shows(tab, "[▲▼] (Up|Down) (reached|fell to)")
        await tab.until(f"/[1-9] due, [1-9].* 0 lost.*killed 1/.test({LINE})", 60)
        for script in (CONTRAST, UNNAMED, SMALL):
            assert await tab.run(script) == []
        assert await tab.run(WIDE) <= 0
        await tab.screenshot(tmp_path / f"demo-{width}.png")
        await say(tab, "/stop")
        await shows(tab, "Your 2 alerts are kept")
        assert tab.errors == []
    assert scene.kills == 1


@pytest.mark.integration
@pytest.mark.requirement("B5")
@pytest.mark.parametrize("cluster", [False, True], ids=["server", "cluster"])
async def test_everything_of_the_conversation_is_there_without_a_browser(cluster):
    """The same by the stand-in alone: undo, another price, a stop, a start again."""
    async with demo(speed=40.0, cluster=cluster) as scene:
        world = scene.api.world
        link = "https://polymarket.com/event/btc-updown-15m-1790597700"
        for text, answer in (
            ("/start", "No wallet of yours"),
            (link, "Bitcoin Up or Down"),
            ("/alert down > 99", "Down reaches 99¢"),
            ("/alert 101", "between 0 and 100"),
            ("/alert sideways > 5", "This market has: Up, Down."),
            ("/alert down > 99", "You have that alert already"),
            ("https://evil.example/event/x", "links of polymarket.com"),
            ("/alerts", "1 alert"),
        ):
            world.say(ADA, text)
            await eventually(lambda answer=answer: answer in last(world))
        # The last card has a button for its alert, and that one for its end.
        world.press(ADA, world.sent[-1].message, 0, 0)
        await eventually(lambda: last(world).startswith("Down ≥ 99¢"))
        alert = world.sent[-1].message
        for answer in ("that alert is gone", "gone already"):
            world.press(ADA, alert, 0, 0)
            await eventually(lambda answer=answer: answer in last(world))
