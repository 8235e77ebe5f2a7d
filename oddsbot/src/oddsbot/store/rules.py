"""`SqlRules`: what users want to be told of, kept until they take it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from oddsbot.store.database import failure
from oddsbot.store.tables import rules
from oddswire.errors import CodecError, SourceError, SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Executable
    from sqlalchemy.ext.asyncio import AsyncEngine

_PAGE = 500


class OtherOwner(ValueError):
    """The id is that of another user's rule."""


class Owned(Protocol):
    """A rule of somebody: any msgspec Struct with these fields."""

    @property
    def id(self) -> str:
        """Unique among the rules of its kind; random, and no secret."""

    @property
    def user_id(self) -> int:
        """Whose it is."""


R = TypeVar("R", bound=Owned)


class SqlRules(Generic[R]):
    """Rules of one kind, as JSON with the number of their schema.

    Args:
        engine: The application's own; it is not disposed of here.
        type: Of the rules.
        kind: Under which they are stored.
        schema: Grows when a field changes its meaning; others are refused.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        type: type[R],  # noqa: A002 - as in Codec
        kind: str,
        *,
        schema: int = 1,
    ) -> None:
        self._engine = engine
        self._kind = kind
        self._schema = schema
        self._decoder = msgspec.json.Decoder(type)

    async def save(self, rule: R) -> None:
        """Store a rule; one of the same user with the same id is replaced.

        Raises:
            OtherOwner: Another user's rule has this id; nothing is changed.
            SourceError: The database failed; the outcome says what that means.
        """
        row = {
            "kind": self._kind,
            "id": rule.id,
            "user_id": rule.user_id,
            "schema": self._schema,
            "data": msgspec.json.encode(rule),
        }
        mine = self._where(rules.c.id == rule.id, rules.c.user_id == rule.user_id)
        try:
            await self._write(mine, insert(rules).values(row))
        except SourceError as error:
            # Only the key can be taken: there is no other constraint on these columns.
            if isinstance(error.__context__, IntegrityError):
                raise OtherOwner(f"another user has a rule {rule.id!r}") from None
            raise

    async def delete(self, user_id: int, rule_id: str) -> bool:
        """Delete a user's rule; False when the user has none with this id."""
        mine = self._where(rules.c.id == rule_id, rules.c.user_id == user_id)
        return bool(await self._write(mine))

    async def delete_of(self, user_id: int) -> int:
        """Delete every rule of a user, for her erasure; return how many."""
        return await self._write(self._where(rules.c.user_id == user_id))

    async def all(self) -> AsyncIterator[R]:
        """Yield every rule in the order of their ids, read in pages.

        Raises:
            CodecError: One was stored by another program, or is damaged.
            SourceUnavailable: The database cannot be read.
        """
        after = ""
        while True:
            query = (
                select(rules)
                .where(rules.c.kind == self._kind, rules.c.id > after)
                .order_by(rules.c.id)
                .limit(_PAGE)
            )
            try:
                async with self._engine.connect() as connection:
                    rows = (await connection.execute(query)).all()
            except (SQLAlchemyError, OSError) as error:
                raise SourceUnavailable(*failure(error).args) from None
            for row in rows:
                yield self._decoded(row)
                after = row.id
            if len(rows) < _PAGE:
                return

    def _decoded(self, row: Any) -> R:
        if row.schema != self._schema:
            raise CodecError(
                f"rule {row.id!r} has schema {row.schema}, this program knows "
                f"{self._schema}",
                reason="newer" if row.schema > self._schema else "type",
            )
        try:
            rule = self._decoder.decode(row.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CodecError(f"rule {row.id!r}: {error}", reason="damaged") from None
        if (rule.user_id, rule.id) != (row.user_id, row.id):
            raise CodecError(
                f"rule {row.id!r} holds what is another user's", reason="damaged"
            )
        return rule

    def _where(self, *conditions: Any) -> Executable:
        return delete(rules).where(rules.c.kind == self._kind, *conditions)

    async def _write(self, deletion: Executable, *others: Executable) -> int:
        """Delete and write in one transaction; return how many were deleted."""
        try:
            async with self._engine.begin() as connection:
                result: Any = await connection.execute(deletion)
                for statement in others:
                    await connection.execute(statement)
        except (SQLAlchemyError, OSError) as error:
            raise failure(error) from None
        return int(result.rowcount)
