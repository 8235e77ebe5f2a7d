from __future__ import annotations

import asyncio
import logging
import os

import pytest

import oddswire
from oddswire.cache import Namespace
from oddswire.clock import SystemClock
from oddswire.codec import Keyring
from oddswire.embedded import EmbeddedServer
from oddswire.errors import (
    AuthFailed,
    ClosedError,
    CodecError,
    InvalidKey,
    QueueError,
    SessionError,
    SettingsError,
    Unavailable,
    Undeliverable,
)
from oddswire.locks import LockStats
from oddswire.pubsub import Topic
from oddswire.queue import QueueKey
from oddswire.ratelimit import Rule, SlidingWindow
from support.hooks import session_keys
from support.keys import entry_key


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
    (said,) = caplog.records
    assert said.event == "embedded_server"
    assert said.reason.startswith("no REDIS_URL: started a server of our own")


@pytest.mark.integration
async def test_wire_uses_the_server_it_is_given_and_leaves_it_running():
    """With a URL nothing is started and nothing of the server's is ended."""
    async with EmbeddedServer() as server:
        async with oddswire.connect(url=server.url) as wire:
            await wire.client.set("k", "v")
        async with oddswire.connect(oddswire.Settings(url=server.url)) as wire:
            assert await wire.client.get("k") == b"v"


@pytest.mark.integration
@pytest.mark.requirement("R1")
async def test_a_wire_limits_by_its_rules_under_its_prefix():
    """The limiter has the wire's rules, its server and its prefix, and ends with it."""
    rules = [Rule("user", SlidingWindow(2, 60.0), key="user")]
    async with oddswire.connect(rules=rules, prefix="shop:") as wire:
        hits = [await wire.limiter.hit("user", user=1) for _ in range(3)]
        assert [each.allowed for each in hits] == [True, True, False]
        assert await wire.client.keys("*rate*") == [b"shop:rate-limit:{rl}:user:1"]
        default = await wire.limiter.peek("default", user=1)
        assert (default.limit, default.window) == (100, 900.0)
        limiter = wire.limiter
    with pytest.raises(ClosedError):
        await limiter.hit("user", user=2)


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
    with pytest.raises(SettingsError, match="REDIS_URL is not set"):
        oddswire.connect(profile=profile)
    with pytest.raises(SettingsError, match="url is not set"):
        oddswire.connect(oddswire.Settings(), profile=profile)


@pytest.mark.integration
@pytest.mark.requirement("S7", "X5")
async def test_a_wire_has_sessions_and_locks_and_erases_a_user(tmp_path):
    """Sealed by the settings' key file; the receipt says that nothing is left."""
    path = tmp_path / "keys"
    path.write_text(Keyring.new_line(1))
    path.chmod(0o600)
    async with EmbeddedServer() as server:
        settings = oddswire.Settings(
            url=server.url, session_encryption=True, encryption_key_file=str(path)
        )
        async with oddswire.connect(settings) as wire:
            await wire.sessions.update(
                7, lambda s: s.metadata.update(name="Ada"), create=True
            )
            async with wire.lock("settle", 5) as lock:
                assert lock.fence > 0
            main = session_keys(wire.sessions).pair(7)[0]
            assert b"Ada" not in (await wire.client.hget(main, "D"))
        async with oddswire.connect(settings) as wire:
            assert (await wire.sessions.get(7)).metadata == {"name": "Ada"}
            receipt = await wire.erase(7)
            assert receipt.user_id == 7
            assert receipt.complete
            assert receipt.parts[-1].removed > 0
            assert await wire.sessions.get(7) is None


