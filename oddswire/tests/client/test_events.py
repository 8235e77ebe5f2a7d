"""What a client tells of each fault, from the first event to the last, in order."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio as aredis

from oddswire import Client, EmbeddedServer
from oddswire.errors import AuthFailed, CircuitOpen
from oddswire.events import (
    CircuitClosed,
    CircuitOpened,
    Connected,
    Connecting,
    DataReset,
    Disconnected,
    Ready,
    Reconnecting,
    Refused,
)
from oddswire.testing import FaultProxy, frozen
from support.hooks import skip_backoff

_QUICK = {
    "connect_timeout": 0.3,
    "reconnect_delay": 0.01,
    "reconnect_cap": 0.02,
    "reconnect_probe": 0.1,
    "heartbeat": 0.1,
    "heartbeat_answer": 0.5,
}


class Story:
    """The events of a client, and waiting for so many of a kind.

    Attributes:
        events: All of them.
    """

    def __init__(self, client):
        self.events = []
        self._news = asyncio.Event()
        client.events.subscribe(self._hear)

    def _hear(self, event):
        self.events.append(event)
        self._news.set()

    def count(self, kind):
        """Return how many of a kind there were."""
        return sum(isinstance(event, kind) for event in self.events)

    async def more(self, kind, count=1):
        """Wait until there were so many more of a kind."""
        await self.until(kind, self.count(kind) + count)

    async def until(self, kind, count=1):
        """Wait until there were so many of a kind."""
        async with asyncio.timeout(20):
            while self.count(kind) < count:
                self._news.clear()
                await self._news.wait()

    @property
    def kinds(self):
        """The types, with every (Reconnecting, Connecting) after the first left out."""
        kinds = []
        for event in self.events:
            if kinds[-2:] == [Reconnecting, Connecting] and type(event) in kinds[-2:]:
                continue
            kinds.append(type(event))
        return kinds


class Stage:
    """What a fault may lay hands on."""

    def __init__(self, server, proxy, admin, story):
        self.server = server
        self.proxy = proxy
        self.admin = admin
        self.story = story


async def reset(stage):
    """Reset the link, once."""
    stage.proxy.reset()


async def closed(stage):
    """End the link in order, as a proxy that is restarted does."""
    stage.proxy.cut()


async def killed_by_name(stage):
    """CLIENT KILL."""
    await stage.admin.client_kill_filter(skipme=True)


async def refused(stage):
    """Refuse connections for some attempts."""
    stage.proxy.refuse()
    stage.proxy.reset()
    await stage.story.more(Connecting, 3)
    stage.proxy.heal()


async def silent(stage):
    """Accept connections and say nothing, for some attempts."""
    stage.proxy.stall()
    stage.proxy.reset()
    await stage.story.more(Connecting, 3)
    stage.proxy.heal()


async def blackhole(stage):
    """Swallow both directions until it was noticed, and for some attempts."""
    stage.proxy.blackhole()
    await stage.story.more(Disconnected)
    await stage.story.more(Connecting, 2)
    stage.proxy.heal()
    stage.proxy.reset()


async def stopped(stage):
    """Stop the process of the server until it was noticed, and for some attempts."""
    with frozen(stage.server):
        await stage.story.more(Disconnected)
        await stage.story.more(Connecting, 2)


async def restarted(stage):
    """Kill the server; start it again when some attempts have failed."""
    stage.server.kill()
    await stage.server.wait_exit()
    await stage.story.more(Connecting, 2)
    await stage.server.restart()
    await stage.admin.connection_pool.disconnect()


_BACK = [Disconnected, Reconnecting, Connecting, Connected, Ready]
_OTHER = [Disconnected, Reconnecting, Connecting, Connected, DataReset, Ready]


@pytest.mark.requirement("C8")
@pytest.mark.integration
@pytest.mark.parametrize(
    ("fault", "aof", "story"),
    [
        (reset, False, _BACK),
        (closed, False, _BACK),
        (killed_by_name, False, _BACK),
        (refused, False, _BACK),
        (silent, False, _BACK),
        (blackhole, False, _BACK),
        (stopped, False, _BACK),
        (restarted, True, _OTHER),
        (restarted, False, _OTHER),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_the_story_of_a_fault(fault, aof, story):
    """Each fault is told from the loss to the next `Ready`, in one order."""
    async with (
        EmbeddedServer(aof=aof) as server,
        FaultProxy(server.url) as proxy,
        aredis.Redis.from_url(server.url) as admin,
        Client.from_url(proxy.url, reconnect_attempts=100, **_QUICK) as client,
    ):
        told = Story(client)
        await client.ping()
        # The first attempt may have been too slow.
        assert told.kinds in (
            [Connecting, Connected, Ready],
            [Connecting, *_BACK[1:]],
        )
        told.events.clear()
        back = asyncio.get_running_loop().create_task(told.more(Ready))
        await fault(Stage(server, proxy, admin, told))
        await back
        assert told.kinds == story
        assert [event.connection for event in told.events] == ["command"] * len(
            told.events
        )
        attempts = [event.attempt for event in told.events if hasattr(event, "attempt")]
        assert attempts == sorted(attempts)
        assert told.events[-1].outage > 0
        told.events.clear()
    assert told.kinds == [Disconnected]


@pytest.mark.requirement("C8", "C3")
@pytest.mark.integration
@pytest.mark.parametrize("restarts", [False, True], ids=["same server", "another"])
async def test_the_story_of_the_circuit(restarts):
    """It is told when the circuit opens and closes, once each, among the attempts."""
    async with (
        EmbeddedServer() as server,
        FaultProxy(server.url) as proxy,
        Client.from_url(proxy.url, reconnect_attempts=3, **_QUICK) as client,
    ):
        told = Story(client)
        await client.ping()
        told.events.clear()
        proxy.refuse()
        if restarts:
            server.kill()
            await server.wait_exit()
        else:
            proxy.reset()
        await told.until(CircuitOpened)  # it may be open before the server is gone
        await told.more(Connecting, 3)
        with pytest.raises(CircuitOpen):
            await client.ping()
        if restarts:
            await server.restart()
        proxy.heal()
        await told.more(Ready)

    assert told.kinds == [
        *(Disconnected, Reconnecting, Connecting, CircuitOpened),
        *(Reconnecting, Connecting, Connected, CircuitClosed),
        *((DataReset,) if restarts else ()),
        *(Ready, Disconnected),
    ]


@pytest.mark.requirement("C8", "C1")
@pytest.mark.errors
async def test_the_story_of_a_password_that_is_taken_away(own):
    """One attempt, then silence until somebody calls; then it is tried once more."""
    async with (
        aredis.Redis.from_url(own.url) as admin,
        Client.from_url(own.url, **_QUICK) as client,
    ):
        told = Story(client)
        await client.ping()
        told.events.clear()
        await admin.config_set("requirepass", "another")
        await admin.client_kill_filter(skipme=True)
        await told.until(Refused)
        with pytest.raises(AuthFailed):
            await client.ping()
        assert told.kinds == [Disconnected, Reconnecting, Connecting, Refused]
        told.events.clear()
        await admin.config_set("requirepass", own.password)
        skip_backoff(client)
        await client.ping()

    assert told.kinds == [Reconnecting, Connecting, Connected, Ready, Disconnected]
