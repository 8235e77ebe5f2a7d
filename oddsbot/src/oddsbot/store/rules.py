"""`SqlRules`: what people want to be told of, and where each rule stands."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from oddsbot.alerts import (
    Base,
    MoveRule,
    PriceRule,
    Rule,
    RuleState,
    VolumeRule,
)
from oddsbot.store.database import failure, to_its_end
from oddsbot.store.handled import note_handled, was_handled
from oddsbot.store.tables import alerts, removed_rules, revisions, rules, users
from oddswire.clock import SystemClock
from oddswire.errors import CodecError, SourceUnavailable
from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from oddswire.clock import Clock

_PAGE = 500
_SCHEMA = 1
_LINE = "rules"
_TYPES: dict[str, type[Rule]] = {
    "price": PriceRule,
    "move": MoveRule,
    "volume": VolumeRule,
}
_KINDS = {each: kind for kind, each in _TYPES.items()}
_MILLIONTHS = 1_000_000

_log = logging.getLogger("oddsbot.store")


class OtherOwner(ValueError):
    """The id is that of another user's rule, or of a rule of another kind."""


class SameRule(ValueError):
    """The person has a rule for this price already."""


class AlreadyHandled(ValueError):
    """The update has had its effect; nothing is changed a second time."""


class UnknownUser(ValueError):
    """The database has no such person: her session is saved first."""


class StoredRule(msgspec.Struct, frozen=True):
    """A rule as the database has it.

    Attributes:
        rule: What the person asked for.
        state: Where it stands.
        revision: Grows over all rules with each change by their people.
        round: The shard's round that last wrote the state; None: no owner of the shard
            has begun to judge the rule as it is.
    """

    rule: Rule
    state: RuleState
    revision: int
    round: int | None

    @property
    def kind(self) -> str:
        """The kind of the rule, as alerts, settings and the queue name it."""
        return kind_of(self.rule)


class RuleChanges(msgspec.Struct, frozen=True):
    """What changed after some revision and round.

    Attributes:
        rules: Those that changed, as they are now.
        removed: The ids of those that were taken away.
        revision: The newest revision.
    """

    rules: list[StoredRule]
    removed: list[str]
    revision: int


def kind_of(rule: Rule) -> str:
    """Return the kind of a rule."""
    return _KINDS[type(rule)]


