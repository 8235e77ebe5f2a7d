"""What each script's error says when the server's state refuses it, over every refusal.

The table in results/refusals.md is what `test_the_table_of_the_page` finds: a program
uses every part, the scripts that it ran are run again with the same arguments on a
server that refuses them, and the number of changes that the server counts is compared.
"""

from __future__ import annotations

import asyncio
import gc
import re
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

import hiredis
import msgspec
import pytest

import oddswire
from oddswire import Client, EmbeddedServer, scripts
from oddswire.connection.multiplexer import Multiplexer
from oddswire.errors import OddswireError, Outcome, Undeliverable
from oddswire.pubsub import Delivery, Topic
from oddswire.ratelimit import Concurrency, Rule, SlidingWindow, TokenBucket
from oddswire.sessions import Collection, Indexed, Record
from support import eventually

NAMES = sorted(path.stem for path in Path(scripts.__file__).parent.glob("*.lua"))
REFUSALS = ("READONLY", "NOREPLICAS", "OOM", "MISCONF", "NOPERM")


class Wallet(msgspec.Struct):
    """A member of a collection."""

    alias: str = ""


class Person(Record):
    """A session with an index and a collection."""

    city: Annotated[str, Indexed()] = ""
    wallets: Annotated[dict[str, Wallet], Collection(20, index="wallet")] = {}
    metadata: dict[str, str] = {}


class Recorder:
    """Keeps the scripts that go over command connections, with their arguments."""

    def __init__(self, monkeypatch):
        self._sent: dict[bytes, list[list[bytes]]] = {}
        usual = Multiplexer.send

        def send(wire, data, *args, **options):
            reader = hiredis.Reader()
            reader.feed(data)
            while (command := reader.gets()) is not False:
                if command[0] in {b"EVALSHA", b"EVAL"}:
                    self._sent.setdefault(command[1], []).append(command[2:])
            return usual(wire, data, *args, **options)

        monkeypatch.setattr(Multiplexer, "send", send)

    def runs(self):
        """Return (source, arguments) of each run, by the script's name."""
        found: dict[str, list[tuple[str, list[bytes]]]] = {}
        # The text that is sent is a file, or several files put together.
        # What a measurement in this process has frozen would not be among the objects.
        gc.unfreeze()
        for script in (o for o in gc.get_objects() if isinstance(o, scripts.Script)):
            for words in (script.sha.encode(), script.source.encode()):
                for arguments in self._sent.pop(words, []):
                    found.setdefault(script.name, []).append((script.source, arguments))
        return found


async def _use_every_part(url):
    prices = Topic("prices", float, delivery=Delivery.LATEST)
    log = Topic("log", str, delivery=Delivery.LOG)
    rules = [
        Rule("window", SlidingWindow(5, 60.0), key="user"),
        Rule("bucket", TokenBucket(1.0, 5), key="user"),
        Rule("slots", Concurrency(2, 30.0), key="user"),
    ]
    async with oddswire.connect(
        url=url,
        prefix="all:",
        session=Person,
        topics=[prices, log],
        rules=rules,
        queue=str,
        side_timeout=5.0,
    ) as wire:
        cache, sessions, limiter = wire.cache, wire.sessions, wire.limiter
        await cache.get_or_set("m:1", lambda: 1, ttl=60, tags=("t",))
        await cache.get_or_set("m:2", lambda: 1, ttl=60, stale=60)
        await cache.set("m:3", 1, ttl=60, tags=("t",))
        await cache.set("m:3", 2, ttl=60, version=7)
        await cache.set_many({"m:4": 1, "m:5": 2}, ttl=60)
        await cache.get_many(["m:4", "m:9"])
        await cache.expire("m:4")
        await cache.delete("m:5")
        with suppress(ZeroDivisionError):
            await cache.get_or_set("m:7", lambda: 1 / 0, ttl=60)
        await cache.invalidate_tags("t", soft=True)
        await cache.invalidate_tags("t")
        for user in (1, 2, 3):
            await sessions.update(user, lambda s: s.metadata.update(a="b"), create=True)
        await sessions.add_to(1, "wallets", "0xa", Wallet("mine"))
        await sessions.users_for("wallet", "0xa")
        await sessions.remove_from(1, "wallets", "0xa")
        await sessions.update(1, lambda s: setattr(s, "city", "Oslo"))
        await sessions.users_for("city", "Oslo")
        await sessions.get(1, fresh=True)
        await sessions.touch(1)
        await sessions.deactivate(2)
        await sessions.activate(2)
        await sessions.migrate(3, 4)
        await sessions.stats()
        await sessions.sweep()
        await sessions.delete(2)
        decision = await limiter.hit("window", "bucket", user=1)
        await limiter.refund(decision)
        await limiter.penalize("window", 0.5, user=1)
        async with limiter.slot("slots", user=1):
            await limiter.peek("window", user=1)
        fenced = scripts.Script("fenced", "return redis.call('SET', KEYS[1], ARGV[1])")
        async with wire.lock("l", 5.0) as lock:
            await lock.run(fenced, [lock.key("x")], ["1"])
        async with wire.pubsub.subscribe(prices, log) as listening:
            await wire.pubsub.publish(prices["a"], 1.0)
            await wire.pubsub.publish(log, "said")
            await anext(aiter(listening))
        await wire.pubsub.latest(prices)
        await wire.pubsub.history(log)
        queue = wire.queue
        for text in ("good", "bad", "later"):
            await queue.enqueue(1, text, dedup_id=text)
        done = asyncio.Event()

        async def handle(message):
            if message.value == "bad":
                raise Undeliverable("no")
            if message.value == "later":
                done.set()

        consuming = asyncio.create_task(queue.consume(handle))  # noqa: TID251 - ended below
        await done.wait()
        consuming.cancel()
        with suppress(asyncio.CancelledError):
            await consuming
        dead = await queue.dead()
        await queue.replay(*(letter.id for letter in dead))
        await queue.pause(key="1")
        await queue.resume(key="1")
        await queue.stats()
        await queue.identity()
        await queue.enqueue(5, "x")
        await queue.purge(key="5")
        await queue.erase(1)


