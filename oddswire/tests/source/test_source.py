"""The source of record: written through, read through, restored from."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from oddswire import Client, EmbeddedServer, connect
from oddswire.clock import ManualClock
from oddswire.codec import Keyring
from oddswire.errors import (
    CodecError,
    NoPermission,
    Outcome,
    SessionConflict,
    SessionDamaged,
    SessionError,
    SessionFull,
    SessionGone,
    SourceError,
    SourceUnavailable,
)
from oddswire.events import DataReset
from oddswire.sessions import SealedSource, Source
from oddswire.sessions._scripts import SessionHeader
from support import eventually
from support.hooks import (
    advance_server_clock,
    mirrored,
    reconcile,
    session_keys,
    session_steps,
)

LATER = 3.0  # seconds: a mark is old then


def lives_in(city):
    """Return a change."""

    def fn(person):
        person.city = city
        person.dialog.append(city)

    return fn


@pytest.mark.basic
@pytest.mark.requirement("S8")
async def test_a_change_is_at_the_source_before_it_is_acknowledged(people, source):
    """Each kind of change is in the record when its call returns; no conversation."""
    sessions = people()
    await sessions.update(1, lives_in("Oslo"), create=True)
    assert b"Oslo" in source.rows()[1].data
    await sessions.add_to(1, "wallets", "0xaa", "whale")
    assert b"0xaa" in source.rows()[1].data
    await sessions.deactivate(1)
    assert not source.rows()[1].on
    await sessions.activate(1)
    assert source.rows()[1].on
    async with sessions.exclusive(1) as person:
        person.city = "Rome"
        person.token = "secret"
    assert b"Rome" in source.rows()[1].data
    assert b"secret" not in source.rows()[1].data
    assert await sessions.remove_from(1, "wallets", "0xaa")
    assert not await sessions.remove_from(1, "wallets", "0xaa")
    assert b"0xaa" not in source.rows()[1].data
    versions = source.rows()[1].version
    await sessions.update(1, lambda person: person.dialog.append("words"))
    assert source.rows()[1].version == versions
    assert (await sessions.get(1)).dialog[-1] == "words"
    assert await sessions.delete(1)
    assert source.rows() == {}
    assert await sessions.get(1) is None


@pytest.mark.basic
@pytest.mark.requirement("S8")
async def test_what_redis_has_not_got_is_read_from_the_source(client, people, source):
    """A session that Redis lost comes back with what was asked for and its times."""
    sessions = people()
    await sessions.update(1, lives_in("Oslo"), create=True)
    await sessions.add_to(1, "wallets", "0xaa", "whale")
    await sessions.deactivate(1)
    before = await sessions.get(1)
    await client.unlink(*[key async for key in client.scan_iter("test-*")])

    after = await sessions.get(1)
    assert after.wallets == {"0xaa": "whale"}
    assert (after.city, after.is_active) == ("Oslo", False)
    assert after.dialog == []
    assert after.created_at == before.created_at
    assert after.version > before.version
    await sessions.activate(1)
    assert await sessions.users_for("wallet", "0xaa") == {1}
    assert await sessions.get(2) is None


@pytest.mark.advanced
@pytest.mark.requirement("S8")
@pytest.mark.parametrize("first", ["users_for", "update", "add_to", "touch", "switch"])
async def test_every_call_brings_back_what_redis_lost(client, people, first):
    """After Redis was emptied, no call takes a user of the source for a new one."""
    sessions = people()
    await sessions.update(1, lives_in("Oslo"), create=True)
    await sessions.add_to(1, "wallets", "0xaa", "whale")
    await client.unlink(*[key async for key in client.scan_iter("test-*")])
    match first:
        case "users_for":
            assert await sessions.users_for("wallet", "0xaa") == {1}
        case "update":
            person = await sessions.update(1, lambda p: setattr(p, "count", 5))
            assert (person.city, person.count) == ("Oslo", 5)
        case "add_to":
            assert not await sessions.add_to(1, "wallets", "0xaa", "shark")
        case "touch":
            assert await sessions.touch(1)
        case "switch":
            assert await sessions.deactivate(1)
            assert await sessions.activate(1)
    assert (await sessions.get(1)).city == "Oslo"
    assert await sessions.users_for("city", "Oslo") == {1}


@pytest.mark.errors
@pytest.mark.requirement("S8", "C7")
async def test_the_database_away(client, people, source):
    """Reads go on from Redis; a change fails typed, and leaves nothing behind."""
    sessions = people()
    await sessions.update(1, lives_in("Oslo"), create=True)
    await sessions.rebuild()
    source.before["*"] = "away"
    for call in (
        sessions.update(1, lives_in("Rome")),
        sessions.add_to(1, "wallets", "0xaa", ""),
        sessions.deactivate(1),
        sessions.delete(1),
        sessions.update(2, lives_in("Rome"), create=True),
        sessions.get(3),
    ):
        with pytest.raises(SourceUnavailable) as caught:
            await call
        assert caught.value.outcome is Outcome.NOT_SENT
        assert isinstance(caught.value, SessionError)
    assert (await sessions.get(1)).city == "Oslo"
    assert await sessions.users_for("city", "Oslo", fresh=True) == {1}
    # A conversation needs no source.
    await sessions.update(1, lambda person: person.dialog.append("hi"))
    assert not await client.exists(session_keys(sessions).marks)

    source.before.clear()
    assert source.rows().keys() == {1}
    assert (await sessions.get(1, fresh=True)).dialog == ["Oslo", "hi"]
    assert await sessions.get(2) is None
    await sessions.update(1, lives_in("Rome"))
    assert await sessions.users_for("city", "Rome") == {1}


@pytest.mark.errors
@pytest.mark.requirement("S8")
async def test_an_answer_of_the_database_that_was_lost(client, people, source):
    """The outcome is unknown; the change is then whole in both, or in neither."""
    sessions = people()
    await sessions.update(1, lives_in("Oslo"), create=True)
    source.after["save"] = "lost"
    with pytest.raises(SourceError) as caught:
        await sessions.update(1, lives_in("Rome"))
    assert caught.value.outcome is Outcome.UNKNOWN
    source.after.clear()
    advance_server_clock(sessions, LATER)
    assert (await sessions.get(1)).city == "Rome"
    assert await sessions.users_for("city", "Rome") == {1}
    assert await sessions.users_for("city", "Oslo") == frozenset()
    assert not await client.exists(session_keys(sessions).marks)

    source.before["save"] = "lost"
    with pytest.raises(SourceError):
        await sessions.update(1, lives_in("Bonn"))
    source.before.clear()
    advance_server_clock(sessions, LATER)
    assert (await sessions.get(1)).city == "Rome"


@pytest.mark.errors
@pytest.mark.requirement("S8")
async def test_a_source_that_raises_anything_is_a_source_error(people, source, caplog):
    """An exception of the application's source is typed, with its cause.

    Its text, which may hold the values of a statement, is in no line of the log.
    """

    def bug():
        raise ValueError("INSERT ... ('canary',)\n[SQL]")

    def of_its_own():
        raise SourceError("INSERT ... ('canary',)\n[SQL]")

    for fault in (bug, of_its_own):
        source.before["save"] = fault
        with pytest.raises(SourceError) as caught:
            await people().update(1, lives_in("Oslo"), create=True)
        if fault is bug:
            assert isinstance(caught.value.__cause__, ValueError)
            assert str(caught.value) == "the source failed: ValueError"
    told = [each for each in caplog.records if each.msg and "degraded" in each.message]
    assert [each.reason for each in told] == [
        "the source failed: ValueError",
        "the source failed: SourceError",
    ]
    assert "canary" not in caplog.text
    with pytest.raises(SessionError, match="give Sessions a source"):
        await people(source=None).rebuild()
    assert isinstance(source, Source)


@pytest.mark.advanced
@pytest.mark.requirement("S8")
@pytest.mark.parametrize("point", ["before", "after"])
async def test_the_late_write_of_a_paused_process_changes_nothing_acknowledged(
    people, source, point
):
    """A process that was stopped at its write finds another's change, or is refused."""
    one, two = people(), people()
    await one.update(1, lives_in("Oslo"), create=True)
    go, there = asyncio.Event(), asyncio.Event()

    async def stop():
        getattr(source, point).clear()
        there.set()
        await go.wait()

    getattr(source, point)["save"] = stop

    def count(person):
        person.count += 1

    late = asyncio.get_running_loop().create_task(one.update(1, count))
    await there.wait()
    advance_server_clock(two, LATER)
    after = await two.update(1, lambda person: setattr(person, "city", "Rome"))
    assert after.count == (point == "after")
    go.set()
    assert (await late).city == ("Rome" if point == "before" else "Oslo")
    for sessions in (one, two):
        person = await sessions.get(1, fresh=True)
        assert (person.city, person.count) == ("Rome", 1)
    assert await two.users_for("city", "Rome") == {1}


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_a_paused_write_after_redis_was_emptied_is_refused(
    client, people, source
):
    """Who reads a record into an emptied Redis makes what was on its way impossible."""
    one, two = people(), people()
    await one.update(1, lives_in("Oslo"), create=True)
    go, there = asyncio.Event(), asyncio.Event()

    async def stop():
        source.before.clear()
        there.set()
        await go.wait()

    source.before["save"] = stop
    late = asyncio.get_running_loop().create_task(one.update(1, lives_in("Rome")))
    await there.wait()
    await client.unlink(*[key async for key in client.scan_iter("test-*")])
    assert (await two.get(1)).city == "Oslo"
    written = asyncio.Event()

    async def die():
        written.set()
        await asyncio.Event().wait()

    # It goes on to its write, and no further: as if it was killed there.
    source.after["save"] = die
    go.set()
    await written.wait()
    source.after.clear()
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert b"Oslo" in source.rows()[1].data
    assert (await two.get(1, fresh=True)).city == "Oslo"


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_a_paused_switch_does_not_undo_a_later_one(people, source):
    """Who comes late with the state of before does not store it in Redis."""
    one, two = people(), people()
    await one.update(1, lives_in("Oslo"), create=True)
    go, there = asyncio.Event(), asyncio.Event()

    async def stop():
        source.after.clear()
        there.set()
        await go.wait()

    source.after["save"] = stop
    late = asyncio.get_running_loop().create_task(one.deactivate(1))
    await there.wait()
    advance_server_clock(two, LATER)
    assert not (await two.get(1)).is_active
    await two.activate(1)
    ledger, _ = session_steps(one)["restore"]
    restore, restored = ledger.restore, asyncio.Event()

    async def die(*args, **kwargs):
        await restore(*args, **kwargs)
        restored.set()
        await asyncio.Event().wait()

    ledger.restore = die
    go.set()
    await restored.wait()
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert source.rows()[1].on
    assert (await two.get(1, fresh=True)).is_active
    assert await two.users_for("city", "Oslo", fresh=True) == {1}


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_a_paused_creation_does_not_bring_back_the_deleted(people, source):
    """What was created at the source, deleted by another, stays deleted in both."""
    one, two = people(), people()
    go, there = asyncio.Event(), asyncio.Event()

    async def stop():
        source.after.clear()
        there.set()
        await go.wait()

    source.after["save"] = stop
    late = asyncio.get_running_loop().create_task(
        one.update(1, lambda person: setattr(person, "city", "Oslo"), create=True)
    )
    await there.wait()
    advance_server_clock(two, LATER)
    assert await two.delete(1)
    go.set()
    await late
    assert source.rows() == {}
    assert await two.get(1) is None
    assert await two.users_for("city", "Oslo") == frozenset()


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_a_paused_deletion_deletes_in_both_or_in_neither(people, source):
    """A deletion that others got ahead of still leaves both the same."""
    one, two = people(), people()
    await one.update(1, lives_in("Oslo"), create=True)
    go, there = asyncio.Event(), asyncio.Event()

    async def stop():
        source.before.clear()
        there.set()
        await go.wait()

    source.before["delete"] = stop
    late = asyncio.get_running_loop().create_task(one.delete(1))
    await there.wait()
    advance_server_clock(two, LATER)
    await two.update(1, lives_in("Rome"))
    go.set()
    assert await late
    assert source.rows() == {}
    assert await two.get(1, fresh=True) is None
    assert await two.users_for("city", "Rome") == frozenset()


