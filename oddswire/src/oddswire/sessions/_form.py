"""`Form`: a session as the fields of its two hashes, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from oddswire.codec.untyped import check_untyped
from oddswire.errors import CodecError, InvalidKey, SessionDamaged, SessionFull
from oddswire.keys import SESSION_INDEX, KeySpace
from oddswire.sessions._header import (
    HEADER,
    Header,
    begun,
    next_version,
    renewed,
)
from oddswire.sessions._layout import AUTH, CONVERSATION, SECTIONS
from oddswire.sessions._packing import Packing, decoded, encoded
from oddswire.sessions._scripts import Tag
from oddswire.sessions._seal import NOTHING, HeaderSeal, Seals, digests, total
from oddswire.sessions.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oddswire.codec import Names
    from oddswire.sessions._layout import Layout
    from oddswire.sessions._scripts import Stored, Terms

T = TypeVar("T", bound=Record)

INDEX = "i"
"""The field of index entries; those of collections are told by the members' fields."""
_TAGS = msgspec.json.Decoder(list[tuple[str, str]])
_ANYTHING: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


class Content(msgspec.Struct, kw_only=True):
    """What is in a session, checked and encoded.

    Attributes:
        plain: Encoded fields by section, without those that have their defaults.
        members: Encoded members by field.
        tags: Indexes and names of values that it is in.
    """

    plain: dict[str, bytes] = {}
    members: dict[str, bytes] = {}
    tags: frozenset[Tag] = frozenset()


class Snapshot(Content, kw_only=True):
    """A session as it was read, opened and not yet decoded.

    Attributes:
        header: Its header.
        live: Whether the conversation had not ended then.
        stale: Fields sealed under another key than the one that seals now, or all of
            them, when their schema is an older one.
        seals: Of what was read; empty without sealing.
    """

    header: Header
    live: bool
    stale: frozenset[str] = frozenset()
    seals: Seals = Seals()


class Change(msgspec.Struct):
    """What a save writes, sealed.

    Attributes:
        main: Fields of the durable hash, to set.
        main_gone: To delete.
        short: Fields of the expiring hash, to set.
        short_gone: To delete.
        joins: Indexes to enter.
        leaves: Indexes to leave.
        held: By collection, 1 where it got its first member, -1 where it lost its last.
        seals: Of everything that is stored after it; empty without sealing.
    """

    main: dict[str, bytes]
    main_gone: list[str]
    short: dict[str, bytes]
    short_gone: list[str]
    joins: list[Tag]
    leaves: list[Tag]
    held: dict[str, int]
    seals: Seals


