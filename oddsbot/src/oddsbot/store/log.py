"""`AlertLog`: what was due, and what became of it."""

from __future__ import annotations

import asyncio
import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import (
    BigInteger,
    String,
    Text,
    and_,
    bindparam,
    delete,
    exists,
    func,
    not_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from oddsbot.alerts import Alert
from oddsbot.store.database import failure, to_its_end
from oddsbot.store.recordset import as_rows, insert_into, recordset
from oddsbot.store.tables import alerts, followers
from oddsbot.store.user import Kind
from oddswire.clock import SystemClock
from oddswire.errors import SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncEngine

    from oddswire.clock import Clock

LOOK_BACK_SECONDS = 30 * 86_400.0
"""How long the rows of settled alerts are kept for `/history` and `/why`."""

_LONGEST_REASON = 256
_OPEN, _CLOSED = '{"closed":false}', '{"closed":true}'
DIGEST = "digest"
"""The kind and the shard of a row that tells several held alerts as one message."""
_decoder = msgspec.json.Decoder(Alert)


class Fate(StrEnum):
    """What became of an alert that was due. Each has exactly one, and for good."""

    SENT = "sent"
    COOLDOWN = "cooldown"
    HELD = "held"
    MUTED = "muted"
    FILTERED = "filtered"
    EXPIRED = "expired"
    STOPPED = "stopped"
    WITHDRAWN = "withdrawn"
    FAILED = "failed"


class Place(msgspec.Struct, frozen=True, order=True):
    """Where an alert stands: the alerts of a person and a shard have this order.

    Attributes:
        shard: The shard that made it due.
        n: Of the shard's rounds.
        place: Among the person's alerts of the round, from 0.
    """

    shard: str
    n: int
    place: int


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """One message instead of several; a row of its own, due when nothing more joins it.

    Attributes:
        user_id: Whom to tell.
        id: Unique among the person's alerts; the held alerts name it as their reason.
        market: The condition id of the market that they are about; empty: several.
        due_at: Seconds since 1970.
    """

    user_id: int
    id: str
    market: str
    due_at: int

    @property
    def kind(self) -> str:
        """What the queue can be paused by."""
        return DIGEST

    @property
    def where(self) -> Place:
        """Its place: among all digests of the person by when it is due."""
        digest = hashlib.sha256(self.id.encode()).digest()
        # Two markets may have one that is due in the same second.
        return Place(DIGEST, self.due_at, int.from_bytes(digest[:4], "big") >> 1)


class AlertRow(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as the database has it.

    Attributes:
        user_id: Whom to tell.
        id: Unique among the person's alerts.
        rule_id: The rule that fired; of what is new under a tag, `tag_id` of that; else
            empty.
        kind: Such as ``price``.
        market: The market's condition id.
        data: The alert, as JSON.
        due_at: When it was committed, in milliseconds since 1970.
        where: Its place in the order.
        home: The Redis that it was to be queued in.
        fate: What became of it; None: it is due.
        reason: Why.
        message_id: Of the message that was sent.
        settled_at: When it got its fate, in milliseconds since 1970.
    """

    user_id: int
    id: str
    rule_id: str
    kind: str
    market: str
    data: str
    due_at: int
    where: Place
    home: str
    fate: Fate | None
    reason: str | None
    message_id: int | None
    settled_at: int | None

    def alert(self) -> Alert:
        """Return the alert.

        Raises:
            ValueError: It is damaged.
        """
        alert: Alert = _decoder.decode(self.data)
        # The row says whose it is: a group that became a supergroup took it along.
        return msgspec.structs.replace(alert, user_id=self.user_id)


class _Settlement(msgspec.Struct):
    user_id: int
    id: str
    fate: str
    reason: str | None
    message_id: int | None
    settled_at: int


_digests = alerts.alias("digests")
# A digest that is due has to tell it.
_AWAITED = and_(
    alerts.c.fate == Fate.HELD,
    exists().where(
        _digests.c.user_id == alerts.c.user_id,
        _digests.c.id == alerts.c.reason,
        _digests.c.fate.is_(None),
    ),
)
# Without it the person would be told the same once more.
_NEWS = and_(
    alerts.c.kind.in_((Kind.PROPOSAL, Kind.DISPUTE, Kind.RESOLUTION)),
    exists().where(
        followers.c.user_id == alerts.c.user_id,
        followers.c.market == alerts.c.market,
    ),
)

# One by one: SQLite would look at all rows for a list of pairs.
_DELETE = delete(alerts).where(
    alerts.c.user_id == bindparam("person"), alerts.c.id == bindparam("alert")
)


class AlertLog:
    """The alerts of all people, with their fates.

    Args:
        engine: The application's own; it is not disposed of here.
        clock: Tells seconds since 1970; None: the system's.

    Attributes:
        commits: Transactions that gave alerts their fates.
    """

    def __init__(self, engine: AsyncEngine, *, clock: Clock | None = None) -> None:
        self.commits = 0
        self._engine = engine
        self._clock: Clock = SystemClock() if clock is None else clock
        self._turn = asyncio.Lock()
        self._waiting: list[tuple[_Settlement, asyncio.Future[bool]]] = []
        rows = recordset(
            engine.dialect.name, "settled",
            user_id=BigInteger, id=String, fate=String, reason=Text,
            message_id=BigInteger, settled_at=BigInteger,
        )  # fmt: skip
        self._settle = (
            update(alerts)
            .where(alerts.c.user_id == rows.c.user_id, alerts.c.id == rows.c.id)
            .where(alerts.c.fate.is_(None))
            .values({
                each: rows.c[each]
                for each in ("fate", "reason", "message_id", "settled_at")
            })
            .returning(alerts.c.user_id, alerts.c.id)
        )  # fmt: skip

    # --- what is due

    async def due(self, user_id: int, until: Place) -> list[AlertRow]:
        """Return a person's alerts without a fate up to a place, and with it, in order.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        query = select(alerts).where(
            alerts.c.user_id == user_id,
            alerts.c.shard == until.shard,
            alerts.c.fate.is_(None),
            tuple_(alerts.c.n, alerts.c.place) <= tuple_(until.n, until.place),
        )
        return await self._read(query.order_by(alerts.c.n, alerts.c.place))

    async def unsettled(
        self,
        shard: str | None = None,
        *,
        due_before: float | None = None,
        after: tuple[Place, int] | None = None,
        limit: int = 1_000,
    ) -> list[AlertRow]:
        """Return alerts without a fate, in the order in which they became due.

        Args:
            shard: Of this shard; None: of all.
            due_before: Only those that were due before, seconds since 1970.
            after: The place and the person of the last one that was read.
            limit: How many at most.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        order = alerts.c.shard, alerts.c.n, alerts.c.place, alerts.c.user_id
        query = select(alerts).where(alerts.c.fate.is_(None))
        if shard is not None:
            query = query.where(alerts.c.shard == shard)
        if due_before is not None:
            query = query.where(alerts.c.due_at < int(due_before * 1000))
        if after is not None:
            place, user_id = after
            last = tuple_(place.shard, place.n, place.place, user_id)
            query = query.where(tuple_(*order) > last)
        return await self._read(query.order_by(*order).limit(limit))

    # --- what becomes of it

    async def settle(
        self,
        row: AlertRow,
        fate: Fate,
        reason: str = "",
        *,
        message_id: int | None = None,
    ) -> bool:
        """Give an alert its fate; those of calls at once are one transaction.

        Returns when it is committed. Cancelled, it is committed or not. It may be
        repeated after an error.

        Returns:
            False when it had a fate already, or is not there any more.

        Raises:
            SourceError: The database failed; the outcome says what that means.
        """
        settlement = _Settlement(
            row.user_id,
            row.id,
            fate.value,
            reason[:_LONGEST_REASON] or None,
            message_id,
            int(self._clock.now() * 1000),
        )
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((settlement, done))
        # While one transaction is on its way the others line up, and the first of them
        # takes all that came meanwhile with it.
        async with self._turn:
            if not done.done():
                batch, self._waiting = self._waiting, []
                await self._commit(batch)
        return done.result()

    @to_its_end
    async def _commit(
        self, batch: Sequence[tuple[_Settlement, asyncio.Future[bool]]]
    ) -> None:
        # Of several for one alert the first counts, as if they came one by one.
        first: dict[tuple[int, str], _Settlement] = {}
        for each, _ in batch:
            first.setdefault((each.user_id, each.id), each)
        parameters = as_rows(list(first.values()))
        try:
            async with self._engine.begin() as connection:
                rows = await connection.execute(self._settle, parameters)
                settled = {(row.user_id, row.id) for row in rows}
        except (SQLAlchemyError, OSError) as error:
            for _, done in batch:
                done.set_exception(failure(error))
                # Its caller may have been cancelled, and nobody else asks.
                done.exception()
        else:
            self.commits += 1
            for each, done in batch:
                key = each.user_id, each.id
                done.set_result(key in settled and first[key] is each)

    # --- several as one

    @to_its_end
    async def hold(self, row: AlertRow, digest: Digest, home: str) -> bool:
        """Hold an alert back: a digest tells it with others; one transaction.

        May be repeated after an error.

        Args:
            row: The alert.
            digest: The row that tells it; made, where it is not there yet.
            home: The Redis that the digest is to be queued in.

        Returns:
            False when the digest is being told already: the alert is as it was.

        Raises:
            SourceError: The database failed; the outcome says what that means.
        """
        now, where = int(self._clock.now() * 1000), digest.where
        held = (
            update(alerts)
            .where(alerts.c.user_id == row.user_id, alerts.c.id == row.id)
            .where(alerts.c.fate.is_(None))
            .values(fate=Fate.HELD.value, reason=digest.id, settled_at=now)
        )
        opened = insert_into(self._engine.dialect.name, alerts).values(
            user_id=digest.user_id, id=digest.id, rule_id="", kind=DIGEST,
            market=digest.market, data=_OPEN, at=now, seen_at=now,
            due_at=digest.due_at * 1000, shard=where.shard, epoch=0, n=where.n,
            place=where.place, home=home,
        )  # fmt: skip
        # The update locks the row: whoever closes it waits for this commit, or has
        # closed it before, and then nothing is updated.
        opened = opened.on_conflict_do_update(
            index_elements=[alerts.c.user_id, alerts.c.id],
            set_={"data": _OPEN},
            where=alerts.c.fate.is_(None) & (alerts.c.data == _OPEN),
        )
        try:
            async with self._engine.begin() as connection:
                if not (await connection.execute(held)).rowcount:
                    return True  # it has a fate, or is not there any more
                joined = await connection.execute(opened.returning(alerts.c.id))
                if joined.first() is None:
                    await connection.rollback()
                    return False
        except IntegrityError:
            return True  # the person was erased meanwhile
        except (SQLAlchemyError, OSError) as error:
            raise failure(error) from None
        return True

    @to_its_end
    async def close(self, row: AlertRow) -> list[AlertRow]:
        """Let nothing more into a digest; return what it tells, in its order.

        May be repeated; the answer is the same then.

        Raises:
            SourceError: The database failed.
        """
        closed = (
            update(alerts)
            .where(alerts.c.user_id == row.user_id, alerts.c.id == row.id)
            .values(data=_CLOSED)
        )
        try:
            async with self._engine.begin() as connection:
                await connection.execute(closed)
        except (SQLAlchemyError, OSError) as error:
            raise failure(error) from None
        query = select(alerts).where(
            alerts.c.user_id == row.user_id,
            alerts.c.fate == Fate.HELD.value,
            alerts.c.reason == row.id,
        )
        order = alerts.c.due_at, alerts.c.shard, alerts.c.n, alerts.c.place
        return await self._read(query.order_by(*order))

    @to_its_end
    async def told(
        self, user_id: int, since: float, *, market: str = "", rule_id: str = ""
    ) -> int:
        """Return how many alerts a person was sent since a moment.

        Args:
            user_id: The person.
            since: Seconds since 1970.
            market: Only of this market, by its condition id.
            rule_id: Only with this id of a rule or tag.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        query = select(func.count()).where(
            alerts.c.user_id == user_id,
            alerts.c.fate == Fate.SENT.value,
            alerts.c.kind != DIGEST,
            alerts.c.settled_at >= int(since * 1000),
        )
        if market:
            query = query.where(alerts.c.market == market)
        if rule_id:
            query = query.where(alerts.c.rule_id == rule_id)
        try:
            async with self._engine.connect() as connection:
                return (await connection.execute(query)).scalar_one()
        except (SQLAlchemyError, OSError) as error:
            raise SourceUnavailable(*failure(error).args) from None

    # --- what is old

    @to_its_end
    async def forget(self, before: float, *, limit: int = 1_000) -> int:
        """Delete alerts that have been due and settled for long; one transaction.

        What is still needed stays, however old it is: an alert without a fate, one that
        a digest has yet to tell, and the news of a market that its person follows.
        Cancelled, it is done or not.

        Args:
            before: Only those that were due and got their fate before, seconds since
                1970.
            limit: How many at most; the oldest go first.

        Returns:
            How many are gone; fewer than `limit`: there are no more.

        Raises:
            SourceError: The database failed.
        """
        at = int(before * 1000)
        # The rows that an erasure holds are left to it: neither waits for the other in
        # a circle.
        old = (
            select(alerts.c.user_id, alerts.c.id)
            .where(alerts.c.due_at < at, alerts.c.settled_at < at)
            .where(alerts.c.fate.is_not(None), not_(_AWAITED), not_(_NEWS))
            .order_by(alerts.c.due_at)
            .limit(limit)
            .with_for_update(of=alerts, skip_locked=True)
        )
        try:
            async with self._engine.begin() as connection:
                found = (await connection.execute(old)).all()
                if found:
                    rows = [
                        {"person": each.user_id, "alert": each.id} for each in found
                    ]
                    await connection.execute(_DELETE, rows)
        except (SQLAlchemyError, OSError) as error:
            raise failure(error) from None
        return len(found)

    # --- looking back

    async def history(
        self, user_id: int, *, since: float = 0.0, skip: int = 0, limit: int = 50
    ) -> list[AlertRow]:
        """Return a person's newest alerts, whatever became of them, the newest first.

        A digest is none: the alerts that it told are there themselves.

        Args:
            user_id: Whose.
            since: Only those that were due from then on, seconds since 1970.
            skip: How many of the newest are left out.
            limit: How many at most.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        query = select(alerts).where(
            alerts.c.user_id == user_id,
            alerts.c.due_at >= int(since * 1000),
            alerts.c.kind != DIGEST,
        )
        newest = alerts.c.due_at.desc(), alerts.c.n.desc(), alerts.c.place.desc()
        return await self._read(query.order_by(*newest).offset(skip).limit(limit))

    async def page(
        self, user_id: int, *, after: str = "", limit: int = 1_000
    ) -> list[AlertRow]:
        """Return all rows of a person by their ids, at most `limit` above one."""
        query = select(alerts).where(alerts.c.user_id == user_id, alerts.c.id > after)
        return await self._read(query.order_by(alerts.c.id).limit(limit))

    @to_its_end
    async def fates(
        self,
        user_id: int | None = None,
        *,
        since: float = 0.0,
        rule_id: str | None = None,
        market: str | None = None,
    ) -> dict[Fate | None, int]:
        """Return how many alerts have which fate; None: they are due.

        Args:
            user_id: Only hers, without digests; None: of all people, digests too.
            since: Only those that were due from then on, seconds since 1970.
            rule_id: Only of this rule.
            market: Only of this market, by its condition id.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        query = select(alerts.c.fate, func.count()).group_by(alerts.c.fate)
        for column, wanted in (
            (alerts.c.user_id, user_id),
            (alerts.c.rule_id, rule_id),
            (alerts.c.market, market),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        if user_id is not None:
            query = query.where(alerts.c.kind != DIGEST)
        if since:
            query = query.where(alerts.c.due_at >= int(since * 1000))
        try:
            async with self._engine.connect() as connection:
                rows = (await connection.execute(query)).all()
        except (SQLAlchemyError, OSError) as error:
            raise SourceUnavailable(*failure(error).args) from None
        return {None if fate is None else Fate(fate): count for fate, count in rows}

    @to_its_end
    async def _read(self, query: Select[Any]) -> list[AlertRow]:
        try:
            async with self._engine.connect() as connection:
                rows = (await connection.execute(query)).all()
        except (SQLAlchemyError, OSError) as error:
            raise SourceUnavailable(*failure(error).args) from None
        return [_row(each) for each in rows]


def _row(row: Any) -> AlertRow:
    return AlertRow(
        user_id=row.user_id,
        id=row.id,
        rule_id=row.rule_id,
        kind=row.kind,
        market=row.market,
        data=row.data,
        due_at=row.due_at,
        where=Place(row.shard, row.n, row.place),
        home=row.home,
        fate=None if row.fate is None else Fate(row.fate),
        reason=row.reason,
        message_id=row.message_id,
        settled_at=row.settled_at,
    )