@pytest.mark.integration
@pytest.mark.requirement("X5")
async def test_an_erased_user_is_in_no_part():
    """Waiting, in hand, dead, counted, cached: all is gone, and others keep theirs."""
    rules = [
        Rule("sends", SlidingWindow(1, 60), key="user"),
        Rule("chats", SlidingWindow(1, 60), key="chat"),
    ]
    async with (
        EmbeddedServer() as server,
        oddswire.connect(
            url=server.url, rules=rules, queue=str, side_timeout=5.0
        ) as wire,
    ):
        in_hand, dead = asyncio.Event(), asyncio.Event()

        async def deliver(message):
            if message.value == "dead":
                dead.set()
                raise Undeliverable("no such chat")
            in_hand.set()
            await asyncio.Event().wait()

        for user in (7_000_123, 7):
            await wire.sessions.update(user, lambda s: None, create=True)
            assert (await wire.limiter.hit("sends", "default", user=user)).allowed
            # As the adapters of a bot with the id 900 count her and her chat.
            for by in ({"user": f"900:{user}"}, {"chat": f"900:{user}"}):
                rule = "chats" if "chat" in by else "sends"
                assert (await wire.limiter.hit(rule, **by)).allowed
            assert not (await wire.limiter.hit("sends", user=user)).allowed
            await wire.limiter.penalize("sends", 60, user=user)
            tags = [f"user:{user}"]
            await wire.cache.set(f"portfolio:{user}", "a", tags=tags)
            later = SystemClock().now() + 60
            await wire.queue.enqueue(user, "later", at=later, dedup_id="later")
        await wire.queue.enqueue(7_000_123, "dead")
        await wire.queue.enqueue(7_000_123, "in hand", dedup_id="once")
        await wire.queue.enqueue(7_000_123, "waits")
        loop = asyncio.get_running_loop()
        consuming = loop.create_task(wire.queue.consume(deliver))
        await asyncio.gather(dead.wait(), in_hand.wait())

        receipt = await wire.erase(7_000_123)

        assert receipt.complete, receipt
        assert {part.part: part.removed > 0 for part in receipt.parts} == {
            "queue": True, "ratelimit": True, "cache": True, "sessions": True,
        }  # fmt: skip
        consuming.cancel()
        await asyncio.wait([consuming])
        assert await wire.queue.dead() == []
        assert await wire.cache.get("portfolio:7000123") is None
        # What is left of her in the server is what no process reads any more.
        entry = entry_key("oddswire:", "portfolio:7000123")
        assert await mentions(wire.client, "7000123") == {entry.encode()}
        assert (await wire.limiter.hit("sends", user=7_000_123)).allowed
        assert await wire.queue.enqueue(7_000_123, "again", dedup_id="once")
        # Everybody else's is there.
        assert await wire.sessions.get(7) is not None
        assert await wire.cache.get("portfolio:7") == "a"
        assert not (await wire.limiter.hit("sends", user=7)).allowed
        assert await wire.queue.enqueue(7, "later", dedup_id="later") is None
        found = await wire.queue.stats()
        assert found.accounted == found.enqueued
        assert found.delayed == 1


async def mentions(client, text):
    """Return the keys that have a text in their name or in what they hold."""
    reads = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"list": lambda key: client.lrange(key, 0, -1),
        b"stream": client.xrange,
    }
    return {
        key
        async for key in client.scan_iter()
        if text in f"{key} {await reads[await client.type(key)](key)}"
    }


@pytest.mark.errors
@pytest.mark.requirement("G2", "S7")
async def test_production_refuses_example_keys(tmp_path, caplog):
    """A key that nobody drew at random stops production, and warns development."""
    example = "00" * 31 + "01"
    path = tmp_path / "keys"
    path.write_text(f"2 {example}\n1 {os.urandom(32).hex()}\n")
    path.chmod(0o600)
    async with EmbeddedServer() as server:
        options = {"url": server.url, "session_encryption": True}
        for given in (
            {"encryption_key_file": str(path)},
            {"keyring": await asyncio.to_thread(Keyring.from_file, path)},
        ):
            with pytest.raises(SettingsError, match="example"):  # noqa: PT012
                keyless = given if "keyring" not in given else {
                    **given, "session_encryption": False,
                }  # fmt: skip
                async with oddswire.connect(
                    profile="production", **{**options, **keyless}
                ):
                    pass
        with pytest.raises(SettingsError, match="example"):
            oddswire.Settings(profile="production", encryption_key=example, **options)
        with caplog.at_level(logging.WARNING, "oddswire"):
            async with oddswire.connect(encryption_key_file=str(path), **options):
                pass
        assert any("example" in record.getMessage() for record in caplog.records)


