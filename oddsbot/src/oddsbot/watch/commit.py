"""`Rounds`: what a shard writes, one transaction a round, by one owner at a time.

1. An owner takes the shard over: it counts the epoch up and reads where the rules
   stand, in one transaction. It holds the shard's row, so a round of the owner before
   is committed by then, or it is refused later.
2. A round first counts `n` up, where epoch and `n` are still the owner's own. No row:
   somebody else has taken the shard over, and nothing of the round is written.
3. Rule states, the last tick of their assets and the alerts that became due are written
   in the same transaction. So an alert is due exactly when the rule has fired.

No clock and no Redis is in it: an owner that was paused or cut off changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import asdict
from sqlalchemy import (
    BigInteger,
    Boolean,
    Integer,
    String,
    Text,
    any_,
    bindparam,
    case,
    exists,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import true

from oddsbot.alerts import (
    Alert,
    Disputed,
    Moved,
    Opened,
    PriceCrossed,
    Proposed,
    QuoteAlert,
    Resolved,
    RuleAlert,
    VolumeReached,
    tag_id,
)
from oddsbot.store import Fate, Place, RuleChanges
from oddsbot.store.database import failure, to_its_end
from oddsbot.store.recordset import as_rows, insert_into, recordset
from oddsbot.store.tables import alerts, rules, seen, shards, users

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from oddsbot.alerts import Rule, RuleState
    from oddsbot.store import SqlRules
    from oddsbot.store.handled import Also
    from oddswire.clock import Clock

_KINDS: dict[type[Alert], str] = {
    PriceCrossed: "price",
    Moved: "move",
    VolumeReached: "volume",
    Proposed: "proposal",
    Disputed: "dispute",
    Resolved: "resolution",
    Opened: "new_market",
}


class Deposed(Exception):
    """Somebody else has taken the shard over; nothing was written."""


class Seen(msgspec.Struct, frozen=True):
    """The last tick of an asset that was judged and committed.

    Attributes:
        asset_id: The asset.
        at: The market's time, ms.
        ordinal: Which of the asset's ticks of this millisecond it is, from 0.
        bid: The best bid, as text.
        ask: The best ask, as text.
    """

    asset_id: str
    at: int | None
    ordinal: int
    bid: str | None
    ask: str | None


class Batch:
    """What a round is going to write.

    Attributes:
        states: The rules that changed, with where they stand now, by id.
        alerts: What became due, in order.
        also: What else the transaction writes.
        seen: The last judged ticks, by asset.
        histories: What the prices of these assets were up to there, as text; None: no
            rule needs it.
        applied: The newest revision of the rules that it was judged by.
        judged: The market's time, ms, up to which ticks were judged; None: no tick
            with a time was.
    """

    __slots__ = ("alerts", "also", "applied", "histories", "judged", "seen", "states")

    def __init__(self, applied: int) -> None:
        self.states: dict[str, tuple[Rule, int, RuleState]] = {}
        self.alerts: list[tuple[Alert, int | None]] = []
        self.also: list[Also] = []
        self.seen: dict[str, Seen] = {}
        self.histories: dict[str, str | None] = {}
        self.applied = applied
        self.judged: int | None = None

    def __bool__(self) -> bool:
        """Whether there is something to write."""
        return bool(self.states or self.alerts or self.seen or self.also)


class Committed(msgspec.Struct, frozen=True):
    """An alert that is due, as the queue is given it.

    Attributes:
        user_id: Whom to tell.
        where: Its place in the order.
        kind: As in its row.
        market: As in its row.
    """

    user_id: int
    where: Place
    kind: str
    market: str


class Standing(NamedTuple):
    """Where the owner before stopped.

    Attributes:
        first: Whether nobody has owned the shard before.
        judged: As of `Tenure`.
        seen: Its last judged ticks, by asset.
        histories: What the prices were up to there, by asset, as text.
    """

    first: bool
    judged: int | None
    seen: dict[str, Seen]
    histories: dict[str, str]


class Tenure(msgspec.Struct):
    """The time in which one process owns a shard.

    Attributes:
        epoch: Counted up by each owner.
        n: The last round that was committed.
        standing: Where the owner before stopped.
        judged: The market's time, ms, up to which ticks were judged and committed, by
            this owner or one before; None: it is not known.
        changes: The rules that changed since this process last looked.
    """

    epoch: int
    n: int
    standing: Standing
    judged: int | None
    changes: RuleChanges


class _State(msgspec.Struct):
    id: str
    revision: int
    n: int
    armed: bool | None
    armed_fall: bool | None
    ref: str | None
    fired_at: int | None
    ended: bool


class _Due(msgspec.Struct):
    user_id: int
    id: str
    rule_id: str
    revision: int | None
    kind: str
    market: str
    data: str
    at: int
    seen_at: int
    place: int
    fate: str | None


class Rounds:
    """The rounds of one shard.

    Args:
        engine: The application's own; it is not disposed of here.
        shard: The name of the shard.
        stored: The rules.
        clock: Tells when an alert became due.

    Attributes:
        engine: As given.
        shard: As given.
    """

    def __init__(
        self, engine: AsyncEngine, shard: str, stored: SqlRules, clock: Clock
    ) -> None:
        self.engine = engine
        self.shard = shard
        self._stored = stored
        self._clock = clock
        self._postgresql = engine.dialect.name == "postgresql"
        dialect = engine.dialect.name
        self._write_states = _states_statement(dialect)
        self._write_alerts = _alerts_statement(dialect)
        self._write_seen = _seen_statement(dialect)
        self._make_shard = insert_into(dialect, shards).on_conflict_do_nothing()

    @to_its_end
    async def position(self) -> tuple[int, int]:
        """Return the newest revision of the rules and the shard's last round.

        Whoever reads the rules after that and then follows the changes since misses
        none.

        Raises:
            SourceError: The database failed.
        """
        try:
            async with self.engine.connect() as connection:
                query = select(shards.c.n).where(shards.c.shard == self.shard)
                n = (await connection.execute(query)).scalar()
                changes = await self._stored.changes(connection, 2**62)
        except (SQLAlchemyError, OSError) as error:
            raise failure(error) from None
        return changes.revision, n or 0

    @to_its_end
    async def take_over(
        self,
        revision: int,
        n: int,
        accept: Callable[[Standing], bool],
    ) -> Tenure | None:
        """Become the owner, and return what changed since a revision and a round.

        Args:
            revision: Of the rules, the newest that is known.
            n: The round up to which states are known.
            accept: Whether this process can go on from there.

        Returns:
            None when it cannot; the owner is as before.

        Raises:
            SourceError: The database failed; whether this process is the owner is not
                known, and taking over once more settles it.
        """
        mine = shards.c.shard == self.shard
        try:
            async with self.engine.begin() as connection:
                values = {"shard": self.shard, "epoch": 0, "n": 0, "applied": 0}
                await connection.execute(self._make_shard, values)
                counted = (
                    update(shards)
                    .where(mine)
                    .values(epoch=shards.c.epoch + 1)
                    .returning(shards.c.epoch, shards.c.n, shards.c.judged)
                )
                row = (await connection.execute(counted)).one()
                query = select(seen).where(seen.c.shard == self.shard)
                rows = (await connection.execute(query)).all()
                found = {
                    each.asset_id: Seen(
                        each.asset_id, each.at, each.ordinal, each.bid, each.ask
                    )
                    for each in rows
                }
                histories = {
                    each.asset_id: each.history for each in rows if each.history
                }
                standing = Standing(row.epoch == 1, row.judged, found, histories)
                if not accept(standing):
                    await connection.rollback()
                    return None
                changes = await self._stored.changes(connection, revision, n)
        except (SQLAlchemyError, OSError) as error:
            raise failure(error) from None
        return Tenure(row.epoch, row.n, standing, row.judged, changes)

    @to_its_end
    async def commit(self, tenure: Tenure, batch: Batch, home: str) -> list[Committed]:
        """Write a round, whole or not at all.

        Args:
            tenure: Of this process; its `n` is counted up.
            batch: What to write.
            home: The Redis that the alerts are going to be queued in.

        Returns:
            The alerts that are due now, in order. A rule that its person changed or
            took away meanwhile is not written, and neither are its alerts.

        Raises:
            Deposed: Somebody else has taken the shard over.
            SourceError: The database failed; what was written is not known, and the
                owner takes the shard over once more.
        """
        n = tenure.n + 1
        due = list(_numbered(batch.alerts))
        try:
            async with self.engine.begin() as connection:
                judged = await self._fence(connection, tenure, batch)
                if self._postgresql and due:
                    await _lock_people(connection, due)
                if batch.states:
                    states = [_state(*each) for each in batch.states.values()]
                    await connection.execute(
                        self._write_states, {**as_rows(states), "round": n}
                    )
                written: set[tuple[int, str]] = set()
                if due:
                    common = {
                        "shard": self.shard, "epoch": tenure.epoch, "n": n,
                        "due_at": int(self._clock.now() * 1000), "home": home,
                        "settled_at": int(self._clock.now() * 1000),
                    }  # fmt: skip
                    rows = await connection.execute(
                        self._write_alerts, {**as_rows(due), **common}
                    )
                    written = {(row.user_id, row.id) for row in rows}
                if batch.seen:
                    ticked = [
                        {**asdict(each), "history": batch.histories.get(asset_id)}
                        for asset_id, each in batch.seen.items()
                    ]
                    await connection.execute(
                        self._write_seen, {**as_rows(ticked), "shard": self.shard}
                    )
                for each in batch.also:
                    await each(connection)
        except (SQLAlchemyError, OSError) as error:
            raise failure(error) from None
        tenure.n, tenure.judged = n, judged
        return [
            Committed(
                each.user_id,
                Place(self.shard, n, each.place),
                each.kind,
                each.market,
            )
            for each in due
            if each.fate is None and (each.user_id, each.id) in written
        ]

    async def _fence(
        self, connection: AsyncConnection, tenure: Tenure, batch: Batch
    ) -> int | None:
        """Count the round; return up to when ticks are judged then."""
        times = (each for each in (tenure.judged, batch.judged) if each is not None)
        judged = max(times, default=None)
        mine = (
            shards.c.shard == self.shard,
            shards.c.epoch == tenure.epoch,
            shards.c.n == tenure.n,
        )
        counted = await connection.execute(
            update(shards)
            .where(*mine)
            .values(n=tenure.n + 1, applied=batch.applied, judged=judged)
        )
        if counted.rowcount != 1:
            raise Deposed(f"shard {self.shard!r} has a newer owner")
        return judged


def _numbered(found: Sequence[tuple[Alert, int | None]]) -> Iterable[_Due]:
    """Yield rows of alerts; each has its place among those of its person."""
    places: defaultdict[int, int] = defaultdict(int)
    for alert, revision in found:
        rule_id, cooling = "", False
        if isinstance(alert, RuleAlert):
            rule_id = alert.rule_id
        elif isinstance(alert, Opened):
            rule_id = tag_id(alert.tag)
        if isinstance(alert, QuoteAlert):
            cooling = alert.in_cooldown
        place = places[alert.user_id]
        places[alert.user_id] += 1
        yield _Due(
            user_id=alert.user_id,
            id=alert.id,
            rule_id=rule_id,
            revision=revision,
            kind=_KINDS[type(alert)],
            market=alert.market,
            data=msgspec.json.encode(alert).decode(),
            at=alert.at,
            seen_at=int(alert.seen_at * 1000),
            place=place,
            fate=Fate.COOLDOWN if cooling else None,
        )


def _state(rule: Rule, revision: int, state: RuleState) -> _State:
    reference = state.reference
    return _State(
        id=rule.id,
        revision=revision,
        n=state.n,
        armed=state.armed,
        armed_fall=state.armed_fall,
        ref=None if reference is None else msgspec.json.encode(reference).decode(),
        fired_at=state.fired_at,
        ended=state.ended,
    )


async def _lock_people(connection: AsyncConnection, due: Sequence[_Due]) -> None:
    # In order of their ids and before their rules, as an erase locks them: neither
    # waits for the other in a circle.
    people = sorted({each.user_id for each in due})
    await connection.execute(_LOCK_PEOPLE, {"people": people})


_LOCK_PEOPLE = (
    select(users.c.user_id)
    .where(users.c.user_id == any_(bindparam("people", type_=ARRAY(BigInteger))))
    .order_by(users.c.user_id)
    .with_for_update(read=True, key_share=True)
)


def _states_statement(dialect: str) -> Any:
    rows = recordset(
        dialect, "changed",
        id=String, revision=BigInteger, n=BigInteger, armed=Boolean,
        armed_fall=Boolean, ref=Text, fired_at=BigInteger, ended=Boolean,
    )  # fmt: skip
    fields = ("n", "armed", "armed_fall", "ref", "fired_at", "ended")
    return (
        update(rules)
        .where(rules.c.id == rows.c.id, rules.c.revision == rows.c.revision)
        .values({each: rows.c[each] for each in fields})
        .values(round=bindparam("round"))
    )


def _alerts_statement(dialect: str) -> Any:
    rows = recordset(
        dialect, "due",
        user_id=BigInteger, id=String, rule_id=String, revision=BigInteger, kind=String,
        market=String, data=Text, at=BigInteger, seen_at=BigInteger, place=Integer,
        fate=String,
    )  # fmt: skip
    own = (
        *("user_id", "id", "rule_id", "kind", "market", "data", "at", "seen_at"),
        *("place", "fate"),
    )
    common = {
        "shard": String, "epoch": BigInteger, "n": BigInteger, "due_at": BigInteger,
        "home": String,
    }  # fmt: skip
    settled = case(
        (rows.c.fate.is_not(None), bindparam("settled_at", type_=BigInteger))
    )
    # A rule that is there has its person; what has no rule needs her by herself.
    still = or_(
        rows.c.revision.is_(None) & rows.c.user_id.in_(select(users.c.user_id)),
        exists().where(
            rules.c.id == rows.c.rule_id, rules.c.revision == rows.c.revision
        ),
    )
    chosen = select(
        *(rows.c[each] for each in own),
        *(bindparam(name, type_=type_) for name, type_ in common.items()),
        settled,
    ).where(still)
    return (
        insert_into(dialect, alerts)
        .from_select([*own, *common, "settled_at"], chosen)
        .on_conflict_do_nothing()
        .returning(alerts.c.user_id, alerts.c.id)
    )


def _seen_statement(dialect: str) -> Any:
    rows = recordset(
        dialect, "ticked",
        asset_id=String, at=BigInteger, ordinal=Integer, bid=Text, ask=Text,
        history=Text,
    )  # fmt: skip
    fields = ("asset_id", "at", "ordinal", "bid", "ask", "history")
    # SQLite needs a condition, or takes ON CONFLICT for a part of a join.
    chosen = select(
        *(rows.c[each] for each in fields), bindparam("shard", type_=String)
    ).where(true())
    write = insert_into(dialect, seen).from_select([*fields, "shard"], chosen)
    return write.on_conflict_do_update(
        index_elements=["shard", "asset_id"],
        set_={each: write.excluded[each] for each in fields[1:]},
    )
