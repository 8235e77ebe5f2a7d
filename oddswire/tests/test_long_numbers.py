"""An int of 5,000 digits, which Python makes no text of, in every place of an int.

`str` and `repr` of it raise a ValueError, also in the message of another error, and
hiredis ends the process.
"""

from __future__ import annotations

import asyncio
import inspect

import msgspec
import pytest
import redis

import oddswire
from oddswire import Settings, SimpleClient
from oddswire.cache import Namespace
from oddswire.errors import OddswireError
from oddswire.keys import Family, KeySpace
from oddswire.locks import Locks
from oddswire.pubsub import Delivery, Topic
from oddswire.queue import Queue
from oddswire.ratelimit import (
    Concurrency,
    RateLimiter,
    Rule,
    SlidingWindow,
    TokenBucket,
)

LONG = 10**5000


class Note(msgspec.Struct):
    """A message with a number."""

    n: int


TOPIC = Topic("lines", Note)
LATEST = Topic("latest", Note, delivery=Delivery.LATEST)
LOG = Topic("log", Note, delivery=Delivery.LOG)
WINDOW = Rule("window", SlidingWindow(5, 1.0), key="user")
BUCKET = Rule("bucket", TokenBucket(1.0, 5))


async def _load(*_):
    return LONG


def _set(session):
    session.preferences["n"] = LONG


async def _enter(manager):
    async with manager:
        pass


def _without_a_server():
    """Return what needs none, by name."""
    window = SlidingWindow(1, 1.0)
    family = Family("f", int, int)
    return {
        "key": lambda: KeySpace("a:").key(family, 1, LONG),
        "pattern": lambda: KeySpace("a:").pattern(family, LONG),
        "window": lambda: SlidingWindow(LONG, 1.0),
        "window's seconds": lambda: SlidingWindow(1, LONG),
        "bucket": lambda: TokenBucket(1.0, LONG),
        "bucket's rate": lambda: TokenBucket(LONG, 1),
        "slots": lambda: Concurrency(LONG, 1.0),
        "rule": lambda: Rule(LONG, window),
        "rule's cost": lambda: Rule("r", window, cost=LONG),
        "rule's reserve": lambda: Rule("r", window, reserve=LONG),
        "topic": lambda: TOPIC[LONG],
        "topic's retention": lambda: Topic("t", Note, retention=LONG),
        "namespace": lambda: Namespace(name="n", ttl=LONG),
        "namespace's eagerness": lambda: Namespace(name="n", early=LONG),
        **{
            f"setting {name}": lambda name=name: Settings(**{name: LONG})
            for name in Settings.__struct_fields__
            if name != "notices"  # what was found while it was read; no setting
        },
        "port of a URL": lambda: Settings(url=f"redis://h:{'1' * 5000}"),
        "database of a URL": lambda: Settings(url=f"redis://h/{'1' * 5000}"),
        "variable": lambda: Settings.from_env({"REDIS_POOL_MAX": "1" * 5000}, None),
    }


@pytest.mark.errors
@pytest.mark.requirement("G1")
@pytest.mark.parametrize("what", _without_a_server())
def test_a_long_number_is_a_typed_error(what):
    """Where a number is refused, the error is of this library and can be shown."""
    with pytest.raises(OddswireError) as caught:
        _without_a_server()[what]()
    assert str(caught.value)


