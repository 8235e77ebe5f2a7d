"""Rules in SQL: kept, changed, taken away, followed; on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import text

from oddsbot.alerts import Direction, MoveRule, PriceRule
from oddsbot.store import (
    AlreadyHandled,
    OtherOwner,
    SameRule,
    SqlRules,
    SqlSource,
    UnknownUser,
    open_database,
    upgrade,
)
from oddswire.errors import CodecError
from oddswire.sessions import SourceRecord
from support.hooks import limit

ASSET = "1" * 77
_FIRST_FORM = (
    "CREATE TABLE oddsbot_rules (kind VARCHAR(32) NOT NULL, id VARCHAR(128) NOT NULL, "
    "user_id BIGINT NOT NULL, schema INTEGER NOT NULL, data BLOB NOT NULL, "
    "PRIMARY KEY (kind, id))"
)


def rule(number, user_id=1, **more):
    """Return a price rule, each with a level of its own."""
    fields = {
        "id": f"rule {number:04}", "user_id": user_id, "market": "0xmarket",
        "asset_id": ASSET, "direction": Direction.ABOVE,
        "level": Decimal(number + 1) / 1000,
    }  # fmt: skip
    return PriceRule(**{**fields, **more})


def move(number, user_id=1):
    """Return a move rule."""
    return MoveRule(
        id=f"move {number:04}", user_id=user_id, market="0xmarket", asset_id=ASSET,
        by=Decimal(5),
    )  # fmt: skip


async def every(rules):
    """Return all rules, in order."""
    return [each.rule async for each in rules.all()]


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_rules_are_kept_until_they_are_taken_back(engine, known, monkeypatch):
    """Rules come back as they were, in pages, and leave one by one or by user."""
    limit(monkeypatch, "page of rules", 3)
    await known(0, 1, 2)
    rules = SqlRules(engine)
    wanted = [move(0, 1), *(rule(n, user_id=n % 2) for n in range(7))]
    for each in reversed(wanted):
        await rules.save(each)
    assert await every(rules) == wanted
    changed = rule(0, 0, level=Decimal("0.7"))
    await rules.save(changed)
    assert (await every(rules))[1] == changed
    assert [each.rule for each in await rules.of(0)] == [
        changed, *(rule(n, 0) for n in (2, 4, 6))
    ]  # fmt: skip
    assert await rules.delete(0, "rule 0000")
    assert not await rules.delete(0, "rule 0000")
    assert await rules.get(0, "rule 0000") is None
    assert await rules.delete_of(0) == 3
    assert {each.user_id for each in await every(rules)} == {1}
    # By owner and id: knowing another user's id changes nothing.
    assert not await rules.delete(2, "rule 0001")
    assert (await rules.get(1, "rule 0001")).rule == wanted[2]


@pytest.mark.errors
async def test_a_rule_that_cannot_be_kept_is_refused_and_changes_nothing(engine, known):
    """Another's id, a price that she watches already, a person without a session."""
    await known(1, 2)
    rules = SqlRules(engine)
    await rules.save(rule(1))
    with pytest.raises(OtherOwner, match="rule 0001"):
        await rules.save(rule(1, user_id=2, level=Decimal("0.9")))
    with pytest.raises(OtherOwner, match="rule 0001"):
        await rules.save(msgspec.structs.replace(move(1), id="rule 0001"))
    with pytest.raises(SameRule, match=r"above 0\.002"):
        await rules.save(rule(1, id="another"))
    with pytest.raises(UnknownUser, match="user 3"):
        await rules.save(rule(5, user_id=3))
    assert await every(rules) == [rule(1)]
    # Another person, another side, or after it ended: that is another alert.
    await rules.save(rule(1, user_id=2, id="hers"))
    await rules.save(rule(1, id="below", direction=Direction.BELOW))
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE oddsbot_rules SET ended = true WHERE id = 'rule 0001'")
        )
    await rules.save(rule(1, id="again"))
    assert len(await every(rules)) == 3


@pytest.mark.integration
async def test_every_change_is_seen_by_whoever_follows(engine, known):
    """From any revision on: what came, what changed, what went, each as it is now."""
    await known(1)
    rules = SqlRules(engine)
    start = await rules.changes_after(2**62)
    first = await rules.save(rule(1))
    await rules.save(rule(2))
    middle = await rules.changes_after(start.revision)
    assert [each.rule for each in middle.rules] == [rule(1), rule(2)]
    assert middle.revision > first > start.revision
    changed = rule(1, level=Decimal("0.5"))
    await rules.save(changed)
    await rules.delete(1, "rule 0002")
    end = await rules.changes_after(middle.revision)
    assert [each.rule for each in end.rules] == [changed]
    assert end.removed == ["rule 0002"]
    # What comes back after it went is no removal.
    await rules.save(rule(2))
    again = await rules.changes_after(end.revision)
    assert ([each.rule for each in again.rules], again.removed) == ([rule(2)], [])
    # With a person go her rules, and whoever watches them hears of it.
    assert await SqlSource(engine).delete(1, 1)
    gone = await rules.changes_after(again.revision)
    assert sorted(gone.removed) == ["rule 0001", "rule 0002"]
    assert await every(rules) == []


