"""What a queue does, one promise after the other, in one process."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import OutOfMemoryError

from oddswire import Client, EmbeddedServer
from oddswire.clock import ManualClock
from oddswire.errors import CodecError, QueueError, RateLimited, Undeliverable
from oddswire.keys import QUEUE_DEDUP, KeySpace
from oddswire.queue import Queue
from support import eventually
from support.hooks import leases

from .conftest import Inbox, Note, consuming, drained, empty


@pytest.mark.basic
@pytest.mark.requirement("P5")
async def test_messages_arrive_in_the_order_of_their_user(queue):
    """Each user gets all messages, in the order in which they were enqueued."""
    for number in range(20):
        for user in range(10):
            await queue.enqueue(user, Note(f"{number}"))
    inbox = Inbox()
    await drained(queue, inbox)
    for user in range(10):
        assert inbox.of(user) == [str(number) for number in range(20)]
    counted = await queue.stats()
    assert (counted.enqueued, counted.delivered) == (200, 200)
    assert counted.accounted == 200


@pytest.mark.basic
@pytest.mark.requirement("P5")
async def test_a_message_carries_what_it_was_enqueued_with(queue):
    """The handler gets the value and its circumstances; the id is the one returned."""
    id_ = await queue.enqueue(7, Note("hi"), kind="price", key="m1", ttl=60)
    inbox = Inbox()
    await drained(queue, inbox)
    (message,) = inbox.messages
    assert (message.id, message.user_id, message.value) == (id_, 7, Note("hi"))
    assert (message.kind, message.key, message.attempt) == ("price", "m1", 1)
    assert message.expires_at == pytest.approx(message.due_at + 60)
    assert not message.uncertain


@pytest.mark.basic
@pytest.mark.requirement("P5")
async def test_the_same_id_is_taken_in_once_for_a_user(make):
    """A repeat within the window adds nothing, also after delivery."""
    clock = ManualClock()
    queue = make(clock=clock, dedup_window=100)
    assert await queue.enqueue(1, Note("a"), dedup_id="x")
    assert await queue.enqueue(1, Note("a"), dedup_id="x") is None
    assert await queue.enqueue(2, Note("a"), dedup_id="x")
    inbox = Inbox()
    await drained(queue, inbox)
    await clock.advance(99)
    assert await queue.enqueue(1, Note("a"), dedup_id="x") is None
    await clock.advance(1)
    assert await queue.enqueue(1, Note("a"), dedup_id="x")
    assert await queue.enqueue_many({1: Note("a"), 3: Note("a")}, dedup_id="x") == 1
    counted = await queue.stats()
    assert (counted.enqueued, counted.duplicates) == (4, 3)
    assert (queue.counts.enqueued, queue.counts.duplicates) == (4, 3)


@pytest.mark.basic
@pytest.mark.requirement("P5")
async def test_many_users_get_one_value(queue):
    """A fan-out of thousands is a few calls, and everybody gets the message."""
    users = range(1, 1_201)
    assert await queue.enqueue_many(dict.fromkeys(users, Note("all"))) == 1_200
    inbox = Inbox()
    await drained(queue, inbox, concurrency=64)
    assert sorted(inbox.got) == [(user, "all") for user in users]


@pytest.mark.basic
@pytest.mark.requirement("P5")
async def test_a_delayed_message_waits_until_it_is_due(make):
    """It is not handed out before, and then goes first among what waits."""
    clock = ManualClock()
    queue = make(clock=clock)
    await queue.enqueue(1, Note("later"), at=clock.now() + 10)
    await queue.enqueue(1, Note("past"), at=clock.now() - 10)
    inbox = Inbox()
    async with consuming(queue, inbox):
        await eventually(lambda: inbox.got == [(1, "past")])
        await clock.advance(9.99)
        await queue.pause()
        await queue.enqueue(1, Note("new"))
        await clock.advance(0.01)
        await queue.resume()
        await eventually(lambda: empty(queue))
    assert inbox.of(1) == ["past", "later", "new"]


@pytest.mark.basic
@pytest.mark.requirement("P5")
async def test_an_expired_message_is_never_handed_out(make):
    """What was not delivered in its time is removed, and counted."""
    clock = ManualClock()
    queue = make(clock=clock)
    await queue.enqueue(1, Note("stale"), ttl=5)
    await queue.enqueue(1, Note("late"), ttl=5, at=clock.now() + 10)
    await queue.enqueue(1, Note("fresh"))
    await clock.advance(10)
    inbox = Inbox()
    await drained(queue, inbox)
    assert inbox.of(1) == ["late", "fresh"]
    assert (await queue.stats()).expired == queue.counts.expired == 1


@pytest.mark.advanced
@pytest.mark.requirement("P5")
async def test_a_failure_holds_up_its_user_and_nobody_else(make):
    """While a message waits for its next attempt, only its user waits."""
    # However long the other user's message takes, there is a next attempt.
    queue = make(max_attempts=1_000, retry_cap=0.1)
    others = asyncio.Event()

    def fail(message):
        if message.value.text == "bad" and not others.is_set():
            raise ConnectionError("not now")

    for text in ("bad", "after"):
        await queue.enqueue(1, Note(text))
    inbox = Inbox(fail)
    async with consuming(queue, inbox):
        await eventually(lambda: len(inbox.messages) >= 3)
        assert inbox.got == []
        await queue.enqueue(2, Note("other"))
        await eventually(lambda: inbox.got == [(2, "other")])
        others.set()
        await eventually(lambda: empty(queue))
    assert inbox.of(1) == ["bad", "after"]
    attempts = [each.attempt for each in inbox.messages if each.value.text == "bad"]
    assert attempts == list(range(1, len(attempts) + 1))
    assert (await queue.stats()).retried == len(attempts) - 1


@pytest.mark.advanced
@pytest.mark.requirement("P5")
async def test_what_keeps_failing_becomes_a_dead_letter_and_can_be_replayed(make):
    """After its last attempt it is set aside with the reason, and can return."""
    queue = make(max_attempts=3)
    broken = True

    def fail(message):
        if broken and message.value.text == "bad":
            raise ValueError("no such chat")

    for text in ("bad", "after"):
        await queue.enqueue(1, Note(text), kind="price", key="m")
    inbox = Inbox(fail)
    await drained(queue, inbox)
    assert inbox.of(1) == ["after"]
    (letter,) = await queue.dead()
    assert (letter.value, letter.user_id, letter.attempts) == (Note("bad"), 1, 3)
    assert (letter.reason, letter.kind) == ("ValueError: no such chat", "price")
    assert letter.died_at >= letter.due_at
    broken = False
    assert await queue.replay(letter.id, "0000000000000000") == 1
    assert await queue.replay(letter.id) == 0
    await drained(queue, inbox)
    assert inbox.of(1) == ["after", "bad"]
    assert inbox.messages[-1].attempt == 1
    counted = await queue.stats()
    assert (counted.dead, counted.replayed, counted.dead_letters) == (1, 1, 0)
    assert counted.accounted == counted.enqueued == 2


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_an_undeliverable_message_is_not_tried_again(queue):
    """A handler that knows better than to try again says so."""

    def fail(message):
        raise Undeliverable("blocked by the user")

    await queue.enqueue(1, Note("a"))
    inbox = Inbox(fail)
    await drained(queue, inbox)
    assert len(inbox.messages) == 1
    assert [x.reason for x in await queue.dead()] == [
        "Undeliverable: blocked by the user"
    ]


@pytest.mark.advanced
@pytest.mark.requirement("P5")
async def test_being_limited_is_no_failure(make):
    """`RateLimited` postpones the user by what it says, and costs no attempt."""
    clock = ManualClock()
    queue = make(clock=clock, max_attempts=1)
    limited = True

    def fail(message):
        if limited:
            raise RateLimited("slow down", retry_after=30)

    await queue.enqueue(1, Note("a"))
    inbox = Inbox(fail)
    async with consuming(queue, inbox):
        await eventually(lambda: queue.counts.postponed == 1)
        limited = False
        await clock.advance(29.9)
        await queue.enqueue(2, Note("b"))
        await eventually(lambda: inbox.got == [(2, "b")])
        await clock.advance(0.1)
        await eventually(lambda: empty(queue))
    assert inbox.of(1) == ["a"]
    assert inbox.messages[-1].attempt == 1
    assert await queue.dead() == []


@pytest.mark.errors
@pytest.mark.requirement("P5")
@pytest.mark.parametrize(
    "error",
    [
        RateLimited("odd", retry_after=float("nan")),
        RateLimited("odd", retry_after=-1.0),
        ValueError("\ud800" * 1_000),
        asyncio.CancelledError(),
        ExceptionGroup("several", [OSError()]),
    ],
    ids=["not a number", "negative", "no text", "cancelled", "several"],
)
async def test_whatever_a_handler_raises_the_worker_goes_on(queue, error):
    """An odd error is one failure of one message, and stops nothing."""

    def fail(message):
        if len(inbox.messages) == 1:
            raise error

    await queue.enqueue(1, Note("a"))
    inbox = Inbox(fail)
    await drained(queue, inbox)
    assert inbox.got == [(1, "a")]
    assert len(inbox.messages) == 2


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_a_handler_that_never_ends_is_cancelled_and_tried_again(make):
    """A hanging attempt ends at the timeout; the next one is uncertain."""
    queue = make(timeout=0.05)
    inbox = Inbox(lambda m: asyncio.Event().wait() if m.attempt == 1 else None)
    await queue.enqueue(1, Note("a"))
    await drained(queue, inbox)
    assert [each.uncertain for each in inbox.messages] == [False, True]


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_bytes_that_are_no_value_become_a_dead_letter(queue, client, prefix):
    """What another program wrote into the queue stops nobody and is kept as it is."""
    other = Queue(client, "notes", dict, prefix=prefix)
    await other.enqueue(1, {"no": "text"})
    await queue.enqueue(1, Note("fine"))
    inbox = Inbox()
    await drained(queue, inbox)
    assert inbox.of(1) == ["fine"]
    (letter,) = await queue.dead()
    assert letter.value is None
    assert letter.data
    assert letter.reason.startswith("CodecError")


@pytest.mark.advanced
@pytest.mark.requirement("P5")
@pytest.mark.parametrize("label", [{"kind": "price"}, {"key": "m1"}])
async def test_what_is_paused_waits_and_comes_back_in_its_order(queue, label):
    """Paused messages wait, others overtake; resumed, they keep their order."""
    await queue.pause(**label)
    assert not await queue.pause(**label)
    for number in range(300):
        await queue.enqueue(1, Note(f"{number}"), kind="price", key="m1")
    await queue.enqueue(1, Note("other"), kind="result", key="m2")
    inbox = Inbox()
    async with consuming(queue, inbox):
        await eventually(lambda: inbox.got == [(1, "other")])
        assert (await queue.stats()).parked == 300
        assert await queue.resume(**label)
        assert not await queue.resume(**label)
        await eventually(lambda: empty(queue))
    assert inbox.of(1) == ["other", *(str(number) for number in range(300))]


@pytest.mark.advanced
@pytest.mark.requirement("P5")
async def test_everything_can_be_paused(queue):
    """The kill switch without a label stops the whole queue, and lets it go on."""
    await queue.pause()
    await queue.enqueue(1, Note("old"), ttl=0.001)
    inbox = Inbox()
    async with consuming(queue, inbox):
        # A worker that has nothing to do takes the tokens of what comes in.
        await eventually(lambda: _woken(queue))
        assert (await queue.stats()).paused == {"*"}
        assert queue.counts.expired == 0
        assert inbox.got == []
        await queue.enqueue(1, Note("a"))
        await queue.resume()
        await eventually(lambda: empty(queue))
    assert inbox.got == [(1, "a")]


async def _woken(queue):
    store = leases(queue)
    return not await store.client.exists(store.wake)


@pytest.mark.advanced
@pytest.mark.requirement("P5")
async def test_purge_removes_what_it_is_told_in_every_state(make):
    """Waiting, delayed, paused and dead messages go; the one in hand stays."""
    clock = ManualClock()
    queue = make(clock=clock, max_attempts=1)
    await queue.enqueue(9, Note("dies"), kind="bad")

    def fail(message):
        raise ValueError

    await drained(queue, Inbox(fail))
    await queue.pause(kind="bad")
    await queue.enqueue(1, Note("parked"), kind="bad", key="m1")
    await drained_of_ready(queue)
    await queue.enqueue(2, Note("waits"), kind="bad", key="m2")
    await queue.enqueue(3, Note("later"), kind="bad", at=clock.now() + 9)
    await queue.enqueue(3, Note("good"), kind="good", key="m1")
    assert await queue.purge(kind="bad") == 4
    await queue.resume(kind="bad")
    counted = await queue.stats()
    assert (counted.depth, counted.dead_letters, counted.purged) == (1, 0, 4)
    assert counted.accounted == counted.enqueued
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_message):
        entered.set()
        await leave.wait()

    async with consuming(queue, slow):
        await entered.wait()
        await queue.enqueue(3, Note("next"), key="m1")
        assert await queue.purge(user_id=3, key="m1") == 1
        leave.set()
        await eventually(lambda: empty(queue))
    assert (await queue.stats()).delivered == 1


async def drained_of_ready(queue):
    """Have a worker park what is paused."""

    async def parked():
        return (await queue.stats()).parked > 0

    async with consuming(queue, Inbox()):
        await eventually(parked)


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_dead_letters_are_bounded_and_paged(make):
    """The oldest go when there are too many, and are counted."""
    queue = make(max_attempts=1, dead_limit=25)

    def fail(message):
        raise ValueError

    for number in range(30):
        await queue.enqueue(1, Note(f"{number}"))
    await drained(queue, Inbox(fail))
    first = await queue.dead(limit=20)
    rest = await queue.dead(limit=20, after=first[-1].id)
    kept = [each.value.text for each in (*first, *rest)]
    assert kept == [str(number) for number in range(5, 30)]
    counted = await queue.stats()
    assert (counted.dropped, counted.accounted) == (5, 30)


@pytest.mark.errors
@pytest.mark.requirement("P5", "C7")
@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": 0},
        {"ttl": float("nan")},
        {"at": 1_700_000_000_000},
        {"at": float("inf")},
        {"dedup_id": ""},
        {"kind": "k" * 201},
        {"key": "\ud800"},
    ],
)
async def test_arguments_out_of_range_are_refused(queue, wrong):
    """A wrong argument is a typed error that names it, and adds nothing."""
    (name,) = wrong
    with pytest.raises(QueueError, match=name):
        await queue.enqueue(1, Note("a"), **wrong)
    assert (await queue.stats()).enqueued == 0


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_a_batch_with_one_wrong_value_adds_nothing(queue):
    """Everything is checked before anything is sent."""
    with pytest.raises(CodecError):
        await queue.enqueue_many({1: Note("a"), 2: Note(5)})
    with pytest.raises(QueueError, match="user_id"):
        await queue.enqueue_many({1: Note("a"), "2": Note("b")})
    assert await queue.enqueue_many({}) == 0
    with pytest.raises(QueueError, match="purge"):
        await queue.purge()
    with pytest.raises(QueueError, match="both"):
        await queue.pause(kind="a", key="b")
    with pytest.raises(QueueError, match="concurrency"):
        await queue.consume(Inbox(), concurrency=0)
    with pytest.raises(QueueError, match="lease"):
        Queue(queue, "x", Note, lease=0)
    assert (await queue.stats()).enqueued == 0


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_a_full_server_refuses_messages_and_still_delivers():
    """Who enqueues is told; what waits is delivered and settled."""
    async with (
        EmbeddedServer(args=("--maxmemory-policy", "noeviction")) as server,
        Client.from_url(server.url) as client,
    ):
        queue = Queue(client, "notes", Note)
        await queue.enqueue(1, Note("a"))
        await client.config_set("maxmemory", "1mb")
        with pytest.raises(OutOfMemoryError):
            await queue.enqueue(1, Note("b"), dedup_id="b")
        inbox = Inbox()
        await drained(queue, inbox)
        assert inbox.of(1) == ["a"]
        await client.config_set("maxmemory", "0")
        assert await queue.enqueue(1, Note("b"), dedup_id="b")
        assert (await queue.stats()).enqueued == 2


@pytest.mark.advanced
@pytest.mark.requirement("P5")
async def test_stop_finishes_what_is_in_hand_and_takes_no_more(queue):
    """A worker that is told to stop delivers what it has, and leaves the rest."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_message):
        entered.set()
        await leave.wait()

    for _ in range(3):
        await queue.enqueue(1, Note("a"))
    async with consuming(queue, slow) as stop:
        await entered.wait()
        stop.set()
        leave.set()
    counted = await queue.stats()
    assert (counted.delivered, counted.waiting, counted.leased) == (1, 2, 0)