@pytest.mark.advanced
@pytest.mark.requirement("S3", "S8")
async def test_at_the_cap_the_least_active_leaves_and_comes_back(people, source):
    """Nobody is refused: who was silent longest leaves Redis, stays in the indexes."""
    keyring = Keyring.from_text(Keyring.new_line(1))
    sessions = people(cap=3, keyring=keyring)
    for user in range(8):
        await sessions.update(user, lives_in("Oslo"), create=True)
        await sessions.add_to(user, "wallets", "0xaa", str(user))
    await sessions.deactivate(0)
    assert (await sessions.stats()).total == 3
    assert await sessions.users_for("wallet", "0xaa") == frozenset(range(1, 8))
    for user in range(8):
        person = await sessions.get(user)
        assert person.wallets == {"0xaa": str(user)}
        assert person.is_active == (user != 0)
    await sessions.remove_from(2, "wallets", "0xaa")
    assert await sessions.delete(3)
    assert await sessions.users_for("wallet", "0xaa") == {1, 4, 5, 6, 7}
    stats = await sessions.stats()
    assert (stats.total, stats.having["wallets"]) <= (3, 3)
    without = people(cap=3, source=None, keyring=keyring)
    with pytest.raises(SessionFull):
        await without.update(20, lives_in("Oslo"), create=True)


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_the_mirror_has_those_who_are_away(people):
    """Lookups from memory find users whose session is not in Redis."""
    async with people(cap=2) as sessions:
        for user in range(5):
            await sessions.update(user, lives_in("Oslo"), create=True)
        async with people(cap=2) as other:
            await eventually(lambda: mirrored(other, "city", "Oslo") is not None)
            assert await other.users_for("city", "Oslo") == frozenset(range(5))
            await sessions.update(0, lambda person: setattr(person, "city", "Rome"))
            await eventually(lambda: mirrored(other, "city", "Rome") == ["0"])
            assert await other.users_for("city", "Oslo") == {1, 2, 3, 4}


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_redis_emptied_is_rebuilt_before_anything_depends_on_it(source):
    """A lookup right after FLUSHALL waits for the rebuild, and then is right."""
    async with (
        EmbeddedServer() as own,
        connect(url=own.url, session=type_of(), source=source) as wire,
    ):
        for user in range(30):
            await wire.sessions.update(user, lives_in("Oslo"), create=True)
        await wire.client.flushall()
        found = await wire.sessions.users_for("city", "Oslo", fresh=True)
        assert found == frozenset(range(30))


