"""Every loop that runs for ever, under every refusal that passes by waiting."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from secrets import token_hex

import msgspec
import pytest

import oddswire
from oddswire.connection.errors import TRANSIENT_ERRORS, reply_error
from oddswire.errors import OddswireError
from oddswire.pubsub import Delivery, PubSub, Topic
from oddswire.queue import Queue
from oddswire.ratelimit import Concurrency, Rule, SlidingWindow
from support import eventually
from support.hooks import script
from support.refusing import Refusing

REFUSALS = {
    "unblocked": "UNBLOCKED force unblock from blocking operation, instance state "
    "changed (master -> replica?)",
    "masterdown": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is "
    "set to 'no'.",
    "tryagain": "TRYAGAIN Multiple keys request during rehashing of slot",
    "loading": "LOADING Redis is loading the dataset in memory",
    "readonly": "READONLY You can't write against a read only replica.",
    "readonly in a script": "READONLY You can't write against a read only replica. "
    "script: f00, on @user_script:1.",
    "clusterdown": "CLUSTERDOWN The cluster is down",
    "busy": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or "
    "SHUTDOWN NOSAVE.",
    "noreplicas": "NOREPLICAS Not enough good replicas to write.",
    "misconf": "MISCONF Redis is configured to save RDB snapshots, but it's currently "
    "unable to persist to disk.",
    "oom": "OOM command not allowed when used memory > 'maxmemory'.",
    "oom in a script": "OOM command not allowed when used memory > 'maxmemory'. "
    "script: f00, on @user_script:1.",
    "clients": "ERR max number of clients reached",
}

# Tasks that end by themselves, or with what they do for a caller.
PASSING_TASKS = {
    *("oddswire gathered batch", "oddswire refresh", "oddswire load"),
    *("sessions: updates", "queue: message", "queue: wait for the stop"),
    *("oddswire exclusive connection", "oddswire simple client connecting"),
    *("oddswire topic handler", "oddswire TLS", "oddswire asking for plaintext"),
    *("oddswire server starting", "oddswire any node", "oddswire leaving a node"),
    *("oddswire asking for the map", "oddswire leaving a demoted primary"),
    *("oddswire leaving the old primary", "oddswire address tried"),
}
# Those of Sentinel are tried with sentinels, in their own tests.
LOOPS = {
    *("oddswire cache", "oddswire cache size", "oddswire subscriber"),
    *("oddswire topic dispatcher", "oddswire rate limit waiters"),
    *("oddswire slot renewal", "sessions: sweeper", "sessions: follower"),
    *("queue: renew leases", "queue: wait for messages", "lock mine"),
}
ELSEWHERE = {
    *("sessions: mender", "oddswire sentinel"),
    *("oddswire new credentials", "oddswire authenticating again"),
    *("oddswire update renewal", "oddswire cluster map"),
    *("status looks", "status samples", "oddswire trying a replica"),
}


class Note(msgspec.Struct):
    """A message, and a value of each topic."""

    n: int


TOPICS = tuple(
    Topic(delivery.name.lower(), Note, delivery=delivery) for delivery in Delivery
)
RULES = (
    Rule("slots", Concurrency(5, 2.0), key="user"),
    Rule("window", SlidingWindow(1, 0.5), key="user", on_error="closed"),
)


def _wire(url):
    return oddswire.connect(
        oddswire.Settings(
            url=url, command_timeout=0.7, session_cleanup=1.0, cache_max_size=1024**2
        ),
        queue=Note,
        topics=TOPICS,
        rules=RULES,
    )


@pytest.mark.requirement("C3")
@pytest.mark.errors
@pytest.mark.parametrize("text", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_that_passes_is_known_as_one(text):
    """Whatever a server refuses for a while is an error that loops wait out."""
    assert isinstance(reply_error(text), TRANSIENT_ERRORS)
    assert isinstance(reply_error(text), OddswireError)


@pytest.mark.errors
@pytest.mark.parametrize(
    "text",
    ["ERR unknown command 'x'", "WRONGTYPE x", "NOPERM x", "WRONGPASS x", "NOAUTH x"],
)
def test_a_refusal_that_stays_ends_a_loop(text):
    """What only a change of the program or of its rights ends is not waited out."""
    assert not isinstance(reply_error(text), TRANSIENT_ERRORS)


_MADE = re.compile(
    r"""(?:create_task|spawn)\((?:[^"']|"[^"]*"(?!,? *\)))*?name=f?"([^"{]+)"""
)


@pytest.mark.errors
def test_every_task_is_known_as_a_loop_or_not():
    """A task that is added to the library is added to the loops here, or is none."""
    # Connecting has tests of its own.
    known = (*PASSING_TASKS, *LOOPS, *ELSEWHERE, "lock ")
    named = {
        name
        for path in Path(oddswire.__file__).parent.rglob("*.py")
        for name in _MADE.findall(path.read_text())
    }
    assert {name for name in named if not name.startswith(known)} <= {"oddswire "}
    assert LOOPS - {"lock mine"} <= named


# How each loop shows that it was refused: by a command, or by a script.
SHOWN_BY = {
    "queue: taking": "queue_take",
    "queue: renew leases": "queue_renew",
    "queue: wait for messages": "BLPOP",
    "lock, waited for": "lock_acquire",
    "sessions: sweeper": "session_ended",
    "oddswire slot renewal": "ratelimit_renew",
    "oddswire rate limit waiters": "ratelimit_hit",
    "oddswire cache": "UNLINK",
    "oddswire cache size": "INFO",
    "oddswire subscriber": "MGET",
}


def _counted_as(shown):
    return shown.encode() if shown.isupper() else script(shown)


class Everything:
    """Each of the loops at work on one client, and another one to see it by."""

    def __init__(self, wire, other):
        self.wire, self.other = wire, other
        self.queue = Queue(wire.client, "notes", Note, lease=1.5, poll=0.1)
        self.far_queue = Queue(other.client, "notes", Note)
        self.pubsub = PubSub(wire.client, topics=TOPICS, check_every=0.2)
        self.held = asyncio.Event()
        self.handled, self.heard = set(), set()

    async def start(self, stack):
        """Have every loop run."""
        enter = stack.enter_async_context
        await enter(self.pubsub)
        for topic in TOPICS:
            await enter(self.pubsub.handle(self._hear, topic))
        self.lock = await enter(self.wire.lock("mine", ttl=60))
        await enter(self.wire.limiter.slot("slots", user=1))
        await self.wire.limiter.acquire("window", user=1)
        await self.wire.sessions.update(1, _touch, create=True)
        await self.wire.cache.set("n:key", "value")
        self.worker = _task(self.queue.consume(self._handle))
        stack.push_async_callback(_end, self.worker)
        await self.far_queue.enqueue(0, Note(-1))  # in hand until the end
        await eventually(lambda: -1 in self.handled)

    async def _handle(self, message):
        self.handled.add(message.value.n)
        if message.value.n < 0:
            await self.held.wait()

    async def _hear(self, message):
        self.heard.add((message.topic, message.value.n))

    async def through(self, link, text):
        """Refuse everything until each loop has met it, and see each go on."""
        wire, other = self.wire, self.other
        async with other.lock("theirs", ttl=20):
            waiter = _task(_taken(wire.lock("theirs", ttl=20)))
            before = _tasks()
            assert await _waits(waiter)
            # What was written makes the size of the cache worth a look, which is met.
            link.refuse(text, only=b"INFO")

            async def looked():
                with suppress(OddswireError):
                    await wire.cache.set("n:large", token_hex(150_000))
                return link.refused[b"INFO"]

            await eventually(looked)
            await eventually(lambda: link.blocks(b"BLPOP"))
            link.refuse(text)
            hits = _task(wire.limiter.acquire("window", user=1))

            async def met():
                # What is read has memory believed.
                await asyncio.gather(
                    wire.cache.get("n:key"),
                    wire.sessions.get(1),
                    return_exceptions=True,
                )
                return not _missing(link)

            try:
                await eventually(met)
            except AssertionError:
                raise AssertionError(f"not refused: {_missing(link)}") from None
            assert await _waits(waiter)
            link.accept()
        assert (await hits).allowed
        await waiter
        assert before <= _tasks(), before - _tasks()
        await self._goes_on()

    async def _goes_on(self):
        await self.far_queue.enqueue(1, Note(7))
        await eventually(lambda: 7 in self.handled)

        async def heard():
            # Again: one that came before the subscriber was back is a gap (VOLATILE).
            for topic in TOPICS:
                await self.other.pubsub.publish(topic, Note(7))
            return len(self.heard) == len(TOPICS)

        await eventually(heard)
        await eventually(lambda: self.lock.left > 0)
        near = (await self.wire.sessions.stats()).local_hits

        async def believed():
            await self.wire.sessions.get(1)
            await self.wire.cache.get("n:key")
            entry = await self.wire.cache.get_entry("n:key")
            stats = await self.wire.sessions.stats()
            return entry.tier == "l1" and stats.local_hits > near

        await eventually(believed)
        assert not self.worker.done()
        self.held.set()
        await eventually(self._nothing_in_hand)

    async def _nothing_in_hand(self):
        return (await self.far_queue.stats()).leased == 0


def _touch(session):
    session.preferences["n"] = 1


def _task(work):
    return asyncio.get_running_loop().create_task(work)


async def _taken(lock):
    async with lock:
        pass


async def _waits(task):
    await asyncio.sleep(0.05)
    return not task.done()


def _missing(link):
    return {
        loop for loop, shown in SHOWN_BY.items() if not link.refused[_counted_as(shown)]
    }


def _tasks():
    """Return the names of the loops that run."""
    names = {task.get_name() for task in asyncio.all_tasks()}
    return {name for name in names if any(name.startswith(each) for each in LOOPS)}


async def _end(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.requirement("C3")
@pytest.mark.integration
@pytest.mark.parametrize("text", REFUSALS.values(), ids=REFUSALS.keys())
async def test_no_loop_ends_by_a_refusal_that_passes(own, text):
    """Every loop meets the refusal, none ends, and each does its work afterwards."""
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(Refusing(own))
        wire = await stack.enter_async_context(_wire(link.url))
        other = await stack.enter_async_context(_wire(own.url))
        everything = Everything(wire, other)
        await everything.start(stack)
        await everything.through(link, text)


@pytest.mark.errors
@pytest.mark.parametrize("refusal", ["loading", "misconf", "masterdown"])
async def test_a_refused_ping_takes_in_no_other_reply(own, refusal):
    """A server that subscribes and refuses PING subscribes, and the wire goes on."""
    async with (
        Refusing(own) as link,
        oddswire.connect(oddswire.Settings(url=link.url), topics=TOPICS) as wire,
    ):
        heard = []
        async with wire.pubsub.subscribe(TOPICS[0]):
            link.refuse(REFUSALS[refusal], only=b"PING")
            async with wire.pubsub.handle(heard.append, TOPICS[1]):
                await wire.pubsub.publish(TOPICS[1], Note(1))
                await eventually(lambda: heard)
            assert link.refused[b"PING"]
