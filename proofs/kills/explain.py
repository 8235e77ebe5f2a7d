"""What happened around an alert that is missing, step by step, for a person to judge.

The database of the proof notes each round: a trigger writes the shard's epoch and
number, with the time, beside whatever the round itself writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from checker import Kill, Played
    from market import Told
    from sqlalchemy.ext.asyncio import AsyncEngine

_AROUND = 2.0
_TABLE = (
    "CREATE TABLE proof_rounds (shard TEXT, epoch BIGINT, n BIGINT, "
    "judged BIGINT, at DOUBLE PRECISION)"
)
_NOTE = "INSERT INTO proof_rounds VALUES (NEW.shard, NEW.epoch, NEW.n, NEW.judged, {});"
_SQLITE = (
    "CREATE TRIGGER proof_round AFTER UPDATE ON oddsbot_shards BEGIN "
    + _NOTE.format("(julianday('now') - 2440587.5) * 86400")
    + " END",
)
_POSTGRESQL = (
    "CREATE FUNCTION proof_note() RETURNS trigger AS $$ BEGIN "
    + _NOTE.format("extract(epoch from clock_timestamp())")
    + " RETURN NEW; END $$ LANGUAGE plpgsql",
    (
        "CREATE TRIGGER proof_round AFTER UPDATE ON oddsbot_shards "
        "FOR EACH ROW EXECUTE FUNCTION proof_note()"
    ),
)


async def note_rounds(engine: AsyncEngine) -> None:
    """Have the database note each round from now on."""
    steps = _SQLITE if engine.dialect.name == "sqlite" else _POSTGRESQL
    async with engine.begin() as connection:
        for step in (_TABLE, *steps):
            await connection.exec_driver_sql(step)


async def rounds(engine: AsyncEngine) -> Sequence[Any]:
    """Return what was noted, in order: epoch, n, judged, at."""
    query = (
        "SELECT epoch, n, judged, at FROM proof_rounds WHERE shard = '0' ORDER BY at"
    )
    async with engine.connect() as connection:
        return (await connection.execute(text(query))).all()


async def settled(engine: AsyncEngine) -> dict[tuple[int, str], float]:
    """Return when each alert got its fate: by person and id."""
    query = "SELECT user_id, id, settled_at FROM oddsbot_alerts"
    async with engine.connect() as connection:
        rows = (await connection.execute(text(query))).all()
    return {
        (row.user_id, row.id): row.settled_at / 1000
        for row in rows
        if row.settled_at is not None
    }


async def due_of(engine: AsyncEngine, rule: str) -> Sequence[Any]:
    """Return the alerts of a rule that the database has."""
    query = text(
        "SELECT id, at, epoch, n, fate FROM oddsbot_alerts WHERE rule_id = :rule "
        "ORDER BY n"
    )
    async with engine.connect() as connection:
        return (await connection.execute(query, {"rule": rule})).all()


def story(
    alert: tuple[str, int],
    run: Played,
    kills: Iterable[Kill],
    said: Sequence[dict[str, Any]],
    noted: Sequence[Any],
    due: Sequence[Any],
) -> Iterator[str]:
    """Yield lines: the tick, who had it, what was committed, who was killed when.

    Args:
        alert: The rule, and the time of the tick.
        run: What the market did, and which watcher was there.
        kills: Which process was killed when.
        said: What the processes said.
        noted: The rounds.
        due: The alerts of the rule that the database has.
    """
    rule, at = alert
    when = at / 1000
    dead = {kill.pid: kill.when for kill in kills}
    number, tick = next(found for found in enumerate(run.ticks) if found[1].at == at)
    yield f"{rule} at {at}: asset {tick.asset}, bid {tick.bid}, ask {tick.ask}"
    before = [each for each in run.ticks if each.asset == tick.asset]
    near = [each for each in before if abs(each.at - at) < 3_000]
    yield "  its asset: " + ", ".join(f"{each.at - at:+d}:{each.bid}" for each in near)
    for each in due:
        if abs(each.at - at) < 20_000:
            yield f"  due: {each.id} {each.at - at:+d} ms epoch {each.epoch} n {each.n}"
    for link in run.links:
        if link.opened - _AROUND < when + 20 and (
            link.closed is None or link.closed > when - _AROUND
        ):
            ends = dead.get(link.pid)
            has = link.first <= number and (link.end is None or link.end > number)
            yield (
                f"  link of {link.pid}{' HAD IT' if has else ''}: opened "
                f"{link.opened - when:+.2f}, closed {_span(link.closed, when)}, killed "
                f"{_span(ends, when)}"
            )
    last = {each.epoch: each for each in noted if each.at <= when}
    shown = list(last.values())[-2:]
    shown += [each for each in noted if when < each.at < when + _AROUND]
    lines = []
    for each in shown:
        judged = "-" if each.judged is None else each.judged - at
        lines.append(
            (each.at, f"round {each.n} of epoch {each.epoch}: judged {judged}")
        )
    epochs = set()
    for each in noted:
        if each.at > when and each.epoch not in epochs and each.at < when + 60:
            epochs.add(each.epoch)
            lines.append((each.at, f"first of epoch {each.epoch}: n {each.n}"))
    lines += [
        (each["at"], f"{each['pid']} says {each['event']} {each.get('text', '')}")
        for each in said
        if when - _AROUND < each["at"] < when + 20
    ]
    lines += [
        (kill.when, f"{kill.pid} killed ({kill.role})")
        for kill in kills
        if when - 20 < kill.when < when + 20
    ]
    for moment, line in sorted(lines):
        yield f"  {moment - when:+8.3f} {line}"


def copies(
    alert: tuple[str, int],
    told: Iterable[Told],
    settled: Mapping[tuple[int, str], float],
    kills: Iterable[Kill],
    faults: Iterable[tuple[float, float]],
    said: Iterable[dict[str, Any]],
) -> Iterator[str]:
    """Yield lines: each copy of an alert, its fate, and what happened around them.

    Args:
        alert: The rule, and the time of the tick.
        told: What the chat was given.
        settled: When each alert got its fate.
        kills: Which process was killed when.
        faults: From when to when something other than a process was broken.
        said: What the processes said.
    """
    own = [each for each in told if (each.rule, each.at) == alert]
    when, last = own[0].when, own[-1].when
    fate = settled.get((own[0].user, own[0].id))
    yield f"{alert[0]} at {alert[1]}: {len(own)} copies, fate {_span(fate, when)}"
    pids = {each.pid for each in own}
    lines = [
        (each.when, f"copy {each.id} by {each.pid}{' marked' if each.again else ''}")
        for each in own
    ]
    lines += [
        (kill.when, f"{kill.pid} killed ({kill.role})")
        for kill in kills
        if kill.pid in pids or when - _AROUND < kill.when < last + _AROUND
    ]
    lines += [
        (each["at"], f"{each['pid']} says {each['event']} {each.get('text', '')}")
        for each in said
        if when - 2 * _AROUND < each["at"] < last + _AROUND
    ]
    for begin, end in faults:
        lines += [(begin, "a fault begins"), (end, "its end")]
    for moment, line in sorted(lines):
        yield f"  {moment - when:+8.3f} {line}"


def _span(moment: float | None, when: float) -> str:
    return "never" if moment is None else f"{moment - when:+.2f}"
