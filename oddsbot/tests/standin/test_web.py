from __future__ import annotations

import asyncio
import re

import pytest

from oddsbot.standin.telegram import BotApi
from oddswire.errors import SettingsError
from support import eventually

ADA = 1001
SECRET = re.compile(r'name="secret" value="([^"]+)"')


async def opened(api, http):
    """Open the page as a browser does; return what its forms carry."""
    async with http.get(api.page_url()) as page:
        assert page.status == 200
        return SECRET.search(await page.text())[1]


@pytest.mark.basic
@pytest.mark.requirement("B10")
async def test_a_person_writes_and_presses_by_forms_alone(api, http, call):
    """Without JavaScript a form comes back as the page with the new message."""
    secret = await opened(api, http)
    form = {"secret": secret, "as": ADA, "chat": ADA, "do": "say", "text": "hi\r\nyou"}
    async with http.post(f"{api.url}/act", data=form) as page:
        assert "hi\nyou" in await page.text()
    keyboard = {"inline_keyboard": [[{"text": "go", "callback_data": "go"}]]}
    await call("sendMessage", chat_id=ADA, text="x", reply_markup=keyboard)
    async with http.post(f"{api.url}/act", data=form | {"do": "press:2:0:0"}) as page:
        assert page.status == 200
    assert len(api.world.queries) == 1
    for do in ("press:2:9:9", "press:x", "nothing", "act:nothing"):
        async with http.post(f"{api.url}/act", data=form | {"do": do}) as page:
            assert page.status == 400


@pytest.mark.errors
@pytest.mark.requirement("B10", "X4")
async def test_the_page_opens_once_and_by_its_cookie_after_that(api, http):
    """The printed address is good once; the cookie is HttpOnly and SameSite=Strict."""
    url = api.page_url()
    async with http.get(url, allow_redirects=False) as response:
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
    async with http.get(url) as again:
        assert again.status == 403
    http.cookie_jar.clear()
    for path in ("/", "/events", "/photo/x", "/control/sent", "/open/x"):
        async with http.get(api.url + path) as response:
            assert response.status == 403
    async with http.post(f"{api.url}/act", data={"do": "say:x"}) as response:
        assert response.status == 403
    for path in ("/assets/../server.py", "/assets/server.py", "/assets/"):
        async with http.get(api.url + path) as response:
            assert response.status in {403, 404}


@pytest.mark.errors
@pytest.mark.requirement("B10", "X4")
async def test_another_page_reaches_nothing(api, http):
    """Host, Origin, and a form without the page's own secret are refused."""
    secret = await opened(api, http)
    form = {"secret": secret, "as": ADA, "chat": ADA, "do": "say", "text": "x"}
    evil = {"Origin": "http://evil.example"}
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        (evil, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ):
        async with http.post(f"{api.url}/act", data=form, headers=headers) as response:
            assert response.status == status
        async with http.get(f"{api.url}/events", headers=headers) as response:
            assert response.status == status
        url = f"{api.url}/bot{api.token}/getMe"
        async with http.get(url, headers=headers) as response:
            assert response.status == status
    async with http.post(f"{api.url}/act", data=form | {"secret": "x"}) as response:
        assert response.status == 403
    assert not api.world.rooms[ADA].messages
    with pytest.raises(SettingsError):
        BotApi(lambda: 0.0, host="0.0.0.0")
    with pytest.raises(ValueError, match="token"):
        BotApi(lambda: 0.0, token="none")


@pytest.mark.errors
@pytest.mark.requirement("B10", "X4")
async def test_a_page_loads_nothing_from_elsewhere(api, http, call):
    """A strict policy, no remote address, every text from outside escaped."""
    secret = await opened(api, http)
    assert secret
    hostile = "<script>alert(1)</script> javascript:alert(1) \u202e"
    keyboard = {"inline_keyboard": [[{"text": '"><img src=x>', "callback_data": "x"}]]}
    await call("sendMessage", chat_id=ADA, text=hostile, reply_markup=keyboard)
    async with http.get(f"{api.url}/") as page:
        policy = page.headers["Content-Security-Policy"]
        text = await page.text()
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Referrer-Policy"] == "same-origin"
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)


@pytest.mark.errors
@pytest.mark.requirement("B10", "X4")
async def test_a_stream_that_nobody_reads_holds_up_no_bot(api, http, call):
    """Thousands of messages pass while a page takes nothing; streams are bounded."""
    await opened(api, http)
    lazy = await http.get(f"{api.url}/events")
    text = "x" * 4000
    for _ in range(300):
        await call("sendMessage", chat_id=ADA, text=text)
    assert len(api.world.sent) == 300
    streams = [await http.get(f"{api.url}/events") for _ in range(31)]
    async with http.get(f"{api.url}/events") as refused:
        assert refused.status == 503
    for stream in (lazy, *streams):
        stream.close()


@pytest.mark.basic
@pytest.mark.requirement("B10")
async def test_a_stream_says_what_changes_and_ends_with_the_stand_in(clock, http):
    """New messages, and answers to presses of this person only."""
    async with BotApi(clock, limits=None) as api:
        await opened(api, http)
        stream = await http.get(f"{api.url}/events?as={ADA}")
        seen = []

        async def read():
            async for line in stream.content:
                name, _, value = line.decode().strip().partition(": ")
                seen.extend([value] * (name == "event"))

        reading = asyncio.Task(read())
        await eventually(lambda: seen == ["all"])
        api.world.say(ADA, "x")
        await eventually(lambda: seen[1:] == ["message"])
        api.world.show(ADA, "answer", {"text": "no", "alert": False, "to": 1002})
        api.world.show(ADA, "answer", {"text": "yes", "alert": False, "to": ADA})
        await eventually(lambda: seen[2:] == ["answer"])
    await reading


@pytest.mark.basic
@pytest.mark.requirement("B10")
async def test_a_program_plans_faults_and_counts_messages(api, http, call):
    """The control token opens what a test in another process needs."""
    headers = {"Authorization": f"Bearer {api.control_token}"}
    faults = {
        "planned": [{"kind": "refused", "method": "sendMessage"}],
        "repeat": True,
    }
    url = f"{api.url}/control/faults"
    async with http.post(url, json=faults, headers=headers) as response:
        assert response.status == 200
    assert api.faults.repeat
    answers = [await call("sendMessage", chat_id=ADA, text="x") for _ in range(2)]
    assert [each["ok"] for each in answers] == [False, True]
    async with http.get(f"{api.url}/control/sent", headers=headers) as response:
        counted = await response.json()
    assert [each["text"] for each in counted["sent"]] == ["x"]
    assert counted["calls"] == {"sendMessage": 2}
    for wrong in ({"planned": [{"kind": "other"}]}, {"x": 1}, []):
        async with http.post(url, json=wrong, headers=headers) as response:
            assert response.status == 400