def _of_wire(wire):
    """Return calls of each part, by name."""
    cache, sessions, limiter = wire.cache, wire.sessions, wire.limiter
    pubsub, queue, client = wire.pubsub, wire.queue, wire.client

    @cache.cached(ttl=5, key="market:{number}", tags=("market:{number}",))
    async def single(number):
        return 1

    @cache.cached(ttl=5, key="pair:{text}:{number}")
    async def pair(text, number):
        return 1

    return {
        "decorated": lambda: single(LONG),
        "decorated, two fields": lambda: pair("a", LONG),
        "invalidate": lambda: single.invalidate(LONG),
        "refresh": lambda: single.refresh(LONG),
        "cached key": lambda: cache.get(LONG),
        "cached value": lambda: cache.set("n:a", LONG),
        "loaded value": lambda: cache.get_or_set("n:b", _load),
        "ttl": lambda: cache.set("n:a", 1, ttl=LONG),
        "version": lambda: cache.set("n:a", 1, version=LONG),
        "stale": lambda: cache.get_or_set("n:c", _load, stale=LONG),
        "tag": lambda: cache.set("n:a", 1, tags=(LONG,)),
        "clear": lambda: cache.clear(LONG),
        "warm": lambda: cache.warm([], concurrency=LONG),
        "session": lambda: sessions.get(LONG),
        "session's value": lambda: sessions.update(1, _set, create=True),
        "session, alone": lambda: _enter(sessions.exclusive(LONG)),
        "delete": lambda: sessions.delete(LONG),
        "touch": lambda: sessions.touch(LONG),
        "activate": lambda: sessions.activate(LONG),
        "revoke": lambda: sessions.revoke(LONG),
        "erase": lambda: wire.erase(LONG),
        "hit": lambda: limiter.hit("window", user=LONG),
        "cost": lambda: limiter.hit("bucket", cost=LONG),
        "acquire": lambda: limiter.acquire("bucket", timeout=LONG),
        "peek": lambda: limiter.peek("window", user=LONG),
        "penalize": lambda: limiter.penalize("bucket", LONG),
        "deadline": lambda: RateLimiter(client, deadline=LONG),
        "published": lambda: pubsub.publish(TOPIC, Note(LONG)),
        "published version": lambda: pubsub.publish(LATEST, Note(1), version=LONG),
        "subscribed queue": lambda: _enter(pubsub.subscribe(TOPIC, queue=LONG)),
        "start": lambda: _enter(pubsub.subscribe(LOG, start=LONG)),
        "position": lambda: _enter(pubsub.subscribe(LOG, position=LONG)),
        "enqueue": lambda: queue.enqueue(LONG, Note(1)),
        "enqueued value": lambda: queue.enqueue(1, Note(LONG)),
        "enqueue at": lambda: queue.enqueue(1, Note(1), at=LONG),
        "enqueue ttl": lambda: queue.enqueue(1, Note(1), ttl=LONG),
        "dedup_id": lambda: queue.enqueue(1, Note(1), dedup_id=LONG),
        "purge": lambda: queue.purge(user_id=LONG),
        "dead": lambda: queue.dead(limit=LONG),
        "replay": lambda: queue.replay(LONG),
        "consume": lambda: queue.consume(_load, concurrency=LONG),
        "lease": lambda: Queue(client, "q", Note, lease=LONG),
        "lock": lambda: _enter(wire.lock("l", ttl=LONG)),
        "lock's name": lambda: _enter(wire.lock(LONG, ttl=1)),
        "patience": lambda: Locks(client).lock("l", ttl=1, patience=LONG),
    }


@pytest.mark.errors
@pytest.mark.requirement("G1")
async def test_a_long_number_is_a_typed_error_of_each_part(server):
    """No call of a part ends in a bare ValueError, hangs or ends the process."""
    async with oddswire.connect(
        Settings(url=server.url),
        queue=Note,
        topics=(TOPIC, LATEST, LOG),
        rules=(WINDOW, BUCKET),
    ) as wire:
        for what, call in _of_wire(wire).items():
            with pytest.raises(OddswireError) as caught:  # noqa: PT012 - some of them are no coroutines
                found = call()
                if inspect.isawaitable(found):
                    async with asyncio.timeout(20):
                        await found
                pytest.fail(f"{what} took it")
            assert str(caught.value)


@pytest.mark.errors
@pytest.mark.requirement("C15")
@pytest.mark.parametrize("how", ["command", "argument", "batch", "blocking", "simple"])
async def test_a_long_number_in_a_command_is_redis_pys_error(client, prefix, how):
    """A command with it is refused as one with an object is; the process lives on."""
    simple = SimpleClient.from_url(client.settings.full_url)
    calls = {
        "command": lambda: client.set(f"{prefix}k", LONG),
        "argument": lambda: client.execute_command("SET", f"{prefix}k", -LONG, "EX", 5),
        "batch": lambda: client.pipeline().set(f"{prefix}k", LONG, ex=5).execute(),
        "blocking": lambda: client.blpop(f"{prefix}k", timeout=LONG),
        "simple": lambda: simple.set(f"{prefix}k", LONG),
    }
    with pytest.raises(redis.DataError, match="number that cannot be packed"):
        await calls[how]()
    await simple.aclose()
    # As far as Python goes, it is text as any other number.
    assert await client.set(f"{prefix}k", 10**4000, ex=60)
    assert await client.get(f"{prefix}k") == str(10**4000).encode()