def type_of():
    """Return the type of the sessions here."""
    import sys

    return sys.modules["source_desk"].Person


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_redis_back_with_older_data_is_brought_up_to_date(source, tmp_path):
    """After a server came back as it was before, nothing old is answered as new."""
    async with (
        EmbeddedServer(data_dir=tmp_path) as own,
        connect(url=own.url, session=type_of(), source=source) as wire,
    ):
        sessions = wire.sessions
        await sessions.update(1, lives_in("Oslo"), create=True)
        await sessions.update(2, lives_in("Oslo"), create=True)
        await wire.client.save()
        await sessions.update(1, lives_in("Rome"))
        await sessions.delete(2)
        await sessions.update(3, lives_in("Rome"), create=True)
        own.kill()
        await own.wait_exit()
        await own.restart()
        await wire.client.ping()
        assert await sessions.users_for("city", "Rome", fresh=True) == {1, 3}
        assert await sessions.users_for("city", "Oslo", fresh=True) == frozenset()
        assert (await sessions.get(1, fresh=True)).city == "Rome"
        assert await sessions.get(2, fresh=True) is None


@pytest.mark.errors
@pytest.mark.requirement("S8")
async def test_emptied_and_the_database_away_is_an_error_and_no_empty_answer(
    client, people, source
):
    """A lookup that could not be rebuilt says so, and is right when the source is."""
    sessions = people()
    await sessions.update(1, lives_in("Oslo"), create=True)
    await client.unlink(*[key async for key in client.scan_iter("test-*")])
    source.before["*"] = "away"
    with pytest.raises(SourceUnavailable):
        await sessions.users_for("city", "Oslo")
    with pytest.raises(SourceUnavailable):
        await sessions.get(1)
    with pytest.raises(SourceUnavailable):
        async with people():
            pass
    source.before.clear()
    assert await sessions.users_for("city", "Oslo") == {1}


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_a_rebuild_goes_on_where_it_was(client, people, source, monkeypatch):
    """Interrupted, it goes on after the last page; run again, it changes nothing."""
    monkeypatch.setattr("oddswire.sessions._rebuild.PAGE", 4)
    sessions = people()
    for user in range(-3, 9):
        await sessions.update(user, lives_in("Oslo"), create=True)
    await client.unlink(*[key async for key in client.scan_iter("test-*")])
    told = []

    def tell(state):
        told.append(state)
        if len(told) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await sessions.rebuild(tell)
    state = await people().rebuild(told.append)
    assert [each.after for each in told] == [0, 4, 8, 8]
    assert (state.seen, state.restored, state.done) == (4, 4, True)
    again = await sessions.rebuild()
    assert (again.seen, again.restored, again.damaged) == (12, 0, 0)
    assert await sessions.users_for("city", "Oslo") == frozenset(range(-3, 9))


