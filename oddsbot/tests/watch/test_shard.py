"""A shard judged by one process at a time: what is committed, by whom, and when."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from oddsbot.alerts import Base, Direction, MoveRule
from oddsbot.polymarket import Gap, MarketResolved, Tick, quotes
from oddsbot.store import SqlRules
from oddsbot.store.tables import alerts, rules, seen, shards, watchers
from oddsbot.watch import Rounds, Shard
from oddsbot.watch.peers import (
    BEAT_SECONDS,
    RETURN_SECONDS,
    SILENT_SECONDS,
    Peers,
)
from oddsbot.watch.shard import SEATS
from oddswire import Client, EmbeddedServer
from oddswire.clock import ManualClock, SystemClock
from oddswire.errors import SourceUnavailable
from oddswire.locks import Locks
from oddswire.testing import FaultProxy
from support import eventually
from support.one_rule import NaiveAlerts
from support.recorded import fill
from support.shards import START, UP, Feed, Outgoing, rule, top

# Longer than any stall of a machine: a lock that is lost before the owner is killed
# would give the shard to the younger. Who is killed in these tests gives it back.
KEPT = 30.0


@pytest.mark.integration
@pytest.mark.requirement("B4")
async def test_an_alert_is_committed_with_what_made_it_due(
    engine, known, processes, due
):
    """The row, the rule's state and the last tick are there together, and handed on."""
    await known(1)
    await SqlRules(engine).save(rule())
    process = await processes()
    await process.judging()
    process.feed.say(top(1, 50, 51), top(2, 61, 62), top(3, 61, 63), top(4, 58))
    assert await due.until(1) == [(1, "rule:1", 1, None)]
    process.feed.say(top(5, 62))
    assert [row[1] for row in await due.until(2)] == ["rule:1", "rule:2"]
    async with engine.connect() as connection:
        state = (await connection.execute(select(rules))).one()
        last = (await connection.execute(select(seen))).one()
    assert (state.n, state.armed, state.fired_at) == (2, False, START + 5)
    assert (last.asset_id, last.at, last.bid) == (UP, START + 5, "0.62")
    await eventually(lambda: len(process.outgoing.put_in) == 2)
    first, second = process.outgoing.put_in
    assert (first.user_id, first.kind) == (1, "price")
    assert first.where < second.where


@pytest.mark.integration
@pytest.mark.requirement("B3")
async def test_a_rule_that_is_paused_fires_nothing_until_it_goes_on(
    engine, known, processes, due
):
    """What crossed meanwhile is not told; its alerts are counted on."""
    await known(1)
    stored = SqlRules(engine)
    await stored.save(rule())
    process = await processes()
    await process.judging()
    process.feed.say(top(1, 50, 51), top(2, 61, 62))
    await due.until(1)
    await stored.save(rule(paused=True))
    process.shard.look()
    await eventually(lambda: not process.feed.assets)
    process.feed.say(top(3, 50, 51), top(4, 61, 62))
    # As the command does: it goes on from the price of now.
    now = Base(Decimal("0.61"), Decimal("0.62"))
    await stored.save(rule(base=now))
    process.shard.look()
    await eventually(lambda: process.feed.assets)
    process.feed.say(top(5, 50, 51), top(6, 63, 64))
    await due.until(2)
    process.feed.say(top(7, 50, 51), top(8, 63, 64))
    found = await due.until(3)
    assert [row[1] for row in found] == ["rule:1", "rule:2", "rule:3"]
    async with engine.connect() as connection:
        query = select(alerts.c.at).order_by(alerts.c.n, alerts.c.place)
        times = (await connection.execute(query)).scalars().all()
    assert times == [START + 2, START + 6, START + 8]


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_the_next_owner_judges_what_the_last_one_had_not_committed(
    engine, known, processes, due
):
    """Killed at any moment: each alert is due once, from the ring of another."""
    await known(1)
    await SqlRules(engine).save(rule())
    owner = await processes()
    await owner.judging()
    standby = await processes()
    await eventually(lambda: standby.feed.assets)
    for n in range(6):
        both = (top(10 * n, 50, 51), top(10 * n + 1, 61, 62))
        standby.feed.say(*both)
        owner.feed.say(*both)
        # From before it has seen them to after it has committed them.
        for _ in range(n * 5):
            await asyncio.sleep(0)
        await owner.kill()
        await standby.judging()
        found = await due.until(n + 1)
        assert [row[1] for row in found] == [f"rule:{k + 1}" for k in range(n + 1)]
        owner, standby = standby, await processes()
        standby.feed.say(top(10 * n + 1, 61, 62))
        await eventually(lambda process=standby: process.shard.ticks == 1)


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_an_owner_that_was_deposed_writes_nothing(engine, known, processes, due):
    """Paused, cut off or late: the epoch refuses it, and it takes over once more."""
    await known(1)
    await SqlRules(engine).save(rule())
    process = await processes()
    await process.judging()
    process.feed.say(top(1, 50, 51))
    other = Rounds(engine, "0", SqlRules(engine), SystemClock())
    tenure = await other.take_over(0, 0, lambda *_: True)
    assert tenure.epoch == 2
    process.feed.say(top(2, 61, 62))
    assert await due.until(1) == [(1, "rule:1", 3, None)]
    assert process.shard.deposed == 1
    async with engine.connect() as connection:
        assert (await connection.execute(select(shards.c.epoch))).scalar_one() == 3


