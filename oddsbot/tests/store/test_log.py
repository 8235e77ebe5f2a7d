"""What was due and what became of it, in SQL."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import insert

from oddsbot.alerts import Direction, PriceCrossed
from oddsbot.store import (
    DIGEST,
    AlertLog,
    Digest,
    Fate,
    Place,
    SqlFollowers,
    open_database,
    upgrade,
)
from oddsbot.store.tables import alerts
from oddswire.clock import ManualClock
from oddswire.errors import SourceError


def crossed(number, user_id=1):
    """Return an alert."""
    return PriceCrossed(
        id=f"rule:{number}", user_id=user_id, rule_id="rule", market="0xmarket",
        asset_id="1", direction=Direction.ABOVE, level=Decimal("0.60"),
        price=Decimal("0.61"), at=number, seen_at=number / 1000,
    )  # fmt: skip


async def due(
    engine, number, user_id=1, *, n=None, place=0, shard="0", at=0, kind="price"
):
    """Make an alert due."""
    row = {
        "user_id": user_id, "id": f"rule:{number}", "rule_id": "rule", "kind": kind,
        "market": "0xmarket", "data": msgspec.json.encode(crossed(number)).decode(),
        "at": number, "seen_at": number, "due_at": at, "shard": shard, "epoch": 1,
        "n": number if n is None else n, "place": place, "home": "here",
    }  # fmt: skip
    async with engine.begin() as connection:
        await connection.execute(insert(alerts), row)


@pytest.fixture
def log(engine):
    """Return the log of a database, by a clock of the test's own."""
    return AlertLog(engine, clock=ManualClock(now=1_790_000_000.0))


@pytest.mark.integration
async def test_what_is_due_comes_in_its_order_up_to_a_place(engine, known, log):
    """The alerts of a person and a shard without a fate, and no others."""
    await known(1, 2)
    for number, n, place in ((3, 2, 0), (1, 1, 0), (2, 1, 1), (4, 2, 1), (5, 3, 0)):
        await due(engine, number, n=n, place=place)
    await due(engine, 6, user_id=2, n=1)
    await due(engine, 7, n=1, shard="1")
    found = await log.due(1, Place("0", 2, 0))
    assert [each.id for each in found] == ["rule:1", "rule:2", "rule:3"]
    assert found[0].alert() == crossed(1)
    assert await log.settle(found[1], Fate.SENT, message_id=7)
    found = await log.due(1, Place("0", 2, 0))
    assert [each.id for each in found] == ["rule:1", "rule:3"]


@pytest.mark.integration
@pytest.mark.requirement("B4")
async def test_an_alert_has_one_fate_whoever_comes_first(engine, known, log):
    """Of any number of settlements at once one is the fate; the others say so."""
    await known(1)
    await due(engine, 1)
    (row,) = await log.due(1, Place("0", 9, 0))
    fates = [Fate.SENT, Fate.EXPIRED, Fate.FAILED] * 5
    settled = await asyncio.gather(*(
        AlertLog(engine).settle(row, fate) for fate in fates
    ))  # fmt: skip
    assert settled.count(True) == 1
    (kept,) = await log.history(1)
    assert kept.fate is fates[settled.index(True)]
    assert not await log.settle(row, Fate.MUTED, "later")
    assert await log.fates() == {kept.fate: 1}


@pytest.mark.integration
@pytest.mark.requirement("B4")
async def test_an_alert_has_one_fate_in_one_transaction_too(engine, known, log):
    """Of several settlements in one transaction the first is the fate, and says so."""
    await known(1)
    for number in (1, 2):
        await due(engine, number)
    other, row = await log.due(1, Place("0", 9, 0))
    fates = [Fate.SENT, Fate.FAILED, Fate.EXPIRED]
    answers = await asyncio.gather(
        log.settle(other, Fate.SENT), *(log.settle(row, fate) for fate in fates)
    )
    assert answers == [True, True, False, False]
    assert (await log.history(1, limit=1))[0].fate is Fate.SENT
    assert log.commits == 2