@asynccontextmanager
async def _refusing(what, server, admin):
    """Have the server refuse writes in this way; gives a user's name and password."""
    before = {}

    async def configure(**options):
        for spelled, value in options.items():
            name = spelled.replace("_", "-")
            before.update(await admin.config_get(name))
            await admin.config_set(name, value)

    if what == "READONLY":
        await admin.replicaof("127.0.0.1", 1)
    elif what == "NOREPLICAS":
        await configure(min_replicas_to_write=1)
    elif what == "OOM":
        await configure(maxmemory_policy="noeviction", maxmemory=1)
    elif what == "MISCONF":
        await configure(stop_writes_on_bgsave_error="yes", save="3600 1")
        folder = Path((await admin.config_get("dir"))["dir"])
        (folder / "dump.rdb").unlink(missing_ok=True)
        (folder / "dump.rdb").mkdir()
        (folder / "dump.rdb" / "full").touch()
        await admin.bgsave()

        async def failed():
            return (await admin.info("persistence"))["rdb_last_bgsave_status"] != "ok"

        await eventually(failed)
    else:
        rights = ("~*", "&*", "+@all", "-@write")
        await admin.execute_command("ACL", "SETUSER", "reader", "on", ">r", *rights)
    try:
        yield
    finally:
        if what == "READONLY":
            await admin.replicaof("NO", "ONE")
        for name, value in before.items():
            await admin.config_set(name, value)


async def _changes(admin):
    return (await admin.info("persistence"))["rdb_changes_since_last_save"]


async def _table(server, runs):
    """Return, by script, what each refusal came to."""
    table = {}
    async with (
        Client.from_url(server.url) as admin,
        Client(
            host=server.host, port=server.port, username="reader", password="r"
        ) as reader,
    ):
        for what in REFUSALS:
            async with (
                _refusing(what, server, admin),
                Client.from_url(server.url, retries=0) as fresh,
            ):
                client = reader if what == "NOPERM" else fresh
                for name, each in runs.items():
                    cell = await _try(name, each, client, admin)
                    table.setdefault(name, {})[what] = cell
    return table


async def _try(name, runs, client, admin):
    outcomes = set()
    for source, arguments in runs:
        before = await _changes(admin)
        try:
            await client.execute_command("EVAL", source, *arguments)
        except OddswireError as error:
            outcomes.add(error.outcome)
            if error.outcome is Outcome.REJECTED:
                assert await _changes(admin) == before, (name, arguments)
    if not outcomes:
        return "runs"
    assert len(outcomes) == 1, (name, outcomes)
    return str(outcomes.pop())


@pytest.mark.requirement("C7")
@pytest.mark.integration
async def test_the_table_of_the_page(monkeypatch, pytestconfig):
    """Each script's outcome over each refusal is that of docs/results/refusals.md."""
    recorder = Recorder(monkeypatch)
    async with EmbeddedServer() as server:
        await _use_every_part(server.url)
        monkeypatch.undo()
        table = await _table(server, recorder.runs())
        server.kill()  # it would not end in order without saving
    for name, row in table.items():
        # What the server's state refused has changed nothing, whichever it was.
        assert {row[what] for what in REFUSALS[:-1]} <= {"rejected", "runs"}, name
        assert row["NOPERM"] in {"unknown", "runs"}, name
    refused = [
        name for name in NAMES if table.get(name, {}).get("READONLY") == "rejected"
    ]
    page = (pytestconfig.rootpath / "docs" / "results" / "refusals.md").read_text(
        "utf-8"
    )
    told = re.findall(
        r"^\| ([a-z]+_[a-z_]+) \| rejected \| unknown \|$", page, re.MULTILINE
    )
    assert told == refused, "\n".join(f"| {n} | rejected | unknown |" for n in refused)
    # The others are of adapters, of the source of record, of renewals, of what is hot
    # or too much; the rule is that of the server, so it is theirs as well.
    assert len(table) >= 38
