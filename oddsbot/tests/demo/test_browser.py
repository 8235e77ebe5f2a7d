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
from support.hooks import limit

ADA = 1001
LIVE = "document.documentElement.dataset.live === 'yes'"
LOG = "document.querySelector('#log').textContent"
LINE = "document.querySelector('#line').textContent"


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine needs half a minute to start a courier again."""
    limit(monkeypatch, "alert is lost", 150.0)


@asynccontextmanager
async def demo(speed=10.0, **options):
    """Run the demo; give its scene, and check at its end that nothing was lost."""
    stop, scenes = asyncio.Event(), asyncio.Queue()
    settings = Settings.from_env({"ODDSWIRE_PROFILE": "test"}, dotenv=None)
    asked = Options(recording=sample(), speed=speed, **options)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(
            show(asked, settings, stop=stop, opened=scenes.put_nowait)
        )
        yield await scenes.get()
        stop.set()
    account = await running
    assert account.problems == ()


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


async def press(tab, selector) -> None:
    """Press a button once it is there."""
    try:
        await tab.until(f"!!document.querySelector({selector!r})", 60)
    except AssertionError:
        shown = f"{await tab.run(LINE)} {await tab.run(LOG)}"
        raise AssertionError(f"no {selector}: {shown}") from None
    await tab.run(f"document.querySelector({selector!r}).click()")


async def play_tour(tab, scene) -> None:
    """Do the six steps by the tour's own buttons, the kill of Redis among them."""
    await tab.open(scene.api.page_url())
    await tab.until(LIVE)
    # A visitor who does nothing sees the demo begin: the first two steps.
    await shows(tab, "No wallet of yours", "Bitcoin Up or Down")
    for button in ("/alert", "kill"):
        await press(tab, f'#tour .success[value*="{button}"]')
    await shows(tab, "I tell you when", "▲ Up reached")
    await tab.until(
        "/tour again/.test(document.querySelector('#tour').textContent)", 90
    )
    await tab.until(f"/[1-9] due, [1-9].* 0 lost.*killed 1/.test({LINE})", 60)
    for script in (CONTRAST, UNNAMED, SMALL):
        assert await tab.run(script) == []
    assert await tab.run(WIDE) <= 0
    assert scene.kills == 1


@pytest.mark.integration
@pytest.mark.requirement("B5", "B10")
@pytest.mark.system("chromium", package="chromium")
@pytest.mark.timeout(480)
async def test_the_tour_at_a_desk_ends_with_the_alert_after_a_killed_redis(tmp_path):
    """Its six steps in light; all of it can be read, has a name and fits."""
    async with demo(speed=10.0) as scene, Browser() as tab:
        await tab.size(1280, 800)
        await play_tour(tab, scene)
        await tab.screenshot(tmp_path / "demo-1280.png")
        assert tab.errors == []


@pytest.mark.integration
@pytest.mark.requirement("B5", "B10")
@pytest.mark.system("chromium", package="chromium")
@pytest.mark.timeout(480)
async def test_after_the_tour_on_a_phone_nothing_that_breaks_costs_an_alert(tmp_path):
    """In the dark: the tour; then an emptied Redis, silence, an erasure.

    Her conversation ends meanwhile, and the alert comes all the same.
    """
    async with demo(speed=6.0, session_ttl=20.0) as scene, Browser() as tab:
        await tab.size(390, 844, dark=True)
        await play_tour(tab, scene)
        await tab.screenshot(tmp_path / "demo-390.png")
        await press(tab, '#acts [value="act:empty"]')
        talking = "document.querySelector('#figure-sessions').textContent"
        await tab.until(f"{talking}.includes(', 0 talking')", 60)
        before = (await scene.account()).delivered
        await eventually_more(scene, before)
        await say(tab, "/erase")
        # An alert may have come after the question: its button stops, and erases not.
        erase = "[...document.querySelectorAll('#log .keys .danger')].findLast("
        erase += "(button) => button.textContent === 'Delete everything')"
        await tab.until(f"!!({erase})", 60)
        await tab.run(f"{erase}.click()")
        await shows(tab, "nothing is left")
        await tab.until(f"/ 0 lost/.test({LINE})")
        assert tab.errors == []


async def waited(scene) -> bool:
    """Say whether nothing is on its way any more."""
    return not (await scene.account()).waiting


async def eventually_more(scene, before) -> None:
    """Wait until one more alert came."""

    async def more():
        return (await scene.account()).delivered > before

    await eventually(more, within=180)


@pytest.mark.integration
@pytest.mark.requirement("B5", "B4")
@pytest.mark.timeout(480)
async def test_whatever_a_visitor_breaks_no_alert_is_lost():
    """Each button is pressed while alerts are due; what was due is there at the end."""
    async with demo(speed=6.0) as scene:
        world = scene.api.world
        world.say(ADA, "https://polymarket.com/event/btc-updown-15m-1790597700")
        for level in (40, 43, 46, 49, 52, 55, 58):
            world.say(ADA, f"/alert up > {level}")
            world.say(ADA, f"/alert up < {level}")
        await eventually_more(scene, 0)
        for act in (
            *(scene.kill_courier, scene.flood, scene.kill, scene.empty, scene.cut),
            *(scene.kill_courier, scene.freeze),
        ):
            act()
            # The recording goes on: something is due while it is broken.
            await scene.played(40.0)
        await eventually(lambda: waited(scene), within=180)
        account = await scene.account()
        assert account.due > 0
        assert account.p50 is not None


@pytest.mark.integration
@pytest.mark.requirement("B5")
@pytest.mark.timeout(360)
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
