from __future__ import annotations

import logging
import os

import pytest

import oddswire
from oddswire.embedded import EmbeddedServer
from oddswire.errors import AuthFailed, ClosedError, SettingsError, Unavailable


def alive(pid: int) -> bool:
    """Tell whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.integration
@pytest.mark.requirement("G2")
async def test_without_a_url_a_server_of_our_own_serves_and_ends(caplog):
    """A wire works with nothing configured, says so once, leaves no process behind."""
    with caplog.at_level(logging.WARNING, "oddswire"):
        async with oddswire.connect() as wire:
            await wire.client.set("k", "v")
            assert await wire.client.get("k") == b"v"
            assert wire.settings.url is not None
            pid = (await wire.client.info("server"))["process_id"]
            assert alive(pid)

    assert not alive(pid)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith("no REDIS_URL: started a server of our own")


@pytest.mark.integration
async def test_wire_uses_the_server_it_is_given_and_leaves_it_running():
    """With a URL nothing is started and nothing of the server's is ended."""
    async with EmbeddedServer() as server:
        async with oddswire.connect(url=server.url) as wire:
            await wire.client.set("k", "v")
        async with oddswire.connect(oddswire.Settings(url=server.url)) as wire:
            assert await wire.client.get("k") == b"v"


@pytest.mark.errors
async def test_a_wire_is_used_once():
    """Entering a wire again says what to do instead."""
    wire = oddswire.connect()
    async with wire:
        pass
    with pytest.raises(ClosedError, match=r"call connect\(\)"):
        await wire.__aenter__()


@pytest.mark.errors
async def test_entering_fails_at_once_when_nobody_answers(unused_tcp_port):
    """A wire that cannot reach its server does not open, and leaves nothing open."""
    wire = oddswire.connect(
        url=f"redis://127.0.0.1:{unused_tcp_port}", command_timeout=0.3, retries=0
    )
    with pytest.raises(Unavailable, match=f"127.0.0.1:{unused_tcp_port}"):
        await wire.__aenter__()


@pytest.mark.errors
async def test_entering_with_a_wrong_password_is_fatal():
    """Wrong credentials are not retried and not reported as an outage."""
    async with EmbeddedServer() as server:
        wire = oddswire.connect(url=f"redis://:wrong@127.0.0.1:{server.port}")
        with pytest.raises(AuthFailed, match="check the password"):
            await wire.__aenter__()


@pytest.mark.errors
@pytest.mark.requirement("G2")
@pytest.mark.parametrize("profile", ["staging", "production"])
def test_deployed_profiles_want_a_url(profile):
    """Where it is deployed, a missing URL is an error and never an embedded server."""
    with pytest.raises(SettingsError, match="url"):
        oddswire.connect(profile=profile)


@pytest.mark.basic
@pytest.mark.requirement("P5")
async def test_a_wire_has_the_queue_it_was_given_a_type_for(server, prefix):
    """`connect(queue=...)` opens the queue under the prefix; without, it says so."""
    async with oddswire.connect(url=server.url, prefix=prefix, queue=int) as wire:
        await wire.queue.enqueue(1, 42)
        assert (await wire.queue.statistics()).waiting == 1
        keys = await wire.client.keys(f"{prefix}queue*{{messages}}")
        assert keys
    async with oddswire.connect(url=server.url) as wire:
        with pytest.raises(ClosedError, match=r"connect\(queue=\.\.\.\)"):
            _ = wire.queue
