"""Any sequence of steps, against a model of what a queue is."""

from __future__ import annotations

import asyncio
import uuid

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from oddswire import Client
from oddswire.clock import ManualClock
from oddswire.keys import QUEUE_USERS, KeySpace
from oddswire.queue import Queue
from support.hooks import Settlement, leases

WINDOW = 50.0
LEASE = 10.0
USERS = st.integers(1, 3)
KINDS = st.sampled_from(["", "price", "result"])
KEYS = st.sampled_from(["", "m1", "m2"])
LABELS = st.sampled_from(
    [{}, {"kind": "price"}, {"kind": "result"}, {"key": "m1"}, {"key": "m2"}]
)


class Item(msgspec.Struct):
    """What the model knows of a message."""

    user: int
    kind: str
    key: str
    due: float
    expires: float | None
    state: str = "line"
    attempts: int = 0
    uncertain: bool = False

    def is_paused(self, paused):
        """Whether one of its labels is."""
        return ("kind", self.kind) in paused or ("key", self.key) in paused


class Model(RuleBasedStateMachine):
    """A queue, and dictionaries that do the same."""

    url = ""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.items = {}
        self.ready = {}  # user: when the line may be served
        self.leases = {}  # user: (what was taken, the end of the lease)
        self.held = []  # all that was ever taken and not settled by its holder
        self.known = {}
        self.paused = set()
        self.gone = {"delivered": 0, "expired": 0, "purged": 0}

    def run(self, coroutine):
        """Run on the machine's own loop."""
        return self.runner.run(coroutine)

    @initialize()
    def open(self):
        """Begin with an empty queue."""

        async def make():
            self.clock = ManualClock()
            self.client = Client.from_url(self.url)
            prefix = f"model-{uuid.uuid4().hex[:12]}:"
            self.users = KeySpace(prefix).key(QUEUE_USERS, "q")
            self.queue = Queue(
                *(self.client, "q", int),
                prefix=prefix,
                clock=self.clock,
                dedup_window=WINDOW,
            )

        self.run(make())

    def teardown(self):
        """Close the client."""
        if hasattr(self, "client"):
            self.run(self.client.aclose())
        self.runner.close()

    def line(self, user):
        """The messages of a user's line, in order."""
        return sorted(
            id_
            for id_, item in self.items.items()
            if item.user == user and item.state == "line"
        )

    def join(self, id_):
        """Put a message into its line."""
        item = self.items[id_]
        item.state = "line"
        self.ready.setdefault(item.user, self.clock.now())

    @rule(
        user=USERS,
        dedup=st.sampled_from([None, "a", "b"]),
        ttl=st.sampled_from([None, 5.0, 30.0]),
        delay=st.sampled_from([None, -5.0, 7.0, 20.0]),
        kind=KINDS,
        key=KEYS,
    )
    def enqueue(self, user, dedup, ttl, delay, kind, key):
        """Add a message."""
        now = self.clock.now()
        at = None if delay is None else now + delay
        id_ = self.run(
            self.queue.enqueue(
                user, user, dedup_id=dedup, ttl=ttl, at=at, kind=kind, key=key
            )
        )
        if dedup and self.known.get((user, dedup), now) > now:
            assert id_ is None
            return
        if dedup:
            self.known[user, dedup] = now + WINDOW
        due = max(now, at or now)
        assert id_ is not None
        assert id_ > max(self.items, default="")
        expires = None if ttl is None else due + ttl
        self.items[id_] = Item(user, kind, key, due, expires)
        if due > now:
            self.items[id_].state = "delayed"
        else:
            self.join(id_)

    @rule(user=USERS, kind=KINDS)
    def enqueue_plain(self, user, kind):
        """Add a message that is due at once, without any condition."""
        self.enqueue(user=user, dedup=None, ttl=None, delay=None, kind=kind, key="m1")

    @precondition(lambda self: self.items)
    @rule()
    def take(self):
        """Have everything handed out that may be."""
        now = self.clock.now()
        batch = self.run(leases(self.queue).take(10, LEASE))
        for id_, item in self.items.items():
            due = item.state == "delayed" and item.due <= now
            resumed = item.state == "parked" and not item.is_paused(self.paused)
            if due or resumed:
                self.join(id_)
        expected = []
        if ("*",) not in self.paused:
            for user, ready in list(self.ready.items()):
                if ready <= now:
                    expected += self.take_of(user, now)
        assert sorted(each.id for each in batch.leased) == sorted(expected)
        for each in batch.leased:
            item = self.items[each.id]
            assert (each.user, each.kind, each.key) == (item.user, item.kind, item.key)
            assert (each.attempts, each.uncertain) == (item.attempts, item.uncertain)
            self.leases[each.user] = (each, now + LEASE)
            self.ready[each.user] = now + LEASE
            self.held.append(each)

    def take_of(self, user, now):
        """The message of a user that is to be handed out."""
        for id_ in self.line(user):
            item = self.items[id_]
            if item.expires is not None and item.expires <= now:
                del self.items[id_]
                self.gone["expired"] += 1
            elif item.is_paused(self.paused):
                item.state = "parked"
            else:
                before = self.leases.get(user)
                if before and before[0].id == id_:
                    item.uncertain = True
                return [id_]
        del self.ready[user]
        self.leases.pop(user, None)
        return []

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        what=st.sampled_from(["done", "done", "retry", "wait", "release", "dead"]),
        uncertain=st.booleans(),
    )
    def settle(self, data, what, uncertain):
        """End a lease, perhaps one that was lost long ago."""
        now = self.clock.now()
        taken = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        ours = self.run(
            leases(self.queue).settle(
                taken, Settlement(what, 8.0, uncertain), dead_limit=100
            )
        )
        mine = self.leases.get(taken.user, (None,))[0] is taken
        assert ours == mine
        if not mine:
            return
        del self.leases[taken.user]
        item = self.items[taken.id]
        if what == "done":
            del self.items[taken.id]
            self.gone["delivered"] += 1
        else:
            item.attempts += what in ("retry", "dead")
            item.uncertain = item.uncertain or uncertain
            item.state = "dead" if what == "dead" else item.state
        waits = what in ("retry", "wait")
        self.ready[taken.user] = now + (8.0 if waits else 0.0)
        if not self.line(taken.user):
            del self.ready[taken.user]

    @precondition(lambda self: self.held)
    @rule()
    def renew(self):
        """Prolong every lease that anybody thinks to have."""
        kept = self.run(leases(self.queue).renew(LEASE, self.held))
        for taken, ours in zip(self.held, kept, strict=True):
            mine = self.leases.get(taken.user, (None,))[0] is taken
            assert ours == mine
            if mine:
                self.ready[taken.user] = self.clock.now() + LEASE

    @precondition(lambda self: self.items)
    @rule(label=LABELS)
    def pause(self, label):
        """Pause something."""
        name = next(iter(label.items()), ("*",))
        assert self.run(self.queue.pause(**label)) == (name not in self.paused)
        self.paused.add(name)

    @precondition(lambda self: self.paused)
    @rule(label=LABELS)
    def resume(self, label):
        """Resume something."""
        name = next(iter(label.items()), ("*",))
        assert self.run(self.queue.resume(**label)) == (name in self.paused)
        self.paused.discard(name)

    @precondition(lambda self: self.items)
    @rule(
        user=st.none() | USERS,
        kind=st.none() | KINDS.filter(bool),
        key=st.none() | KEYS.filter(bool),
    )
    def purge(self, user, kind, key):
        """Remove what matches, but for what is in somebody's hands."""
        if user is None and kind is None and key is None:
            return
        removed = []
        for id_, item in self.items.items():
            lease = self.leases.get(item.user)
            if (
                (user is None or item.user == user)
                and (kind is None or item.kind == kind)
                and (key is None or item.key == key)
                and not (lease and lease[0].id == id_)
            ):
                removed.append(id_)
        # In no certain order, so only the last state of a line is the model's.
        count = self.run(self.queue.purge(user_id=user, kind=kind, key=key))
        assert count == len(removed)
        for id_ in removed:
            item = self.items.pop(id_)
            if item.state == "line" and item.user not in self.leases:
                self.unsettled(item.user)
        self.gone["purged"] += count

    def unsettled(self, user):
        """A line lost a message: ask the queue whether its user still waits."""
        score = self.run(self.client.zscore(self.users, str(user)))
        self.ready[user] = score / 1000

    @precondition(lambda self: any(x.state == "dead" for x in self.items.values()))
    @rule(data=st.data(), ttl=st.sampled_from([None, 5.0]))
    def replay(self, data, ttl):
        """Put a dead letter back."""
        dead = self.run(self.queue.dead())
        expected = sorted(i for i, item in self.items.items() if item.state == "dead")
        assert [letter.id for letter in dead] == expected
        id_ = data.draw(st.sampled_from(expected))
        assert self.run(self.queue.replay(id_, ttl=ttl)) == 1
        item = self.items[id_]
        item.attempts = 0
        item.expires = None if ttl is None else self.clock.now() + ttl
        self.join(id_)

    @precondition(lambda self: self.items)
    @rule(seconds=st.sampled_from([0.5, 4.0, 8.0, 10.0, 60.0]))
    def advance(self, seconds):
        """Let time pass."""
        self.run(self.clock.advance(seconds))

    @invariant()
    def everything_is_accounted_for(self):
        """The queue says of itself what the model says."""
        if not hasattr(self, "client"):
            return
        counted = self.run(self.queue.stats())
        states = [item.state for item in self.items.values()]
        assert counted.waiting == states.count("line")
        assert counted.delayed == states.count("delayed")
        assert counted.parked == states.count("parked")
        assert counted.dead_letters == states.count("dead")
        for name, count in self.gone.items():
            assert getattr(counted, name) == count
        assert counted.accounted == counted.enqueued
        assert counted.leased == len(self.leases)
        assert counted.users == len(self.ready)


@pytest.mark.integration
@pytest.mark.requirement("P5")
def test_any_sequence_of_steps_does_what_the_model_does(server):
    """Order, deduplication, delay, expiry, pause, purge, leases and dead letters."""
    machine = type("Machine", (Model,), {"url": server.url})
    run_state_machine_as_test(
        machine, settings=settings(stateful_step_count=40, max_examples=50)
    )
