"""Passwords that change, are wrong, or come from a provider that fails or hangs."""

from __future__ import annotations

import asyncio
import sys
import traceback

import pytest
import redis.asyncio as aredis
from redis.credentials import CredentialProvider

from oddswire import Client, SimpleClient
from oddswire.errors import (
    AuthFailed,
    OddswireError,
    Outcome,
    SettingsError,
    Unavailable,
)
from oddswire.events import Ready
from oddswire.testing import LoopLag


class Vault(CredentialProvider):
    """Credentials as a secret store gives them out.

    Attributes:
        password: What holds now.
        asked: How often it was asked.
        answer: Set: it answers. Unset: it hangs.
    """

    def __init__(self, password):
        self.password = password
        self.asked = 0
        self.answer = asyncio.Event()
        self.answer.set()

    async def get_credentials_async(self):
        """Return them, one day."""
        self.asked += 1
        await self.answer.wait()
        return "app", self.password


async def _grant(admin, *rules):
    await admin.execute_command("ACL", "SETUSER", "app", *rules)


async def _ids(admin):
    return {each["id"] for each in await admin.client_list() if each["user"] == "app"}


@pytest.mark.requirement("C1", "C3")
@pytest.mark.integration
async def test_a_rotation_under_load_fails_no_call(own):
    """While both passwords hold nothing is noticed; without the old one neither."""
    vault = Vault("old")
    async with (
        aredis.Redis.from_url(own.url, decode_responses=True) as admin,
        Client(
            host=own.host,
            port=own.port,
            credential_provider=vault,
            reconnect_delay=0.01,
        ) as client,
    ):
        await _grant(admin, "on", ">old", "~*", "+@all")
        stopped, calls, failures = False, 0, []

        async def work(number):
            nonlocal calls
            while not stopped:
                try:
                    await client.set(f"k:{number}", number)
                    assert await client.get(f"k:{number}") == str(number).encode()
                except OddswireError as error:
                    failures.append(error)
                calls += 1
                await asyncio.sleep(0)

        async def worked(count):
            wanted = calls + count
            async with asyncio.timeout(10):
                while calls < wanted:  # noqa: ASYNC110 - a counter tells nobody
                    await asyncio.sleep(0.001)

        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(work(number))
            await client.blpop("none", 0.01)
            await worked(200)
            live = await _ids(admin)
            assert len(live) == vault.asked == 2

            await _grant(admin, ">new")  # both hold
            vault.password = "new"
            await worked(200)
            await _grant(admin, "<old")  # the old one is taken away
            await worked(200)
            await client.blpop("none", 0.01)
            assert await _ids(admin) == live, "a live connection was dropped"
            assert vault.asked == 2

            back = asyncio.Event()
            client.events.subscribe(lambda _: back.set(), Ready)
            await admin.client_kill_filter(skipme=True, user="app")
            async with asyncio.timeout(5):
                await back.wait()
            await worked(200)
            await client.blpop("none", 0.01)
            assert vault.asked == 4  # once for each new connection
            stopped = True

    assert failures == []
    assert client.stats().failures == {}


@pytest.mark.requirement("C1", "C4")
@pytest.mark.errors
async def test_a_provider_that_hangs_costs_no_more_than_the_time_to_connect(own):
    """Whoever needs a connection fails in time, typed; when it answers all goes on."""
    vault = Vault("secret")
    async with aredis.Redis.from_url(own.url) as admin:
        await _grant(admin, "on", ">secret", "~*", "+@all")
    async with Client(
        host=own.host,
        port=own.port,
        credential_provider=vault,
        connect_timeout=0.2,
        command_timeout=0.5,
        reconnect_delay=0.01,
        reconnect_cap=0.02,
    ) as client:
        vault.answer.clear()
        for call in (client.ping, lambda: client.blpop("none", 1)):
            with LoopLag() as lag, pytest.raises(Unavailable) as failed:
                await call()
            assert lag.free < 1.0
            assert failed.value.outcome is Outcome.NOT_SENT
            assert "no connection within 0.2 s" in str(failed.value)
        vault.answer.set()
        assert await client.ping()
        assert await client.blpop("none", 0.01) is None


