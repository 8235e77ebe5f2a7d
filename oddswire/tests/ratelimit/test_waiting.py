"""Who waits: in line, in turns, by priority, and away again."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic

import pytest

from oddswire import Client
from oddswire.errors import RateLimited
from oddswire.ratelimit import (
    Concurrency,
    Priority,
    RateLimiter,
    Rule,
    SlidingWindow,
    TokenBucket,
)
from oddswire.testing import frozen
from support import eventually
from support.hooks import is_idle, limit, limit_of, wake


@pytest.mark.basic
@pytest.mark.requirement("R5")
async def test_first_in_first_out_for_one_subject(limiter_of):
    """Those with the same rules and subject are admitted in the order they came."""
    limiter = limiter_of(Rule("r", TokenBucket(200.0, 1), key="chat"))
    order = []

    async def one(number):
        await limiter.acquire("r", chat=1)
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(one(number))
    assert order == list(range(30))
    counted = limiter.stats()
    assert counted.rules["r"].admitted == 30
    assert counted.rules["r"].waited == counted.waits.count == 29
    assert counted.waiting == 0


@pytest.mark.advanced
@pytest.mark.requirement("R5")
async def test_subjects_take_turns_whoever_has_more_waiting(limiter_of):
    """A chat with 60 waiting gets no more than another while both wait."""
    limiter = limiter_of(
        Rule("all", TokenBucket(500.0, 1)),
        Rule("chat", SlidingWindow(99, 9.0), key="chat"),
    )
    await limiter.hit("all")
    order = []

    async def one(chat):
        await limiter.acquire("all", "chat", chat=chat)
        order.append(chat)

    async with asyncio.TaskGroup() as group:
        for _ in range(60):
            group.create_task(one("greedy"))
        await eventually(lambda: limiter.stats().waiting >= 40)
        for chat in ("a", "b", "c"):
            for _ in range(5):
                group.create_task(one(chat))
    last = max(order.index(chat) for chat in "abc")
    done = max(i for i, chat in enumerate(order) if chat != "greedy")
    assert last <= 10
    # 15 of the others, and as many turns of the greedy one as each of them had, and
    # what was admitted before they came.
    assert done <= 15 + 5 + 5


@pytest.mark.advanced
@pytest.mark.requirement("R5")
async def test_turns_are_counted_by_cost(limiter_of):
    """Who asks for ten at a time gets a tenth of the turns."""
    limiter = limiter_of(
        Rule("all", TokenBucket(4_000.0, 10)),
        Rule("c", SlidingWindow(9**9, 9.0), key="c"),
    )
    await limiter.hit("all", cost=10)
    order = []

    async def one(chat, cost):
        await limiter.acquire("all", "c", c=chat, cost=cost)
        order.append(chat)

    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            group.create_task(one("dear", 10))
        for _ in range(60):
            group.create_task(one("cheap", 1))
    among = Counter(order[:55])
    assert 4 <= among["dear"] <= 6


@pytest.mark.advanced
@pytest.mark.requirement("R5")
async def test_ten_thousand_broadcasts_delay_a_reply_by_a_slot(limiter_of):
    """However many wait with low priority, a reply waits for one admission at most."""
    limiter = limiter_of(
        Rule("all", TokenBucket(100.0, 1)),
        Rule("chat", SlidingWindow(5, 9.0), key="chat"),
    )
    admitted = []

    async def broadcast(chat):
        await limiter.acquire("all", "chat", chat=chat, priority=Priority.LOW)
        admitted.append(chat)

    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(broadcast(chat)) for chat in range(10_000)]
    # Each asks once before it waits: no such question is on its way any more.
    await eventually(lambda: limiter.stats().waiting + len(admitted) == 10_000)
    overtaken = []
    for reply in range(20):
        # At any moment of a slot: after another number of turns of the loop.
        for _ in range(reply * 7):
            await asyncio.sleep(0)
        before = len(admitted)
        await limiter.acquire("all", "chat", chat=reply, priority=Priority.HIGH)
        overtaken.append(len(admitted) - before)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert max(overtaken) <= 1, overtaken
    assert limiter.stats().waiting == 0


@pytest.mark.advanced
@pytest.mark.requirement("R5", "C7")
async def test_low_priority_leaves_the_reserve_to_a_reply(limiter_of):
    """While broadcasts have used all they may, a reply is admitted at once."""
    limiter = limiter_of(Rule("all", SlidingWindow(30, 20.0), reserve=0.2))
    for _ in range(24):
        await limiter.acquire("all", timeout=0, priority=Priority.LOW)
    with pytest.raises(RateLimited):
        await limiter.acquire("all", timeout=0, priority=Priority.LOW)
    loop = asyncio.get_running_loop()
    waiting = loop.create_task(limiter.acquire("all", priority=Priority.LOW))
    await eventually(lambda: limiter.stats().waiting >= 1)
    for _ in range(6):
        reply = await limiter.acquire("all", timeout=5, priority=Priority.HIGH)
        assert reply.waited < 5
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.basic
@pytest.mark.requirement("R5")
async def test_who_cannot_be_admitted_in_time_is_told_at_once(limiter_of):
    """A wait that is known to be longer than the timeout is not begun."""
    limiter = limiter_of(Rule("r", SlidingWindow(1, 20.0)))
    await limiter.hit("r")
    for timeout in (0, 5.0):
        with pytest.raises(RateLimited, match="'r'") as caught:
            await limiter.acquire("r", timeout=timeout)
        assert 18.0 < caught.value.retry_after <= 21.1
        assert caught.value.outcome == "rejected"
    assert limiter.stats().rules["r"].denied == 2


@pytest.mark.errors
@pytest.mark.requirement("R5")
async def test_who_is_denied_by_another_rule_at_last_is_told_then(limiter_of):
    """A wait for one rule ends when another denies for longer than is left of it."""
    limiter = limiter_of(
        Rule("short", SlidingWindow(1, 0.2)),
        Rule("long", SlidingWindow(5, 60.0), key="user"),
    )
    # Lasts until it is lifted, however slow this machine is.
    await limiter.penalize("short", 20.0)
    loop = asyncio.get_running_loop()
    waiting = [
        loop.create_task(limiter.acquire("short", "long", timeout=30, user=1))
        for _ in range(3)
    ]
    patient = loop.create_task(limiter.acquire("short", "long", user=1))
    await asyncio.sleep(0)
    await limiter.hit("long", cost=5, user=1)
    await limiter.reset("short")
    async with asyncio.timeout(15):
        told = await asyncio.gather(*waiting, return_exceptions=True)
    # The head of the line, and who waited behind it as much in vain.
    for error in told:
        assert isinstance(error, RateLimited)
        assert "'long'" in str(error)
        assert error.retry_after > 30
    # Whoever comes now is told by what is known.
    with pytest.raises(RateLimited, match="'long'"):
        await limiter.acquire("short", "long", timeout=30, user=1)
    # Who waits for ever goes on.
    assert limiter.stats().waiting == 1
    assert not patient.done()
    await limiter.reset("long", user=1)
    assert (await patient).allowed


@pytest.mark.basic
@pytest.mark.requirement("R5")
async def test_who_waited_too_long_is_told_and_out_of_line(limiter_of):
    """A timeout in the line raises, and those behind move up."""
    limiter = limiter_of(Rule("r", SlidingWindow(1, 20.0)))
    used = await limiter.hit("r")
    loop = asyncio.get_running_loop()
    first = loop.create_task(limiter.acquire("r"))
    await eventually(lambda: limiter.stats().waiting >= 1)
    second = loop.create_task(limiter.acquire("r", timeout=0.05))
    third = loop.create_task(limiter.acquire("r"))
    with pytest.raises(RateLimited):
        await second
    assert await limiter.refund(used) == 1
    assert await limiter.refund(await first) == 1
    assert (await third).allowed
    assert limiter.stats().rules["r"].admitted == 3


def _others():
    """Return the names of the tasks but this one's."""
    here = asyncio.current_task()
    return sorted(task.get_name() for task in asyncio.all_tasks() if task is not here)


