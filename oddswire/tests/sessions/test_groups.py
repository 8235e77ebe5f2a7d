from __future__ import annotations

import asyncio
from functools import partial

import pytest

from oddswire.errors import CodecError, SessionFull, SessionGone
from support.hooks import lines_of, session_steps


def count(person):
    """Add one."""
    person.limits["n"] = person.limits.get("n", 0) + 1


@pytest.mark.performance
@pytest.mark.requirement("S3")
async def test_changes_that_wait_are_saved_together_each_with_its_own_outcome(people):
    """Of 60 changes at once some fail and leave nothing; the rest is two saves."""
    sessions = people()
    await sessions.update(1, count, create=True)
    version = (await sessions.get(1)).version
    saves = []
    store, _ = session_steps(sessions)["store"]
    usual = store.save

    async def save(*args, **options):
        saves.append(args)
        return await usual(*args, **options)

    store.save = save
    begun = set()

    def change(number, person):
        begun.add((person.user_id, person.version, person.is_active))
        count(person)
        person.user_id, person.version = 7, "x"
        if number % 3 == 1:
            raise ZeroDivisionError(number)
        if number % 3 == 2 and number > 30:
            person.limits["n"] = "no number"

    outcomes = await asyncio.gather(
        *(sessions.update(1, partial(change, n)) for n in range(60)),
        return_exceptions=True,
    )
    good = [each for each in outcomes if not isinstance(each, Exception)]
    failed = {n: str(e) for n, e in enumerate(outcomes) if isinstance(e, Exception)}
    assert failed.keys() == {*range(1, 60, 3), *range(32, 60, 3)}
    assert all(failed[n] == str(n) for n in range(1, 60, 3))
    assert all(isinstance(outcomes[n], CodecError) for n in range(32, 60, 3))
    # One after another: each went on with what the one before it left.
    assert [each.limits["n"] for each in good] == [*range(2, 2 + len(good))]
    assert {each.user_id for each in good} == {1}
    person = await sessions.get(1)
    assert person.limits == {"n": 1 + len(good)}
    assert len(saves) == 2
    assert len({each.version for each in good} - {version}) == 2
    assert begun == {(1, version, True), (1, good[0].version, True)}
    assert good[-1].version == person.version


@pytest.mark.errors
@pytest.mark.requirement("S3")
async def test_who_is_cancelled_harms_nobody_it_would_have_been_saved_with(people):
    """Whoever leaves a group of changes, whenever: the others are stored, each once."""
    sessions = people()
    await sessions.update(1, count, create=True)
    before, loop = asyncio.all_tasks(), asyncio.get_running_loop()
    for steps in range(0, 24, 3):
        for leaving in (slice(0, 1), slice(1, 2), slice(1, 6), slice(9, 10), slice(10)):
            had = (await sessions.get(1)).limits["n"]
            tasks = [
                loop.create_task(sessions.update(1, count), name=f"update {n}")
                for n in range(10)
            ]
            for _ in range(steps):
                await asyncio.sleep(0)
            cancelled = [task.cancel() for task in tasks[leaving]]
            done = await asyncio.gather(*tasks, return_exceptions=True)
            kept = [
                each.limits["n"] for each in done if isinstance(each, people.Person)
            ]
            assert len(kept) >= 10 - sum(cancelled)
            assert len(set(kept)) == len(kept)
            assert asyncio.all_tasks() == before
            assert lines_of(sessions) == 0
            now = (await sessions.get(1)).limits["n"]
            assert had + len(kept) <= now <= had + 10


@pytest.mark.advanced
@pytest.mark.requirement("S3")
async def test_changes_that_come_later_do_not_overtake_who_waits_to_hold_it(people):
    """First come, first served: a change does not join a group from before a holder."""
    sessions = people()
    await sessions.update(1, count, create=True)
    order = []

    def note(name, _person):
        order.append(name)

    async def hold():
        async with sessions.exclusive(1) as person:
            note("held", person)

    await asyncio.gather(
        sessions.update(1, partial(note, "first")),
        sessions.update(1, partial(note, "second")),
        hold(),
        sessions.update(1, partial(note, "third")),
        sessions.update(1, partial(note, "fourth")),
    )
    assert order == ["first", "second", "held", "third", "fourth"]


@pytest.mark.errors
@pytest.mark.requirement("S3")
async def test_a_group_that_may_not_begin_a_session_tells_each_its_own_reason(people):
    """At the cap, who would begin is told of the cap, the others that there is none."""
    sessions = people(cap=1)
    await sessions.update(1, count, create=True)
    outcomes = await asyncio.gather(
        *(sessions.update(2, count, create=n % 2 == 0) for n in range(6)),
        return_exceptions=True,
    )
    kinds = [type(each) for each in outcomes]
    assert kinds == [SessionFull, SessionGone] * 3
    await sessions.delete(1)
    outcomes = await asyncio.gather(
        *(sessions.update(2, count, create=n == 3) for n in range(6)),
        return_exceptions=True,
    )
    kinds = [type(each) for each in outcomes]
    assert kinds == [SessionGone] * 3 + [people.Person] * 3
    assert (await sessions.get(2)).limits == {"n": 3}
