from __future__ import annotations

import pytest

from oddswire.clock import ManualClock
from oddswire.errors import SessionConflict, SessionGone
from support import eventually
from support.hooks import session_keys


def talking(person):
    """Put someone into the middle of a dialogue."""
    person.dialog, person.token = ["amount?"], "secret"


@pytest.mark.basic
@pytest.mark.requirement("S2")
async def test_silent_for_two_days_and_still_found_by_her_wallet(people):
    """A user who asked for something keeps it; her conversation is over."""
    sessions = people()
    await sessions.update(1, talking, create=True)
    await sessions.update(1, lambda p: p.limits.update(price=0.05))
    await sessions.add_to(1, "wallets", "0xaa", people.Wallet("whale"))
    await people.passed(sessions, 48)
    assert await sessions.sweep() == 0
    assert await sessions.users_for("wallet", "0xaa") == {1}
    person = await sessions.get(1)
    assert person.limits == {"price": 0.05}
    assert person.wallets == {"0xaa": people.Wallet("whale")}
    assert (person.dialog, person.token) == ([], "")


@pytest.mark.basic
@pytest.mark.requirement("S2")
async def test_one_who_asked_for_nothing_ends_wholly(people):
    """A session without anything durable is gone at its expiry, and so is its count."""
    sessions = people(ttl=3600, touch_interval=0)
    await sessions.update(1, talking, create=True)
    await people.passed(sessions, 0.99)
    assert (await sessions.get(1)).dialog == ["amount?"]
    await people.passed(sessions, 0.02)
    assert await sessions.get(1) is None
    with pytest.raises(SessionGone):
        await sessions.update(1, lambda _: None)
    assert not await sessions.touch(1)
    assert await sessions.sweep() == 1
    assert await sessions.sweep() == 0
    assert await people.raw(sessions, 1) == ({}, {})
    assert (await sessions.stats()).total == 0


@pytest.mark.advanced
@pytest.mark.requirement("S2")
async def test_only_activity_extends_a_session(people):
    """Reading, statistics, lookups and background changes extend nothing."""
    sessions = people(ttl=3600, touch_interval=0)
    await sessions.update(1, talking, create=True)
    await people.passed(sessions, 0.9)
    before = await people.raw(sessions, 1)
    await sessions.get(1)
    await sessions.stats()
    await sessions.users_for("wallet", "0xaa")
    await sessions.sweep()
    assert await people.raw(sessions, 1) == before
    await sessions.update(1, lambda p: p.dialog.append("more"), active=False)
    await people.passed(sessions, 0.2)
    assert await sessions.get(1) is None
    # Activity does: a touch, a change, a member.
    for extend in (
        lambda: sessions.touch(2),
        lambda: sessions.update(2, lambda _: None),
    ):
        await sessions.update(2, talking, create=True)
        await people.passed(sessions, 0.9)
        assert await extend()
        await people.passed(sessions, 0.9)
        assert (await sessions.get(2)).dialog


@pytest.mark.advanced
@pytest.mark.requirement("S2")
async def test_a_conversation_that_ended_never_comes_back(people):
    """Neither a touch nor a slow handler brings an ended dialogue or token back."""
    sessions = people(ttl=3600, touch_interval=0)
    await sessions.update(1, talking, create=True)
    await sessions.add_to(1, "wallets", "0xaa", people.Wallet())
    slow = people(ttl=3600, touch_interval=0)
    with pytest.raises(SessionConflict):  # noqa: PT012
        async with slow.exclusive(1) as person:
            await people.passed(slow, 2)
            person.dialog.append("late")
    # `slow` sees that it ended; the clock of `sessions` has not moved.
    await people.passed(sessions, 2)
    assert await sessions.touch(1)
    person = await sessions.get(1)
    assert (person.dialog, person.token) == ([], "")
    assert not (await people.raw(sessions, 1))[1]


@pytest.mark.advanced
@pytest.mark.requirement("S2")
async def test_the_absolute_deadline_holds_against_any_activity(people):
    """With a deadline, a busy conversation ends too, and the next one gets its own."""
    sessions = people(ttl=3600, absolute=7200, touch_interval=0)
    await sessions.update(1, talking, create=True)
    for _ in range(3):
        await people.passed(sessions, 0.6)
        await sessions.update(1, lambda p: p.dialog.append("more"))
    await people.passed(sessions, 0.3)
    assert await sessions.get(1) is None
    await sessions.update(1, talking, create=True)
    await people.passed(sessions, 0.9)
    assert (await sessions.get(1)).dialog


@pytest.mark.advanced
@pytest.mark.requirement("S2")
async def test_a_clock_that_goes_back_breaks_nothing(people):
    """Versions grow over a step back of the server's clock, over a new creation too."""
    sessions = people()
    versions = []
    for step in (0, -1, -5, 2, -24):
        await people.passed(sessions, step)
        stored = await sessions.update(1, talking, create=True)
        versions.append(stored.version)
        await sessions.delete(1)
        versions.append((await sessions.update(1, talking, create=True)).version)
    assert versions == sorted(set(versions))


@pytest.mark.integration
@pytest.mark.requirement("S2")
async def test_redis_itself_ends_what_expires(people):
    """With no process alive, the conversation and the token leave Redis on time."""
    sessions = people(ttl=60, touch_interval=0)
    await sessions.update(1, talking, create=True)
    main, short = session_keys(sessions).pair(1)
    assert 59_000 < await people.client.pttl(short) <= 60_000
    assert await people.client.pttl(main) == -1
    await people.client.pexpire(short, 1)
    await eventually(lambda: people.client.exists(short), holds=lambda there: not there)
    person = await sessions.get(1)
    assert person.token == ""


@pytest.mark.integration
@pytest.mark.requirement("S2")
async def test_what_has_ended_is_removed_every_five_minutes(people):
    """Inside `async with` the sweeper runs on its clock, and survives a failure."""
    clock = ManualClock()
    sessions = people(ttl=3600, touch_interval=0, clock=clock)
    async with sessions:
        await sessions.update(1, talking, create=True)
        await people.passed(sessions, 2)
        activity = session_keys(sessions).activity
        assert await people.client.zcard(activity) == 1
        await clock.wait_sleeping()
        await clock.advance(299)
        assert await people.client.zcard(activity) == 1
        await clock.advance(1)
        await eventually(lambda: _empty(people.client, activity))


async def _empty(client, key):
    return await client.zcard(key) == 0


@pytest.mark.advanced
async def test_touches_are_coalesced(people):
    """A busy user costs one write a minute, and never loses time by it."""
    clock = ManualClock()
    sessions = people(ttl=3600, clock=clock)
    await sessions.update(1, talking, create=True)
    await sessions.touch(1)
    await people.passed(sessions, 59 / 3600)
    before = (await sessions.get(1)).last_activity
    await sessions.touch(1)
    assert (await sessions.get(1)).last_activity == before
    await clock.advance(61)
    await sessions.touch(1)
    assert (await sessions.get(1)).last_activity > before
    # Her last touch may have been left out: an hour and a minute it is, at least.
    await people.passed(sessions, 1 + 30 / 3600)
    assert (await sessions.get(1)).dialog
