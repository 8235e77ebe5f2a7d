"""A server of our own gets little of the environment, and its files are private."""

from __future__ import annotations

import asyncio
import os
import stat

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.embedded import EmbeddedSentinels
from oddswire.errors import EmbeddedFailed


@pytest.mark.errors
@pytest.mark.requirement("X2", "X3")
async def test_the_servers_program_sees_no_secret_of_ours(tmp_path, monkeypatch):
    """A program in place of the server gets the path, the language and little else."""
    for name in (
        "BOT_TOKEN",
        "ODDSWIRE_ENCRYPTION_KEY",
        "REDIS_PASSWORD",
        "LD_PRELOAD_",
    ):
        monkeypatch.setenv(name, "CANARY")
    spy = tmp_path / "spy.sh"
    spy.write_text("#!/bin/sh\necho names: $(env | cut -d= -f1)\nenv\nexit 1\n")
    spy.chmod(0o700)
    with pytest.raises(EmbeddedFailed) as caught:
        async with EmbeddedServer(binary=spy):
            pass
    assert "names:" in str(caught.value)
    assert "PATH" in str(caught.value)
    assert "CANARY" not in str(caught.value)


@pytest.mark.integration
@pytest.mark.requirement("X2")
@pytest.mark.parametrize("umask", [0o000, 0o022])
async def test_its_files_are_private_whatever_the_umask(tmp_path, umask):
    """In a directory that everybody may enter nobody else reads what it keeps."""
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o755)
    before = os.umask(umask)
    try:
        async with (
            EmbeddedServer(data_dir=folder, aof=True) as server,
            Client.from_url(server.url) as client,
        ):
            await client.set("k", "of a user")
            await client.save()
            files = await asyncio.to_thread(lambda: [*folder.rglob("*")])
            assert any(each.suffix == ".rdb" for each in files)
            modes = {each.name: each.stat().st_mode for each in files}
    finally:
        os.umask(before)
    loose = {name for name, mode in modes.items() if stat.S_IMODE(mode) & 0o077}
    assert loose == set()


@pytest.mark.errors
@pytest.mark.requirement("X3")
async def test_nothing_that_holds_a_password_shows_it():
    """No representation of a server, a client, a pool or a handshake has it."""
    from oddswire.connection.handshake import HandshakeOptions
    from oddswire.settings import Endpoint, Settings

    server = EmbeddedServer(password="CANARY-0")
    settings = Settings(
        url="redis://CANARY-1:CANARY-2@mymaster", sentinels="10.0.0.1",
        sentinel_password="CANARY-3", cache_url="redis://h?password=CANARY-4",
    )  # fmt: skip
    clients = [
        Client.from_settings(settings),
        Client(host="h", password="CANARY-5"),
        Client.from_url("unix:///s?password=CANARY-6"),
    ]
    options = HandshakeOptions(protocol=3, username="me", password="CANARY-7")
    shown = [
        *(repr(each) for each in (server, EmbeddedSentinels(), settings, options)),
        repr(Endpoint.from_url("redis://h?password=CANARY-8&username=CANARY-9")),
        *(repr(each) for each in clients),
        *(repr(each.connection_pool) for each in clients),
        repr(clients[1].connection_pool.make_connection()),
    ]
    assert not any("CANARY" in text for text in shown), shown