@pytest.mark.errors
@pytest.mark.requirement("S7")
async def test_a_key_file_that_cannot_be_read_opens_nothing(tmp_path):
    """Encryption that was asked for never falls back to plain text."""
    async with EmbeddedServer() as server:
        with pytest.raises(SettingsError, match="cannot be read"):
            async with oddswire.connect(
                url=server.url,
                session_encryption=True,
                encryption_key_file=str(tmp_path / "none"),
            ):
                pass


@pytest.mark.basic
@pytest.mark.requirement("P5")
async def test_a_wire_has_the_queue_it_was_given_a_type_for(server, prefix):
    """`connect(queue=...)` opens the queue under the prefix; without, it says so."""
    async with oddswire.connect(url=server.url, prefix=prefix, queue=int) as wire:
        await wire.queue.enqueue(1, 42)
        assert (await wire.queue.stats()).waiting == 1
        keys = await wire.client.keys(f"{prefix}queue*{{messages}}")
        assert keys
    async with oddswire.connect(url=server.url) as wire:
        with pytest.raises(ClosedError, match=r"connect\(queue=\.\.\.\)"):
            _ = wire.queue


# --- from the environment, and what is said to bad input


@pytest.mark.integration
@pytest.mark.requirement("G1")
async def test_a_wire_without_settings_reads_the_environment(
    server, prefix, monkeypatch, tmp_path, caplog
):
    """REDIS_URL and a .env count; `Settings()` and a URL by keyword read neither."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", server.url)
    (tmp_path / ".env").write_text(f"REDIS_KEY_PREFIX={prefix}\n")
    with caplog.at_level(logging.WARNING, "oddswire"):
        async with oddswire.connect() as wire:
            assert wire.settings.prefix == prefix
            assert wire.client.settings.endpoint.port == server.port
            await wire.client.set(f"{prefix}k", "v", ex=60)
        assert await _value(server.url, f"{prefix}k") == b"v"
    assert not any("no REDIS_URL" in record.getMessage() for record in caplog.records)
    assert oddswire.connect(oddswire.Settings()).settings.url is None
    other = oddswire.connect(url="redis://h", pool_max=7).settings
    assert (other.url, other.pool_max, other.prefix) == ("redis://h", 7, prefix)


async def _value(url, key):
    async with oddswire.Client.from_url(url) as client:
        return await client.get(key)


@pytest.mark.errors
@pytest.mark.requirement("G1", "X2")
async def test_a_url_by_keyword_takes_no_password_of_the_environment(monkeypatch):
    """What completes REDIS_URL is not sent to another server, and a warning says so."""
    monkeypatch.setenv("REDIS_PASSWORD", "CANARY")
    monkeypatch.setenv("ODDSWIRE_USERNAME", "CANARY")
    monkeypatch.setenv("REDIS_DATABASE", "3")
    monkeypatch.setenv("ODDSWIRE_SENTINELS", "10.0.0.1")
    settings = oddswire.connect(url="redis://elsewhere").settings

    assert (settings.username, settings.password) == (None, None)
    assert (settings.database, settings.sentinels) == (None, None)
    assert len(settings.warnings) == 4
    assert "CANARY" not in "".join(settings.warnings)
    assert oddswire.connect(url="redis://h", password="p").settings.password == "p"


@pytest.mark.errors
@pytest.mark.requirement("G2")
def test_production_starts_no_server_of_its_own(monkeypatch):
    """The profile of the environment holds for a wire without settings."""
    monkeypatch.setenv("ODDSWIRE_PROFILE", "production")
    with pytest.raises(SettingsError, match="REDIS_URL is not set and production"):
        oddswire.connect()


@pytest.mark.errors
@pytest.mark.requirement("X1")
async def test_bad_input_is_one_sentence_that_names_the_argument():
    """A URL as settings, an unknown field, a part too early, a text for an id."""
    with pytest.raises(SettingsError, match=r"give a URL as connect\(url=") as caught:
        oddswire.connect("redis://:CANARY@h")
    assert "CANARY" not in str(caught.value)
    with pytest.raises(SettingsError, match="timeout is not a setting; did you mean"):
        oddswire.connect(timeout=1)
    with pytest.raises(SettingsError, match="pool_mx is not a setting; did you mean"):
        oddswire.connect(oddswire.Settings(), pool_mx=1)
    with pytest.raises(SettingsError, match="did you mean command_timeout"):
        oddswire.Client.from_url("redis://h", timeout=1)
    wire = oddswire.connect(oddswire.Settings())
    for part in ("client", "cache", "sessions", "limiter", "pubsub", "locks", "queues"):
        with pytest.raises(ClosedError, match=f"no {part} yet: enter it"):
            getattr(wire, part)
    with pytest.raises(AttributeError, match="no attribute 'cleint'"):
        _ = wire.cleint
    async with wire:
        sessions = wire.sessions
        for call in (
            sessions.get("77"),
            sessions.update("77", lambda s: None, create=True),
            sessions.delete(7.0),
            sessions.touch(None),
            sessions.activate(b"77"),
            sessions.get(True),
        ):
            with pytest.raises(SessionError, match="user_id must be an int, not "):
                await call
        with pytest.raises(SettingsError, match=r"ttl .*accepted are seconds"):
            wire.lock("a", "5")


@pytest.mark.errors
@pytest.mark.requirement("X1")
@pytest.mark.parametrize(
    ("argument", "wrong", "says"),
    [
        ("session", dict, "session must be a subclass of oddswire.sessions.Record"),
        ("source", object(), "source must have the methods of oddswire.sessions"),
        ("keyring", b"CANARY", "keyring must be an oddswire.codec.Keyring, not bytes"),
        ("namespaces", "m", "namespaces must be a list of Namespace objects"),
        ("topics", ["t"], "topics must be a list of Topic objects"),
        ("rules", ["r"], "rules must be a list of Rule objects"),
        ("rules", None, "rules must be a list, as in rules="),
        ("rules", [None], "rules must be a list of Rule objects, not None"),
        ("queues", ["q"], "queues must be a list of QueueKey objects"),
        ("queue", "m", "queue must be the type of its messages"),
        ("queue", set[int] | list[int], "queue must be the type of its messages"),
    ],
)
def test_an_argument_of_another_type_is_named_before_anything_opens(
    argument, wrong, says
):
    """An argument of `connect` that is no such thing is refused by name, at once."""
    with pytest.raises(SettingsError, match=says) as caught:
        oddswire.connect(oddswire.Settings(), **{argument: wrong})
    assert "CANARY" not in str(caught.value)


@pytest.mark.errors
@pytest.mark.requirement("X1")
async def test_a_call_with_the_wrong_thing_is_one_sentence_that_names_it():
    """A loader, a function, a mapping, a list, a URL, a tag that is none is named."""
    with pytest.raises(SettingsError, match="url must be a str, not int"):
        oddswire.Client.from_url(5)
    numbers = Namespace(name="n", type=int)
    async with oddswire.connect(oddswire.Settings(), namespaces=[numbers]) as wire:
        cache = wire.cache
        for call, error, says in (
            (cache.get_or_set("n:1", 5), TypeError, "loader must be a function .* 5"),
            (cache.set_many(["n:1"]), TypeError, "mapping must be a dict"),
            (cache.get_many("n:1"), InvalidKey, r"a list of keys; .* get\(key\)"),
            (cache.invalidate_tags(["a"]), InvalidKey, r"not \['a'\]"),
            (cache.set("n:1", "x"), CodecError, "n:1: Expected `int"),
            (cache.set("n:1", 1, ttl=0), SettingsError, "from 0.001 to 31536000"),
            (wire.sessions.update(1, None), TypeError, "fn must be a function .* None"),
        ):
            with pytest.raises(error, match=says):
                await call


@pytest.mark.integration
@pytest.mark.requirement("P5", "X5")
async def test_several_queues_are_opened_by_their_keys_and_erased(server, prefix):
    """Each key gives its own queue, of its type; a user is erased from all of them."""
    alerts, numbers = QueueKey("alerts", str), QueueKey("numbers", int, max_attempts=2)
    async with oddswire.connect(
        url=server.url, prefix=prefix, queue=float, queues=[alerts, numbers]
    ) as wire:
        await wire.queues[alerts].enqueue(7, "up")
        await wire.queues[numbers].enqueue(7, 1)
        await wire.queues[numbers].enqueue(8, 2)
        await wire.queue.enqueue(7, 0.5)
        assert (len(wire.queues), set(wire.queues)) == (2, {alerts, numbers})
        receipt = await wire.erase(7)
        assert receipt.complete
        removed = {part.part: part.removed > 0 for part in receipt.parts}
        assert removed == {
            "queue": True, "queue:alerts": True, "queue:numbers": True,
            "ratelimit": False, "cache": False, "sessions": False,
        }  # fmt: skip
        assert (await wire.queues[numbers].stats()).waiting == 1
        with pytest.raises(QueueError, match="'other'"):
            _ = wire.queues[QueueKey("other", str)]
    for wrong in (
        {"queues": [alerts, alerts]},
        {"queues": [QueueKey("messages", int)]},
    ):
        with pytest.raises(SettingsError, match="name of two queues"):
            oddswire.connect(url=server.url, queue=int, **wrong)


@pytest.mark.basic
async def test_the_counts_of_every_part_come_from_one_call(server, prefix):
    """What each part did is in its own field, and queues go by their names."""
    numbers, ticks = QueueKey("numbers", int), Topic("ticks", int)
    async with oddswire.connect(
        url=server.url, prefix=prefix, queue=str, queues=[numbers], side_timeout=2.0
    ) as wire:
        await wire.sessions.update(7, lambda s: None, create=True)
        await wire.cache.set("market:1", 1)
        assert await wire.limiter.hit("default", user=7)
        await wire.pubsub.publish(ticks, 1)
        await wire.queues[numbers].enqueue(7, 1)
        await wire.queue.enqueue(7, "a")
        async with wire.lock("x", 5):
            counted = await wire.stats()
    assert counted.client.connects == 1
    assert counted.cache.writes == 1
    assert counted.limiter.rules["default"].admitted == 1
    assert counted.pubsub.topics["ticks"].published == 1
    assert counted.locks == LockStats(held=1, acquired=1)
    assert counted.sessions.total == 1
    assert {name: each.waiting for name, each in counted.queues.items()} == {
        "numbers": 1, "messages": 1,
    }  # fmt: skip


@pytest.mark.integration
@pytest.mark.requirement("G1")
async def test_a_wire_works_on_a_url_that_decodes(server, prefix):
    """`?decode_responses=True` shapes the client's replies, and no part minds."""
    topic = Topic("ticks", int)
    async with oddswire.connect(
        url=f"{server.url}?decode_responses=True", prefix=prefix, queue=int,
        topics=[topic], side_timeout=2.0,
    ) as wire:  # fmt: skip
        await wire.client.set(f"{prefix}k", "v", ex=60)
        assert await wire.client.get(f"{prefix}k") == "v"
        await wire.sessions.update(7, lambda s: s.metadata.update(a=1), create=True)
        assert (await wire.sessions.get(7, fresh=True)).metadata == {"a": 1}
        assert await wire.limiter.hit("default", user=7)
        await wire.cache.set("market:1", {"a": 1}, tags=["t:1"])
        assert await wire.cache.get("market:1") == {"a": 1}
        await wire.cache.invalidate_tags("t:1")
        assert await wire.cache.get("market:1") is None
        async with wire.lock("l", 2) as lock:
            assert lock.fence > 0
        async with wire.pubsub.subscribe(topic) as subscription:
            await wire.pubsub.publish(topic, 5)
            async for event in subscription:
                assert event.value == 5
                break
        await wire.queue.enqueue(7, 42)
        assert (await wire.queue.stats()).waiting == 1
        assert (await wire.erase(7)).complete