@pytest.mark.errors
@pytest.mark.requirement("R5")
async def test_a_cancelled_waiter_takes_nothing_with_it(limiter_of):
    """Half of those who wait are cancelled at any moment; the others get it all."""
    rate = 400.0
    limiter = limiter_of(
        Rule("r", TokenBucket(rate, 1)), Rule("s", SlidingWindow(99, 9.0))
    )
    await limiter.peek("r")
    before = _others()
    admitted = []

    async def one(number):
        await limiter.acquire("r", "s")
        admitted.append(number)

    started = monotonic()
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(one(number)) for number in range(90)]
    await eventually(lambda: limiter.stats().waiting >= 50)
    for number, task in enumerate(tasks):
        if number % 2:
            # Between the question and its answer, too.
            await asyncio.sleep(0)
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    took = monotonic() - started
    assert set(admitted) >= set(range(0, 90, 2))
    # What was admitted for the cancelled went on to the next, or back.
    used = 99 - (await limiter.peek("s")).remaining
    assert len(admitted) <= used <= len(admitted) + 1
    assert took < 90 / rate + 5
    assert limiter.stats().waiting == 0
    await eventually(_others, holds=lambda tasks: tasks == before)


@pytest.mark.advanced
@pytest.mark.requirement("R5")
async def test_no_task_stays_behind_the_last_waiter(limiter_of, monkeypatch):
    """The last waiter may leave while the task lets others have their turn."""
    limit(monkeypatch, "turns of waiters", 1)
    limiter = limiter_of(Rule("r", TokenBucket(50.0, 1)))
    await limiter.hit("r")
    before = _others()
    for _ in range(3):
        await limiter.acquire("r")
        await eventually(_others, holds=lambda tasks: tasks == before)