@pytest.mark.integration
async def test_a_new_rule_is_judged_from_its_place_and_by_the_quote_that_stands(
    engine, known, processes, due
):
    """What crossed since the person looked fires at once; what came before does not."""
    await known(1)
    stored = SqlRules(engine)
    await stored.save(rule("first", 90))
    process = await processes()
    await process.judging()
    # It was above 55 before the rules come, and is above 52 when they do.
    process.feed.say(top(1, 57, 58), top(2, 53, 54))
    await eventually(lambda: process.shard.ticks == 2)
    await stored.save(rule("crossed", 52))
    await stored.save(rule("not crossed", 55))
    process.shard.look()
    assert [row[1] for row in await due.until(1)] == ["crossed:1"]
    # Another process goes on from there: not by the tick from before.
    late = await processes()
    await eventually(lambda: late.feed.assets)
    late.feed.say(top(1, 57, 58), top(2, 53, 54))
    await eventually(lambda: late.shard.ticks == 2)
    await process.kill()
    await late.judging()
    late.feed.say(top(3, 56, 57))
    found = await due.until(2)
    assert [row[1] for row in found] == ["crossed:1", "not crossed:1"]


@pytest.mark.integration
@pytest.mark.requirement("B3", "B6")
async def test_many_rules_that_begin_are_many_rounds_and_miss_no_tick(
    engine, processes, due
):
    """At once they would hold the loop for longer than the lock is held."""
    beginning = [rule(f"r{n:05}", n % 40 + 30, n // 40 + 1) for n in range(12_000)]
    await fill(engine, beginning)
    process = await processes()
    # The first price comes before they have begun, the other two while they do.
    process.feed.say(top(1, 50, 51))
    await eventually(lambda: process.shard.takeovers)
    process.feed.say(top(2, 60, 61), top(3, 40, 41))
    reached = sum(50 < each.level * 100 <= 60 for each in beginning)
    found = await due.until(reached)
    assert len(found) == len({each[1] for each in found}) == reached
    async with engine.connect() as connection:
        query = select(rules.c.round, func.count()).group_by(rules.c.round)
        begun = dict((await connection.execute(query)).all())
    assert None not in begun
    # All at once they are one round, and what the ticks changed of them another.
    assert len(begun) >= 3
    assert process.shard.takeovers == 1


@pytest.mark.integration
async def test_a_rule_that_is_changed_or_gone_fires_no_more(
    engine, known, processes, due
):
    """Whether its owner has heard of it or not: the database knows."""
    await known(1)
    stored = SqlRules(engine)
    for name, level in (("gone", 60), ("changed", 61), ("stays", 62)):
        await stored.save(rule(name, level))
    process = await processes()
    await process.judging()
    process.feed.say(top(1, 50, 51))
    await eventually(lambda: process.shard.ticks == 1)
    await stored.delete(1, "gone")
    await stored.save(rule("changed", 80))
    # It has not looked yet.
    process.feed.say(top(2, 70, 71))
    assert [row[1] for row in await due.until(1)] == ["stays:1"]
    process.shard.look()
    await eventually(lambda: process.shard.rounds >= 2)
    process.feed.say(top(3, 81, 82))
    assert [row[1] for row in await due.until(2)] == ["stays:1", "changed:1"]


@pytest.mark.integration
async def test_cooldown_end_and_once_are_in_the_database(engine, known, processes, due):
    """A firing in the cooldown has its fate at once; a rule that ended stays ended."""
    await known(1, 2)
    stored = SqlRules(engine)
    await stored.save(rule("thin", cooldown=3_600))
    await stored.save(rule("once", 61, user_id=2, once=True))
    process = await processes()
    await process.judging()
    process.feed.say(top(1, 50, 51), top(2, 65), top(3, 50), top(4, 65))
    found = await due.until(3)
    assert {(row[1], row[3]) for row in found} == {
        ("thin:1", None), ("once:1", None), ("thin:2", "cooldown"),
    }  # fmt: skip
    await eventually(lambda: len(process.outgoing.put_in) == 2)
    (ended,) = await stored.of(2)
    assert ended.state.ended
    await process.kill()
    later = await processes()
    await later.judging()
    later.feed.say(top(5, 50), top(6, 66))
    assert {row[1] for row in await due.until(4)} == {
        "thin:1", "once:1", "thin:2", "thin:3",
    }  # fmt: skip


@pytest.mark.integration
async def test_a_resolution_is_told_once_whoever_saw_it(engine, known, processes, due):
    """Each follower has one alert, although two processes and a repeat told of it."""
    await known(1, 2)
    await SqlRules(engine).save(rule())
    followers = [(1, "0xdone"), (2, "0xdone")]
    owner = await processes(followers=followers)
    await owner.judging()
    standby = await processes(followers=followers)
    await eventually(lambda: standby.feed.assets)
    event = MarketResolved(
        market="0xdone", timestamp=START, winning_asset_id="9", winning_outcome="Yes",
        assets_ids=("9",), outcomes=("Yes",), id="1", question="?", slug="s",
    )  # fmt: skip
    standby.feed.say(event)
    owner.feed.say(event, event)
    await due.until(2)
    await owner.kill()
    await standby.judging()
    standby.feed.say(event, top(1, 50), top(2, 70))
    assert [row[1] for row in await due.until(3)] == [
        "1:0xdone:resolved", "2:0xdone:resolved", "rule:1",
    ]  # fmt: skip


@pytest.mark.errors
async def test_a_process_that_lacks_ticks_lets_another_one_go_first(
    engine, known, processes, due
):
    """It gives way while others may be there; alone it goes on, the gap is counted."""
    await known(1)
    await SqlRules(engine).save(rule())
    owner = await processes()
    await owner.judging()
    owner.feed.say(top(1, 50, 51), top(2, 61, 62), top(1_000, 50, 51))
    await due.until(1)
    late = await processes()
    # It begins after a price that crossed, and has not the last tick of the owner.
    late.feed.say(top(9_000, 59, 60))
    await eventually(lambda: late.shard.ticks == 1)
    await owner.kill()
    await late.judging()
    assert [gap.assets for gap in late.shard.gaps] == [1]
    assert late.shard.gaps[0].longest >= 8
    late.feed.say(top(9_001, 61))
    assert [row[1] for row in await due.until(2)] == ["rule:1", "rule:2"]


@pytest.mark.integration
@pytest.mark.requirement("B6")
async def test_three_processes_follow_and_a_fourth_takes_the_seat_of_a_killed_one(
    engine, known, processes
):
    """It asks Polymarket for nothing before; then it follows as the others do."""
    await known(1)
    await SqlRules(engine).save(rule())
    first, *others = [await processes() for _ in range(SEATS)]
    for each in (first, *others):
        await eventually(lambda process=each: process.feed.assets)
    fourth = await processes()
    await eventually(lambda: fourth.locks.stats().waiting)
    assert not fourth.feed.assets
    await others[0].kill()
    await eventually(lambda: fourth.feed.assets)


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_a_process_that_cannot_ask_for_a_seat_follows(
    engine, known, processes, server
):
    """Redis away: a process that did not follow would have no ticks afterwards."""
    await known(1)
    await SqlRules(engine).save(rule())
    async with FaultProxy(server.url) as proxy:
        proxy.refuse()
        process = await processes(proxy.url)
        await eventually(lambda: process.feed.assets)
        process.feed.say(top(1, 50, 51))
        await eventually(lambda: process.shard.ticks == 1)
        proxy.heal()
        await process.judging()
        await process.kill()


@pytest.mark.errors
@pytest.mark.requirement("B4", "B6")
async def test_what_a_takeover_finds_is_told_in_the_markets_order(
    engine, known, processes, due
):
    """A connection begins with the books of its assets in any order."""
    await known(1)
    stored, other = SqlRules(engine), "2" * 20
    await stored.save(rule())
    await stored.save(rule("other", asset_id=other))
    owner = await processes()
    await owner.judging()
    owner.feed.say(top(1, 50, 51), top(2, 50, 51, other), top(3, 61, 62))
    await due.until(1)
    late = await processes()
    await eventually(lambda: late.feed.assets)
    late.feed.say(top(9_000, 50, 51), top(9_300, 62, 63), top(9_100, 61, 62, other))
    await eventually(lambda: late.shard.ticks == 3)
    await owner.kill()
    found = await due.until(3)
    assert [row[1] for row in found] == ["rule:1", "other:1", "rule:2"]


async def _know_each_other(engine, processes):
    """Wait until each process has read what every other one says of its ring now.

    A beat reads the notes and then writes its own. The first one to end may have begun
    before: the second one counts.
    """

    async def beats():
        async with engine.connect() as connection:
            found = await connection.execute(select(watchers))
            return {each.id: each.beat for each in found}

    for _ in ("each has said it", "each has read it"):
        before = await eventually(beats, holds=lambda found: len(found) == processes)
        await eventually(
            beats,
            holds=lambda now, before=before: all(
                now[each] > before[each] + 1 for each in before
            ),
        )


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_of_two_that_lack_ticks_the_one_that_followed_for_longer_goes_on(
    engine, known, processes, due, client, prefix
):
    """A price that only the elder has is told, although the younger gets the lock."""
    await known(1)
    await SqlRules(engine).save(rule())
    owner = await processes(lock_seconds=KEPT)
    await owner.judging()
    owner.feed.say(top(1, 50, 51), top(2, 61, 62), top(1_000, 50, 51))
    await due.until(1)
    # The younger waits for the lock first; its link gives it the first price last.
    younger = await processes(lock_seconds=KEPT)
    await eventually(younger.in_line)
    elder = await processes(lock_seconds=KEPT)
    await eventually(elder.in_line)
    # Neither has the owner's last tick, and the elder alone the one that crosses.
    elder.feed.say(top(1_500, 49, 50), top(2_000, 61, 62), top(2_100, 50, 51))
    younger.feed.say(top(2_100, 50, 51))
    await eventually(lambda: (elder.shard.ticks, younger.shard.ticks) == (3, 1))

    await _know_each_other(engine, 3)
    await owner.kill()
    assert [row[1] for row in await due.until(2)] == ["rule:1", "rule:2"]
    assert (elder.shard.takeovers, younger.shard.takeovers) == (1, 0)


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_a_shard_without_a_judged_tick_is_no_reason_to_go_first(
    engine, known, processes, due
):
    """The owner has begun the rules and judged nothing: there is no tick to compare."""
    await known(1)
    await SqlRules(engine).save(rule())
    owner = await processes(lock_seconds=KEPT)
    await owner.judging()
    await eventually(lambda: owner.shard.rounds)
    younger = await processes(lock_seconds=KEPT)
    await eventually(younger.in_line)
    elder = await processes(lock_seconds=KEPT)
    await eventually(elder.in_line)
    elder.feed.say(top(1_500, 49, 50), top(2_000, 61, 62), top(2_100, 50, 51))
    younger.feed.say(top(2_100, 50, 51))
    await eventually(lambda: (elder.shard.ticks, younger.shard.ticks) == (3, 1))
    await _know_each_other(engine, 3)
    await owner.kill()
    assert [row[1] for row in await due.until(1)] == ["rule:1"]
    assert (elder.shard.takeovers, younger.shard.takeovers) == (1, 0)


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_one_that_was_told_nothing_yet_lets_another_one_go_first(
    engine, known, processes, due
):
    """Connected, and before its first prices: its empty ring is no whole one."""
    await known(1)
    await SqlRules(engine).save(rule())
    owner = await processes(lock_seconds=KEPT)
    await owner.judging()
    owner.feed.say(top(1, 50, 51), top(2, 61, 62), top(1_000, 50, 51))
    await due.until(1)
    younger = await processes(lock_seconds=KEPT)
    await eventually(younger.in_line)
    elder = await processes(lock_seconds=KEPT)
    await eventually(elder.in_line)
    elder.feed.say(top(1_000, 50, 51), top(2_000, 61, 62), top(2_100, 50, 51))
    await eventually(lambda: elder.shard.ticks == 3)
    await _know_each_other(engine, 3)
    await owner.kill()
    assert [row[1] for row in await due.until(2)] == ["rule:1", "rule:2"]
    assert (elder.shard.takeovers, younger.shard.takeovers) == (1, 0)


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_one_that_lacks_ticks_does_not_wait_for_a_dead_elder(engine):
    """An elder counts until it says nothing for some seconds, and not longer."""
    clock = ManualClock()
    elder, younger = (Peers(engine, "0", clock) for _ in range(2))
    for _ in range(6):
        await elder.beat(1_000)
        await younger.beat(2_000)
        await clock.advance(BEAT_SECONDS)
    assert younger.has_elder(2_000)
    assert not elder.has_elder(1_000)
    # It is killed; the younger one reads on.
    for _ in range(round(SILENT_SECONDS / BEAT_SECONDS)):
        assert younger.has_elder(2_000)
        await younger.beat(2_000)
        await clock.advance(BEAT_SECONDS)
    assert not younger.has_elder(2_000)
    await elder.beat(1_000)
    await younger.beat(2_000)
    assert younger.has_elder(2_000)
    await elder.leave()
    await younger.beat(2_000)
    assert not younger.has_elder(2_000)


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_after_an_outage_an_elder_has_the_time_to_come_back(engine):
    """One that was cut off believes that others were too, until they had the time."""
    clock = ManualClock()
    elder, younger = (Peers(engine, "0", clock) for _ in range(2))
    for _ in range(6):
        await elder.beat(1_000)
        await younger.beat(2_000)
        await clock.advance(BEAT_SECONDS)
    # Nobody reaches the database for a while; then the younger one does first.
    await clock.advance(30)
    assert younger.has_elder(2_000)
    spent = 0.0
    while spent < RETURN_SECONDS:
        await younger.beat(2_000)
        assert younger.has_elder(2_000)
        await clock.advance(BEAT_SECONDS)
        spent += BEAT_SECONDS
    await clock.advance(BEAT_SECONDS)
    await younger.beat(2_000)
    assert not younger.has_elder(2_000)


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_an_owner_that_is_alone_writes_no_beat(engine):
    """It only reads, until another process follows too."""
    clock = ManualClock()
    owner, other = (Peers(engine, "0", clock) for _ in range(2))
    await owner.beat(1_000, owning=True)
    await other.beat(2_000)
    assert (owner.others, other.others) == (0, 0)
    await owner.beat(1_000, owning=True)
    await other.beat(2_000)
    assert (owner.others, other.others) == (1, 1)


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_an_asset_that_stood_still_is_no_gap_of_a_younger_process(
    engine, known, processes, due
):
    """The owner says how far it has judged, so the next one need not wait for anybody.

    Without that, a ring that begins behind an asset's last round counts as a gap.
    """
    await known(1)
    stored = SqlRules(engine)
    await stored.save(rule())
    owner = await processes()
    await owner.judging()
    owner.feed.say(top(1, 50, 51), top(2, 61, 62))
    await due.until(1)
    # It ticks on, and changes nothing.
    owner.feed.say(top(3_000, 62, 63))
    younger = await processes()
    await eventually(lambda: younger.feed.assets)
    younger.feed.say(top(3_000, 62, 63))
    await eventually(lambda: younger.shard.ticks == 1)

    async def judged():
        owner.feed.say(top(4_000 + owner.shard.ticks, 62 + owner.shard.ticks % 2, 70))
        async with engine.connect() as connection:
            return (await connection.execute(select(shards.c.judged))).scalar_one()

    await eventually(judged, holds=lambda at: at >= START + 4_000)
    await owner.kill()
    await younger.judging()
    assert younger.shard.gaps == []


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_an_elder_that_does_not_reach_redis_yet_goes_first_all_the_same(
    engine, known, processes, due, server
):
    """After an outage of Redis a younger process may be back before the elder is.

    The price that only the elder has is told, although it asks for the lock last.
    """
    await known(1)
    await SqlRules(engine).save(rule())
    owner = await processes()
    await owner.judging()
    owner.feed.say(top(1, 50, 51), top(2, 61, 62), top(1_000, 50, 51))
    await due.until(1)
    async with FaultProxy(server.url) as proxy:
        elder = await processes(proxy.url)
        await eventually(elder.in_line)
        elder.feed.say(top(1_500, 49, 50), top(2_000, 61, 62), top(2_100, 50, 51))
        await eventually(lambda: elder.shard.ticks == 3)
        proxy.refuse()
        proxy.cut()
        younger = await processes()
        await eventually(lambda: younger.feed.assets)
        younger.feed.say(top(2_100, 50, 51))
        await owner.kill()
        # It has the lock again and again meanwhile, and hears the elder.
        await asyncio.sleep(2 * SILENT_SECONDS)
        assert younger.shard.takeovers == 0
        proxy.heal()
        assert [row[1] for row in await due.until(2)] == ["rule:1", "rule:2"]
        assert (elder.shard.takeovers, younger.shard.takeovers) == (1, 0)
        await elder.kill()


@pytest.mark.errors
@pytest.mark.requirement("B1", "G6")
async def test_an_older_quote_is_no_tick(engine, known, processes, due):
    """A book from before what was seen fires nothing, and is counted."""
    await known(1)
    await SqlRules(engine).save(rule())
    process = await processes()
    await process.judging()
    process.feed.say(top(5, 50), top(4, 61), top(6, 50), top(7, 62))
    assert [row[1] for row in await due.until(1)] == ["rule:1"]
    assert (process.shard.outdated, process.shard.ticks) == (1, 2)


@pytest.mark.errors
@pytest.mark.requirement("B1")
@pytest.mark.parametrize("at", [None, 1_950_000_000_000])
async def test_a_quote_with_no_believable_time_silences_nothing(
    engine, known, processes, due, at
):
    """It counts as it arrives, and the quotes behind it do too."""
    await known(1)
    await SqlRules(engine).save(rule())
    process = await processes()
    await process.judging()
    strange = msgspec.structs.replace(top(5, 50), timestamp=at)
    process.feed.say(top(4, 49), strange, top(6, 61))
    assert [row[1] for row in await due.until(1)] == ["rule:1"]


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_redis_away_stops_no_judging(engine, known, processes, due):
    """The owner goes on without its lock; with Redis back there is one owner again."""
    await known(1)
    await SqlRules(engine).save(rule())
    async with EmbeddedServer() as own:
        process = await processes(own.url)
        await process.judging()
        process.feed.say(top(1, 50, 51))
        await eventually(lambda: process.shard.ticks == 1)
        own.kill()
        await own.wait_exit()
        await asyncio.sleep(2.5)  # longer than the lock outlives its owner
        process.feed.say(top(2, 61))
        await due.until(1)
        await own.restart()
        await eventually(lambda: process.shard.takeovers == 2)
        process.feed.say(top(3, 50), top(4, 62))
        assert [row[1] for row in await due.until(2)] == ["rule:1", "rule:2"]
        await process.kill()


@pytest.mark.errors
@pytest.mark.requirement("B6")
@pytest.mark.system("postgres", package="postgresql")
async def test_the_database_away_loses_no_tick(killable, server, prefix):
    """What comes meanwhile is judged and committed when it is back, each once."""
    postgres, engine = killable
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO oddsbot_users VALUES (1, 1, 1, 1, 1, true, '')")
        )
    await SqlRules(engine).save(rule())
    async with Client.from_url(server.url) as client, asyncio.TaskGroup() as tasks:
        stored, clock, feed = SqlRules(engine), SystemClock(), Feed()
        shard = Shard(
            Rounds(engine, "0", stored, clock), stored, feed,
            Locks(client, prefix=prefix), Outgoing(), clock,
        )  # fmt: skip
        running = tasks.create_task(shard.run())
        await shard.judging.wait()
        feed.say(top(1, 50, 51))
        await asyncio.to_thread(postgres.kill)
        for n in range(1, 20):
            feed.say(top(10 * n, 61), top(10 * n + 5, 50))
            await asyncio.sleep(0.02)
        await asyncio.to_thread(postgres.start)
        query = select(alerts.c.id).order_by(alerts.c.n, alerts.c.place)

        async def told():
            with suppress(SQLAlchemyError):
                async with engine.connect() as connection:
                    return (await connection.execute(query)).scalars().all()
            return []

        found = await eventually(told, 50.0, holds=lambda ids: len(ids) == 19)
        assert found == [f"rule:{n}" for n in range(1, 20)]
        assert shard.failed >= 1
        shard.stop()
        await asyncio.wait([running])


class Away(Rounds):
    """Rounds of a database that may be away."""

    away = False
    answers = 0

    async def position(self):
        """Fail while it is away."""
        if self.away:
            raise SourceUnavailable("the database: away")
        found = await super().position()
        self.answers += 1
        return found


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_a_standby_keeps_the_ticks_of_an_outage_until_the_owner_had_the_time(
    engine, known, server, prefix, due
):
    """The owner is killed just when the database is back, two minutes later.

    What it had not committed is in the ring of the standby, however old it is.
    """
    await known(1)
    await SqlRules(engine).save(rule())
    clock, feed, stored = ManualClock(START / 1000), Feed(), SqlRules(engine)
    rounds = Away(engine, "0", stored, clock)
    async with Client.from_url(server.url) as client, asyncio.TaskGroup() as tasks:
        locks = Locks(client, prefix=prefix)
        async with locks.lock("watch.0", 30):
            shard = Shard(rounds, stored, feed, locks, Outgoing(), clock)
            tasks.create_task(shard.run())
            await eventually(lambda: feed.assets)
            feed.say(top(1, 50, 51))
            rounds.away = True
            shard.look()
            # It tries again and again.
            await clock.wait_sleeping(2)
            feed.say(top(2, 61, 62), top(3, 50, 51))
            await eventually(lambda: shard.ticks == 3)
            await clock.advance(120)
            rounds.away, answers = False, rounds.answers
            await clock.advance(1)
            # Once it looks again, it has heard the first answer whole.
            await eventually(lambda: rounds.answers > answers)
            shard.look()
            await eventually(lambda: rounds.answers > answers + 1)
            feed.say(top(120_000, 49, 50))
            await eventually(lambda: shard.ticks == 4)
        assert [row[1] for row in await due.until(1)] == ["rule:1"]
        shard.stop()


@pytest.mark.errors
@pytest.mark.requirement("B1", "B6")
async def test_an_owner_whose_connection_is_lost_gives_the_shard_away(
    engine, known, processes, due
):
    """After 5 s, to a process that has the prices; its own come back as a standby."""
    await known(1)
    await SqlRules(engine).save(rule())
    owner = await processes()
    await owner.judging()
    standby = await processes()
    await eventually(lambda: standby.feed.assets)
    for each in (owner, standby):
        each.feed.say(top(1, 50, 51))
    await eventually(lambda: standby.shard.ticks == 1)
    began = asyncio.get_running_loop().time()
    owner.feed.cut()
    standby.feed.say(top(2, 61, 62))
    assert [row[1] for row in await due.until(1)] == ["rule:1"]
    took = asyncio.get_running_loop().time() - began
    assert 4.5 < took < 20
    assert standby.shard.owning
    assert not owner.shard.owning
    owner.feed.connect()
    owner.feed.say(top(2, 61, 62))
    await asyncio.sleep(BEAT_SECONDS)
    assert standby.shard.owning


@pytest.mark.errors
@pytest.mark.requirement("B1", "B6")
async def test_a_connection_that_nobody_has_stops_no_judging(
    engine, known, processes, due
):
    """The other connections go on: the owner keeps the shard, or somebody takes it."""
    await known(1)
    await SqlRules(engine).save(rule())
    owner = await processes()
    await owner.judging()
    standby = await processes()
    for each in (owner, standby):
        each.feed.say(top(1, 50, 51))
        await eventually(lambda process=each: process.shard.ticks == 1)
        each.feed.cut()
    await eventually(lambda: standby.feed.down_for > 6)
    for each in (owner, standby):
        each.feed.say(top(2, 61, 62))
    assert [row[1] for row in await due.until(1)] == ["rule:1"]
    working, other = sorted((owner, standby), key=lambda each: not each.shard.owning)
    await working.kill()
    await other.judging()
    other.feed.say(top(3, 50, 51), top(4, 61, 62))
    assert [row[1] for row in await due.until(2)] == ["rule:1", "rule:2"]


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_what_comes_late_to_the_next_owner_is_not_judged_again(
    engine, known, processes, due
):
    """Its feed is behind what the owner before has judged: nothing fires twice."""
    await known(1)
    await SqlRules(engine).save(rule())
    owner = await processes()
    await owner.judging()
    standby = await processes()
    await eventually(lambda: standby.feed.assets)
    standby.feed.say(top(1, 50, 51))
    await eventually(lambda: standby.shard.ticks == 1)
    owner.feed.say(top(1, 50, 51), top(2, 61, 62), top(3, 50, 51))
    await due.until(1)
    await eventually(lambda: owner.shard.rounds >= 1)
    await owner.kill()
    await standby.judging()
    standby.feed.say(top(2, 61, 62), top(3, 50, 51), top(4, 49, 50), top(5, 62, 63))
    await due.until(2)
    async with engine.connect() as connection:
        query = select(alerts.c.id, alerts.c.at).order_by(alerts.c.n, alerts.c.place)
        found = [tuple(row) for row in await connection.execute(query)]
    assert found == [("rule:1", START + 2), ("rule:2", START + 5)]


@pytest.mark.errors
@pytest.mark.requirement("B1", "B3")
async def test_a_price_that_no_stream_told_is_judged_once(
    engine, known, processes, due
):
    """A late tick fires as any other, and its repeat on the stream does not."""
    await known(1)
    await SqlRules(engine).save(rule())
    owner = await processes()
    await owner.judging()
    (late,) = (Tick(quote, late=True) for quote in quotes(top(9, 61, 62)))
    gap = Gap((UP,), 1.0, 7.0, "an asset was silent")
    owner.feed.say(top(1, 50, 51), gap, late, top(9, 61, 62), top(8, 50, 51))
    assert await due.until(1) == [(1, "rule:1", 1, None)]
    await eventually(lambda: owner.shard.outdated == 1)
    assert owner.shard.feed_gaps == 1
    # Another process that had the same from its stream goes on behind it.
    standby = await processes()
    await eventually(lambda: standby.feed.assets)
    standby.feed.say(top(9, 61, 62))
    await eventually(lambda: standby.shard.ticks == 1)
    await owner.kill()
    await standby.judging()
    standby.feed.say(top(10, 50, 51), top(11, 63, 64))
    assert [row[1] for row in await due.until(2)] == ["rule:1", "rule:2"]


@pytest.mark.errors
@pytest.mark.requirement("B3", "B6")
async def test_the_next_owner_knows_what_the_prices_were(engine, known, processes, due):
    """A move within a time is measured from a price that only a dead process had."""
    await known(1)
    wish = MoveRule(
        id="m", user_id=1, market="0xmarket", asset_id=UP, by=Decimal(5), within=900
    )
    await SqlRules(engine).save(wish)
    owner = await processes()
    await owner.judging()
    owner.feed.say(top(0, 50, 51))

    async def history():
        async with engine.connect() as connection:
            return (await connection.execute(select(seen.c.history))).scalar()

    await eventually(history)
    await owner.kill()
    late = await processes()
    await eventually(lambda: late.feed.assets)
    late.feed.say(top(60_000, 54, 55))
    await late.judging()
    late.feed.say(top(120_000, 55, 56))
    assert [row[1] for row in await due.until(1)] == ["m:1"]
    async with engine.connect() as connection:
        data = (await connection.execute(select(alerts.c.data))).scalar_one()
        state = (await connection.execute(select(rules))).one()
    assert '"reference":"0.5"' in data
    assert (state.armed, state.armed_fall) == (False, True)


@pytest.mark.errors
@pytest.mark.requirement("B1", "B6")
@pytest.mark.system("postgres", package="postgresql")
async def test_ticks_beyond_the_bound_leave_the_newest_of_each_asset(
    killable, server, prefix
):
    """The database away: 200,000 ticks are kept, and what was forgotten is a gap."""
    postgres, engine = killable
    other = "2" * 20
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO oddsbot_users VALUES (1, 1, 1, 1, 1, true, '')")
        )
    stored, clock, feed = SqlRules(engine), SystemClock(), Feed()
    await stored.save(rule())
    await stored.save(rule("other", asset_id=other))
    async with Client.from_url(server.url) as client, asyncio.TaskGroup() as tasks:
        shard = Shard(
            Rounds(engine, "0", stored, clock), stored, feed,
            Locks(client, prefix=prefix), Outgoing(), clock,
        )  # fmt: skip
        running = tasks.create_task(shard.run())
        await shard.judging.wait()
        # Each begins with a price, and the place of it is in the database.
        feed.say(
            top(1, 61, 62), top(1, 61, 62, other), top(2, 50), top(2, 50, 51, other)
        )

        async def told():
            # A connection from before the kill ends while it is used.
            with suppress(SQLAlchemyError):
                async with engine.connect() as connection:
                    found = await connection.execute(select(alerts.c.id))
                    return sorted(found.scalars().all())
            return []

        await eventually(told, 20.0, holds=lambda ids: len(ids) == 2)
        await asyncio.to_thread(postgres.kill)
        feed.say(top(10, 63, 64, other))
        # What it judged in memory is dropped with its round: from here the ring counts.
        await eventually(lambda: shard.failed, 60.0)
        for n in range(200_100):
            feed.say(top(20 + n, 40 + n % 2))
        feed.say(top(400_000, 62))
        await eventually(lambda: shard.ticks == 200_106, 60.0)
        assert len(shard.ring) == 200_000
        assert shard.ring.lost > 0
        await asyncio.to_thread(postgres.start)
        found = await eventually(told, 60.0, holds=lambda ids: len(ids) == 4)
        assert found == ["other:1", "other:2", "rule:1", "rule:2"]
        assert sum(gap.assets for gap in shard.gaps) >= 1
        shard.stop()
        await asyncio.wait([running])


