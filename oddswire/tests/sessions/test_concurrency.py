from __future__ import annotations

import asyncio

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.clock import SystemClock
from oddswire.errors import (
    CommandTimeout,
    LockHeld,
    SessionConflict,
    SessionFull,
    SessionGone,
)
from oddswire.testing import FaultProxy, frozen
from support import eventually
from support.hooks import (
    lines_of,
    mirrored,
    script,
    session_keys,
    stop_follower,
    tapped,
)


def count(person):
    """Add one."""
    person.limits["n"] = person.limits.get("n", 0) + 1


@pytest.mark.integration
@pytest.mark.requirement("S3")
async def test_fifty_changes_at_once_are_all_there(people, keyring):
    """Tasks take turns: fifty changes of one session are fifty, without a retry."""
    async with people(keyring=keyring) as sessions:
        await sessions.update(1, count, create=True)
        runs = 0

        def change(person):
            nonlocal runs
            runs += 1
            count(person)

        await asyncio.gather(*(sessions.update(1, change) for _ in range(50)))
        assert (await sessions.get(1)).limits == {"n": 51}
        assert runs == 50
        assert lines_of(sessions) == 0


@pytest.mark.integration
@pytest.mark.requirement("S3")
async def test_two_processes_that_change_one_session_lose_nothing(people):
    """Who comes second runs again on what the first one wrote."""
    one, two = people(), people()
    await one.update(1, count, create=True)
    await asyncio.gather(*(each.update(1, count) for each in (one, two) * 40))
    assert (await one.get(1)).limits == {"n": 81}


@pytest.mark.advanced
@pytest.mark.requirement("S3")
@pytest.mark.parametrize("sealed", [False, True])
async def test_an_attempt_after_a_pause_begins_with_the_newest_state(
    people, keyring, sealed
):
    """What others change while an update gives way to them costs it no attempt."""
    other = people(keyring=keyring if sealed else None)
    await other.update(1, count, create=True)
    before_saves, pauses = 2, 0

    class Pausing(SystemClock):
        async def sleep(self, seconds):
            nonlocal pauses
            pauses += 1
            await other.update(1, count)

    class Overtaken:
        decodes = people.client.decodes

        async def execute_command(self, *args, **options):
            nonlocal before_saves
            if args[1] == script("session_save").decode() and before_saves:
                before_saves -= 1
                await other.update(1, count)
            return await people.client.execute_command(*args, **options)

    late = people(keyring=keyring if sealed else None, clock=Pausing())
    with tapped(late, Overtaken()):
        assert (await late.update(1, count)).limits == {"n": 5}
    assert pauses == 1


@pytest.mark.advanced
@pytest.mark.requirement("S3", "C7")
async def test_a_stale_read_from_memory_loses_nothing(people):
    """A process whose memory is out of date retries on the newest state."""
    async with people() as near:
        await near.update(1, count, create=True)
        await eventually(lambda: mirrored(near, "wallet") is not None)
        await asyncio.gather(*(near.get(1) for _ in range(3)))
        # Its follower is stopped, and its memory believed for ever.
        await stop_follower(near)
        await people().update(1, count)
        assert (await near.get(1)).limits == {"n": 1}
        assert (await near.update(1, count)).limits == {"n": 3}
        await people().delete(1)
        assert (await near.get(1)).limits == {"n": 3}
        with pytest.raises(SessionGone):
            await near.update(1, count)


@pytest.mark.advanced
@pytest.mark.requirement("S3", "C7")
async def test_nothing_brings_a_deleted_session_back(people):
    """A handler that read a session before its deletion cannot write it back."""
    sessions, other = people(), people()
    await sessions.update(1, count, create=True)
    with pytest.raises(SessionGone):  # noqa: PT012
        async with sessions.exclusive(1) as person:
            person.city = "Oslo"
            await other.delete(1)
    assert await sessions.get(1) is None
    await sessions.update(1, count, create=True)
    with pytest.raises(SessionConflict):  # noqa: PT012
        async with sessions.exclusive(1) as person:
            person.city = "Oslo"
            await other.delete(1)
            await other.update(1, count, create=True)
    assert (await sessions.get(1)).city == ""
    assert await sessions.users_for("city", "Oslo") == frozenset()