@pytest.mark.advanced
@pytest.mark.requirement("P5")
async def test_a_cancelled_worker_gives_its_messages_back_at_once(queue):
    """Cancelling does not wait for the lease; the message is then uncertain."""
    entered = asyncio.Event()

    async def slow(_message):
        entered.set()
        await asyncio.Event().wait()

    await queue.enqueue(1, Note("a"))
    worker = asyncio.get_running_loop().create_task(queue.consume(slow))
    await entered.wait()
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    assert (await queue.stats()).leased == 0
    inbox = Inbox()
    await drained(queue, inbox)
    assert inbox.got == [(1, "a")]
    assert inbox.messages[0].uncertain


@pytest.mark.basic
@pytest.mark.requirement("P6")
async def test_an_idle_worker_is_woken_and_does_not_poll(make):
    """A message reaches an idle worker long before its next look."""
    queue = make(poll=20)
    inbox = Inbox()
    async with consuming(queue, inbox):
        for number in range(5):
            await queue.enqueue(1, Note(f"{number}"))
            await eventually(lambda: len(inbox.got) == number + 1, within=10)  # noqa: B023
    assert queue.counts.lag.count == 5
    assert queue.counts.lag.max < 10


@pytest.mark.integration
@pytest.mark.requirement("P6")
async def test_what_is_counted_is_what_happened(make):
    """Depth, lag and every counter agree with what the test did."""
    clock = ManualClock()
    queue = make(clock=clock, max_attempts=2, retry_base=0.001, retry_cap=0.001)

    def fail(message):
        if message.value.text == "bad":
            raise ValueError

    await queue.enqueue(1, Note("bad"))
    await queue.enqueue(2, Note("good"), dedup_id="x")
    await queue.enqueue(2, Note("good"), dedup_id="x")
    await queue.enqueue(3, Note("old"), ttl=1)
    await queue.enqueue(4, Note("later"), at=clock.now() + 60)
    await clock.advance(5)
    before = await queue.stats()
    assert (before.depth, before.waiting, before.delayed) == (4, 3, 1)
    assert (before.users, before.lag) == (3, 5.0)
    async with consuming(queue, Inbox(fail)):
        await eventually(lambda: queue.counts.retried == 1)
        await clock.advance(1)
        await eventually(lambda: queue.counts.dead == 1 and queue.counts.delivered == 1)
    after = await queue.stats()
    assert (after.enqueued, after.duplicates, after.delivered) == (4, 1, 1)
    assert (after.retried, after.dead, after.expired) == (1, 1, 1)
    assert (after.depth, after.dead_letters, after.lag) == (1, 1, 0)
    assert after.accounted == after.enqueued
    counts = queue.counts
    for name in ("enqueued", "duplicates", "delivered", "retried", "dead", "expired"):
        assert getattr(counts, name) == getattr(after, name), name
    assert counts.handling.count == 3
    assert counts.lost == counts.reclaimed == 0