@pytest.mark.advanced
@pytest.mark.requirement("B3", "B6")
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_any_world_of_kills_agrees_with_the_definition(
    engine, known, processes, due, monkeypatch, seed
):
    """Rules, ticks, kills and takeovers at random: the alerts of the one-rule loop.

    Rules begin a few at a time, and rounds are small.

    One process that had every tick lives to the end: what all that had it took with
    them, before another took the shard over, is nobody's any more.
    """
    monkeypatch.setattr("oddsbot.watch.judge.SLICE", 4)
    monkeypatch.setattr("oddsbot.watch.judge.MOST_CHANGES", 6)
    chance = random.Random(seed)
    await known(*range(1, 6))
    stored, naive = SqlRules(engine), NaiveAlerts()
    for n in range(25):
        user = n % 5 + 1
        if n % 4 in {0, 1}:
            wish = MoveRule(
                id=f"m{n}", user_id=user, market="0xmarket", asset_id=UP,
                by=Decimal(chance.randint(2, 6)), base=rule().base,
                within=None if n % 4 else chance.choice((300, 900)),
            )  # fmt: skip
        else:
            wish = rule(
                f"r{n}", 40 + n, user,
                direction=chance.choice(tuple(Direction)),
                hysteresis=Decimal(chance.randint(0, 3)) / 100,
            )  # fmt: skip
        await stored.save(wish)
        naive.add(wish)
    alive = [await processes() for _ in range(3)]
    whole = list(alive)
    for each in alive:
        await eventually(lambda process=each: process.feed.assets)
    await eventually(lambda: any(each.shard.judging.is_set() for each in alive))
    wanted, bid = [], 50
    for at in range(1, 200):
        bid = min(80, max(20, bid + chance.choice((-4, -2, -1, 1, 2, 4))))
        # So far apart that prices leave the times of moves.
        event = top(20_000 * at, bid, None if chance.random() < 0.1 else bid + 1)
        for quote in quotes(event):
            wanted += [each.id for each in naive.on_quote(quote, quote.at / 1000)]
        for each in alive:
            each.feed.say(event)
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.01)
        if chance.random() < 0.03:
            dead = chance.choice([each for each in alive if whole != [each]])
            alive.remove(dead)
            if dead in whole:
                whole.remove(dead)
            await dead.kill()
            fresh = await processes()
            # A link begins with the book as it stands.
            fresh.feed.say(event)
            alive.append(fresh)
            await eventually(lambda process=fresh: process.feed.assets)
    found = await due.until(len(wanted))
    assert sorted(row[1] for row in found) == sorted(wanted)
    assert len(wanted) > 30