@pytest.mark.errors
@pytest.mark.requirement("S8", "C12")
async def test_a_process_that_has_moved_compares_from_the_start(
    client, people, source, monkeypatch
):
    """Another's run that is under way lacks what the old server acknowledged to it."""
    monkeypatch.setattr("oddswire.sessions._rebuild.PAGE", 4)

    def stop(_):
        raise InterruptedError

    async with people() as sessions:
        for user in range(8):
            await sessions.update(user, lives_in("Oslo"), create=True)
        await sessions.update(7, lives_in("Rome"))
        with pytest.raises(InterruptedError):
            await people().rebuild(stop)  # behind user 3
        rows = source.rows()
        changed = msgspec.structs.replace(
            rows[7], user_id=0, version=rows[0].version + 1
        )
        source.put(changed)
        client.events.emit(DataReset(connection="command", reason="another server"))
        assert await sessions.users_for("city", "Rome", fresh=True) == {0, 7}


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_who_asked_for_nothing_leaves_the_source_too(people, source):
    """When a conversation without wishes ends, its record is removed by the sweeper."""
    sessions = people(ttl=60, touch_interval=0)
    await sessions.update(1, lambda person: person.dialog.append("hi"), create=True)
    await sessions.update(2, lives_in("Oslo"), create=True)
    assert source.rows().keys() == {1, 2}
    advance_server_clock(sessions, 61)
    assert await sessions.get(1) is None
    await sessions.sweep()
    assert source.rows().keys() == {2}
    assert await sessions.get(1) is None
    await sessions.update(1, lives_in("Rome"), create=True)
    assert (await sessions.get(1)).dialog == ["Rome"]


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_one_who_asked_for_nothing_comes_back_before_the_sweeper(people, client):
    """A record without wishes is no session, and does not stand in a new one's way."""
    sessions = people(ttl=60, touch_interval=0)
    await sessions.update(1, lambda person: person.dialog.append("hi"), create=True)
    await client.unlink(*[key async for key in client.scan_iter("test-*")])
    assert await sessions.get(1) is None
    with pytest.raises(SessionGone):
        await sessions.update(1, lives_in("Oslo"))
    person = await sessions.update(1, lives_in("Oslo"), create=True)
    assert person.dialog == ["Oslo"]


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_a_session_moves_to_another_id_in_both(people, source):
    """`migrate` moves the record in one transaction; a taken id is refused."""
    sessions = people()
    await sessions.update(1, lives_in("Oslo"), create=True)
    await sessions.update(3, lives_in("Rome"), create=True)
    assert await sessions.migrate(1, -100)
    assert source.rows().keys() == {-100, 3}
    assert await sessions.get(1) is None
    assert (await sessions.get(-100)).city == "Oslo"
    assert await sessions.users_for("city", "Oslo") == {-100}
    assert not await sessions.migrate(1, 5)
    with pytest.raises(SessionConflict):
        await sessions.migrate(3, -100)


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_erasing_reaches_the_source(people, source):
    """The receipt counts the source, also for one who is not in Redis."""
    sessions = people(cap=1)
    await sessions.update(1, lives_in("Oslo"), create=True)
    await sessions.update(2, lives_in("Oslo"), create=True)
    erased = await sessions.erase(1)
    assert erased.left == ()
    assert source.rows().keys() == {2}
    assert await sessions.users_for("city", "Oslo") == {2}