class SqlRules:
    """All rules of all people, as JSON with the number of their schema.

    A change by a person has a new revision. Revisions become visible in their order, so
    whoever has read up to one misses none below it.

    Args:
        engine: The application's own; it is not disposed of here.
        clock: Tells seconds since 1970; None: the system's.

    Attributes:
        damaged: Rows that could not be read, and were left out.
    """

    def __init__(self, engine: AsyncEngine, *, clock: Clock | None = None) -> None:
        self.damaged = 0
        self._engine = engine
        self._clock: Clock = SystemClock() if clock is None else clock
        self._decoders = {
            kind: msgspec.json.Decoder(type_) for kind, type_ in _TYPES.items()
        }

    # --- what people change

    async def save(self, rule: Rule, update_id: int | None = None) -> int:
        """Store a rule, or replace the person's rule with the same id; see `change`."""
        return await self.change(rule.user_id, [rule], update_id=update_id)

    @to_its_end
    async def change(
        self,
        user_id: int,
        save: Sequence[Rule] = (),
        remove: Sequence[str] = (),
        *,
        update_id: int | None = None,
    ) -> int:
        """Remove and store rules of a person, all of them or none.

        A rule that is stored begins again. Its alerts are counted on, so that none has
        the id of an earlier one.

        Args:
            user_id: Whose.
            save: Rules of hers, new ones and those that replace one with the same id.
            remove: The ids of those that go; one that is not there is passed over.
            update_id: Of Telegram's update that asks for it. It is noted for two days
                in the same transaction, so that an update that comes again brings back
                no rule that its person has removed meanwhile.

        Returns:
            The revision of the change.

        Raises:
            AlreadyHandled: The update is noted.
            OtherOwner: Another user's rule has this id; nothing is changed.
            SameRule: She has another rule for this outcome, side and level.
            UnknownUser: She has no session.
            SourceError: The database failed; the outcome says what that means.
        """
        now = self._clock.now()
        try:
            async with self._engine.begin() as connection:
                revision = await next_revision(connection)
                if update_id is not None and not await note_handled(
                    connection, _LINE, update_id, now
                ):
                    raise AlreadyHandled(f"update {update_id} was handled before")
                if remove:
                    mine = rules.c.user_id == user_id, rules.c.id.in_(remove)
                    await _remove_at(connection, now, revision, *mine)
                for rule in save:
                    await self._write(connection, rule, revision)
        except IntegrityError as error:
            for rule in save:
                if refusal := await self._refusal(rule):
                    raise refusal from None
            raise failure(error) from None
        except (SQLAlchemyError, OSError) as error:
            raise failure(error) from None
        return revision

    @to_its_end
    async def handled(self, update_id: int) -> bool:
        """Return whether an update changed rules before.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        try:
            async with self._engine.connect() as connection:
                return await was_handled(connection, _LINE, update_id)
        except (SQLAlchemyError, OSError) as error:
            raise SourceUnavailable(*failure(error).args) from None

    async def _write(
        self, connection: AsyncConnection, rule: Rule, revision: int
    ) -> None:
        values = {**columns_of(rule), **_BEGINNING, "revision": revision}
        mine = rules.c.id == rule.id, rules.c.user_id == rule.user_id
        changed = await connection.execute(
            update(rules).where(*mine, rules.c.kind == kind_of(rule)).values(**values)
        )
        if changed.rowcount:
            return
        fired = await _fired_before(connection, rule)
        await connection.execute(insert(rules).values(**values, n=fired))
        # The same id may have been taken away before.
        await connection.execute(
            delete(removed_rules).where(removed_rules.c.id == rule.id)
        )

    async def _refusal(self, rule: Rule) -> ValueError | None:
        """Return what a rule that the database refused is refused for."""
        query = select(rules.c.user_id, rules.c.kind).where(rules.c.id == rule.id)
        for row in await self._read(query):
            if (row.user_id, row.kind) != (rule.user_id, kind_of(rule)):
                return OtherOwner(f"another rule has the id {rule.id!r}")
        query = select(users.c.user_id).where(users.c.user_id == rule.user_id)
        if not await self._read(query):
            return UnknownUser(f"user {rule.user_id} has no session; save it first")
        if isinstance(rule, MoveRule):
            return None
        what = "volume" if isinstance(rule, VolumeRule) else rule.direction
        return SameRule(
            f"there is a rule {what} {rule.level} already; change or remove that one"
        )

    async def delete(self, user_id: int, rule_id: str) -> bool:
        """Delete a user's rule; False when the user has none with this id."""
        mine = rules.c.id == rule_id, rules.c.user_id == user_id
        return bool(await self._remove(*mine))

    async def delete_of(self, user_id: int) -> int:
        """Delete every rule of a user; return how many."""
        return await self._remove(rules.c.user_id == user_id)

    @to_its_end
    async def _remove(self, *conditions: Any) -> int:
        try:
            async with self._engine.begin() as connection:
                return await remove_rules(connection, self._clock.now(), *conditions)
        except (SQLAlchemyError, OSError) as error:
            raise failure(error) from None

    # --- reading

    async def get(self, user_id: int, rule_id: str) -> StoredRule | None:
        """Return a user's rule; None when she has none with this id."""
        mine = rules.c.id == rule_id, rules.c.user_id == user_id
        found = self._decoded(await self._read(select(rules).where(*mine)))
        return found[0] if found else None

    async def of(self, user_id: int) -> list[StoredRule]:
        """Return all rules of a user in the order of their ids, ended ones too."""
        query = select(rules).where(rules.c.user_id == user_id).order_by(rules.c.id)
        return self._decoded(await self._read(query))

    async def all(self) -> AsyncIterator[StoredRule]:
        """Yield every rule that has not ended, in the order of their ids, by pages.

        Raises:
            CodecError: One was stored by a newer program.
            SourceUnavailable: The database cannot be read.
        """
        after = ""
        while True:
            query = (
                select(rules)
                .where(rules.c.id > after, ~rules.c.ended)
                .order_by(rules.c.id)
                .limit(_PAGE)
            )
            rows = await self._read(query)
            for each in self._decoded(rows):
                yield each
            if len(rows) < _PAGE:
                return
            after = rows[-1].id

    async def volumes(self, market: str | None = None) -> list[StoredRule]:
        """Return the volume rules that have not ended; of one market, or of all.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        query = select(rules).where(rules.c.kind == "volume", ~rules.c.ended)
        if market is not None:
            query = query.where(rules.c.asset_id == market)
        return self._decoded(await self._read(query.order_by(rules.c.id)))

    @to_its_end
    async def _read(self, query: Select[Any]) -> Sequence[Any]:
        try:
            async with self._engine.connect() as connection:
                rows = await connection.execute(query)
                return list(rows)
        except (SQLAlchemyError, OSError) as error:
            # A read changes nothing, whatever became of it.
            raise SourceUnavailable(*failure(error).args) from None

    async def changes(
        self, connection: AsyncConnection, revision: int, rounds: int | None = None
    ) -> RuleChanges:
        """Return what changed, in the caller's transaction.

        Args:
            connection: In a transaction.
            revision: Changes by people above it.
            rounds: Also states that were written in rounds above it.
        """
        # The newest revision first: what is committed after it comes next time.
        newest = (await connection.execute(select(revisions.c.newest))).scalar_one()
        changed = rules.c.revision > revision
        if rounds is not None:
            changed |= rules.c.round > rounds
        rows = (await connection.execute(select(rules).where(changed))).all()
        gone = select(removed_rules.c.id).where(removed_rules.c.revision > revision)
        removed = (await connection.execute(gone)).scalars().all()
        return RuleChanges(self._decoded(rows), list(removed), newest)

    @to_its_end
    async def changes_after(
        self, revision: int, rounds: int | None = None
    ) -> RuleChanges:
        """Return what changed; see `changes`.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        try:
            async with self._engine.connect() as connection:
                return await self.changes(connection, revision, rounds)
        except (SQLAlchemyError, OSError) as error:
            raise SourceUnavailable(*failure(error).args) from None

    def _decoded(self, rows: Sequence[Any]) -> list[StoredRule]:
        """Return the rules of some rows; what is damaged costs no other rule."""
        found = []
        for row in rows:
            if row.schema > _SCHEMA:
                raise CodecError(
                    f"rule {row.id!r} has schema {row.schema}, this program knows "
                    f"{_SCHEMA}",
                    reason="newer",
                )
            try:
                rule = self._decoders[row.kind].decode(row.data)
                if (rule.user_id, rule.id) != (row.user_id, row.id):
                    raise ValueError("it holds what is another user's")  # noqa: TRY301
                found.append(StoredRule(rule, _state(row), row.revision, row.round))
            except (
                msgspec.MsgspecError,
                UnicodeDecodeError,
                ValueError,
                KeyError,
            ) as e:
                self.damaged += 1
                _log.error(
                    "rule_damaged rule=%s reason=%s",
                    plain(row.id),
                    plain(e),
                    extra={"event": "rule_damaged"},
                )
        return found