@pytest.mark.errors
@pytest.mark.requirement("R5")
async def test_what_nobody_wants_any_more_goes_back(own):
    """Cancelled while the question is on its way, with nobody next: it is refunded."""
    rule = Rule("r", SlidingWindow(1, 20.0))
    async with (
        Client.from_url(own.url) as client,
        Client.from_url(own.url) as another,
        RateLimiter(client, [rule], deadline=10.0) as limiter,
        RateLimiter(another, [rule], deadline=10.0) as other,
    ):
        await limiter.hit("r")
        waiting = asyncio.get_running_loop().create_task(limiter.acquire("r"))
        await eventually(lambda: limiter.stats().waiting == 1)
        subject = limit_of(limiter, "r").subjects[""]
        await eventually(lambda: subject.blocked_until > 0)
        await other.reset("r")
        with frozen(own):
            wake(limiter, subject)
            await eventually(lambda: subject.pending == 1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

        await eventually(lambda: is_idle(limiter))
        assert (await other.peek("r")).remaining == 1
        assert limiter.stats().asked == 3


@pytest.mark.errors
@pytest.mark.requirement("R5")
async def test_no_waiter_leaves_no_task(limiter_of):
    """When the last one gave up, nothing runs on."""
    limiter = limiter_of(Rule("r", SlidingWindow(1, 20.0)))
    await limiter.hit("r")
    tasks = asyncio.all_tasks()
    waiting = asyncio.get_running_loop().create_task(limiter.acquire("r"))
    await eventually(lambda: limiter.stats().waiting >= 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await eventually(lambda: asyncio.all_tasks() == tasks)


@pytest.mark.basic
@pytest.mark.requirement("R1")
async def test_slots_are_held_for_a_block(limiter_of):
    """Never more at the same time than there are slots, and all get their turn."""
    limiter = limiter_of(Rule("s", Concurrency(3, 5.0)))
    inside, most = 0, 0

    async def one():
        nonlocal inside, most
        async with limiter.slot("s"):
            inside += 1
            most = max(most, inside)
            await limiter.peek("s")
            inside -= 1

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(40):
            group.create_task(one())
    assert most == 3
    assert (await limiter.peek("s")).remaining == 3


@pytest.mark.errors
@pytest.mark.requirement("R1")
async def test_a_slot_outlasts_its_time_and_ends_with_its_block(limiter_of):
    """A block longer than the lease keeps it; an error in the block gives it back."""
    limiter, other = (limiter_of(Rule("s", Concurrency(1, 1.0))) for _ in range(2))
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the block is the subject
        async with limiter.slot("s"):
            ends = monotonic() + 2.5
            while monotonic() < ends:
                assert not (await other.hit("s")).allowed
            raise KeyError("mine")
    assert (await other.hit("s")).allowed


@pytest.mark.errors
async def test_a_slot_gives_back_only_the_slot(limiter_of):
    """What other rules of the same call counted stays counted."""
    limiter = limiter_of(
        Rule("s", Concurrency(2, 5.0)), Rule("w", SlidingWindow(10, 9.0), key="user")
    )
    async with limiter.slot("s", "w", user=1) as decision:
        assert decision.allowed
    assert (await limiter.peek("s")).remaining == 2
    assert (await limiter.peek("w", user=1)).remaining == 9


@pytest.mark.errors
async def test_an_error_of_the_server_reaches_its_waiter_alone(own):
    """Who waits for what the server refuses is told; the others go on."""
    from oddswire.errors import NoPermission

    async with Client.from_url(own.url) as client, Client.from_url(own.url) as admin:
        rule = Rule("r", TokenBucket(0.5, 1), key="u")
        async with RateLimiter(client, [rule], deadline=2.0) as limiter:
            await limiter.hit("r", u=1)
            loop = asyncio.get_running_loop()
            waiting = loop.create_task(limiter.acquire("r", u=1))
            await eventually(lambda: limiter.stats().waiting >= 1)
            await admin.execute_command(
                "ACL", "SETUSER", "default", "-evalsha", "-eval"
            )
            with pytest.raises(NoPermission):
                await waiting
            await admin.execute_command("ACL", "SETUSER", "default", "+@all")
            await limiter.acquire("r", u=1)