@pytest.mark.integration
async def test_fates_of_calls_at_once_are_few_transactions(engine, known, log):
    """A hundred couriers at once wait for a few commits, and each gets its answer."""
    await known(1)
    for number in range(100):
        await due(engine, number)
    rows = await log.due(1, Place("0", 999, 0))
    before = log.commits
    settled = await asyncio.gather(*(
        log.settle(row, Fate.SENT, "x" * 999, message_id=number)
        for number, row in enumerate(rows)
    ))  # fmt: skip
    assert all(settled)
    assert log.commits - before <= 3
    newest, *_ = await log.history(1, limit=3)
    assert (newest.reason, newest.settled_at) == ("x" * 256, 1_790_000_000_000)
    assert await log.fates() == {Fate.SENT: 100}


@pytest.mark.errors
async def test_a_caller_that_gives_up_leaves_the_others_their_answer(tmp_path):
    """Cancelled while it writes for others: they get an error that may be repeated."""
    async with open_database(f"sqlite:///{tmp_path}/bot.db") as engine:
        await upgrade(engine)
        async with engine.begin() as connection:
            await connection.exec_driver_sql(
                "INSERT INTO oddsbot_users VALUES (1, 1, 1, 1, 1, true, x'00')"
            )
        log = AlertLog(engine)
        for number in range(3):
            await due(engine, number)
        rows = await log.due(1, Place("0", 9, 0))
        answers = {}

        async def settle(row):
            try:
                answers[row.id] = await log.settle(row, Fate.SENT)
            except SourceError as error:
                answers[row.id] = error

        async with asyncio.TaskGroup() as tasks:
            first, *_ = [tasks.create_task(settle(row)) for row in rows]
            await asyncio.sleep(0)
            first.cancel()
        assert answers.keys() == {"rule:1", "rule:2"}
        for row in rows[1:]:
            if isinstance(answers[row.id], SourceError):
                await log.settle(row, Fate.SENT)
        await log.settle(rows[0], Fate.SENT)
        assert await log.fates() == {Fate.SENT: 3}


@pytest.mark.integration
async def test_the_backlog_is_read_by_pages_and_age(engine, known, log):
    """All without a fate, each once, in the order of their shard; or the old ones."""
    await known(1, 2)
    for number in range(7):
        await due(engine, number, number % 2 + 1, at=number * 1000)
    found, after = [], None
    while page := await log.unsettled("0", after=after, limit=3):
        found += [each.id for each in page]
        after = page[-1].where, page[-1].user_id
    assert found == [f"rule:{number}" for number in range(7)]
    old = await log.unsettled(due_before=3)
    assert [each.id for each in old] == ["rule:0", "rule:1", "rule:2"]
    assert await log.unsettled("1") == []


@pytest.mark.integration
@pytest.mark.requirement("B9")
async def test_a_person_asks_for_pages_and_sums_of_her_own(engine, known, log):
    """Pages have each alert once, the newest first; sums are by rule, market, time."""
    await known(1, 2)
    for number in range(7):
        await due(engine, number, at=number * 1000)
    await due(engine, 8, user_id=2)
    await log.settle((await log.due(1, Place("0", 9, 0)))[0], Fate.SENT)
    pages = [await log.history(1, skip=skip, limit=3) for skip in (0, 3, 6)]
    ids = [each.id for page in pages for each in page]
    assert ids == [f"rule:{number}" for number in reversed(range(7))]
    assert await log.fates(1) == {Fate.SENT: 1, None: 6}
    assert await log.fates(1, since=5) == {None: 2}
    assert await log.fates(1, rule_id="rule", market="0xmarket") == await log.fates(1)
    assert await log.fates(1, rule_id="other") == await log.fates(1, market="x") == {}


@pytest.mark.integration
@pytest.mark.requirement("B9")
async def test_what_nobody_can_ask_about_any_more_is_deleted(engine, known, log):
    """Due and settled before: the oldest first, so many a call; another one stays."""
    await known(1, 2)
    for number in range(6):
        await due(engine, number, number % 2 + 1, at=number * 1000)
    for row in await log.unsettled():
        if row.id != "rule:1":
            await log.settle(row, Fate.SENT)
    settled = 1_790_000_000.0
    assert await log.forget(settled) == 0
    assert await log.forget(settled + 1, limit=2) == 2
    assert await log.fates(1) == {Fate.SENT: 1}
    assert await log.fates(2) == {Fate.SENT: 2, None: 1}
    await due(engine, 6, at=2_000_000_000_000)
    assert await log.forget(settled + 1, limit=9) == 3
    assert await log.forget(settled + 1) == 0
    assert [each.id for each in await log.unsettled()] == ["rule:1", "rule:6"]


