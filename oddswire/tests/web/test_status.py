from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
from base64 import b64encode

import aiohttp
import pytest
from aiohttp import web

from oddswire.cache import Namespace
from oddswire.errors import SettingsError
from oddswire.health import Status as Verdicts
from oddswire.health import Verdict
from oddswire.queue import QueueKey
from oddswire.ratelimit import Rule, SlidingWindow
from oddswire.web.listener import Listener
from oddswire.web.status import Status
from support import eventually
from support.status_site import TOKEN, serving

PATHS = ("/livez", "/readyz", "/startupz", "/metrics", "/status.json", "/status")
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.integration
@pytest.mark.requirement("O1")
async def test_a_healthy_process_says_so_on_every_path(site):
    """Each path answers, in its own form, and the page says the same as the JSON."""
    for path in PATHS:
        status, body, _ = await site.get(path)
        assert (status, bool(body)) == (200, True)
    _, body, headers = await site.get("/readyz")
    assert headers["Content-Type"] == "application/health+json"
    ready = json.loads(body)
    assert ready["status"] == "pass"
    assert ready["checks"]["limiter"][0]["status"] == "pass"
    _, body, _ = await site.get("/status.json")
    seen = json.loads(body)
    assert seen["sentence"] == "Serving: every check passes."
    _, page, _ = await site.get("/status")
    assert seen["sentence"] in page


@pytest.mark.integration
@pytest.mark.requirement("O1")
async def test_a_process_lives_while_its_server_is_frozen_and_is_not_ready(own):
    """Liveness never asks Redis; readiness fails with it and comes back with it."""
    async with serving(url=own.url) as site:
        await site.ready()
        os.kill(own.pid, signal.SIGSTOP)
        try:
            await eventually(lambda: not site.status.overview().ready)
            assert (await site.get("/livez"))[0] == 200
            status, body, _ = await site.get("/readyz")
            assert (status, json.loads(body)["status"]) == (503, "fail")
            assert "Redis does not answer" in body
            # It could serve once: a start-up probe does not kill it.
            assert (await site.get("/startupz"))[0] == 200
            assert (await site.get("/metrics"))[0] == 200
        finally:
            os.kill(own.pid, signal.SIGCONT)
        await site.ready()
        assert (await site.get("/readyz"))[0] == 200


@pytest.mark.errors
@pytest.mark.requirement("O1")
async def test_a_process_without_a_first_look_is_alive_and_not_ready(server, prefix):
    """Before Redis was looked at, a process has not started, and says so."""
    async with serving(url=server.url, prefix=prefix) as site:
        fresh = Status(site.wire.metrics, site.wire.health)
        async with fresh.listener() as listener, aiohttp.ClientSession() as http:
            base = f"http://127.0.0.1:{listener.port}"
            for path, expected in (
                ("livez", 200),
                ("readyz", 503),
                ("startupz", 503),
                ("status", 200),
            ):
                async with http.get(f"{base}/{path}") as answer:
                    assert answer.status == expected
        assert fresh.overview().sentence == "Starting: Redis was not looked at yet."


@pytest.mark.integration
@pytest.mark.requirement("O1", "C9", "R6")
async def test_a_check_that_a_part_added_decides_about_readiness(site):
    """A part's check is in the report; failing, it keeps the process from serving."""
    state = {"status": Verdicts.PASS}
    site.wire.health.add(
        "feed",
        "without prices no alert fires",
        lambda: Verdict(status=state["status"], seen="seen"),
    )
    with pytest.raises(ValueError, match="already"):
        site.wire.health.add("role", "", lambda: None)
    await site.ready()
    state["status"] = Verdicts.FAIL
    await eventually(lambda: not site.status.overview().ready)
    assert site.status.overview().sentence == "Not ready: feed fails."
    state["status"] = Verdicts.WARN
    await eventually(lambda: site.status.overview().ready)
    assert site.status.overview().sentence == "Serving, with warnings: feed."


