"""The log against a model: any order of publishing, losing, trimming and reading."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from oddswire import Client
from oddswire.pubsub import Delivery, Gap, PubSub, Topic
from oddswire.pubsub._chain import Chain, Head
from oddswire.pubsub.messages import GapReason
from support.hooks import drop_subscriber, links_known, unheard
from support.keys import TopicKeys

EVENTS = Topic("events", int, delivery=Delivery.LOG, history=10)


@pytest.mark.advanced
@pytest.mark.requirement("P2")
def test_any_history_of_a_log_is_told_truly(server):
    """Messages between two gaps are neighbours in one history of the server.

    The model knows each message's predecessor at the time it was published. Two
    messages that a reader gets without a gap in between must be such neighbours, and
    nothing is yielded twice, whatever was lost, rolled back, trimmed, flushed or left
    to overflow between the reads.
    """

    class Histories(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.runner = asyncio.Runner()
            self.next = 0
            self.before = {}
            self.last = None
            self.saved = None
            self.read = None
            self.seen = set()
            self.run = self.runner.run
            self.run(self.open())

        async def open(self):
            self.client = Client.from_url(server.url)
            self.pubsub = PubSub(
                self.client, prefix=f"model-{id(self):x}:", check_every=0.01
            )
            await self.pubsub.__aenter__()
            self.sub = self.pubsub.subscribe(EVENTS, queue=4)
            await self.sub.__aenter__()
            self.keys = TopicKeys(EVENTS, f"model-{id(self):x}:")

        def teardown(self):
            async def close():
                await self.pubsub.__aexit__(None, None, None)
                await self.client.delete(self.keys.head, self.keys.log)
                await self.client.aclose()

            self.run(close())
            self.runner.close()

        @rule(count=st.integers(1, 7))
        def publish(self, count):
            async def many():
                for _ in range(count):
                    await self.pubsub.publish(EVENTS, self.next)
                    self.before[self.next] = self.last
                    self.last = self.next
                    self.next += 1

            self.run(many())

        @rule()
        def unheard(self):
            """Publish while the message itself gets lost on the way."""
            with unheard(self.pubsub, EVENTS):
                self.publish(1)

        @rule()
        def disconnect(self):
            async def kill():
                drop_subscriber(self.pubsub)
                await asyncio.sleep(0)

            self.run(kill())

        @rule(keep=st.integers(0, 5))
        def trim(self, keep):
            self.run(self.client.xtrim(self.keys.log, maxlen=keep, approximate=False))

        @rule()
        def lose_the_log(self):
            self.run(self.client.delete(self.keys.log))

        @rule()
        def flush(self):
            self.run(self.client.delete(self.keys.log, self.keys.head))
            # What comes next follows nothing.
            self.last = ("anew", self.next)

        @rule()
        def lose_the_head(self):
            """Evict the head alone: a new chain begins in the old log."""
            self.run(self.client.delete(self.keys.head))
            self.last = ("anew", self.next)

        @rule()
        def snapshot(self):
            async def dump():
                return [
                    await self.client.dump(key)
                    for key in (self.keys.head, self.keys.log)
                ]

            self.saved = (self.run(dump()), self.last)

        @precondition(lambda self: self.saved)
        @rule()
        def roll_back(self):
            dumps, last = self.saved

            async def restore():
                keys = (self.keys.head, self.keys.log)
                # At once: the reader makes a head where it finds none.
                async with self.client.pipeline(transaction=True) as pipe:
                    pipe.delete(*keys)
                    for key, dump in zip(keys, dumps, strict=True):
                        if dump is not None:
                            pipe.restore(key, 0, dump)
                    await pipe.execute()

            self.run(restore())
            self.last = last if dumps[0] is not None else ("anew", self.next)

        @rule(count=st.integers(1, 12))
        def take(self, count):
            async def some():
                for _ in range(count):
                    try:
                        async with asyncio.timeout(0.02):
                            self.judge(await anext(self.sub))
                    except TimeoutError:
                        return

            self.run(some())

        def judge(self, event):
            if isinstance(event, Gap):
                self.read = None
                assert event.lost is None or event.lost > 0
                return
            assert event.value not in self.seen
            self.seen.add(event.value)
            if self.read is not None:
                assert self.before[event.value] == self.read
            self.read = event.value

        @invariant()
        def the_queue_is_bounded(self):
            # Four frames and a mark, and one page of the log while it is read.
            assert self.sub.depth <= 5 + 120

    run_state_machine_as_test(Histories, settings=_settings())


def _settings():
    from hypothesis import settings

    usual = settings.default
    return settings(usual, max_examples=usual.max_examples // 2, stateful_step_count=25)


A = Head(5, b"1-1-" + b"a" * 16, b"e")


@pytest.mark.basic
@pytest.mark.parametrize(
    ("head", "unseen", "rejoins", "expected"),
    [
        ((9, b"e"), 8, False, (2, GapReason.TRIMMED)),
        ((9, b"e"), None, False, (4, GapReason.EXPIRED)),
        ((9, b"e"), 8, True, (None, GapReason.ROLLBACK)),
        ((9, b"e"), 6, False, (None, GapReason.ROLLBACK)),
        ((4, b"e"), None, False, (None, GapReason.ROLLBACK)),
        ((9, b"f"), 1, False, (None, GapReason.RESET)),
    ],
)
def test_reasons_of_a_gap(head, unseen, rejoins, expected):
    """What the log still holds tells why something is missing, and how much."""
    chain = Chain(A, 10)
    at = None if unseen is None else Head(unseen, b"x", head[1])
    end = Head(head[0], b"y", head[1])
    assert chain.loss(end, at, rejoins=rejoins) == expected


@pytest.mark.basic
def test_a_chain_remembers_so_many_and_no_more():
    """Links are known for as long as promised, and memory is bounded."""
    chain = Chain(A, 10)
    links = [b"%d" % n for n in range(100)]
    for n, link in enumerate(links):
        chain.advance(n, link)
    assert all(chain.knows(link) for link in links[-10:])
    assert not any(chain.knows(link) for link in links[:90])
    assert links_known(chain) == 10


@pytest.mark.basic
def test_a_head_survives_its_bytes():
    """What is stored of a place is read as the same place."""
    assert Head.parse(A.to_bytes()) == A