@pytest.mark.integration
@pytest.mark.requirement("B9")
async def test_what_is_still_needed_is_not_deleted(engine, known, log):
    """Held for a digest that is due; news of a market that the person follows."""
    await known(1, 2)
    for number, kind in enumerate(("proposal", "dispute", "resolution")):
        await due(engine, number, 1, kind=kind)
        await due(engine, number, 2, kind=kind)
    followers = SqlFollowers(engine)
    async with engine.begin() as connection:
        await followers.follow(1, "0xmarket")(connection)
    for row in await log.unsettled():
        await log.settle(row, Fate.SENT)
    await due(engine, 3)
    (held,) = await log.unsettled()
    await log.hold(held, digest(), "here")
    later = 1_790_000_001.0
    assert await log.forget(later) == 3
    assert await followers.of("0xmarket") == []
    (told,) = await log.due(1, digest().where)
    assert [each.id for each in await log.close(told)] == ["rule:3"]
    await log.settle(told, Fate.SENT)
    assert await log.forget(later) == 1
    assert await log.forget(digest().due_at + 1) == 1
    async with engine.begin() as connection:
        await followers.unfollow(1, "0xmarket")(connection)
    assert await log.forget(later) == 3


def digest(minute=1, user_id=1):
    """Return a digest."""
    return Digest(
        user_id=user_id,
        id=f"more:0xmarket:{minute}",
        market="0xmarket",
        due_at=1_790_000_000 + 60 * minute,
    )


@pytest.mark.integration
@pytest.mark.requirement("B9")
async def test_what_is_held_is_told_by_one_row_that_is_due_later(engine, known, log):
    """Held twice or by two calls it has one fate, and its digest is one row."""
    await known(1)
    for number in (1, 2, 3):
        await due(engine, number)
    rows = await log.due(1, Place("0", 9, 0))
    held = await asyncio.gather(
        *(log.hold(each, digest(), "here") for each in [*rows, *rows])
    )
    assert held == [True] * 6
    assert await log.due(1, Place("0", 9, 0)) == []
    (row,) = await log.due(1, digest().where)
    assert (row.kind, row.where, row.due_at) == (
        DIGEST,
        digest().where,
        digest().due_at * 1000,
    )
    assert [each.id for each in await log.close(row)] == [each.id for each in rows]
    assert await log.fates() == {Fate.HELD: 3, None: 1}
    assert await log.fates(1) == {Fate.HELD: 3}
    assert await log.settle(row, Fate.SENT, message_id=1)
    assert [each.fate for each in await log.history(1)] == [Fate.HELD] * 3
    assert len(await log.page(1)) == 4


@pytest.mark.integration
@pytest.mark.requirement("B9")
async def test_an_alert_that_comes_too_late_for_a_digest_is_as_it_was(
    engine, known, log
):
    """Held while the digest is being closed: it is told by it, or has no fate yet."""
    await known(1)
    count = 24
    for number in range(count):
        await due(engine, number)
    first, *rows = await log.due(1, Place("0", count, 0))
    assert await log.hold(first, digest(), "here")
    (row,) = await log.due(1, digest().where)

    async def hold(each):
        return each.id, await log.hold(each, digest(), "here")

    async def close():
        await asyncio.sleep(0.01)
        return await log.close(row)

    told, *held = await asyncio.gather(close(), *map(hold, rows))
    ids = {each.id for each in told}
    assert {name for name, joined in held if joined} | {first.id} == ids
    left = {each.id for each in await log.due(1, Place("0", count, 0))}
    assert left == {name for name, joined in held if not joined}
    assert [each.id for each in await log.close(row)] == [each.id for each in told]
    # After it was told too: the next one has a digest of its own.
    await log.settle(row, Fate.SENT)
    await due(engine, count)
    new = (await log.due(1, Place("0", count, 0)))[-1]
    assert not await log.hold(new, digest(), "here")
    assert await log.hold(new, digest(2), "here")
