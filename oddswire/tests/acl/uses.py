"""The parts' own code, run with all that it sends, as the user of their entry."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from types import SimpleNamespace
from typing import Annotated

from aiogram.fsm.storage.base import StorageKey
from aiogram.types import Update
from telegram.ext import PersistenceInput

from oddswire import Client, Settings, SimpleClient
from oddswire.adapters.aiogram import Deduplicate, Storage
from oddswire.adapters.ptb import Persistence
from oddswire.cache import Cache
from oddswire.cli._doctor import examine
from oddswire.cli._servers import servers
from oddswire.cli._stats import snapshots
from oddswire.clock import ManualClock, SystemClock
from oddswire.errors import Undeliverable
from oddswire.health import Bound, Health, Thresholds
from oddswire.locks import Locks
from oddswire.pubsub import Delivery, Gap, PubSub, Topic
from oddswire.queue import Queue
from oddswire.ratelimit import (
    Concurrency,
    RateLimiter,
    Rule,
    SlidingWindow,
    TokenBucket,
)
from oddswire.scripts import Script
from oddswire.sessions import Collection, Expiring, Indexed, Record, Sessions
from support.hooks import beat, believed, index_in_pages, is_subscribed, mirror_complete


async def use_client(url, prefix):
    """Use a client in every way that is its own: wires, names, databases."""
    async with Client.from_url(url, database=1, client_name="part") as client:
        await client.ping()
        async with client.client() as alone:
            await alone.ping()
    async with SimpleClient.from_url(url) as simple:
        await simple.ping()
    async with Client.from_url(url, transport="pool") as pooled:
        await pooled.ping()
    # HELLO carries a name; without it, and for a library's, there are commands.
    async with Client.from_url(url, protocol=2, client_name="part") as older:
        await older.ping()
    async with Client.from_url(url, lib_name="part", lib_version="1") as named:
        await named.ping()


async def use_health(url, prefix):
    """Look once; a busy machine is no fault here."""
    limits = Thresholds(latency=Bound(5), loop_lag=Bound(5))
    async with Client.from_url(url) as client:
        report = await Health(client, thresholds=limits).check()
    assert report.status == "pass", report


async def use_doctor(url, prefix):
    """Look at everything; unknown is only what an administrator has to look at."""
    settings = Settings(url=url, prefix=prefix)
    found = await examine(servers(settings), SystemClock(), lambda _: None)
    checks = found.servers[0].checks
    assert [c.name for c in checks if c.status == "fail"] == []
    unknown = {c.name for c in checks if c.status == "unknown"}
    assert unknown == {"maxmemory", "durability", "idle_timeout"}


async def use_stats(url, prefix):
    """Take a snapshot."""
    await snapshots(servers(Settings(url=url)))


async def use_cache(url, prefix):
    """Load, store, read together, expire, delete and invalidate, with memory."""
    clock = ManualClock()
    async with (
        Client.from_url(url) as client,
        Cache(client, prefix=prefix, timeout=1.0, clock=clock) as cache,
    ):
        for ttl in (1, 60):  # the second one prolongs the life of its tag
            await cache.set("a:1", 1, ttl=ttl, tags=["t"])
        assert await cache.get_or_set("a:2", lambda: 2) == 2
        assert await cache.get_many(["a:1", "a:2", "a:3"]) == {"a:1": 1, "a:2": 2}
        await believed(cache)
        # A minute later, what is held is touched.
        clock.suspend(61)
        await beat(cache)
        assert (await cache.warm_hot("a")).failed == {}
        assert await cache.expire("a:1") == 1
        assert await cache.delete("a:2") == 1
        await cache.invalidate_tags("t")
        assert (await cache.erase(7)).left == ()
        await cache.clear("a")
        assert cache.stats().coherence == "tracking"


class Person(Record):
    """A session with each kind of field."""

    city: Annotated[str, Indexed()] = ""
    wallets: Annotated[dict[str, str], Collection(9, index="wallet")] = {}
    dialog: Annotated[list[str], Expiring()] = []


async def use_sessions(url, prefix):
    """Change, find, move, sweep, follow and erase."""
    async with (
        Client.from_url(url) as client,
        Sessions(client, Person, prefix=prefix) as sessions,
    ):
        await sessions.update(1, lambda s: setattr(s, "city", "Paris"), create=True)
        await sessions.update(1, lambda s: s.dialog.append("hello"))
        await sessions.add_to(1, "wallets", "0xa", "mine")
        assert (await sessions.get(1, fresh=True)).dialog == ["hello"]
        assert await sessions.users_for("city", "Paris", fresh=True) == {1}
        assert await index_in_pages(sessions, "city", "Paris") == ["1"]
        assert await sessions.touch(1)
        assert await sessions.deactivate(1)
        assert await sessions.activate(1)
        await sessions.remove_from(1, "wallets", "0xa")
        assert await sessions.migrate(1, 2)
        await sessions.update(2, lambda s: (setattr(s, "city", ""), s.dialog.clear()))
        assert (await sessions.stats()).total == 1
        await sessions.reencrypt()
        # Changes are followed while somebody looks.
        async with asyncio.timeout(5):
            while not mirror_complete(sessions):
                await sessions.users_for("city", "Paris")
        assert (await sessions.erase(2, search=True)).left == ()
    async with Client.from_url(url) as client:
        await use_source(client, prefix)


class Shelf:
    """A source of record in memory."""

    def __init__(self):
        self.kept = {}

    async def load(self, user_ids):
        """Return records."""
        return [self.kept[each] for each in user_ids if each in self.kept]

    async def save(self, kept, expected):
        """Write a record over a version."""
        there = self.kept.get(kept.user_id)
        if (there.version if there else 0) != expected:
            return False
        self.kept[kept.user_id] = kept
        return True

    async def delete(self, user_id, expected):
        """Delete a record."""
        return self.kept.pop(user_id, None) is not None

    async def move(self, user_id, expected, kept):
        """Move a record."""
        self.kept.pop(user_id, None)
        self.kept[kept.user_id] = kept
        return True

    async def scan(self, after, limit):
        """Return records in order."""
        return [self.kept[each] for each in sorted(self.kept) if each > (after or 0)]


async def use_source(client, prefix):
    """Write through, find, leave Redis for another, rebuild, move and delete."""
    async with Sessions(
        client, Person, prefix=prefix, source=Shelf(), cap=2
    ) as sessions:
        for user_id in (11, 12, 13):
            await sessions.update(
                user_id, lambda s: setattr(s, "city", "Rome"), create=True
            )
        found = await sessions.users_for("city", "Rome", fresh=True)
        assert found == {11, 12, 13}
        await sessions.rebuild()
        assert await sessions.migrate(13, 14)
        assert await sessions.delete(11)
        assert (await sessions.erase(12)).left == ()
        assert (await sessions.erase(14)).left == ()


async def use_locks(url, prefix):
    """Hold a lock, run a script under it, and hand it over to who waits for it."""
    async with Client.from_url(url) as client, Client.from_url(url) as other:
        asked = called(other, "xread")

        async def wait_for_it():
            async with Locks(other, prefix=prefix).lock("market", 1):
                pass

        async with AsyncExitStack() as stack:
            lock = Locks(client, prefix=prefix).lock("market", 1)
            async with lock:
                assert await lock.run(Script("one", "return 1"), []) == 1
                waiting = asyncio.get_running_loop().create_task(wait_for_it())
                stack.push_async_callback(asyncio.wait, {waiting})
                await either(waiting, asked)
            await waiting


async def use_ratelimit(url, prefix):
    """Count by each kind of rule, deny, give back, penalize, reset and change."""
    rules = (
        Rule("window", SlidingWindow(1, 10), key="user"),
        Rule("bucket", TokenBucket(1, 2)),
        Rule("slots", Concurrency(1, 10)),
    )
    async with (
        Client.from_url(url) as client,
        RateLimiter(client, rules, prefix=prefix, deadline=1.0) as limiter,
    ):
        assert (await limiter.hit("window", user=1)).source == "redis"
        assert await limiter.refund(await limiter.hit("bucket")) == 1
        async with limiter.slot("slots"):
            assert not (await limiter.hit("slots")).allowed
        await limiter.penalize("window", 5, user=1)
        await limiter.reset("window", user=1)
        await limiter.set_limit("window", SlidingWindow(2, 10))
        await limiter.set_limit("window", None)
        assert (await limiter.erase(user=1)).left == ()


LIVE = Topic("live", int)
PRICES = Topic("prices", int, delivery=Delivery.LATEST)
LOG = Topic("log", int, delivery=Delivery.LOG)


async def use_pubsub(url, prefix):
    """Publish to each kind of topic, hear of it, go on from a position, look back."""
    async with (
        Client.from_url(url) as client,
        PubSub(client, prefix=prefix, check_every=0.05) as pubsub,
    ):
        async with (
            asyncio.timeout(5),
            pubsub.subscribe(LIVE) as live,
            pubsub.subscribe(PRICES) as prices,
            pubsub.subscribe(LOG, position="reader") as log,
        ):
            for topic, sub in ((LIVE, live), (PRICES, prices), (LOG, log)):
                await pubsub.publish(topic, 7)
                assert (await anext(sub)).value == 7
            await pubsub.publish(LOG, 8, dedup_id="eight")
            assert (await anext(log)).value == 8
        await holds(lambda: not is_subscribed(pubsub))
        # After a message that nobody knows: all that is there, after a gap.
        start = "1-0-0123456789abcdef"
        async with asyncio.timeout(5), pubsub.subscribe(LOG, start=start) as log:
            assert isinstance(await anext(log), Gap)
            assert (await anext(log)).value == 7
        assert await pubsub.latest(PRICES) == {"": 7}
        assert len(await pubsub.history(LOG)) == 2
        assert pubsub.stats().refused == 0


async def use_queue(url, prefix):
    """Deliver, delay, deduplicate, pause, fail, replay, purge and count."""
    async with Client.from_url(url) as client:
        queue = Queue(
            client, "notes", str, prefix=prefix, dead_limit=1, poll=0.05, max_attempts=1
        )
        asked = called(client, "blpop")

        async def deliver(message):
            if message.value == "dead":
                raise Undeliverable("no such chat")

        await queue.pause(kind="price")
        for user in (1, 2):
            await queue.enqueue(user, "dead", dedup_id="dead")
            await queue.enqueue(user, "alive", kind="price")
        await queue.enqueue(3, "later", at=SystemClock().now() + 60)
        assert await queue.identity()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        consuming = loop.create_task(queue.consume(deliver, stop=stop))
        await either(consuming, asked)
        stop.set()
        await consuming
        await queue.resume(kind="price")
        (letter,) = await queue.dead()
        assert await queue.replay(letter.id) == 1
        stop.clear()
        asked.clear()
        consuming = loop.create_task(queue.consume(deliver, stop=stop))
        await either(consuming, asked)
        async with asyncio.timeout(5):
            while queue.counts.delivered < 2:
                asked.clear()
                await either(consuming, asked)
        stop.set()
        await consuming
        assert await queue.purge(user_id=3) == 1
        assert (await queue.erase(3)).left == ()
        found = await queue.stats()
        assert (found.delivered, found.dead_letters) == (2, 1)


async def use_adapters(url, prefix):
    """Keep a conversation of aiogram and data of python-telegram-bot; claim updates."""
    async with Client.from_url(url) as client:
        for ttl in (60.0, None):
            storage = Storage(client, prefix=prefix, ttl=ttl)
            key = StorageKey(bot_id=1, chat_id=2, user_id=3)
            await storage.set_state(key, "asked")
            await storage.update_data(key, {"a": 1})
            assert await storage.get_value(key, "a") == 1
            await storage.set_data(key, {"b": 2})
            await storage.set_state(key, None)
            assert await storage.get_state(key) is None
            assert await storage.get_data(key) == {"b": 2}
            await storage.clear(key)
        once = Deduplicate(client, prefix=prefix)
        update = Update(update_id=7)
        for fails in (True, False):

            async def handle(_event, _data, fails=fails):
                if fails:
                    raise LookupError
                return "done"

            with suppress(LookupError):
                await once(handle, update, {"bot": SimpleNamespace(id=1)})
        assert once.unchecked == 0
        stored = PersistenceInput(callback_data=False)
        data = Persistence(client, prefix=prefix, preload=True, store_data=stored)
        data.set_bot(SimpleNamespace(id=1))
        await data.update_user_data(3, {"a": 1, "b": 2})
        await data.update_user_data(3, {"a": 2})
        assert await data.get_user_data() == {3: {"a": 2}}
        await data.drop_user_data(3)
        await data.update_conversation("talk", (2, 3), "asked")
        assert await data.get_conversations("talk") == {(2, 3): "asked"}
        await data.update_conversation("talk", (2, 3), None)


USES = {
    "client": use_client,
    "health": use_health,
    "doctor": use_doctor,
    "stats": use_stats,
    "cache": use_cache,
    "sessions": use_sessions,
    "locks": use_locks,
    "ratelimit": use_ratelimit,
    "pubsub": use_pubsub,
    "queue": use_queue,
    "adapters": use_adapters,
}


def called(client, name):
    """Return an event that is set when this method of a client is called."""
    event = asyncio.Event()
    method = getattr(client, name)

    def noted(*args, **options):
        event.set()
        return method(*args, **options)

    setattr(client, name, noted)
    return event


async def either(task, event):
    """Wait for an event, or for the end of a task that would have set it."""
    waiting = asyncio.get_running_loop().create_task(event.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=5)
    waiting.cancel()


async def holds(condition):
    """Wait until a condition holds, five seconds at most."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