@pytest.mark.errors
@pytest.mark.requirement("P5", "X5")
async def test_an_erased_message_in_hand_is_not_settled(make, client, prefix):
    """What its worker says of it later is refused, and the others are served."""
    queue = make(lease=0.3)
    entered, gone = asyncio.Event(), asyncio.Event()

    async def deliver(message):
        if message.user_id == 1:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                gone.set()

    async with consuming(queue, deliver):
        await queue.enqueue(1, Note("in hand"), dedup_id="a")
        await queue.enqueue(1, Note("behind"), dedup_id="b")
        await entered.wait()
        erased = await queue.erase(1)
        assert (erased.part, erased.removed, erased.left) == ("queue", 4, ())
        # The next renewal tells its worker, which cancels the handler.
        await asyncio.wait_for(gone.wait(), 10)
        await queue.enqueue(2, Note("another"))
        await eventually(lambda: empty(queue))
    found = await queue.stats()
    assert (found.delivered, found.purged, found.leased) == (1, 2, 0)
    assert found.accounted == found.enqueued
    assert (await queue.erase(1)).removed == 0
    # A stray id is found, and named.
    await queue.enqueue(12, Note("of a longer id"), dedup_id="a")
    assert (await queue.erase(1)).left == ()
    stray = KeySpace(prefix).key(QUEUE_DEDUP, "notes")
    await client.zadd(stray, {"1:stray": 2**52})
    assert await leases(queue).traces("1") == (stray,)