@pytest.mark.integration
async def test_revisions_become_visible_in_their_order(engine, known):
    """Many at once: nobody who has read up to a revision misses one below it."""
    await known(*range(5))
    rules = SqlRules(engine)
    seen, done = {}, asyncio.Event()

    async def follow():
        revision = 0
        while True:
            over = done.is_set()
            changes = await rules.changes_after(revision)
            for each in changes.rules:
                seen[each.rule.id] = each.revision
            revision = changes.revision
            if over:
                return
            await asyncio.sleep(0)

    async def write(user):
        for n in range(8):
            await rules.save(rule(user * 10 + n, user_id=user))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        async with asyncio.TaskGroup() as writers:
            for user in range(5):
                writers.create_task(write(user))
        done.set()
    assert len(seen) == 40
    assert len(set(seen.values())) == 40


@pytest.mark.integration
async def test_a_group_that_moves_takes_its_rules_and_alerts_along(engine, known):
    """`move` re-points them; the cascade of the old person's deletion takes none."""
    await known(1, 2)
    rules = SqlRules(engine)
    await rules.save(rule(1))
    await rules.save(rule(2, user_id=2))
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO oddsbot_alerts (user_id, id, rule_id, kind, market, data, "
                "at, seen_at, due_at, shard, epoch, n, place, home) VALUES (1, 'a:1', "
                "'a', 'price', 'm', '{}', 1, 1, 1, '0', 1, 1, 0, 'h')"
            )
        )
    before = (await rules.changes_after(2**62)).revision
    kept = SourceRecord(
        user_id=-100, version=2, schema=1, created=1, active=1, on=True, data=b"x"
    )
    assert await SqlSource(engine).move(1, 1, kept)
    assert await rules.of(1) == []
    assert [each.rule for each in await rules.of(-100)] == [rule(1, user_id=-100)]
    changes = await rules.changes_after(before)
    assert [each.rule.user_id for each in changes.rules] == [-100]
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT user_id FROM oddsbot_alerts"))
        assert rows.scalars().all() == [-100]
    # A move that does not hold changes nothing.
    assert not await SqlSource(engine).move(2, 9, msgspec.structs.replace(
        kept, user_id=-200
    ))  # fmt: skip
    assert [each.rule for each in await rules.of(2)] == [rule(2, user_id=2)]


@pytest.mark.errors
async def test_a_damaged_rule_costs_no_other(engine, known):
    """It is left out, counted and logged; a newer program's rule stops the reading."""
    await known(1, 2)
    rules = SqlRules(engine)
    for n in range(4):
        await rules.save(rule(n))
    async with engine.begin() as connection:
        for change in (
            "data = 'no json' WHERE id = 'rule 0000'",
            "user_id = 2 WHERE id = 'rule 0001'",
            "kind = 'unheard' WHERE id = 'rule 0002'",
        ):
            await connection.execute(text(f"UPDATE oddsbot_rules SET {change}"))
    assert await every(rules) == [rule(3)]
    assert rules.damaged == 3
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE oddsbot_rules SET schema = 2"))
    with pytest.raises(CodecError, match="schema 2") as caught:
        await every(rules)
    assert caught.value.reason == "newer"


@pytest.mark.integration
@pytest.mark.requirement("B6")
async def test_an_update_that_comes_again_brings_no_removed_rule_back(engine, known):
    """The update is noted with its rule; another update may ask for the same."""
    await known(1)
    rules = SqlRules(engine)
    await rules.save(rule(1), 7)
    assert await rules.delete(1, rule(1).id)
    with pytest.raises(AlreadyHandled):
        await rules.save(rule(1), 7)
    assert await every(rules) == []
    # What the database refuses is not noted.
    with pytest.raises(UnknownUser):
        await rules.save(rule(2, user_id=99), 8)
    await rules.save(rule(2), 8)
    assert await every(rules) == [rule(2)]


@pytest.mark.integration
async def test_rules_of_the_first_form_are_brought_along(tmp_path):
    """The second migration keeps each rule with its person, once for each price."""
    url = f"sqlite:///{tmp_path}/old.db"
    old = [rule(1), rule(1, id="the same"), rule(2), move(3), rule(4, user_id=9)]
    async with open_database(url) as engine:
        await upgrade(engine)
        async with engine.begin() as connection:
            for statement in (
                *(f"DROP TABLE oddsbot_{name}" for name in (
                    "alerts", "followers", "handled", "removed_rules", "revisions",
                    "rules", "seen", "shards", "tag_followers", "tags", "tenant",
                    "watchers",
                )),
                _FIRST_FORM,
                "CREATE INDEX oddsbot_rules_user_id ON oddsbot_rules (user_id)",
                "UPDATE oddsbot_schema SET version_num = '0001'",
                "INSERT INTO oddsbot_users VALUES (1, 1, 1, 1, 1, true, x'00')",
            ):  # fmt: skip
                await connection.execute(text(statement))
            for each in old:
                kind = "price" if isinstance(each, PriceRule) else "move"
                await connection.execute(
                    text("INSERT INTO oddsbot_rules VALUES (:k, :i, :u, 1, :d)"),
                    {
                        "k": kind, "i": each.id, "u": each.user_id,
                        "d": msgspec.json.encode(each),
                    },
                )  # fmt: skip
        assert await upgrade(engine) == "0007"
        rules = SqlRules(engine)
        assert await every(rules) == [move(3), rule(1), rule(2)]
        with pytest.raises(SameRule):
            await rules.save(rule(2, id="another"))
