from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest
from aiohttp import web

from oddswire import Client
from oddswire.adapters.aiohttp import UpstreamLimits
from oddswire.errors import RateLimited, RuleError, SettingsError
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow

BOOKS = Rule("books", SlidingWindow(1000, 1.0))


class Upstream:
    """A server that answers 429 as often as it is told to.

    Attributes:
        refuse: The headers of the next 429s.
        paths: What was answered with 200.
        refused: How many got a 429.
    """

    def __init__(self):
        self.refuse = []
        self.paths = []
        self.refused = 0

    async def answer(self, request):
        """Answer a request."""
        if request.path == "/turn":
            raise web.HTTPFound("/books")
        if self.refuse:
            self.refused += 1
            return web.Response(status=429, headers=self.refuse.pop(0))
        self.paths.append(request.path)
        return web.Response(text="ok")


@pytest.fixture
async def upstream(serving):
    """A server to ask."""
    it = Upstream()
    async with serving(it.answer) as it.url:
        yield it


@pytest.fixture
async def asking(upstream, limiter):
    """Give `asking(pick, **options)`: a session for the upstream."""
    sessions = []

    def make(pick=lambda request: [BOOKS], limiter=limiter, **options):
        session = aiohttp.ClientSession(
            upstream.url, middlewares=[UpstreamLimits(limiter, pick, **options)]
        )
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        await session.close()


async def status(session, path="/books", method="GET"):
    """Ask, and return the status."""
    async with session.request(method, path) as response:
        return response.status


@pytest.mark.integration
@pytest.mark.requirement("R4")
async def test_each_address_has_the_limit_that_was_picked(asking, upstream):
    """Requests above a rule wait or raise; other addresses are not held up."""
    few = Rule("few", SlidingWindow(2, 60.0))

    def pick(request):
        return {"/books": [few, BOOKS], "/trades": [BOOKS]}.get(request.url.path, ())

    session = asking(pick, timeout=0.2)
    assert [await status(session) for _ in range(2)] == [200, 200]
    with pytest.raises(RateLimited) as caught:
        await status(session)
    assert caught.value.retry_after > 50
    assert await status(session, "/trades") == 200
    assert await status(session, "/") == 200
    assert upstream.paths == ["/books", "/books", "/trades", "/"]


@pytest.mark.integration
async def test_a_redirect_counts_where_it_leads(asking):
    """The rules are those of the address that is asked in the end."""
    session = asking(
        lambda request: [Rule(request.url.path[1:], SlidingWindow(1, 60.0))],
        timeout=0.0,
    )
    assert await status(session, "/turn") == 200
    with pytest.raises(RateLimited, match="books"):
        await status(session, "/books")


@pytest.mark.integration
@pytest.mark.requirement("R4")
async def test_after_a_429_every_process_waits(
    server, prefix, asking, upstream, worker
):
    """A real second process asks again only when the pause is over."""
    other = await worker("ask", server.url, prefix, upstream.url)
    assert await other.stdout.readline() == b"ready\n"
    session = asking()
    loop = asyncio.get_running_loop()
    began = loop.time()
    upstream.refuse.append({"Retry-After": "2"})
    assert await status(session) == 429

    assert await other.stdout.readline() == b"asked\n"
    assert loop.time() - began > 1.9
    assert upstream.refused == 1


@pytest.mark.advanced
async def test_by_choice_a_request_is_sent_again(asking, upstream):
    """A GET waits out the 429s; a POST, which may not be repeatable, is returned."""
    session = asking(retries=2)
    loop = asyncio.get_running_loop()
    began = loop.time()
    upstream.refuse += [{"Retry-After": "0.3"}, {"Retry-After": "0"}]
    assert await status(session) == 200
    assert loop.time() - began > 0.25
    upstream.refuse += [{"Retry-After": "0.1"}]
    assert await status(session, method="POST") == 429
    upstream.refuse += [{"Retry-After": "0.1"}] * 3
    assert await status(session) == 429


@pytest.mark.advanced
@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("7", 6, 7),
        ("2.5", 1.5, 2.5),
        ("99999999", 590, 600),
        ("", 1.5, 2),
        ("soon", 1.5, 2),
        ("-1", 1.5, 2),
        ("nan", 1.5, 2),
        ("date", 8, 10),
        ("past", -1, 0),
        ("0", -1, 0),
    ],
)
async def test_what_retry_after_says_is_obeyed(
    asking, upstream, limiter, text, low, high
):
    """Seconds and dates, by the upstream's clock; nonsense and none are our pause."""
    # An upstream whose clock is a year behind.
    now = datetime.now(UTC) - timedelta(days=365)  # noqa: TID251 - a server's header
    headers = {"Date": format_datetime(now, usegmt=True), "Retry-After": text}
    if text in ("date", "past"):
        at = now + timedelta(seconds=10 if text == "date" else -10)
        headers["Retry-After"] = format_datetime(at, usegmt=True)
    upstream.refuse.append(headers)
    assert await status(asking(pause=2.0)) == 429
    decision = await limiter.peek("books")
    assert low <= decision.retry_after <= high or decision.allowed == (high == 0)
    assert decision.allowed == (high == 0)


@pytest.mark.errors
async def test_without_redis_the_rules_decide_and_a_429_is_obeyed_here(
    own, asking, upstream
):
    """Redis killed: this process keeps to its local share and to its own pause."""
    async with Client.from_url(own.url) as client:
        await client.ping()
        async with RateLimiter(client, deadline=0.1) as limiter:
            session = asking(limiter=limiter)
            own.kill()
            assert await status(session) == 200
            loop = asyncio.get_running_loop()
            # The pause begins before the answer: that it is not shared takes a moment.
            began = loop.time()
            upstream.refuse.append({"Retry-After": "1"})
            assert await status(session) == 429
            assert await status(session) == 200
            assert loop.time() - began > 0.9


@pytest.mark.errors
async def test_mistakes_are_named(asking, limiter):
    """A rule that needs a subject, and numbers out of range."""
    with pytest.raises(RuleError):
        await status(asking(lambda _: [Rule("x", SlidingWindow(1, 1.0), key="user")]))
    for options in ({"pause": 0}, {"pause": 2.0, "longest": 1.0}, {"longest": 1e9}):
        with pytest.raises(SettingsError):
            UpstreamLimits(limiter, lambda _: [], **options)
