"""`Members`: collections, whose members come and go whatever else changes."""

from __future__ import annotations

from typing import Any, TypeVar

from oddswire.errors import SessionConflict, SessionError, SessionFull
from oddswire.sessions._engine import Engine, remember
from oddswire.sessions._store import TRIES
from oddswire.sessions.record import Record

T = TypeVar("T", bound=Record)


class _NotThere(Exception):
    """There is nothing to change."""


class Members(Engine[T]):
    """The calls of `Sessions` that change one member."""

    async def add_to(
        self,
        user_id: int,
        collection: str,
        key: str,
        value: Any = None,
        *,
        active: bool = True,
    ) -> bool:
        """Add a member to a collection, or replace it, whatever else changes.

        Returns:
            Whether it is new.

        Raises:
            SessionGone: There is no session.
            SessionFull: The collection has as many members as it may.
            CodecError: The value is not of the collection's type.
        """
        mark = self._collection(collection)
        body = self._form.check_member(collection, key, value)
        if self._whole:
            return await self._added(user_id, collection, key, body, active=active)
        field = self._form.member_field(collection, key)
        generation = self._generations.get(user_id, "")
        for _ in range(TRIES):
            answer = await self._store.member(
                user_id,
                collection=collection,
                field=field,
                tag=self._form.member_tag(collection, key),
                limit=mark.limit,
                terms=self._terms,
                schema=self._layout.type.schema,
                generation=generation,
                active=active,
                sealed=self._form.pack(user_id, generation, field, body),
            )
            self._near.drop(user_id)
            match answer.kind:
                case "saved":
                    return bool(answer.detail[0])
                case "full":
                    raise SessionFull(
                        f"{collection}: {mark.limit} members is the limit"
                    )
                case "generation":
                    generation = answer.detail[0].decode()
                    remember(self._generations, user_id, generation)
                case "schema":
                    # One member alone cannot have another schema than the rest.
                    await self._rewrite(user_id)
                case _:
                    await self._after(user_id, answer, create=False)
        raise SessionConflict("the session was deleted and created again each time")

    async def remove_from(
        self, user_id: int, collection: str, key: str, *, active: bool = True
    ) -> bool:
        """Remove a member from a collection; False when it was not in.

        Raises:
            SessionGone: There is no session.
        """
        mark = self._collection(collection)
        if self._whole:
            return await self._removed(user_id, collection, key, active=active)
        answer = await self._store.member(
            user_id,
            collection=collection,
            field=self._form.member_field(collection, key),
            tag=self._form.member_tag(collection, key),
            limit=mark.limit,
            terms=self._terms,
            schema=self._layout.type.schema,
            generation="",
            active=active,
            sealed=None,
        )
        self._near.drop(user_id)
        if answer.kind != "saved":
            await self._after(user_id, answer, create=False)
        return bool(answer.detail[0])

    # With a source the whole record is written, and a sealed header stands for every
    # field: so the rest is read first.

    @property
    def _whole(self) -> bool:
        return self._backing is not None or self._form.sealer is not None

    async def _added(
        self, user_id: int, collection: str, key: str, body: bytes, *, active: bool
    ) -> bool:
        limit = self._collection(collection).limit
        decoder, new = self._layout.members[collection], False

        def add(session: T) -> None:
            nonlocal new
            content = getattr(session, collection)
            new = key not in content
            if new and len(content) >= limit:
                raise SessionFull(f"{collection}: {limit} members is the limit")
            content[key] = decoder.decode(body)[1]

        await self._changed(user_id, add, create=False, active=active)
        return new

    async def _removed(
        self, user_id: int, collection: str, key: str, *, active: bool
    ) -> bool:
        def remove(session: T) -> None:
            if getattr(session, collection).pop(key, _NotThere) is _NotThere:
                raise _NotThere

        try:
            await self._changed(user_id, remove, create=False, active=active)
        except _NotThere:
            return False
        return True

    def _collection(self, name: str) -> Any:
        mark = self._layout.collections.get(name)
        if mark is None:
            known = ", ".join(self._layout.collections) or "none"
            raise SessionError(f"no collection {name!r}; declared: {known}")
        return mark