@pytest.mark.integration
@pytest.mark.requirement("X6")
async def test_without_the_token_only_up_or_down_is_told(server, prefix):
    """Health answers everybody in one word; everything else wants the token."""
    async with serving(url=server.url, prefix=prefix, token=TOKEN) as site:
        await site.ready()
        for path in ("/livez", "/readyz", "/startupz"):
            status, body, _ = await site.get(path)
            assert (status, json.loads(body)) == (200, {"status": "pass"})
        for path in ("/metrics", "/status.json", "/status", "/nothing"):
            status, body, headers = await site.get(path)
            assert (status, body) == (401, "401: a token\n")
            assert headers["WWW-Authenticate"].startswith("Basic ")
            # It is never read from the address, where logs and histories keep it.
            status, _, _ = await site.get(f"{path}?token={TOKEN}")
            assert status == 401
        for path in PATHS:
            assert (await site.get(path, **BEARER))[0] == 200
        assert "checks" in json.loads((await site.get("/readyz", **BEARER))[1])
        for _ in range(10):
            await site.get("/status", Authorization="Bearer wrong")
        assert (await site.get("/status", **BEARER))[0] == 429
        assert (await site.get("/livez", **BEARER))[0] == 200


@pytest.mark.errors
@pytest.mark.requirement("X6")
async def test_an_address_that_others_reach_wants_a_token(site):
    """Without a token the status listens on this machine alone."""
    with pytest.raises(SettingsError, match="set a token"):
        site.status.listener(host="0.0.0.0")
    Status(site.wire.metrics, site.wire.health, token=TOKEN).listener(host="0.0.0.0")
    with pytest.raises(SettingsError, match="openssl"):
        Status(site.wire.metrics, site.wire.health, token="short")


@pytest.mark.errors
@pytest.mark.requirement("X6")
@pytest.mark.parametrize("path", PATHS)
async def test_nothing_but_reading_is_answered(site, path):
    """GET and HEAD are answered; whatever would change something is refused."""
    assert (await site.get(path, method="HEAD"))[:2] == (200, "")
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        assert (await site.get(path, method=method))[0] == 405


