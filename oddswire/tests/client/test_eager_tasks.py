"""A loop whose tasks begin at once (`asyncio.eager_task_factory`, Python 3.12)."""

from __future__ import annotations

import asyncio

import pytest

import oddswire
from oddswire import Client, SimpleClient
from oddswire.errors import AuthFailed, Unavailable
from oddswire.queue import Queue
from support import eventually


def _usual(loop, coroutine, **options):
    return asyncio.Task(coroutine, loop=loop, **options)


@pytest.fixture
async def eager():
    """The running loop, with eager tasks where Python has them."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", _usual))
    return loop


class _Refusing:
    """Credentials that are refused twice without waiting for anything."""

    def __init__(self, password):
        self.password = password
        self.asked = 0

    async def get_credentials_async(self):
        self.asked += 1
        if self.asked <= 2:
            raise AuthFailed("the token service says no")
        return (self.password,)

    def get_credentials(self):
        return (self.password,)


@pytest.mark.errors
@pytest.mark.requirement("C1")
async def test_an_attempt_that_ends_without_waiting_leaves_no_dead_link(own, eager):
    """After a refusal before the first wait, a later call connects."""
    refusing = _Refusing(own.password)
    async with Client(
        host=own.host, port=own.port, credential_provider=refusing, command_timeout=5.0
    ) as client:
        with pytest.raises(AuthFailed):
            await client.get("k")

        async def answered():
            try:
                return await client.set("k", "v")
            except AuthFailed:
                return False

        assert await eventually(answered, pause=0.1)
        assert refusing.asked == 3


@pytest.mark.integration
@pytest.mark.requirement("C1")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_client_works_with_eager_tasks(own, eager, host):
    """Plain, blocking and watched calls, a restart, a name, closing: as without."""
    url = own.url.replace("127.0.0.1", host)
    async with Client.from_url(url, retries=10) as client:
        assert await client.set("k", "v")
        assert (
            await asyncio.gather(*[client.get("k") for _ in range(200)]) == [b"v"] * 200
        )
        assert await client.blpop("none", timeout=0.01) is None
        async with client.pipeline() as batch:
            await batch.watch("k")
            batch.multi()
            assert await batch.set("k", "w").execute() == [True]
        await own.restart()

        async def back():
            try:
                return await client.set("k", "v")
            except Unavailable:
                return False

        assert await eventually(back)
    simple = SimpleClient.from_url(url)
    assert await simple.get("k") == b"v"
    await simple.aclose()
    async with Client.from_url("redis://127.0.0.1:1", command_timeout=0.3) as nobody:
        with pytest.raises(Unavailable):
            await nobody.get("k")


@pytest.mark.integration
async def test_the_parts_work_with_eager_tasks(server, prefix, eager):
    """Lock, limiter, cache, sessions and queue of a connection, in an eager loop."""
    async with oddswire.connect(
        url=server.url, prefix=prefix, side_timeout=2.0
    ) as connection:
        async with connection.lock("l", ttl=5) as lock:
            assert lock.fence > 0
        assert await connection.limiter.hit("default", user=1)
        assert await connection.limiter.acquire("default", user=1)

        async def load():
            return 5

        loads = [connection.cache.get_or_set("a:b", load) for _ in range(20)]
        assert await asyncio.gather(*loads) == [5] * 20

        def count(session):
            session.metadata["n"] = session.metadata.get("n", 0) + 1

        updates = [connection.sessions.update(7, count, create=True) for _ in range(20)]
        await asyncio.gather(*updates)
        assert (await connection.sessions.get(7)).metadata == {"n": 20}
        queue, stop, got = Queue(connection.client, "q", int), asyncio.Event(), []

        async def handle(message):
            got.append(message.value)
            if len(got) == 20:
                stop.set()

        for n in range(20):
            await queue.enqueue(n, n)
        await queue.consume(handle, concurrency=4, stop=stop)
        assert sorted(got) == list(range(20))
