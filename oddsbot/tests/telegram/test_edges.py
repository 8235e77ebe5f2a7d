"""What Telegram sends, whatever it is; and a replica that has it or has not."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.telegram.api import ApiError, TelegramAway, UpdatesApi
from oddsbot.telegram.updates import BadUpdate, Poller, Replicas, UpdateQueue
from oddswire import Client, EmbeddedServer
from oddswire.clock import SystemClock
from oddswire.locks import Locks
from oddswire.ratelimit import Rule, SlidingWindow
from support import eventually

TOKEN = "42:canary"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)
ANSWERS = st.fixed_dictionaries(
    {"ok": st.booleans()},
    optional={"result": JSON, "description": st.text(), "parameters": JSON},
)
UPDATES = st.dictionaries(
    st.sampled_from(["update_id", "message", "callback_query", "from", "chat", "id"]),
    JSON | st.fixed_dictionaries({"from": JSON, "chat": JSON, "message": JSON}),
)


class Body:
    """The content of an answer, as aiohttp reads it."""

    def __init__(self, data) -> None:
        self._data = data

    async def read(self, most) -> bytes:
        """Return the next bytes."""
        taken, self._data = self._data[:most], self._data[most:]
        return taken

    def at_eof(self) -> bool:
        """Return whether there are no more."""
        return not self._data


class Http:
    """Answers each call with what a function makes of it."""

    def __init__(self, answer) -> None:
        self._answer = answer

    @asynccontextmanager
    async def post(self, _, **options):
        """Return an answer."""
        self.status, data = self._answer(options["json"])
        self.content = Body(data)
        yield self


@pytest.mark.errors
@pytest.mark.requirement("X1")
@given(
    st.sampled_from([200, 302, 400, 401, 404, 409, 429, 500, 502]),
    st.binary() | ANSWERS.map(lambda each: json.dumps(each).encode()),
)
async def test_any_answer_of_telegram_is_updates_or_a_typed_error(status, body):
    """Whatever it answers: texts, or one of three errors that do not say the token."""
    api = UpdatesApi(Http(lambda _: (status, body)), "https://e.x", TOKEN, wait=0)
    said = ""
    try:
        updates = await api.get_updates(0)
    except (ApiError, TelegramAway) as error:
        said = str(error)
    else:
        assert all(isinstance(each, str) for each in updates)
    assert "canary" not in said


@pytest.mark.errors
@pytest.mark.requirement("X1")
async def test_an_answer_that_is_too_large_is_asked_for_in_parts():
    """100 updates of 100 kB are 10 MB: ten at a time fit; one that never fits waits."""
    asked = []

    def answer(options):
        asked.append(options["limit"])
        update = {"update_id": 1, "message": {"text": "x" * 100_000}}
        body = {"ok": True, "result": [update] * options["limit"]}
        return 200, json.dumps(body).encode()

    api = UpdatesApi(Http(answer), "https://e.x", TOKEN, wait=0)
    assert len(await api.get_updates(0)) == 10
    assert asked == [100, 10]
    api = UpdatesApi(Http(lambda _: (200, b" " * 9_000_000)), "https://e.x", TOKEN)
    with pytest.raises(TelegramAway, match="too large"):
        await api.get_updates(0)


class Nowhere:
    """A queue, its client, a limiter and a bot that take everything."""

    id = 42

    def __init__(self) -> None:
        self.client = self
        self.lines = []

    def add(self, *_) -> None:
        """Take rules."""

    async def hit(self, *_, **__) -> bool:
        """Admit."""
        return True

    async def set(self, *_, **__) -> None:
        """Keep."""

    async def enqueue(self, line, *_, dedup_id) -> None:
        """Queue."""
        self.lines.append((line, dedup_id))


@pytest.mark.errors
@pytest.mark.requirement("X1")
@given(st.lists(st.binary() | UPDATES.map(json.dumps) | JSON.map(json.dumps)))
async def test_any_body_is_queued_by_its_person_or_refused(bodies):
    """Of a webhook or a poll: a number and a line of 64 bits, or that it is none."""
    nowhere = Nowhere()
    rules = [Rule("commands", SlidingWindow(20, 60.0), key="user")]
    updates = UpdateQueue(
        nowhere, None, nowhere, nowhere, rules, "test:", SystemClock()
    )
    for body in bodies:
        text = body if isinstance(body, str) else body.decode("utf-8", "replace")
        try:
            assert 0 <= await updates.put(text) < 2**63
        except BadUpdate:
            continue
    assert all(0 <= line < 2**63 for line, _ in nowhere.lines)
    queued = len(nowhere.lines)
    last = await updates.put_all([each for each in bodies if isinstance(each, str)])
    assert (last >= 0) == (queued > 0) or last == -1


class AfterAWeek:
    """Telegram after a week without updates, and what takes them: ids begin anew."""

    def __init__(self) -> None:
        self.waiting = [1_000, 5, 6]
        self.asked = []
        self.all_confirmed = asyncio.Event()

    async def get_updates(self, offset) -> list[str]:
        """Return the first that is not confirmed, whatever the offset was before."""
        self.asked.append(offset)
        if self.waiting and offset == self.waiting[0] + 1:
            del self.waiting[0]
        if not self.waiting or len(self.asked) > 10:
            self.all_confirmed.set()
            await asyncio.sleep(60)
        return [json.dumps({"update_id": self.waiting[0]})]

    async def put_all(self, bodies) -> int:
        """Take them."""
        return max(json.loads(body)["update_id"] for body in bodies)

    async def wait(self) -> None:
        """Have no replica."""


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_ids_that_begin_anew_are_confirmed(client, prefix):
    """After a quiet week the next id may be lower: it comes once, not for ever."""
    telegram = AfterAWeek()
    locks = Locks(client, prefix=prefix)
    poller = Poller(telegram, telegram, telegram, locks, SystemClock())
    async with asyncio.TaskGroup() as tasks:
        polling = tasks.create_task(poller.run())
        await telegram.all_confirmed.wait()
        polling.cancel()
    assert telegram.asked == [0, 1_001, 6, 7]


@pytest.mark.integration
@pytest.mark.requirement("B6")
async def test_a_replica_has_what_is_confirmed_or_a_line_says_that_not(caplog):
    """Its acknowledgement is waited for; one that stands still is said, and passed."""
    async with (
        EmbeddedServer() as primary,
        EmbeddedServer() as replica,
        Client.from_url(primary.url) as client,
        Client.from_url(replica.url) as copy,
    ):
        await copy.config_set("masterauth", urlsplit(primary.url).password)
        await copy.replicaof(primary.host, primary.port)

        async def linked():
            return (await copy.info("replication"))["master_link_status"] == "up"

        await eventually(linked)
        replicas = Replicas(client, SystemClock())
        await client.set("a", "1")
        await replicas.wait()
        assert await copy.get("a") == b"1"
        assert not caplog.records
        replica.kill(signal.SIGSTOP)
        await client.set("a", "2")
        await replicas.wait()
        assert "updates_unreplicated" in caplog.text
        replica.kill(signal.SIGCONT)