# --- what other writers of rules share


async def next_revision(connection: AsyncConnection) -> int:
    """Return a new revision; the next one waits for this transaction's commit."""
    query = (
        update(revisions)
        .values(newest=revisions.c.newest + 1)
        .returning(revisions.c.newest)
    )
    return int((await connection.execute(query)).scalar_one())


async def remove_rules(
    connection: AsyncConnection, now: float, *conditions: Any
) -> int:
    """Delete rules in the caller's transaction, and note their ids; return how many."""
    revision = await next_revision(connection)
    return await _remove_at(connection, now, revision, *conditions)


async def _remove_at(
    connection: AsyncConnection, now: float, revision: int, *conditions: Any
) -> int:
    gone = delete(rules).where(*conditions).returning(rules.c.id)
    ids = (await connection.execute(gone)).scalars().all()
    # A note of an id that came back and goes again is replaced.
    await connection.execute(delete(removed_rules).where(removed_rules.c.id.in_(ids)))
    day_before = int((now - 86_400) * 1000)
    await connection.execute(
        delete(removed_rules).where(removed_rules.c.removed_at < day_before)
    )
    if ids:
        rows = [
            {"id": each, "revision": revision, "removed_at": int(now * 1000)}
            for each in ids
        ]
        await connection.execute(insert(removed_rules), rows)
    return len(ids)


_BEGINNING: dict[str, Any] = {
    "armed": None, "armed_fall": None, "ref": None, "fired_at": None, "ended": False,
    "round": None,
}  # fmt: skip


def columns_of(rule: Rule) -> dict[str, Any]:
    """Return a rule's own columns, without its state."""
    level, side = None, None
    if isinstance(rule, VolumeRule):
        side = "day" if rule.daily else "ever"
    elif isinstance(rule, PriceRule):
        side = str(rule.direction)
    if not isinstance(rule, MoveRule):
        level = int(rule.level * _MILLIONTHS)
    return {
        "kind": kind_of(rule),
        "id": rule.id,
        "user_id": rule.user_id,
        "schema": _SCHEMA,
        "data": msgspec.json.encode(rule),
        "asset_id": rule.market if isinstance(rule, VolumeRule) else rule.asset_id,
        "side": side,
        "level": level,
    }


def _state(row: Any) -> RuleState:
    reference = None
    if row.ref is not None:
        reference = msgspec.json.decode(row.ref, type=Base)
    return RuleState(
        n=row.n,
        armed=row.armed,
        armed_fall=row.armed_fall,
        reference=reference,
        fired_at=row.fired_at,
        ended=row.ended,
    )


async def _fired_before(connection: AsyncConnection, rule: Rule) -> int:
    """Return the number of the last alert of a rule with this id that was deleted."""
    query = select(alerts.c.id).where(
        alerts.c.user_id == rule.user_id, alerts.c.rule_id == rule.id
    )
    ids = (await connection.execute(query)).scalars().all()
    return max((int(each.rpartition(":")[2]) for each in ids), default=0)