@pytest.mark.basic
@pytest.mark.requirement("S8")
async def test_a_sealed_source_shows_nothing_and_takes_a_new_key(
    people, source, client
):
    """Content is sealed for its user; `reseal` brings it under the primary key."""
    old = Keyring({1: bytes(range(32))})
    sealed = SealedSource(source, old)
    sessions = people(source=sealed)
    await sessions.update(1, lives_in("Oslo"), create=True)
    await sessions.update(2, lives_in("Rome"), create=True)
    assert b"Oslo" not in source.rows()[1].data

    both = Keyring({2: bytes(range(1, 33)), 1: bytes(range(32))})
    assert await SealedSource(source, both).reseal() == 2
    assert await SealedSource(source, both).reseal() == 0
    only = SealedSource(source, Keyring({2: bytes(range(1, 33))}))
    await client.unlink(*[key async for key in client.scan_iter("test-*")])
    assert (await people(source=only).get(1)).city == "Oslo"
    with pytest.raises(CodecError):
        await sealed.load([2])
    swapped = source.rows()[1]
    source.put(type(swapped)(**{**asdict(swapped), "user_id": 2}))
    with pytest.raises(CodecError):
        await only.load([2])


@pytest.mark.errors
@pytest.mark.requirement("S7", "S8")
async def test_what_somebody_changed_in_redis_is_made_from_the_source(
    people, source, client
):
    """Sealed: damage is an error, and after a reconciliation nothing of it is left."""
    keyring = Keyring({1: bytes(range(32))})
    sessions = people(keyring=keyring)
    await sessions.update(1, lives_in("Oslo"), create=True)
    await sessions.update(1, lambda p: setattr(p, "token", "secret"))
    main, _ = session_keys(sessions).pair(1)
    words = (await client.hget(main, "h")).split(b" ")
    words[3] = b"9" * 16  # the conversation's end
    await client.hset(main, "h", b" ".join(words))
    with pytest.raises(SessionDamaged):
        await sessions.get(1)
    await reconcile(sessions, 1)
    person = await sessions.get(1)
    assert (person.city, person.token) == ("Oslo", "")
    assert SessionHeader.parse(await client.hget(main, "h")).expiry == 0
    # What is whole keeps its conversation.
    await sessions.update(1, lambda p: setattr(p, "token", "another"))
    await reconcile(sessions, 1)
    assert (await sessions.get(1)).token == "another"
    assert await sessions.touch(1)
    assert await sessions.deactivate(1)
    assert (await people(keyring=keyring).get(1)).token == "another"


