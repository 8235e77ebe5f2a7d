from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from oddswire import Client
from oddswire.adapters.asgi import RateLimits, address
from oddswire.errors import SettingsError
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow

RULE = Rule("client", SlidingWindow(3, 60.0), key="client")


async def application(scope, receive, send):
    """Say hello."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x", b"y")]})
        return
    assert scope["type"] == "http"
    headers = [(b"x-own", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


def browser(app, ip="1.2.3.4"):
    """Return an HTTP client of an application, at an address."""
    transport = httpx.ASGITransport(app, client=(ip, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.basic
@pytest.mark.requirement("R4")
async def test_who_asks_too_often_gets_429_and_when_to_come_back(limiter):
    """Others are served, and every answer says where one stands."""
    app = RateLimits(application, limiter, RULE)
    async with browser(app) as client, browser(app, "1.2.3.5") as other:
        answers = [await client.get("/") for _ in range(4)]
        assert [each.status_code for each in answers] == [200, 200, 200, 429]
        assert answers[0].headers["RateLimit-Policy"] == '"client";q=3;w=60'
        assert answers[0].headers["RateLimit"].startswith('"client";r=2;t=')
        assert answers[0].headers["X-Own"] == "1"
        assert answers[0].text == "hello"
        assert 57 <= int(answers[3].headers["Retry-After"]) <= 63
        assert answers[3].headers["Content-Type"] == "application/problem+json"
        assert json.loads(answers[3].text)["status"] == 429
        assert (await other.get("/")).status_code == 200


@pytest.mark.basic
async def test_the_answer_to_head_has_no_body(limiter):
    """Its headers are those of the answer to GET."""
    app = RateLimits(application, limiter, Rule("one", SlidingWindow(1, 60.0)))
    async with browser(app) as client:
        await client.get("/")
        full, head = await client.get("/"), await client.head("/")
    assert head.status_code == full.status_code == 429
    assert head.content == b""
    assert head.headers["Content-Length"] == str(len(full.content))


@pytest.mark.advanced
@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_who_asks_is_the_address_or_its_network(host, key):
    """Whoever has one address of an IPv6 network has all of them."""
    assert address({"client": (host, 1)}) == key


@pytest.mark.basic
def test_a_connection_without_address_is_local():
    """A Unix socket has no address."""
    assert address({"client": None}) == address({}) == "local"


async def websocket(app, scope):
    """Open a websocket, and return what was sent to it."""
    sent = []
    received = iter([{"type": "websocket.connect"}])

    async def receive():
        return next(received)

    async def send(message):
        sent.append(message)

    await app({"type": "websocket", "client": ("1.1.1.1", 1), **scope}, receive, send)
    return sent


@pytest.mark.advanced
async def test_websockets_are_limited_when_they_open(limiter):
    """Above the limit it is closed before it is accepted."""
    app = RateLimits(application, limiter, Rule("one", SlidingWindow(1, 60.0)))
    (first,) = await websocket(app, {})
    (second,) = await websocket(app, {})
    assert first["type"] == "websocket.accept"
    assert [name for name, _ in first["headers"]] == [
        b"x",
        b"ratelimit-policy",
        b"ratelimit",
    ]
    assert second == {"type": "websocket.close", "code": 1013}


@pytest.mark.basic
async def test_lifespan_and_those_without_a_key_pass(limiter):
    """The startup of an application is no request; None means: not limited."""
    seen = []

    async def note(scope, receive, send):
        seen.append(scope["type"])

    rule = Rule("one", SlidingWindow(1, 60.0))
    app = RateLimits(note, limiter, rule, client=lambda _: None)
    for kind in ("lifespan", "http", "http"):
        await app({"type": kind}, None, None)
    assert seen == ["lifespan", "http", "http"]


@pytest.mark.integration
async def test_two_processes_worth_of_applications_share_a_limit(
    server, limiter, prefix
):
    """Replicas with connections of their own admit together what one may."""
    async with (
        Client.from_url(server.url) as other,
        RateLimiter(other, prefix=prefix, deadline=2.0) as far,
    ):
        apps = [RateLimits(application, each, RULE) for each in (limiter, far)]
        async with browser(apps[0]) as one, browser(apps[1]) as two:
            answers = await asyncio.gather(
                *(each.get("/") for each in (one, two) for _ in range(10))
            )
    assert sorted(each.status_code for each in answers) == [200] * 3 + [429] * 17


@pytest.mark.errors
@pytest.mark.parametrize(("on_error", "status"), [("open", 200), ("closed", 429)])
async def test_without_redis_the_rule_decides(own, on_error, status):
    """Redis killed: requests pass or are refused, as the rule says, and none fails."""
    rule = Rule("one", SlidingWindow(1, 60.0), on_error=on_error)
    async with Client.from_url(own.url) as client:
        await client.ping()
        async with (
            RateLimiter(client, deadline=0.1) as limiter,
            browser(RateLimits(application, limiter, rule)) as web,
        ):
            own.kill()
            assert {(await web.get("/")).status_code for _ in range(3)} == {status}


@pytest.mark.errors
def test_mistakes_are_named(limiter):
    """No rule, or one that counts by what is not there."""
    with pytest.raises(SettingsError, match="a rule"):
        RateLimits(application, limiter)
    with pytest.raises(SettingsError, match="client"):
        RateLimits(application, limiter, Rule("u", SlidingWindow(1, 1.0), key="user"))
