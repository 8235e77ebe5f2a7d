"""One loop, one process: anybody else is refused before a byte is sent."""

from __future__ import annotations

import asyncio
import multiprocessing
import os

import pytest

from oddswire import Client, SimpleClient
from oddswire.errors import Outcome, WrongLoop
from support.hooks import drop_connection

pytestmark = pytest.mark.errors

USES = {
    "command": lambda client, key: client.set(key, "x"),
    "blocking": lambda client, key: client.blpop(key, 0.01),
    "pipeline": lambda client, key: client.pipeline().set(key, "x").execute(),
    "close": lambda client, key: client.aclose(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("warm", [True, False], ids=["connected", "lost"])
def test_other_loop_is_refused(server, prefix, use, warm):
    """Used on another loop a client refuses, and still works on its own."""
    with asyncio.Runner() as home, asyncio.Runner() as away:
        client = Client.from_url(server.url)
        home.run(client.ping())
        home.run(client.blpop(f"{prefix}none", 0.001))
        if not warm:
            home.run(_drop(client))
        with pytest.raises(WrongLoop, match="one client per loop") as caught:
            away.run(_call(client, use, f"{prefix}k"))
        assert caught.value.outcome is Outcome.NOT_SENT
        assert home.run(client.exists(f"{prefix}k")) == 0
        home.run(client.aclose())


async def _call(client, use, key):
    return await USES[use](client, key)


async def _drop(client):
    drop_connection(client)


def test_other_loop_is_refused_by_the_simple_client(server):
    """`SimpleClient` refuses another loop too."""
    with asyncio.Runner() as home, asyncio.Runner() as away:
        client = SimpleClient.from_url(server.url)
        home.run(client.ping())
        with pytest.raises(WrongLoop):
            away.run(client.ping())
        home.run(client.aclose())


def _in_a_fork(client, loop, key, use, out):
    """Try to use the parent's client: on a new loop, and on the parent's own."""
    answers = []
    for run in (asyncio.run, loop.run_until_complete):
        try:
            run(_call(client, use, key))
            answers.append("it was sent")
        except WrongLoop as error:
            answers.append(str(error))
        except BaseException as error:  # noqa: BLE001 - the parent judges
            answers.append(repr(error))
    out.send(answers)
    os._exit(0)


@pytest.mark.parametrize("use", USES)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_fork_is_refused_and_the_parent_goes_on(server, prefix, use):
    """A forked child with its parent's client is refused; the parent goes on."""
    context = multiprocessing.get_context("fork")
    loop = asyncio.new_event_loop()
    client = Client.from_url(server.url)
    loop.run_until_complete(client.ping())
    loop.run_until_complete(client.blpop(f"{prefix}none", 0.001))
    receive, send = context.Pipe(duplex=False)
    child = context.Process(
        target=_in_a_fork, args=(client, loop, f"{prefix}k", use, send)
    )
    child.start()
    answers = receive.recv()
    child.join()
    try:
        assert len(answers) == 2
        for answer in answers:
            assert answer.startswith("this client belongs to the process"), answer
        assert loop.run_until_complete(client.exists(f"{prefix}k")) == 0
        assert client.stats().connects == 1
    finally:
        loop.run_until_complete(client.aclose())
        loop.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_client_made_before_a_fork_and_first_used_after(server, prefix):
    """A client that never connected belongs to whoever uses it first."""
    context = multiprocessing.get_context("fork")
    client = Client.from_url(server.url)
    receive, send = context.Pipe(duplex=False)

    def child():
        async def main():
            async with client:
                return await client.set(f"{prefix}k", "v", ex=10)

        send.send(asyncio.run(main()))
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    assert receive.recv() is True
    process.join()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
async def test_a_coroutine_that_forks_is_refused_in_the_child(server):
    """Where a coroutine goes on in a forked child, its client says what is wrong."""
    async with Client.from_url(server.url) as client:
        await client.ping()
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                await client.ping()
            except BaseException as error:  # noqa: BLE001 - the parent judges
                os.write(writes, repr(error).encode())
            os._exit(0)
        os.close(writes)
        await asyncio.to_thread(os.waitpid, pid, 0)
        said = os.read(reads, 1000)
        os.close(reads)
        assert await client.ping()
    assert b"WrongLoop('this client belongs to the process" in said
