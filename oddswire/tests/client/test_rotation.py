"""A streaming provider hands out a new token: open connections authenticate again."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import redis.asyncio as aredis
from redis.auth.idp import IdentityProviderInterface
from redis.auth.token import SimpleToken
from redis.auth.token_manager import (
    CredentialsListener,
    RetryPolicy,
    TokenManager,
    TokenManagerConfig,
)
from redis.credentials import StreamingCredentialProvider

from oddswire import Client, SimpleClient
from oddswire.clock import SystemClock
from oddswire.embedded import EmbeddedSentinels
from oddswire.errors import AuthFailed, CommandRejected
from support import eventually

pytestmark = pytest.mark.requirement("C1")


class Provider(StreamingCredentialProvider):
    """Hands out what the test says, when the test says so."""

    def __init__(self, token="t1", user="bot"):
        self.token, self.user = token, user
        self.next = self.error = None

    def get_credentials(self):
        """Return those of now."""
        return (self.user, self.token)

    async def get_credentials_async(self):
        """Return those of now."""
        return (self.user, self.token)

    def on_next(self, callback):
        """Keep the one callback."""
        self.next = callback

    def on_error(self, callback):
        """Keep the one callback."""
        self.error = callback

    def is_streaming(self):
        """Return that it does."""
        return True

    def rotate(self, token, **claims):
        """Hand out a new token."""
        self.token = token
        return self.next(SimpleToken(token, 4e12, 0, claims or {"oid": self.user}))


async def _user(admin, *passwords):
    words = [f">{each}" for each in passwords]
    await admin.execute_command(
        "ACL", "SETUSER", "bot", "reset", "on", *words, "~*", "&*", "+@all"
    )


async def _calls(admin, *names):
    stats = await admin.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)


@pytest.fixture
async def admin(own):
    """Somebody else, who makes users and counts."""
    async with aredis.Redis.from_url(own.url, protocol=3) as admin:
        await _user(admin, "t1", "t2")
        yield admin


def _client(own, provider, **options):
    # redis-py 7 speaks RESP2 unless told otherwise.
    options = {"protocol": 3, **options}
    return Client(host=own.host, port=own.port, credential_provider=provider, **options)


@pytest.mark.advanced
@pytest.mark.parametrize("protocol", [2, 3])
async def test_every_kind_of_open_connection_follows(own, admin, protocol):
    """The command, tracking, subscriber and idle exclusive connections say AUTH."""
    provider = Provider()
    async with _client(own, provider, protocol=protocol) as client:
        tracked = client.tracked(lambda message: None)
        listening = client.subscriber(lambda message: None, "c")
        for each in (client, tracked, listening):
            await each.ping()
        blocked = asyncio.create_task(  # noqa: TID251 - awaited below
            client.blpop("queue", timeout=20)
        )
        await client.blpop("none", timeout=0.01)
        await eventually(lambda: client.connection_pool.state.leased == 1)
        connects = await admin.info("stats")
        before = await _calls(admin, "auth")
        await provider.rotate("t2")
        # Command, tracking, subscriber, and the one that was idle in the pool.
        assert await _calls(admin, "auth") - before == 4
        await admin.rpush("queue", "job")
        assert list(await blocked) == [b"queue", b"job"]
        # The one that was in use when it came back.
        await eventually(lambda: client.connection_pool.state.leased == 0)
        assert await _calls(admin, "auth") - before == 5
        assert [await each.ping() for each in (client, tracked, listening)]
        later = await admin.info("stats")
        name = "total_connections_received"
        assert later[name] == connects[name]
        await tracked.aclose()
        await listening.aclose()


@pytest.mark.advanced
async def test_a_rotation_under_load_costs_no_call(own, admin):
    """Calls go on while tokens change and old ones are taken away."""
    provider = Provider()
    async with _client(own, provider) as client:
        done = asyncio.Event()

        async def load():
            count = 0
            while not done.is_set():
                await client.incr("n")
                count += 1
            return count

        loads = [asyncio.create_task(load()) for _ in range(5)]  # noqa: TID251 - awaited below
        for number in range(2, 8):
            await admin.execute_command("ACL", "SETUSER", "bot", f">t{number}")
            await provider.rotate(f"t{number}")
            await admin.execute_command("ACL", "SETUSER", "bot", f"<t{number - 1}")
        done.set()
        assert sum(await asyncio.gather(*loads)) == int(await client.get("n"))
        assert client.stats().connects == 1


@pytest.mark.advanced
async def test_a_token_during_the_handshake_is_not_lost(own, admin):
    """A token that comes while the old one is on its way is followed all the same."""
    provider = Provider()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly():
        found = (provider.user, provider.token)
        asked.set()
        await go_on.wait()
        return found

    provider.get_credentials_async = slowly
    async with _client(own, provider) as client:
        call = asyncio.create_task(client.ping())  # noqa: TID251 - awaited below
        await asked.wait()
        await provider.rotate("t2")
        before = await _calls(admin, "auth")
        go_on.set()
        assert await call
        assert await _calls(admin, "auth") - before == 1


@asynccontextmanager
async def _caller(own, provider, kind):
    """Yield a call that has to connect first."""
    if kind == "simple":
        client = SimpleClient(
            host=own.host, port=own.port, credential_provider=provider, protocol=3
        )
    else:
        client = _client(own, provider)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(client)
        match kind:
            case "command" | "simple":
                yield client.ping
            case "exclusive":
                yield lambda: client.blpop("none", timeout=0.01)
            case "alone":
                yield lambda: stack.enter_async_context(client.client())
            case "raw subscription":
                raw = await stack.enter_async_context(client.pubsub())
                yield lambda: raw.subscribe("c")
            case "out of band":
                yield client.script_kill
            case "tracking" | "subscriber":
                own = (
                    client.tracked(lambda message: None)
                    if kind == "tracking"
                    else client.subscriber(lambda message: None, "c")
                )
                stack.push_async_callback(own.aclose)
                yield own.ping


KINDS = ["command", "tracking", "subscriber", "exclusive", "alone", "raw subscription",
         "out of band", "simple"]  # fmt: skip


@pytest.mark.advanced
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("announced", [True, False])
async def test_credentials_that_end_within_the_handshake_cost_no_call(
    own, admin, kind, announced
):
    """Refused with the old ones, a connection of any kind offers the newer ones."""
    provider = Provider()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly():
        found = (provider.user, provider.token)
        asked.set()
        await go_on.wait()
        return found

    provider.get_credentials_async = slowly
    async with _caller(own, provider, kind) as call:
        calling = asyncio.create_task(call())  # noqa: TID251 - awaited below
        await asked.wait()
        await admin.execute_command("ACL", "SETUSER", "bot", "<t1")
        if announced:
            await provider.rotate("t2")
        else:
            provider.token = "t2"
        go_on.set()
        with suppress(CommandRejected):  # no script runs that could be killed
            await calling
        refused = (await admin.info("stats"))["acl_access_denied_auth"]
        assert refused == 1


@pytest.mark.advanced
@pytest.mark.parametrize("kind", ["command", "exclusive"])
async def test_behind_sentinels_too(kind):
    """The connections to a primary that sentinels name offer the newer ones as well."""
    async with EmbeddedSentinels(sentinels=1) as group:
        primary = group.primary
        async with aredis.Redis.from_url(primary.url, protocol=3) as admin:
            await _user(admin, "t2")
            given = [("bot", "t2"), ("bot", "t1")]
            provider = Provider("t2")

            async def newer():
                return given.pop() if len(given) > 1 else given[0]

            provider.get_credentials_async = newer
            async with Client.from_url(
                f"redis://{group.name}/0",
                sentinels=",".join(
                    f"{each.host}:{each.port}" for each in group.sentinels
                ),
                sentinel_password=group.password,
                credential_provider=provider,
            ) as client:
                if kind == "command":
                    assert await client.ping()
                else:
                    assert await client.blpop("none", timeout=0.01) is None
            assert (await admin.info("stats"))["acl_access_denied_auth"] == 1


@pytest.mark.errors
@pytest.mark.parametrize("kind", ["command", "exclusive", "simple"])
async def test_the_newest_credentials_are_offered_once(own, admin, kind):
    """A provider that has no others is asked once more, and the call fails."""
    provider = Provider("wrong")
    async with _caller(own, provider, kind) as call:
        with pytest.raises(AuthFailed):
            await call()
    assert (await admin.info("stats"))["acl_access_denied_auth"] == 1


@pytest.mark.errors
@pytest.mark.parametrize("kind", ["command", "exclusive", "simple"])
async def test_a_provider_of_ever_new_credentials_is_no_storm(own, admin, kind):
    """One that makes up others at each question is refused nine times for a call."""
    provider = Provider()
    count = itertools.count()

    async def others():
        return "bot", f"wrong-{next(count)}"

    provider.get_credentials_async = others
    async with _caller(own, provider, kind) as call:
        with pytest.raises(AuthFailed):
            await call()
    assert (await admin.info("stats"))["acl_access_denied_auth"] == 9


@pytest.mark.advanced
async def test_a_new_token_ends_a_refusal(own, admin):
    """Callers are refused for a second by one answer, unless there is a newer token."""
    provider = Provider("wrong")
    async with _client(own, provider) as client:
        for _ in range(3):
            with pytest.raises(AuthFailed):
                await client.ping()
        assert (await admin.info("stats"))["acl_access_denied_auth"] == 1
        await provider.rotate("t1")
        assert await client.ping()


@pytest.mark.errors
async def test_a_token_that_is_refused_after_the_handshake_changes_nothing(
    own, admin, caplog
):
    """Opened with a token that holds, a connection stays though a newer is refused."""
    provider = Provider()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly():
        asked.set()
        await go_on.wait()
        return "bot", "t1"

    provider.get_credentials_async = slowly
    async with _client(own, provider) as client:
        call = asyncio.create_task(client.ping())  # noqa: TID251 - awaited below
        await asked.wait()
        await provider.rotate("t-unknown")
        go_on.set()
        assert await call
    assert "reauthentication_failed" in caplog.text
    assert "t-unknown" not in caplog.text


@pytest.mark.advanced
async def test_two_clients_and_a_raw_subscription_share_a_provider(own, admin):
    """Each of them follows, though a provider has one callback."""
    provider = Provider()
    async with _client(own, provider) as one, _client(own, provider) as other:
        await one.ping()
        await other.ping()
        raw = one.pubsub()
        await raw.subscribe("c")
        await raw.get_message(timeout=1)
        before = await _calls(admin, "auth")
        await provider.rotate("t2")
        assert await _calls(admin, "auth") - before == 3
        await other.publish("c", "after")
        message = await eventually(
            lambda: raw.get_message(timeout=1, ignore_subscribe_messages=True)
        )
        assert message["data"] == b"after"
        await raw.aclose()


@pytest.mark.advanced
async def test_a_token_that_comes_in_another_thread(own, admin):
    """A provider with a thread of its own is followed as well."""
    provider = Provider()
    async with _client(own, provider) as client:
        await client.ping()
        before = await _calls(admin, "auth")
        thread = threading.Thread(target=provider.rotate, args=("t2",))
        thread.start()

        async def followed():
            return await _calls(admin, "auth") - before == 1

        await eventually(followed)
        thread.join()


@pytest.mark.advanced
@pytest.mark.parametrize("in_a_thread", [False, True])
async def test_connections_that_somebody_has_follow(own, admin, in_a_thread):
    """`SimpleClient`, `client.client()` and every pub/sub object say AUTH."""
    provider = Provider()
    pool = aredis.ConnectionPool(
        host=own.host, port=own.port, credential_provider=provider, protocol=3
    )
    async with (
        Client(connection_pool=pool) as client,
        client.client() as alone,
        SimpleClient(
            host=own.host, port=own.port, credential_provider=provider, protocol=3
        ) as simple,
        client.pubsub() as one,
        client.pubsub() as other,
    ):
        for each in (client, alone, simple):
            await each.ping()
        for each in (one, other):
            await each.subscribe("c")
            await each.get_message(timeout=1)
        before = await _calls(admin, "auth")
        if in_a_thread:
            thread = threading.Thread(target=provider.rotate, args=("t2",))
            thread.start()
            await asyncio.to_thread(thread.join)
        else:
            await provider.rotate("t2")

        async def followed():
            return await _calls(admin, "auth") - before == 5

        await eventually(followed)
    await pool.aclose()


@pytest.mark.advanced
async def test_a_token_without_a_user_in_it(own, admin):
    """Where the token names no user, the provider does."""
    provider = Provider()
    async with _client(own, provider) as client:
        await client.ping()
        await provider.rotate("t2", other="claim")
        assert await client.execute_command("ACL WHOAMI") in {"bot", b"bot"}
        assert await _calls(admin, "auth") == 1


@pytest.mark.errors
async def test_credentials_that_come_late_replace_no_newer_ones(own, admin):
    """The provider answers of two tokens in another order: the newer one stays."""
    provider = Provider()
    async with _client(own, provider) as client:
        await client.ping()
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def slowly():
            asked.set()
            await go_on.wait()
            return "bot", "t1"

        provider.get_credentials_async = slowly
        first = provider.rotate("t1", other="claim")  # whose user the provider knows
        await asked.wait()
        await provider.rotate("t2")
        go_on.set()
        await first
        assert await _calls(admin, "auth") == 1
        assert await client.ping()


@pytest.mark.errors
async def test_a_token_that_the_server_refuses_changes_nothing(own, admin, caplog):
    """What a connection may stays as it was, and the log says so without the token."""
    provider = Provider()
    async with _client(own, provider) as client:
        await client.ping()
        await provider.rotate("t-unknown")
        assert await client.ping()
        assert client.stats().connects == 1
    assert "reauthentication_failed" in caplog.text
    assert "t-unknown" not in caplog.text


@pytest.mark.advanced
async def test_redis_pys_own_token_manager(own, admin):
    """The manager under redis-entraid renews by itself, and the client follows."""
    issued = []

    class Issuer(IdentityProviderInterface):
        def request_token(self, force_refresh=False):  # noqa: FBT002 - redis-py's
            issued.append(f"t{1 + len(issued) % 2}")
            now = SystemClock().now() * 1000
            return SimpleToken(issued[-1], now + 1_000, now, {"oid": "bot"})

    class Entra(StreamingCredentialProvider):
        """As redis-entraid's: the listener, and the manager on the first question."""

        def __init__(self):
            config = TokenManagerConfig(0.2, 0, 1_000, RetryPolicy(1, 10))
            self.manager = TokenManager(Issuer(), config)
            self.listener = CredentialsListener()
            self.started = False

        def get_credentials(self):
            raise NotImplementedError

        async def get_credentials_async(self):
            token = await self.manager.acquire_token_async()
            if not self.started:
                self.started = True
                await self.manager.start_async(self.listener, block_for_initial=True)
            return ("bot", token.get_token().get_value())

        def on_next(self, callback):
            self.listener.on_next = callback

        def on_error(self, callback):
            self.listener.on_error = callback

        def is_streaming(self):
            return self.started

    provider = Entra()
    async with _client(own, provider) as client:
        await client.ping()

        async def followed():
            return await _calls(admin, "auth") >= 3

        await eventually(followed)
        assert client.stats().connects == 1
        provider.manager.stop()
        provider.listener.on_next = None
        provider.listener.on_error = lambda error: asyncio.sleep(0)