class Form(Packing, Generic[T]):
    """Opens what is stored, and seals what changed.

    Args:
        layout: Of the type.
        names: Of users and values.
        **packing: As for `Packing`.
    """

    def __init__(self, layout: Layout[T], *, names: Names, **packing: Any) -> None:
        super().__init__(layout.type.schema, **packing)
        self.layout = layout
        self.names = names
        self._keys = KeySpace(packing["space"])

    def member_field(self, collection: str, key: str) -> str:
        """Return the name of a member's field."""
        # Under the name that its index has, so that it tells its index entry too.
        index = self.layout.collections[collection].index
        return f"{collection}:{self.names.of_value(index or collection, key)}"

    def tags_of(self, main: Mapping[bytes, bytes]) -> list[Tag]:
        """Return the index entries that the fields tell of, without opening any.

        Raises:
            SessionDamaged: The list of entries is no list.
        """
        data = main.get(INDEX.encode())
        found = [] if data is None else decoded(_TAGS.decode, data, SessionDamaged)
        for name in main:
            collection, colon, tail = name.decode("utf-8", "replace").partition(":")
            mark = self.layout.collections.get(collection)
            if colon and mark is not None and mark.index:
                found.append((mark.index, tail))
        return found

    def place(self, main: Mapping[bytes, bytes]) -> tuple[list[Tag], list[str]]:
        """Return its index entries and collections, also where it is damaged."""
        names = {name.decode("utf-8", "replace").partition(":")[0] for name in main}
        held = sorted(names & self.layout.collections.keys())
        try:
            tags = self.tags_of(main)
        except SessionDamaged:
            # What the list said is lost; members tell their own entries.
            rest = {k: v for k, v in main.items() if k != INDEX.encode()}
            tags = self.tags_of(rest)
        # No index has an entry that makes no key: nobody of ours wrote it.
        return [tag for tag in tags if self._makes_a_key(tag)], held

    def tells_all(self, main: Mapping[bytes, bytes]) -> bool:
        """Whether the fields tell every index entry that their session may have."""
        names = [name.decode("utf-8", "replace").partition(":") for name in main]
        try:
            Header.parse(main.get(HEADER.encode(), b""))
            tags = self.tags_of(main)
        except SessionDamaged:
            return False
        # A collection that this program does not know may have an index.
        known = all(
            name in self.layout.collections for name, colon, _ in names if colon
        )
        return known and all(map(self._makes_a_key, tags))

    def _makes_a_key(self, tag: Tag) -> bool:
        try:
            self._keys.key(SESSION_INDEX, 0, *tag)
        except InvalidKey:
            return False
        return True

    def member_tag(self, collection: str, key: str) -> Tag | None:
        """Return the index entry of a member, if its collection has an index."""
        index = self.layout.collections[collection].index
        return None if index is None else (index, self.names.of_value(index, key))

    def check_member(self, collection: str, key: str, value: Any) -> bytes:
        """Return a member encoded.

        Raises:
            CodecError: ``type``: the value is not of the collection's type, or would
                come back with another.
        """
        untyped = self.layout.untyped_members[collection]
        if untyped is not None:
            check_untyped(untyped, value)
        body = encoded((key, value))
        decoded(self.layout.members[collection].decode, body)
        return body

    # --- reading

    def snapshot(self, user_id: int, stored: Stored) -> Snapshot:
        """Open everything that is stored of a session.

        Raises:
            SessionDamaged: Any part of it does not open: there is no half session.
        """
        main, short = stored.main, stored.short or {}
        header = Header.parse(main.get(HEADER.encode(), b""))
        if header.schema > self.layout.type.schema:
            raise SessionDamaged(
                f"written with schema {header.schema}, this program knows "
                f"{self.layout.type.schema}: finish the deployment",
                reason="newer",
            )
        plain, members, stale = {}, {}, set()
        for name, data in [*main.items(), *short.items()]:
            field = name.decode("utf-8", "replace")
            if field in (HEADER, INDEX):
                continue
            try:
                body = self.unpack(user_id, header, field, data)
                if self.sealer and self.sealer.key_number(data) != self.sealer.primary:
                    stale.add(field)
            except CodecError as error:
                raise SessionDamaged(
                    f"{field.partition(':')[0]}: {error}", reason=error.reason
                ) from None
            if ":" in field:
                members[field] = body
            else:
                plain[field] = body
        seals = self._sealed(user_id, header, stored)
        if self.sealer and self.sealer.key_number(header.seal) != self.sealer.primary:
            stale.add(HEADER)
        if header.schema < self.layout.type.schema:
            stale.update(plain, members)
        return Snapshot(
            header=header,
            live=stored.short is not None,
            plain=plain,
            members=members,
            tags=frozenset(self.tags_of(main)),
            stale=frozenset(stale),
            seals=seals,
        )

    def _sealed(self, user_id: int, header: Header, stored: Stored) -> Seals:
        """Compare the header and the set of fields with what was sealed.

        Raises:
            SessionDamaged: A field, a member or a section was removed, added or put
                back, or the header was changed.
        """
        if self.sealer is None:
            if header.seal:
                raise SessionDamaged("sealed, and there is no key here", reason="key")
            return Seals()
        seals = Seals(digests(stored.main), digests(stored.short or {}))
        try:
            short = self.open_header(user_id, header, total(seals.main))
        except CodecError as error:
            raise SessionDamaged(
                f"the header, or what it says is stored: {error}", reason=error.reason
            ) from None
        # What lapsed with its conversation is no damage.
        if stored.short is not None and short != total(seals.short):
            raise SessionDamaged(
                "a part of the conversation is missing, or is another one",
                reason="damaged",
            )
        return seals

    def conversation_of(
        self, user_id: int, main: Mapping[bytes, bytes]
    ) -> bytes | None:
        """Return the total of the expiring hash; None where the rest is not whole."""
        try:
            header = Header.parse(main[HEADER.encode()])
            return self.open_header(user_id, header, total(digests(main)))
        except (CodecError, SessionDamaged, KeyError):
            return None

    def _old(self, snapshot: Snapshot) -> bool:
        return snapshot.header.schema < self.layout.type.schema

    def value(self, user_id: int, snapshot: Snapshot) -> T:
        """Decode a snapshot.

        Raises:
            SessionDamaged: It is no value of the type.
        """
        value = (
            self._migrated(snapshot) if self._old(snapshot) else self.current(snapshot)
        )
        stamp(value, user_id, snapshot.header)
        return value

    def current(self, content: Content) -> T:
        """Decode what has the schema of now; who it belongs to is not in it.

        Raises:
            SessionDamaged: It is no value of the type.
        """
        value = self.layout.blank()
        for section, body in content.plain.items():
            decoder = self.layout.decoders.get(section)
            if decoder is None:
                continue
            fields = decoded(decoder.decode, body, SessionDamaged)
            for name in self.layout.sections[section]:
                if (each := getattr(fields, name)) is not msgspec.UNSET:
                    setattr(value, name, each)
        for field, body in content.members.items():
            collection = field.partition(":")[0]
            member = self.layout.members.get(collection)
            # Of a newer program: kept, and not looked at.
            if member is not None:
                key, each = decoded(member.decode, body, SessionDamaged)
                getattr(value, collection)[key] = each
        return value

    def _migrated(self, snapshot: Snapshot) -> T:
        fields: dict[str, Any] = {}
        for section in SECTIONS:
            if section in snapshot.plain:
                body = snapshot.plain[section]
                fields |= decoded(_ANYTHING.decode, body, SessionDamaged)
        for field, body in snapshot.members.items():
            key, member = decoded(_ANYTHING.decode, body, SessionDamaged)
            fields.setdefault(field.partition(":")[0], {})[key] = member
        kind = self.layout.type
        for schema in range(snapshot.header.schema, kind.schema):
            if (migrate := kind.migrations.get(schema)) is None:
                raise SessionDamaged(
                    f"no migration from schema {schema} in {kind.__name__}",
                    reason="schema",
                )
            fields = migrate(fields)
        try:
            return msgspec.convert(fields, kind)
        except msgspec.ValidationError as error:
            raise SessionDamaged(f"after migration: {error}", reason="type") from None

    # --- writing

    def content(self, before: Snapshot | None, value: T) -> Content:
        """Check and encode a value that is to be stored.

        Args:
            before: What is stored; None for a session that begins.
            value: What is to be stored.

        Raises:
            CodecError: ``type`` or ``too_large``: it could not be read back as it is.
            SessionFull: More members than a collection may have.
        """
        if self.layout.untyped is not None:
            check_untyped(self.layout.untyped, value)
        members, tags = self._collections(before, value)
        found = Content(plain=self._sections(before, value), members=members, tags=tags)
        for field, body in (*found.plain.items(), *members.items()):
            self.check_size(field, body)
        return found

    def change(
        self,
        user_id: int,
        before: Snapshot | None,
        content: Content,
        generation: str,
    ) -> Change:
        """Compare with what is stored, and seal what differs.

        Args:
            user_id: Whose.
            before: What is stored; None for a session that begins.
            content: What is to be stored, as `content` made it for this `before`.
            generation: Of the session.
        """
        stale: frozenset[str] = frozenset() if before is None else before.stale
        was = {} if before is None else {**before.plain, **before.members}
        now = {**content.plain, **content.members}
        tags = content.tags
        scalar = {tag for tag in tags if tag[0] in self.layout.indexes}
        old_tags: frozenset[Tag] = frozenset() if before is None else before.tags
        gone = [field for field in was if field not in now]
        old_scalar = {tag for tag in old_tags if tag[0] in self.layout.indexes}
        if old_scalar and not scalar:
            gone.append(INDEX)
        packed = {
            field: self.pack(user_id, generation, field, body)
            for field, body in now.items()
            if was.get(field) != body or field in stale
        }
        if scalar != old_scalar and scalar:
            # Not sealed: it says what the index sets say, and has to be readable for
            # deleting a session that does not open.
            packed[INDEX] = msgspec.json.encode(sorted(scalar))
        short = {CONVERSATION, AUTH}
        parts = (
            {f: data for f, data in packed.items() if f not in short},
            [f for f in gone if f not in short],
            {f: data for f, data in packed.items() if f in short},
            [f for f in gone if f in short],
        )
        seals = Seals() if before is None else before.seals
        had = {field.partition(":")[0] for field in was if ":" in field}
        has = {field.partition(":")[0] for field in content.members}
        known = self.layout.collections.keys()
        return Change(
            *parts,
            # What an older schema was indexed by is not known for certain.
            joins=sorted(tags if before and self._old(before) else tags - old_tags),
            leaves=sorted(old_tags - tags),
            held={name: 1 if name in has else -1 for name in (had ^ has) & known},
            seals=Seals() if self.sealer is None else seals.after(*parts),
        )

    # --- the header that a script will write, sealed; None without sealing

    def seal_saved(
        self,
        user_id: int,
        before: Snapshot | None,
        change: Change,
        *,
        generation: str,
        terms: Terms,
        active: bool,
    ) -> HeaderSeal | None:
        """Return what a save writes."""
        schema = self.layout.type.schema

        def follows(header: Header | None, now: int, last: int) -> Header:
            if header is None:
                after = begun(now, last, schema, generation)
            else:
                after = next_version(header, now)
                after = msgspec.structs.replace(after, schema=schema)
            begins = after.expiry == 0
            return renewed(after, now, terms) if active or begins else after

        return self._seal(user_id, before, change.seals, follows)

    def seal_touched(
        self, user_id: int, before: Snapshot, terms: Terms
    ) -> HeaderSeal | None:
        """Return what a touch writes."""

        def follows(header: Header | None, now: int, _: int) -> Header:
            assert header is not None  # noqa: S101 - it was read
            return renewed(header, now, terms)

        return self._seal(user_id, before, before.seals, follows)

    def seal_switched(
        self, user_id: int, before: Snapshot, *, on: bool
    ) -> HeaderSeal | None:
        """Return what switching on or off writes."""

        def follows(header: Header | None, now: int, _: int) -> Header:
            assert header is not None  # noqa: S101 - it was read
            return msgspec.structs.replace(next_version(header, now), on=on)

        return self._seal(user_id, before, before.seals, follows)

    def seal_moved(
        self, new: int, before: Snapshot, change: Change, generation: str
    ) -> HeaderSeal | None:
        """Return what a move writes for the new user."""
        schema = self.layout.type.schema

        def follows(header: Header | None, now: int, last: int) -> Header:
            assert header is not None  # noqa: S101 - it was read
            return msgspec.structs.replace(
                next_version(header, now, last), schema=schema, generation=generation
            )

        if self.sealer is None:
            return None
        main, short = total(change.seals.main), total(change.seals.short)
        return HeaderSeal(self, new, before.header, None, main, short, follows)

    def seal_restored(
        self,
        user_id: int,
        before: Header | None,
        change: Change,
        *,
        begins: Header,
        short: bytes,
    ) -> HeaderSeal | None:
        """Return what a restore writes.

        Args:
            user_id: Whose.
            before: What is there and whole; None: nothing that is believed.
            change: Of the durable part, all of it.
            begins: What is written where there is nothing.
            short: Total of the conversation that stays.
        """
        if self.sealer is None:
            return None
        schema = self.layout.type.schema
        if before is None or before.schema != schema:
            # What was sealed for another schema does not open under this one.
            short = NOTHING

        def follows(header: Header | None, now: int, last: int) -> Header:
            if header is None:
                after = msgspec.structs.replace(begins, version=last)
            else:
                expiry = header.expiry if header.schema == schema else 0
                after = msgspec.structs.replace(header, expiry=expiry, on=begins.on)
            return msgspec.structs.replace(next_version(after, now), schema=schema)

        main = total(change.seals.main)
        return HeaderSeal(self, user_id, before, None, main, short, follows)

    def _seal(
        self,
        user_id: int,
        before: Snapshot | None,
        then: Seals,
        follows: Callable[[Header | None, int, int], Header],
    ) -> HeaderSeal | None:
        if self.sealer is None:
            return None
        header, was = (None, None) if before is None else (before.header, before.seals)
        main, short = total(then.main), total(then.short)
        return HeaderSeal(self, user_id, header, was, main, short, follows)

    def _sections(self, before: Snapshot | None, value: T) -> dict[str, bytes]:
        plain = {}
        for section in SECTIONS:
            fields = self.layout.changed(value, section)
            if before is not None and not self._old(before):
                # A newer program's fields stay, though this one does not know them.
                fields |= self._unknown(before, section)
            if fields:
                body = encoded(fields)
                decoded(self.layout.decoders[section].decode, body)
                plain[section] = body
        return plain

    def _unknown(self, before: Snapshot, section: str) -> dict[str, Any]:
        if section not in before.plain:
            return {}
        known = self.layout.sections[section]
        fields = _ANYTHING.decode(before.plain[section])
        return {name: each for name, each in fields.items() if name not in known}

    def _collections(
        self, before: Snapshot | None, value: T
    ) -> tuple[dict[str, bytes], frozenset[Tag]]:
        members: dict[str, bytes] = {}
        tags = {
            (name, self.names.of_value(name, each))
            for name in self.layout.indexes
            if (each := getattr(value, name))
        }
        was = [] if before is None else [f.partition(":")[0] for f in before.members]
        for name, mark in self.layout.collections.items():
            content = getattr(value, name)
            if len(content) > max(mark.limit, was.count(name)):
                raise SessionFull(
                    f"{name}: {len(content)} members, the limit is {mark.limit}"
                )
            for key, member in content.items():
                field = self.member_field(name, key)
                members[field] = self.check_member(name, key, member)
                if (tag := self.member_tag(name, key)) is not None:
                    tags.add(tag)
        if before is not None and not self._old(before):
            members |= {
                field: body
                for field, body in before.members.items()
                if field.partition(":")[0] not in self.layout.collections
            }
        return members, frozenset(tags)


def stamp(value: Record, user_id: int, header: Header) -> None:
    """Write what the server knows into a value."""
    value.user_id = user_id
    value.version = header.version
    value.created_at = header.created / 1e6
    value.last_activity = header.active / 1e3
    value.is_active = header.on