@pytest.mark.requirement("C1")
@pytest.mark.errors
async def test_a_wrong_password_makes_one_connection(own):
    """The server sees one attempt of all callers, and one of each exclusive call."""
    async with aredis.Redis.from_url(own.url) as admin:

        async def seen():
            return (await admin.info("stats"))["total_connections_received"]

        before = await seen()
        client = Client(host=own.host, port=own.port, password="wrong", retries=5)
        async with client:
            failures = await asyncio.gather(
                *(client.incr("n") for _ in range(100)), return_exceptions=True
            )
            assert await seen() - before == 1
            with pytest.raises(AuthFailed) as alone:
                await client.blpop("none", 1)
            assert await seen() - before == 2

    assert {type(failure) for failure in failures} == {AuthFailed}
    assert {each.outcome for each in (*failures, alone.value)} == {Outcome.REJECTED}


class Careless(CredentialProvider):
    """Returns what it was given."""

    def __init__(self, given):
        self.given = given

    async def get_credentials_async(self):
        """Return it."""
        return self.given


@pytest.mark.errors
@pytest.mark.parametrize("given", ["hunter2", None, (), ("a", "b", "hunter2"), {}])
@pytest.mark.parametrize("blocking", [False, True])
async def test_a_provider_that_returns_no_credentials_is_told_so(
    server, given, blocking
):
    """The error says what a provider has to return, and not what it returned."""
    async with Client(
        host=server.host, port=server.port, credential_provider=Careless(given)
    ) as client:
        with pytest.raises(AuthFailed, match=r"give \(username, password\)") as caught:
            await (client.blpop("none", 0.1) if blocking else client.get("k"))
    assert caught.value.outcome in {Outcome.REJECTED, Outcome.NOT_SENT}
    assert "hunter2" not in str(caught.value)


@pytest.mark.errors
def test_what_is_no_provider_is_refused_at_once():
    """An object without the method is a `SettingsError` before any connection."""
    with pytest.raises(SettingsError, match=r"redis\.credentials\.CredentialProvider"):
        Client(host="localhost", credential_provider=object())


_WRONG = "wrong-hunter2"


async def _subscribed(client):
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("c")


async def _watched(client):
    async with client.pipeline() as pipe:
        await pipe.watch("k")


@pytest.mark.errors
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (Client, lambda client: client.get("k")),
        (Client, lambda client: client.blpop("k", 1)),
        (Client, _subscribed),
        (Client, _watched),
        (Client, lambda client: client.client().get("k")),
        (SimpleClient, lambda client: client.get("k")),
    ],
    ids=["get", "blpop", "pubsub", "watch", "client", "simple"],
)
async def test_no_frame_of_a_refusal_holds_the_password(server, kind, call, protocol):
    """What reports an error with the variables of its frames reports no password."""
    async with kind(
        host=server.host, port=server.port, password=_WRONG, protocol=protocol
    ) as client:
        try:
            {}["handled meanwhile"]
        except KeyError:
            earlier = sys.exception()
            with pytest.raises(AuthFailed) as caught:
                await call(client)
    assert earlier.__traceback__ is not None
    shown = "".join(
        traceback.TracebackException.from_exception(
            caught.value, capture_locals=True
        ).format()
    )
    assert "invalid username-password" in shown
    assert _WRONG not in shown


@pytest.mark.errors
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("password", ["", "any"])
async def test_a_default_user_without_password_takes_any(own, protocol, password):
    """Named, it is let in by RESP2 as by RESP3, whatever password comes with it."""
    async with aredis.Redis.from_url(own.url) as admin:
        await admin.config_set("requirepass", "")
    url = f"redis://default:{password}@{own.host}:{own.port}"
    async with Client.from_url(url, protocol=protocol) as client:
        assert await client.ping()
        assert await client.blpop("none", 0.01) is None
    url = f"redis://other:{password}@{own.host}:{own.port}"
    async with Client.from_url(url, protocol=protocol) as client:
        with pytest.raises(AuthFailed):
            await client.ping()