@pytest.mark.errors
@pytest.mark.requirement("X6")
@pytest.mark.parametrize("path", PATHS)
async def test_no_path_answers_another_host_or_a_page_of_another_site(site, path):
    """DNS rebinding and a foreign page end before the route, whatever the path."""
    assert (await site.get(path, Host="evil.example"))[0] == 421
    assert (await site.get(path, Origin="https://evil.example"))[0] == 403
    assert (await site.get(path, **{"Sec-Fetch-Site": "cross-site"}))[0] == 403
    _, _, headers = await site.get(path, Origin=site.url)
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.integration
@pytest.mark.requirement("X6")
async def test_the_page_runs_its_own_style_and_script_and_loads_nothing(site):
    """The policy lets exactly the page's own style and script run."""
    _, page, headers = await site.get("/status")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.findall(r"""(?:href|src|action)=["'](?!#)|url\(|style=""", page)
    for path in PATHS:
        _, _, headers = await site.get(path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Server" not in headers


HOSTILE = '<b>\u202e"\n&{{7*7}}'


@pytest.mark.errors
@pytest.mark.requirement("X3", "X6")
async def test_no_secret_user_key_or_address_is_on_any_path(own):
    """Canaries in users, keys, values, errors and the URL appear on no path."""
    rules = [Rule("user", SlidingWindow(1, 60.0), key="user")]
    queue = QueueKey("alerts", dict)
    async with serving(
        url=own.url,
        rules=rules,
        queues=[queue],
        namespaces=[Namespace(name=HOSTILE)],
        token=TOKEN,
    ) as site:
        wire = site.wire
        await wire.client.set("canary-key", "canary-value")
        for _ in range(3):
            await wire.limiter.hit("user", user="canary-user")
        await wire.queues[queue].enqueue(424242424242, {"text": "canary-text"})
        await wire.cache.get_or_set(f"{HOSTILE}:canary-entry", lambda _: "canary-value")
        with pytest.raises(Exception, match="canary-error"):
            await wire.client.eval("return redis.error_reply('canary-error')", 0)
        own.kill()
        await eventually(lambda: site.status.overview().status == "fail")
        told = [await site.get(path, **BEARER) for path in PATHS]

    for status, body, headers in told:
        assert status in (200, 503)
        everything = f"{body} {headers}"
        for secret in ("canary", "424242424242", own.password, TOKEN, str(own.port)):
            assert secret not in everything
        assert "\u202e" not in body or "json" in headers["Content-Type"]
    page = told[-1][1]
    assert "&lt;b&gt;" in page
    assert "{{7*7}}" in page


@pytest.mark.integration
@pytest.mark.requirement("X6")
async def test_no_request_makes_the_process_ask_redis(server, prefix):
    """A hundred requests of any path are no command more."""
    async with serving(url=server.url, prefix=prefix, interval=60.0) as site:
        await site.ready()
        await eventually(lambda: site.wire.metrics.snapshot().sample)
        before = site.wire.client.stats()
        await asyncio.gather(*(site.get(path) for path in PATHS * 17))
        after = site.wire.client.stats()
    assert after.total == before.total


@pytest.mark.integration
@pytest.mark.requirement("O1")
async def test_it_is_mounted_in_the_application_of_a_service(site):
    """Under a path of a service's own application it answers the same."""
    main = web.Application()
    fresh = Status(site.wire.metrics, site.wire.health, token=TOKEN)
    main.add_subapp("/ops/", fresh.app)
    async with fresh, Listener(main) as listener, aiohttp.ClientSession() as http:
        base = f"http://127.0.0.1:{listener.port}/ops"

        async def status(path, **headers):
            async with http.get(f"{base}/{path}", headers=headers) as answer:
                return answer.status

        assert await status("livez") == 200
        assert await status("status") == 401
        assert await status("status", **BEARER) == 200
        assert await status("metrics", **BEARER) == 200
        assert await status("metrics", Host="evil.example") == 421


@pytest.mark.advanced
@pytest.mark.requirement("O1")
async def test_queues_limits_and_tiers_are_those_that_were_counted(server, prefix):
    """What the page shows of the parts is what was done with them."""
    rules = [
        Rule("calm", SlidingWindow(100, 60.0), key="user"),
        Rule("strict", SlidingWindow(1, 60.0), key="user"),
    ]
    queue = QueueKey("alerts", dict)
    async with serving(
        url=server.url, prefix=prefix, rules=rules, queues=[queue]
    ) as site:
        wire = site.wire
        for _ in range(4):
            await wire.limiter.hit("calm", user=1)
            await wire.limiter.hit("strict", user=1)
            await wire.cache.get_or_set("market:1", lambda _: 64)
        for user in range(3):
            await wire.queues[queue].enqueue(user, {})
        await eventually(lambda: (site.status.overview().queues or [None])[0])
        await eventually(lambda: site.status.overview().queues[0].waiting == 3)
        await eventually(lambda: site.status.overview().latency)
        seen = site.status.overview()
    assert (seen.rules[0].name, seen.rules[0].denied) == ("strict", 3)
    (tier,) = [each for each in seen.tiers if each.namespace == "market"]
    assert (tier.lookups, tier.l1, tier.missed) == (4, 0.75, 0.25)
    assert seen.queues[0].oldest >= 0.0
    assert seen.latency
    assert sum(point.calls for point in seen.latency) > 0


@pytest.mark.errors
@pytest.mark.requirement("X6")
async def test_a_client_that_guesses_cannot_choose_its_address(server, prefix):
    """A forwarded address that no listed proxy vouches for counts as nothing."""
    async with serving(url=server.url, prefix=prefix, token=TOKEN) as site:
        for number in range(10):
            status, _, _ = await site.get(
                "/status",
                Authorization="Bearer wrong",
                **{"X-Forwarded-For": f"10.0.0.{number}"},
            )
            assert status == 401
        assert (await site.get("/status", **BEARER))[0] == 429

        # Behind a proxy that is listed, each client fails for itself.
        behind = Status(
            site.wire.metrics,
            site.wire.health,
            token=TOKEN,
            proxies=["127.0.0.0/8"],
        )
        async with behind.listener() as listener, aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{listener.port}/status"

            async def status(address, authorization):
                headers = {
                    "X-Forwarded-For": address,
                    "Authorization": authorization,
                }
                async with http.get(url, headers=headers) as answer:
                    return answer.status

            for _ in range(10):
                assert await status("10.0.0.1", "Bearer wrong") == 401
            right = BEARER["Authorization"]
            assert await status("10.0.0.1", right) == 429
            assert await status("10.0.0.2", right) == 200