@pytest.mark.advanced
@pytest.mark.requirement("S3")
async def test_exclusive_is_first_come_first_served_and_fenced(people):
    """Blocks of one process queue in order; another process's write is a conflict."""
    sessions, other = people(), people()
    await sessions.update(1, count, create=True)
    order = []

    async def hold(number):
        async with sessions.exclusive(1) as person:
            order.append(number)
            person.limits["n"] += 1
            await asyncio.sleep(0)

    await asyncio.gather(*(hold(number) for number in range(20)))
    assert order == list(range(20))
    assert (await sessions.get(1)).limits == {"n": 21}
    with pytest.raises(SessionConflict):  # noqa: PT012
        async with sessions.exclusive(1) as person:
            person.limits["n"] = 0
            await other.update(1, count)
    with pytest.raises(ZeroDivisionError):
        async with sessions.exclusive(1) as person:
            person.limits["n"] = 0 / 0
    assert (await sessions.get(1)).limits == {"n": 22}


@pytest.mark.errors
@pytest.mark.requirement("S3")
async def test_a_cancelled_change_is_whole_or_not_there(people):
    """Cancelled at any step, a change has its field and its index entry, or neither."""
    sessions = people()
    await sessions.update(1, lambda _: None, create=True)
    for steps in range(12):
        city = f"city{steps}"
        task = asyncio.get_running_loop().create_task(
            sessions.update(1, lambda p, city=city: setattr(p, "city", city))
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        person = await sessions.get(1, fresh=True)
        found = await sessions.users_for("city", city)
        assert (person.city == city) == (found == {1})
    assert lines_of(sessions) == 0
    await asyncio.wait_for(sessions.update(1, count), 5)


@pytest.mark.integration
@pytest.mark.requirement("S3", "C7")
async def test_the_cap_is_exact(people):
    """Of 300 that begin at once at a cap of 100, 100 do; who is in is never refused."""
    parts = [people(cap=100) for _ in range(3)]

    async def begin(user):
        try:
            await parts[user % 3].update(user, count, create=True)
        except SessionFull:
            return False
        return True

    begun = await asyncio.gather(*(begin(user) for user in range(300)))
    assert sum(begun) == 100
    sessions = parts[0]
    assert (await sessions.stats()).total == 100
    inside = [user for user in range(300) if begun[user]]
    await asyncio.gather(*(sessions.update(user, count) for user in inside))
    await sessions.add_to(inside[0], "wallets", "0xaa", people.Wallet())
    with pytest.raises(SessionFull, match="SESSION_MAX_CONCURRENT"):
        await sessions.update(1000, count, create=True)
    await sessions.delete(inside[0])
    await sessions.update(1000, count, create=True)


@pytest.mark.advanced
@pytest.mark.requirement("S3")
async def test_sessions_that_ended_take_no_room(people):
    """At the cap, what has ended makes room before anybody is refused."""
    sessions = people(cap=3, ttl=3600, touch_interval=0)
    for user in range(3):
        await sessions.update(user, lambda p: p.dialog.append("?"), create=True)
    with pytest.raises(SessionFull):
        await sessions.update(9, count, create=True)
    await people.passed(sessions, 2)
    async with sessions.exclusive(8, create=True) as person:
        count(person)
    await asyncio.gather(
        *(sessions.update(user, count, create=True) for user in (9, 10))
    )
    with pytest.raises(SessionFull):
        await sessions.update(11, count, create=True)


@pytest.mark.integration
@pytest.mark.requirement("S3")
async def test_a_write_that_comes_late_is_fenced_off(people, server):
    """A save that timed out on a held link runs later only if nobody came between."""
    async with (
        EmbeddedServer() as own,
        Client.from_url(own.url) as direct,
        FaultProxy(own.url) as proxy,
        Client.from_url(
            proxy.url,
            command_timeout=2.0,
            retries=0,
        ) as slow,
    ):
        sessions, late = people(client=direct), people(client=slow)
        await sessions.update(1, count, create=True)
        arrived = asyncio.Event()

        async def change():
            async with late.exclusive(1) as person:
                count(person)
                # It has read; what it writes goes into a link that holds it back.
                proxy.up.hold = True
                arrived.set()

        with pytest.raises(CommandTimeout) as caught:
            await change()
        assert arrived.is_set()
        assert caught.value.outcome == "unknown"
        await sessions.update(1, lambda p: setattr(p, "city", "Oslo"))
        before = await direct.hgetall(session_keys(sessions).pair(1)[0])
        refused = await _evals(direct)
        proxy.up.hold = False
        while await _evals(direct) == refused:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await direct.hgetall(session_keys(sessions).pair(1)[0]) == before
        with frozen(own), pytest.raises(CommandTimeout):
            await late.update(1, count)
        # In the stopped server's socket it was next: nobody came between, so it ran.
        assert (await sessions.get(1)).limits["n"] in (1, 2)


async def _evals(client):
    stats = await client.info("commandstats")
    return stats["cmdstat_evalsha"]["calls"]


@pytest.mark.integration
@pytest.mark.requirement("S3")
async def test_a_save_from_before_another_change_is_refused_when_it_arrives(people):
    """The bytes of a save, replayed later, change nothing."""
    sessions = people()
    await sessions.update(1, count, create=True)
    calls = []

    class Tap:
        """Keeps the arguments of each call, to send them again."""

        decodes = people.client.decodes

        async def execute_command(self, *args, **options):
            calls.append(args)
            return await people.client.execute_command(*args, **options)

    with tapped(sessions, Tap()):
        await sessions.update(1, count)
    before = await people.raw(sessions, 1)
    save = calls[-1]
    for _ in range(3):
        reply = await people.client.execute_command(*save)
        assert reply[0] == b"conflict"
    assert await people.raw(sessions, 1) == before
    await sessions.delete(1)
    assert (await people.client.execute_command(*save))[0] == b"gone"


@pytest.mark.integration
@pytest.mark.requirement("S3")
async def test_a_server_that_comes_back_empty_is_no_source_of_old_data(people):
    """After a restart without data, memory is dropped and nobody is resurrected."""
    async with (
        EmbeddedServer() as own,
        Client.from_url(own.url) as client,
        people(client=client) as sessions,
    ):
        await sessions.update(1, lambda p: setattr(p, "city", "Oslo"), create=True)
        await eventually(lambda: mirrored(sessions, "wallet") is not None)
        await eventually(lambda: _found(sessions, "Oslo", {1}))
        own.kill()
        await own.restart()
        with pytest.raises(SessionGone):
            await sessions.update(1, count)
        await eventually(lambda: _found(sessions, "Oslo", set()))
        assert await sessions.get(1) is None
        assert (await sessions.update(1, count, create=True)).city == ""


async def _found(sessions, city, users):
    return await sessions.users_for("city", city) == users


@pytest.mark.errors
async def test_a_change_inside_exclusive_by_the_same_task_is_refused(people):
    """A task in `exclusive` does not wait for itself: `LockHeld`, and it goes on."""
    sessions = people()
    await sessions.update(1, count, create=True)
    async with asyncio.timeout(10):
        async with sessions.exclusive(1) as user:
            for again in (
                sessions.update(1, count),
                sessions.revoke(1),
                hold(sessions, 1),
            ):
                with pytest.raises(LockHeld):
                    await again
            waiting = asyncio.get_running_loop().create_task(sessions.update(1, count))
            await asyncio.sleep(0)
            with pytest.raises(LockHeld):
                await sessions.update(1, count)
            user.city = "Oslo"
        await waiting
        found = await sessions.get(1, fresh=True)
        assert (found.city, found.limits) == ("Oslo", {"n": 2})


async def hold(sessions, user_id):
    """Be in `exclusive` for a moment."""
    async with sessions.exclusive(user_id):
        pass