def asdict(struct):
    """Return a struct's fields."""
    import msgspec

    return msgspec.structs.asdict(struct)


@pytest.mark.errors
@pytest.mark.requirement("S8")
async def test_a_damaged_record_is_counted_and_the_others_restored(
    client, people, source
):
    """One record that cannot be read does not keep the others out of the indexes."""
    sessions = people()
    for user in range(3):
        await sessions.update(user, lives_in("Oslo"), create=True)
    row = asdict(source.rows()[1])
    source.put(type(source.rows()[1])(**{**row, "data": b"\xff"}))
    await client.unlink(*[key async for key in client.scan_iter("test-*")])
    state = await sessions.rebuild()
    assert (state.damaged, state.restored, state.done) == (1, 2, True)
    assert await sessions.users_for("city", "Oslo") == {0, 2}
    with pytest.raises(SessionError):
        await sessions.get(1)
    assert source.rows()[1].data == b"\xff"


@pytest.mark.errors
@pytest.mark.requirement("S8")
async def test_a_hung_database_ends_with_a_deadline(people, source, monkeypatch):
    """A source that does not answer is an error with an unknown outcome, in time."""
    monkeypatch.setattr("oddswire.sessions._write_through.DEADLINE", 0.05)
    source.before["save"] = asyncio.Event()
    with pytest.raises(SourceError, match="did not answer") as caught:
        await people().update(1, lives_in("Oslo"), create=True)
    assert caught.value.outcome is Outcome.UNKNOWN


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_sessions_from_before_the_source_enter_it_with_their_next_change(
    people, source
):
    """A source given to a program that had none loses nothing of what is in Redis."""
    await people(source=None).update(1, lives_in("Oslo"), create=True)
    sessions = people()
    assert (await sessions.get(1)).city == "Oslo"
    await sessions.update(1, lambda person: setattr(person, "count", 2))
    assert b"Oslo" in source.rows()[1].data


@pytest.mark.advanced
@pytest.mark.requirement("S8")
async def test_the_mender_finishes_what_was_left(people, source, client):
    """Inside `async with`, nobody has to read for a left change to be finished."""
    clock = ManualClock()
    async with people(clock=clock) as sessions:
        await sessions.update(1, lives_in("Oslo"), create=True)
        source.after["save"] = "lost"
        with pytest.raises(SourceError):
            await sessions.update(1, lives_in("Rome"))
        source.after.clear()
        advance_server_clock(sessions, LATER)

        async def mended():
            await clock.advance(1.1)
            return not await client.exists(session_keys(sessions).marks)

        await eventually(mended)
        assert await sessions.users_for("city", "Rome", fresh=True) == {1}


@pytest.mark.performance
@pytest.mark.requirement("C14")
async def test_an_idle_process_with_a_source_asks_nothing(own, source, people):
    """Nobody reads or writes: what killed processes left is looked at two minutes on.

    A lookup after the pause looks at once, so that it misses nothing.
    """
    clock = ManualClock()
    async with (
        Client.from_url(own.url) as client,
        Client.from_url(own.url) as admin,
        people(client=client, clock=clock) as sessions,
    ):
        await sessions.update(1, lambda s: setattr(s, "city", "Rome"), create=True)
        for _ in range(40):  # in use for half a minute, and then not
            await clock.advance(1)
        await admin.config_resetstat()
        for _ in range(60):
            await clock.advance(1)
        calls = await admin.info("commandstats")
        assert set(calls) <= {"cmdstat_config|resetstat", "cmdstat_ping"}
        assert await sessions.users_for("city", "Rome", fresh=True) == {1}
        calls = await admin.info("commandstats")
        assert calls["cmdstat_hgetall"]["calls"] == 1


@pytest.mark.errors
@pytest.mark.requirement("S8")
async def test_without_the_servers_run_id_a_source_is_refused(own, people):
    """Entering says what is missing and what to do; a source has no mode without it."""
    async with Client.from_url(own.url) as admin:
        few = ("ACL", "SETUSER", "few", "on", ">pw", "+@all", "-info", "~*", "&*")
        await admin.execute_command(*few)
        async with Client.from_url(f"redis://few:pw@127.0.0.1:{own.port}") as client:
            with pytest.raises(NoPermission, match=r"grant \+info"):
                await people(client=client).__aenter__()
        # As of a proxy that answers INFO by itself.
        admin.set_response_callback("INFO", lambda *_, **__: {"redis_version": "7"})
        with pytest.raises(SessionError, match="connect to the server itself"):
            await people(client=admin).__aenter__()


@pytest.mark.errors
@pytest.mark.requirement("X4")
async def test_a_key_of_another_type_is_deleted_with_its_record(people, client):
    """Another program's list in the place of a session ends with `delete`."""
    sessions = people()
    async with sessions:
        await sessions.update(1, lives_in("Oslo"), create=True)
        main = session_keys(sessions).pair(1)[0]
        await client.delete(main)
        await client.rpush(main, "of somebody else")
        await sessions.delete(1)
        assert await client.type(main) == b"none"
        assert await sessions.get(1) is None
        await sessions.update(1, lives_in("Oslo"), create=True)
        assert await sessions.get(1) is not None


@pytest.mark.errors
@pytest.mark.requirement("S8")
async def test_a_record_that_does_not_open_keeps_no_caller_waiting(
    client, people, source
):
    """A change that finds a record it cannot open fails, and leaves no intent."""
    old, other = (Keyring({1: bytes([each]) * 32}) for each in (1, 2))
    await people(source=SealedSource(source, other)).update(
        1, lives_in("Oslo"), create=True
    )
    sessions = people(source=SealedSource(source, old))
    keys = session_keys(sessions)
    await client.hdel(keys.noted, keys.names.of_user(1))
    with pytest.raises(CodecError):
        await sessions.update(1, lives_in("Rome"))
    assert not await client.hlen(keys.marks)
    with pytest.raises(CodecError):
        await sessions.delete(1)
    assert not await client.hlen(keys.marks)
    assert source.rows()[1].version
