"""`SessionCodec`: a session as the fields of its two hashes, and back.

The durable hash, ``main``, has the header ``h``, the durable section ``D``, the list of
index entries ``i`` and a field ``<collection>:<name>`` for each member. The expiring
hash has the conversation ``T`` and the authentication state ``A``. Each field is
compressed and sealed alone, for its place.

From above to below: `SessionSchema` (which field of a type is stored where),
`HeaderSeal` (one seal over all that is stored of a session), `SessionCodec`.
"""

from __future__ import annotations

import builtins
import copy
import hashlib
from collections.abc import Callable, Mapping
from inspect import get_annotations
from secrets import token_hex
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from oddswire._numbers import check_int, shown
from oddswire.codec.envelope import HEADER_BYTES, Envelope
from oddswire.codec.sealing import place
from oddswire.codec.untyped import check_untyped, find_untyped
from oddswire.errors import CodecError, InvalidKey, SessionDamaged, SessionFull
from oddswire.keys import SESSION_INDEX, KeySpace
from oddswire.sessions._scripts import ENTRIES, HEADER, IndexEntry, SessionHeader
from oddswire.sessions.record import Collection, Expiring, Indexed, Record, Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from oddswire.codec import Compressor, Names, Sealer
    from oddswire.sessions._scripts import Expiry, Stored

T = TypeVar("T", bound=Record)

INDEX = "i"
"""The list of index entries; the fields of members tell those of collections."""
DURABLE, CONVERSATION, AUTH = "D", "T", "A"
_SECTIONS = (DURABLE, CONVERSATION, AUTH)
_EXPIRING = frozenset((CONVERSATION, AUTH))
NOTHING = b""
"""The digest of no fields."""

_TOTAL = 32  # bytes of a digest of all fields
_encode = msgspec.msgpack.Encoder().encode
_ANYTHING: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


# --- which field of a type is stored where

_SHARED = (str, int, float, bytes, type(None))
_OWN = frozenset(field.name for field in msgspec.structs.fields(Record))
_StructMeta = type(msgspec.Struct)


_MARKS = (Expiring, Secret, Indexed, Collection)


def _marks_within(hint: Any) -> Iterator[object]:
    """Yield the marks of parts of a type, such as of the half of a union."""
    for each in get_args(hint):
        if isinstance(each, _MARKS) or any(each is mark for mark in _MARKS):
            yield each
        else:
            yield from _marks_within(each)


class SessionSchema(Generic[T]):
    """Where the fields of a type go, read once from its marks.

    Args:
        type: A subclass of `Record`.

    Raises:
        TypeError: A field has no default, one that cannot be stored, or a mark that
            does not fit its type; or it is one of the server's own.

    Attributes:
        type: As given.
        sections: Names of fields by section: durable, conversation, authentication.
        decoders: What checks and decodes a section's fields.
        collections: Marks by field.
        members: What checks and decodes a member's value, by field.
        indexes: Fields with an index of their own.
        index_names: Every index that `users_for` knows.
        whole: Decodes a session from one value.
        untyped: For `check_untyped`; None where the type names all of its parts.
        untyped_members: The same of a member's value, by field.
    """

    def __init__(self, type: type[T]) -> None:  # noqa: A002 - as in Codec
        if not (isinstance(type, _StructMeta) and issubclass(type, Record)):
            raise TypeError(f"{shown(type)} is not a subclass of Record")
        for each in type.__mro__[: type.__mro__.index(Record)]:
            for name in _OWN & get_annotations(each).keys():
                raise TypeError(
                    f"{each.__name__}.{name} is the server's: give your field another "
                    "name"
                )
        check_int(f"{type.__name__}.schema", type.schema, 1, 2**31, TypeError)
        if not isinstance(type.migrations, Mapping) or not all(
            isinstance(schema, int) and callable(migrate)
            for schema, migrate in type.migrations.items()
        ):
            raise TypeError(
                f"{type.__name__}.migrations is a dict of functions by the schema that "
                "they begin with"
            )
        self.type = type
        self.sections: dict[str, list[str]] = {name: [] for name in _SECTIONS}
        self.collections: dict[str, Collection] = {}
        self.members: dict[str, msgspec.msgpack.Decoder[Any]] = {}
        self.untyped_members: dict[str, Any] = {}
        self.indexes: list[str] = []
        self.whole = msgspec.msgpack.Decoder(type)
        self.untyped = find_untyped(type)
        hints = get_type_hints(type, include_extras=True)
        for field in msgspec.structs.fields(type):
            if field.required:
                raise TypeError(
                    f"{type.__name__}.{field.name} has no default: a session begins "
                    "with defaults"
                )
            if field.name not in _OWN:
                self._add(field.name, hints[field.name])
        names = [*self.indexes]
        names += [mark.index for mark in self.collections.values() if mark.index]
        if len(set(names)) < len(names):
            raise TypeError(f"{type.__name__} declares an index twice: {names}")
        self.index_names = frozenset(names)
        self.decoders = {
            name: msgspec.msgpack.Decoder(
                msgspec.defstruct(
                    f"{type.__name__}_{name}",
                    [(field, hints[field], msgspec.UNSET) for field in fields],
                )
            )
            for name, fields in self.sections.items()
        }
        self._blank = type()
        try:
            self.whole.decode(msgspec.msgpack.encode(self._blank))
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(
                f"{type.__name__}: its defaults cannot be stored: {error}"
            ) from None
        self._copied = [
            name
            for name in type.__struct_fields__
            if builtins.type(getattr(self._blank, name)) not in _SHARED
        ]
        for name in self.indexes:
            if getattr(self._blank, name):
                raise TypeError(
                    f"{type.__name__}.{name} is Indexed, so its default is '': a "
                    "user who asked for nothing is in no index"
                )

    def _add(self, name: str, hint: Any) -> None:
        annotated = get_origin(hint) is Annotated
        kind, *marks = get_args(hint) if annotated else (hint,)
        unmade = [each for each in marks if any(each is mark for mark in _MARKS)]
        for stray in (*_marks_within(kind), *unmade):
            word = getattr(stray, "__name__", type(stray).__name__)
            raise TypeError(
                f"{name}: {word} would not be seen there: write "
                f"Annotated[<the whole type>, {word}(...)]"
            )
        section = DURABLE
        for mark in marks:
            match mark:
                case Expiring():
                    section = CONVERSATION
                case Secret():
                    section = AUTH
                case Indexed():
                    if kind is not str:
                        raise TypeError(f"{name}: only a str field can be Indexed")
                    self.indexes.append(name)
                case Collection():
                    types = get_args(kind)
                    if get_origin(kind) is not dict or not _is_text(types[0]):
                        raise TypeError(f"{name}: a Collection is a dict[str, ...]")
                    self.collections[name] = mark
                    self.members[name] = msgspec.msgpack.Decoder(
                        tuple[types]  # type: ignore[valid-type]
                    )
                    self.untyped_members[name] = find_untyped(types[1])
        if name in self.indexes and section != DURABLE:
            raise TypeError(f"{name}: what expires cannot be Indexed")
        if name not in self.collections:
            self.sections[section].append(name)
        elif section != DURABLE:
            raise TypeError(f"{name}: a Collection does not expire")

    def blank(self) -> T:
        """Return a new session of defaults."""
        value = copy.copy(self._blank)
        for name in self._copied:
            setattr(value, name, copy.deepcopy(getattr(value, name)))
        return value

    def reset(self, value: T, *sections: str) -> None:
        """Give the fields of sections their defaults."""
        blank = self.blank()
        for section in sections:
            for name in self.sections[section]:
                setattr(value, name, getattr(blank, name))

    def differing(self, value: T, section: str) -> dict[str, Any]:
        """Return the fields of a section that differ from their defaults."""
        blank = self._blank
        return {
            name: each
            for name in self.sections[section]
            if (each := getattr(value, name)) != getattr(blank, name)
        }


def _is_text(kind: Any) -> bool:
    return kind is str or (get_origin(kind) is Annotated and get_args(kind)[0] is str)


# --- one seal over all that is stored of a session


class Digests(msgspec.Struct, frozen=True):
    """A digest of each stored field.

    Attributes:
        main: Of the durable hash, without the header.
        expiring: Of the expiring hash; empty when the conversation has ended.
    """

    main: dict[bytes, bytes] = {}
    expiring: dict[bytes, bytes] = {}

    @property
    def totals(self) -> tuple[bytes, bytes]:
        """One digest of each hash."""
        return total(self.main), total(self.expiring)


def digests(fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return a digest of each field but the header."""
    return {
        name: hashlib.blake2b(data, digest_size=16).digest()
        for name, data in fields.items()
        if name != HEADER.encode()
    }


def _digests_after(
    before: Mapping[bytes, bytes], fields: Mapping[str, bytes], gone: Iterable[str]
) -> dict[bytes, bytes]:
    left = {name.encode() for name in gone}
    after = {name: each for name, each in before.items() if name not in left}
    return after | digests({name.encode(): data for name, data in fields.items()})


def total(each: Mapping[bytes, bytes]) -> bytes:
    """Return one digest of named digests, in any order; `NOTHING` of none."""
    if not each:
        return NOTHING
    every = hashlib.blake2b(digest_size=_TOTAL)
    for name in sorted(each):
        every.update(len(name).to_bytes(4, "big") + name + each[name])
    return every.digest()


Follows = Callable[[Any, int, int], SessionHeader]
"""Makes a header: from the one before (None: there is none), the time in microseconds,
and the newest version of a deleted session."""


class HeaderSeal:
    """One seal over a session's header and every field that is stored of it.

    Each field is sealed alone, so a missing one would look like one that never was. The
    seal behind the header is over the header's text and a digest of each field; a
    reader finds the same, or the session is damaged. The fields of the conversation
    expire by themselves: their digest is inside the seal, and a reader compares it only
    while the conversation lives.

    A script writes the header, by the server's time, and has no key. So:

    1. The caller computes the header that the script will write, by its own idea of the
       server's time, and seals it.
    2. The script takes that time when it is right to a second, computes the header too,
       and compares; it also compares the stored header with the one that was read.
    3. When they differ, the script writes nothing and returns its time and the header.
       If only a touch came between, the caller adopts that header and repeats from 1.

    `SessionStore.call_sealed` runs these steps.

    Args:
        codec: Seals.
        user_id: Whose the header will be.
        before: The header that was read; None where there was none.
        was: Digests of what was read; None: no other header is adopted.
        main: Total of the durable hash as it will be stored.
        expiring: Total of the expiring hash.
        follows: Makes the header to write.
    """

    def __init__(
        self,
        codec: SessionCodec[Any],
        user_id: int,
        before: SessionHeader | None,
        was: Digests | None,
        main: bytes,
        expiring: bytes,
        follows: Follows,
    ) -> None:
        self._codec = codec
        self._user_id = user_id
        self._before = before
        self._was = was
        self._main = main
        self._expiring = expiring
        self._lived = was is not None and bool(was.expiring)
        self._follows = follows

    @property
    def before(self) -> bytes:
        """The header that was read, as it is stored."""
        return NOTHING if self._before is None else self._before.raw

    def header(self, now: int, last: int) -> bytes:
        """Return the header to write at a time, with its seal."""
        before = self._before
        after = self._follows(before, now, last)
        over = before is not None and before.expiry <= now // 1000
        # A touch after the end of the conversation deletes what was left of it.
        expiring = NOTHING if over and self._lived else self._expiring
        seal = self._codec.seal_header(self._user_id, after.text, self._main, expiring)
        return after.text.encode() + b" " + seal

    def adopt(self, raw: bytes) -> bool:
        """Go on from the stored header; False when more than the header differs."""
        if raw == self.before:
            return True
        if self._was is None or self._before is None:
            return False
        main, expiring = self._was.totals
        try:
            header = SessionHeader.parse(raw)
            opened = self._codec.open_header(self._user_id, header, main)
        except (CodecError, SessionDamaged):
            return False
        if header.version != self._before.version or opened != expiring:
            return False
        self._before = header
        return True


# --- a session on its way between a value and the hashes


class Content(msgspec.Struct, kw_only=True):
    """What is in a session, checked and encoded.

    Attributes:
        sections: Encoded fields by section, without those that have their defaults.
        members: Encoded members by field.
        entries: Index entries.
    """

    sections: dict[str, bytes] = {}
    members: dict[str, bytes] = {}
    entries: frozenset[IndexEntry] = frozenset()


class Snapshot(Content, kw_only=True):
    """A session as it was read, opened and not yet decoded.

    Attributes:
        header: Its header.
        live: Whether the conversation had not ended then.
        stale: Fields sealed under another key than the one that seals now, or all of
            them, when their schema is an older one.
        digests: Of what was read; empty without sealing.
    """

    header: SessionHeader
    live: bool
    stale: frozenset[str] = frozenset()
    digests: Digests = Digests()


class SessionDelta(msgspec.Struct):
    """What a save writes, sealed.

    Attributes:
        main: Fields to set in the durable hash.
        main_gone: Fields to delete there.
        expiring: Fields to set in the expiring hash, which ends with the conversation.
        expiring_gone: Fields to delete there.
        index_adds: Index entries to add.
        index_removes: Index entries to remove.
        held: By collection, 1 where it got its first member, -1 where it lost its last.
        digests: Of everything that is stored after it; empty without sealing.
    """

    main: dict[str, bytes]
    main_gone: list[str]
    expiring: dict[str, bytes]
    expiring_gone: list[str]
    index_adds: list[IndexEntry]
    index_removes: list[IndexEntry]
    held: dict[str, int]
    digests: Digests


class Save(msgspec.Struct, frozen=True):
    """One save of one session, sealed.

    Attributes:
        user_id: Whose.
        before: The session as it was read; None: this save creates it.
        content: The session as it is to be stored.
        delta: The difference between the two, sealed.
        generation: The random text of this creation of the session.
        active: Whether this is the user's own activity.
        seal: Makes the header; None without sealing.
        also: What the source of record stores in the same transaction.
    """

    user_id: int
    before: Snapshot | None
    content: Content
    delta: SessionDelta
    generation: str
    active: bool
    seal: HeaderSeal | None
    also: Any = None

    @property
    def read_version(self) -> int:
        """The version that was read; 0 to create."""
        return 0 if self.before is None else self.before.header.version


class SessionCodec(Generic[T]):
    """Opens what is stored, and seals what changed.

    Args:
        schema: Of the type.
        names: Of users and values.
        sealer: None leaves everything readable.
        compressor: Of fields.
        expiry: How long a conversation lasts.
        space: The prefix of the keys: bytes sealed under one do not open under another.
        compress_above: Smaller fields are not compressed.
        max_size: Bytes that a field may have, before compression and after.
    """

    def __init__(
        self,
        schema: SessionSchema[T],
        *,
        names: Names,
        sealer: Sealer | None,
        compressor: Compressor,
        expiry: Expiry,
        space: str,
        compress_above: int,
        max_size: int,
    ) -> None:
        self.schema = schema
        self.names = names
        self.sealer = sealer
        self.max_size = max_size
        self.expiry = expiry
        self._version = schema.type.schema
        self._compressor = compressor
        self._space = space
        self._keys = KeySpace(space)
        self._compress_above = compress_above

    # --- what the fields tell without being opened

    def member_field(self, collection: str, key: str) -> str:
        """Return the name of a member's field."""
        # Under the name that its index has, so that it tells its index entry too.
        index = self.schema.collections[collection].index
        return f"{collection}:{self.names.of_value(index or collection, key)}"

    def member_entry(self, collection: str, key: str) -> IndexEntry | None:
        """Return the index entry of a member, if its collection has an index."""
        index = self.schema.collections[collection].index
        return None if index is None else (index, self.names.of_value(index, key))

    def entries_of(self, main: Mapping[bytes, bytes]) -> list[IndexEntry]:
        """Return the index entries that the fields tell of.

        Raises:
            SessionDamaged: The list of entries is no list.
        """
        data = main.get(INDEX.encode())
        found = [] if data is None else decode(ENTRIES, data, SessionDamaged)
        for name in main:
            collection, colon, tail = name.decode("utf-8", "replace").partition(":")
            mark = self.schema.collections.get(collection)
            if colon and mark is not None and mark.index:
                found.append((mark.index, tail))
        return found

    def registered(
        self, main: Mapping[bytes, bytes]
    ) -> tuple[list[IndexEntry], list[str]]:
        """Return its index entries and collections, also where it is damaged."""
        held = self.held(name.decode("utf-8", "replace") for name in main)
        try:
            entries = self.entries_of(main)
        except SessionDamaged:
            # What the list said is lost; members tell their own entries.
            rest = {k: v for k, v in main.items() if k != INDEX.encode()}
            entries = self.entries_of(rest)
        # No index has an entry that makes no key: no session wrote it.
        return [entry for entry in entries if self._makes_a_key(entry)], sorted(held)

    def held(self, fields: Iterable[str]) -> set[str]:
        """Return the collections that have members."""
        return _collections(fields) & self.schema.collections.keys()

    def tells_all(self, main: Mapping[bytes, bytes]) -> bool:
        """Whether the fields tell every index entry that their session may have."""
        names = [name.decode("utf-8", "replace").partition(":") for name in main]
        try:
            SessionHeader.parse(main.get(HEADER.encode(), b""))
            entries = self.entries_of(main)
        except SessionDamaged:
            return False
        # A collection that this program does not know may have an index.
        known = all(
            name in self.schema.collections for name, colon, _ in names if colon
        )
        return known and all(map(self._makes_a_key, entries))

    def _makes_a_key(self, entry: IndexEntry) -> bool:
        try:
            self._keys.key(SESSION_INDEX, 0, *entry)
        except InvalidKey:
            return False
        return True

    def conversation_of(
        self, user_id: int, main: Mapping[bytes, bytes]
    ) -> bytes | None:
        """Return the total of the expiring hash; None where the rest is not whole."""
        try:
            header = SessionHeader.parse(main[HEADER.encode()])
            return self.open_header(user_id, header, total(digests(main)))
        except (CodecError, SessionDamaged, KeyError):
            return None

    # --- reading: stored -> snapshot -> value

    def snapshot(self, user_id: int, stored: Stored) -> Snapshot:
        """Open everything that is stored of a session.

        Raises:
            SessionDamaged: Any part of it does not open: there is no half session.
        """
        main, expiring = stored.main, stored.expiring or {}
        header = SessionHeader.parse(main.get(HEADER.encode(), b""))
        if header.schema > self._version:
            raise SessionDamaged(
                f"written with schema {header.schema}, this program knows "
                f"{self._version}: finish the deployment",
                reason="newer",
            )
        sections: dict[str, bytes] = {}
        members: dict[str, bytes] = {}
        stale = set()
        for name, data in [*main.items(), *expiring.items()]:
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
            (members if ":" in field else sections)[field] = body
        found = self._checked(user_id, header, stored)
        if self.sealer and self.sealer.key_number(header.seal) != self.sealer.primary:
            stale.add(HEADER)
        if header.schema < self._version:
            stale.update(sections, members)
        return Snapshot(
            header=header,
            live=stored.expiring is not None,
            sections=sections,
            members=members,
            entries=frozenset(self.entries_of(main)),
            stale=frozenset(stale),
            digests=found,
        )

    def _checked(self, user_id: int, header: SessionHeader, stored: Stored) -> Digests:
        """Compare the header and the set of fields with what was sealed.

        Raises:
            SessionDamaged: A field, a member or a section was removed, added or put
                back, or the header was changed.
        """
        if self.sealer is None:
            if header.seal:
                raise SessionDamaged("sealed, and there is no key here", reason="key")
            return Digests()
        found = Digests(digests(stored.main), digests(stored.expiring or {}))
        try:
            expiring = self.open_header(user_id, header, total(found.main))
        except CodecError as error:
            raise SessionDamaged(
                f"the header, or what it says is stored: {error}", reason=error.reason
            ) from None
        # Fields that lapsed with their conversation are no damage.
        if stored.expiring is not None and expiring != total(found.expiring):
            raise SessionDamaged(
                "a part of the conversation is missing, or is another one",
                reason="damaged",
            )
        return found

    def _is_old(self, snapshot: Snapshot) -> bool:
        return snapshot.header.schema < self._version

    def value(self, user_id: int, snapshot: Snapshot) -> T:
        """Decode a snapshot.

        Raises:
            SessionDamaged: It is no value of the type.
        """
        old = self._is_old(snapshot)
        value = self._migrated(snapshot) if old else self.current(snapshot)
        stamp(value, user_id, snapshot.header)
        return value

    def current(self, content: Content) -> T:
        """Decode content of the current schema, without what the header knows.

        Raises:
            SessionDamaged: It is no value of the type.
        """
        value = self.schema.blank()
        for section, body in content.sections.items():
            decoder = self.schema.decoders.get(section)
            if decoder is None:
                continue
            fields = decode(decoder, body, SessionDamaged)
            for name in self.schema.sections[section]:
                if (each := getattr(fields, name)) is not msgspec.UNSET:
                    setattr(value, name, each)
        for field, body in content.members.items():
            collection = field.partition(":")[0]
            # A collection of a newer program is kept, and not looked at.
            if (decoder := self.schema.members.get(collection)) is not None:
                key, each = decode(decoder, body, SessionDamaged)
                getattr(value, collection)[key] = each
        return value

    def _migrated(self, snapshot: Snapshot) -> T:
        fields: dict[str, Any] = {}
        for section in _SECTIONS:
            if section in snapshot.sections:
                fields |= decode(_ANYTHING, snapshot.sections[section], SessionDamaged)
        for field, body in snapshot.members.items():
            key, member = decode(_ANYTHING, body, SessionDamaged)
            fields.setdefault(field.partition(":")[0], {})[key] = member
        kind = self.schema.type
        for schema in range(snapshot.header.schema, kind.schema):
            if (migrate := kind.migrations.get(schema)) is None:
                raise SessionDamaged(
                    f"no migration from schema {schema} in {kind.__name__}",
                    reason="schema",
                )
            try:
                fields = migrate(fields)
            except Exception as error:
                raise SessionDamaged(
                    f"the migration of {kind.__name__} from schema {schema} raised "
                    f"{type(error).__name__}",
                    reason="schema",
                ) from error
        try:
            return msgspec.convert(fields, kind)
        except msgspec.ValidationError as error:
            raise SessionDamaged(f"after migration: {error}", reason="type") from None

    # --- writing: value -> content -> delta

    def content(self, before: Snapshot | None, value: T) -> Content:
        """Check and encode a value that is to be stored.

        Args:
            before: What is stored; None for a session that begins.
            value: What is to be stored.

        Raises:
            CodecError: ``type`` or ``too_large``: it could not be read back as it is.
            SessionFull: More members than a collection may have.
        """
        schema = self.schema
        if schema.untyped is not None:
            check_untyped(schema.untyped, value)
        # A newer program's fields and collections stay, though this one does not know
        # them; after a migration there are none.
        kept = None if before is None or self._is_old(before) else before
        sections: dict[str, bytes] = {}
        for section in _SECTIONS:
            body = None if kept is None else kept.sections.get(section)
            fields = schema.differing(value, section)
            if body is not None:
                fields |= self._unknown(section, body)
            if fields:
                sections[section] = self._encoded(section, fields, body)
        entries = {
            (name, self.names.of_value(name, each))
            for name in schema.indexes
            if (each := getattr(value, name))
        }
        members = self._members(before, kept, value, entries)
        return Content(sections=sections, members=members, entries=frozenset(entries))

    def _encoded(
        self, section: str, fields: dict[str, Any], was: bytes | None
    ) -> bytes:
        body = encode(fields)
        # Bytes that were read, and decoded, need no second look.
        if body != was:
            decode(self.schema.decoders[section], body)
            self.check_size(section, body)
        return body

    def _unknown(self, section: str, body: bytes) -> dict[str, Any]:
        known = self.schema.sections[section]
        fields = _ANYTHING.decode(body)
        return {name: each for name, each in fields.items() if name not in known}

    def _members(
        self,
        before: Snapshot | None,
        kept: Snapshot | None,
        value: T,
        entries: set[IndexEntry],
    ) -> dict[str, bytes]:
        """Encode members; adds their index entries."""
        was = {} if before is None else before.members
        had = [field.partition(":")[0] for field in was]
        members: dict[str, bytes] = {}
        for name, mark in self.schema.collections.items():
            content = getattr(value, name)
            if len(content) > max(mark.limit, had.count(name)):
                raise SessionFull(
                    f"{name}: {len(content)} members, the limit is {mark.limit}"
                )
            for key, member in content.items():
                hidden = self.names.of_value(mark.index or name, key)
                field = f"{name}:{hidden}"
                body = encode((key, member))
                if kept is None or body != was.get(field):
                    decode(self.schema.members[name], body)
                    self.check_size(field, body)
                members[field] = body
                if mark.index is not None:
                    entries.add((mark.index, hidden))
        if kept is not None:
            members |= {
                field: body
                for field, body in kept.members.items()
                if field.partition(":")[0] not in self.schema.collections
            }
        return members

    def check_member(self, collection: str, key: str, value: Any) -> bytes:
        """Return a member encoded.

        Raises:
            CodecError: ``type``: the value is not of the collection's type, or would
                come back with another.
        """
        untyped = self.schema.untyped_members[collection]
        if untyped is not None:
            check_untyped(untyped, value)
        body = encode((key, value))
        decode(self.schema.members[collection], body)
        return body

    def delta(
        self,
        user_id: int,
        before: Snapshot | None,
        content: Content,
        generation: str,
    ) -> SessionDelta:
        """Compare with what is stored, and seal what differs.

        Args:
            user_id: Whose.
            before: What is stored; None for a session that begins.
            content: What is to be stored, as `content` made it for this `before`.
            generation: Of the session.
        """
        stale: frozenset[str] = frozenset() if before is None else before.stale
        was = {} if before is None else {**before.sections, **before.members}
        now = {**content.sections, **content.members}
        entries = content.entries
        old_entries: frozenset[IndexEntry] = (
            frozenset() if before is None else before.entries
        )
        packed = {
            field: self.pack(user_id, generation, field, body)
            for field, body in now.items()
            if was.get(field) != body or field in stale
        }
        gone = [field for field in was if field not in now]
        indexes = self.schema.indexes
        listed = {entry for entry in entries if entry[0] in indexes}
        old_listed = {entry for entry in old_entries if entry[0] in indexes}
        if old_listed and not listed:
            gone.append(INDEX)
        elif listed != old_listed:
            # Not sealed: it says what the index sets say, and has to be readable for
            # deleting a session that does not open.
            packed[INDEX] = msgspec.json.encode(sorted(listed))
        parts = (
            {f: data for f, data in packed.items() if f not in _EXPIRING},
            [f for f in gone if f not in _EXPIRING],
            {f: data for f, data in packed.items() if f in _EXPIRING},
            [f for f in gone if f in _EXPIRING],
        )
        had = set() if before is None else _collections(before.members)
        has = _collections(content.members)
        known = self.schema.collections.keys()
        # The index entries of an older schema are not known for certain: all are added.
        add_all = before is not None and self._is_old(before)
        return SessionDelta(
            *parts,
            index_adds=sorted(entries if add_all else entries - old_entries),
            index_removes=sorted(old_entries - entries),
            held={name: 1 if name in has else -1 for name in (had ^ has) & known},
            digests=self._digests(before, *parts),
        )

    def _digests(
        self,
        before: Snapshot | None,
        main: Mapping[str, bytes],
        main_gone: Iterable[str],
        expiring: Mapping[str, bytes],
        expiring_gone: Iterable[str],
    ) -> Digests:
        if self.sealer is None:
            return Digests()
        was = Digests() if before is None else before.digests
        return Digests(
            _digests_after(was.main, main, main_gone),
            _digests_after(was.expiring, expiring, expiring_gone),
        )

    # --- what a script writes; its header is sealed, where there is sealing

    def save(
        self,
        user_id: int,
        before: Snapshot | None,
        content: Content,
        *,
        active: bool,
        also: Any = None,
    ) -> Save:
        """Return what saves `content`, which was made for this `before`.

        Args:
            user_id: Whose.
            before: What is stored; None for a session that begins.
            content: What is to be stored.
            active: Whether this is the user's own activity.
            also: What the source of record stores in the same transaction.
        """
        generation = token_hex(8) if before is None else before.header.generation
        delta = self.delta(user_id, before, content, generation)
        schema = self._version

        def follows(header: SessionHeader | None, now: int, last: int) -> SessionHeader:
            if header is None:
                after = SessionHeader.new(now, last, schema, generation)
            else:
                after = header.changed(now, schema=schema)
            begins = after.expiry == 0
            return after.renewed(now, self.expiry) if active or begins else after

        seal = self._seal(user_id, before, delta.digests, follows)
        return Save(user_id, before, content, delta, generation, active, seal, also)

    def move(self, new: int, before: Snapshot, content: Content) -> Save:
        """Return what gives a session to another user, its `content` with it."""
        generation = token_hex(8)
        delta = self.delta(new, None, content, generation)

        def follows(header: SessionHeader, now: int, last: int) -> SessionHeader:
            return header.changed(
                now, last, schema=self._version, generation=generation
            )

        seal = self._seal(new, before, delta.digests, follows, adopts=False)
        return Save(new, before, content, delta, generation, False, seal)  # noqa: FBT003

    def seal_touched(self, user_id: int, before: Snapshot) -> HeaderSeal | None:
        """Return what a touch writes."""
        return self._seal(
            user_id,
            before,
            before.digests,
            lambda header, now, _: header.renewed(now, self.expiry),
        )

    def seal_switched(
        self, user_id: int, before: Snapshot, *, on: bool
    ) -> HeaderSeal | None:
        """Return what switching on or off writes."""
        return self._seal(
            user_id,
            before,
            before.digests,
            lambda header, now, _: header.changed(now, on=on),
        )

    def seal_restored(
        self,
        user_id: int,
        before: SessionHeader | None,
        delta: SessionDelta,
        *,
        begins: SessionHeader,
        expiring: bytes,
    ) -> HeaderSeal | None:
        """Return what a restore writes.

        Args:
            user_id: Whose.
            before: What is there and whole; None: nothing that is believed.
            delta: Of the durable part, all of it.
            begins: What is written where there is nothing.
            expiring: Total of the conversation that stays.
        """
        if self.sealer is None:
            return None
        schema = self._version
        if before is None or before.schema != schema:
            # Bytes that were sealed for another schema do not open under this one.
            expiring = NOTHING

        def follows(header: SessionHeader | None, now: int, last: int) -> SessionHeader:
            if header is None:
                after = msgspec.structs.replace(begins, version=last)
            else:
                expiry = header.expiry if header.schema == schema else 0
                after = msgspec.structs.replace(header, expiry=expiry, on=begins.on)
            return after.changed(now, schema=schema)

        main, _ = delta.digests.totals
        return HeaderSeal(self, user_id, before, None, main, expiring, follows)

    def _seal(
        self,
        user_id: int,
        before: Snapshot | None,
        after: Digests,
        follows: Follows,
        *,
        adopts: bool = True,
    ) -> HeaderSeal | None:
        if self.sealer is None:
            return None
        header, was = (
            (None, None) if before is None else (before.header, before.digests)
        )
        was = was if adopts else None
        return HeaderSeal(self, user_id, header, was, *after.totals, follows)

    # --- one field's bytes

    def check_size(self, field: str, body: bytes) -> None:
        """Refuse a field that is too large.

        Raises:
            CodecError: ``too_large``.
        """
        if len(body) > self.max_size:
            raise CodecError(
                f"{field.partition(':')[0]}: {len(body)} bytes, the limit is "
                f"{self.max_size}",
                reason="too_large",
            )

    def pack(self, user_id: int, generation: str, field: str, body: bytes) -> bytes:
        """Return the bytes to store in a field.

        Raises:
            CodecError: ``too_large``.
        """
        self.check_size(field, body)
        # The length of what is compressed tells of its content, so secrets are not.
        above = self.max_size if field == AUTH else self._compress_above
        envelope = Envelope.around(body, self._compressor, above)
        if self.sealer is None:
            return envelope.to_bytes()
        # The compressor's number is inside, where nobody can change it.
        kind = 1 + envelope.compressor if envelope.compressed else 0
        where = self._place(self._version, generation, field)
        return self.sealer.seal(bytes((kind,)) + envelope.body, str(user_id), where)

    def unpack(
        self, user_id: int, header: SessionHeader, field: str, data: bytes
    ) -> bytes:
        """Return the body that `pack` was given; authenticates before all else.

        Raises:
            CodecError: With its reason.
        """
        sealer = self.sealer
        overhead = HEADER_BYTES if sealer is None else 1 + sealer.overhead
        if len(data) > self.max_size + overhead:
            raise CodecError("larger than its limit", reason="too_large")
        if sealer is None:
            envelope = Envelope.from_bytes(data)
        else:
            where = self._place(header.schema, header.generation, field)
            opened = sealer.open(data, str(user_id), where)
            if not opened:
                raise CodecError("sealed without content", reason="damaged")
            kind, body = opened[0], opened[1:]
            envelope = Envelope(body=body, compressed=kind > 0, compressor=kind - 1)
        return envelope.content(self._compressor, self.max_size)

    def seal_header(
        self, user_id: int, text: str, main: bytes, expiring: bytes
    ) -> bytes:
        """Return the seal of a header's text and of the totals of both hashes."""
        assert self.sealer is not None  # noqa: S101 - called with sealing alone
        return self.sealer.seal(expiring, str(user_id), self._header_place(text, main))

    def open_header(self, user_id: int, header: SessionHeader, main: bytes) -> bytes:
        """Return the total of the expiring hash that a header was sealed with.

        Raises:
            CodecError: The header or the durable hash is not what was sealed.
        """
        assert self.sealer is not None  # noqa: S101 - called with sealing alone
        if len(header.seal) > _TOTAL + self.sealer.overhead:
            raise CodecError("larger than its limit", reason="too_large")
        where = self._header_place(header.text, main)
        return self.sealer.open(header.seal, str(user_id), where)

    def _header_place(self, text: str, main: bytes) -> bytes:
        return place(self._space, "session header", text, main.hex())

    def _place(self, schema: int, generation: str, field: str) -> bytes:
        return place(self._space, "session", str(schema), generation, field)


def _collections(members: Iterable[str]) -> set[str]:
    return {field.partition(":")[0] for field in members}


def stamp(value: Record, user_id: int, header: SessionHeader) -> None:
    """Write what the server knows into a value."""
    value.user_id = user_id
    value.version = header.version
    value.created_at = header.created / 1e6
    value.last_activity = header.active / 1e3
    value.is_active = header.on


def encode(value: Any) -> bytes:
    try:
        return _encode(value)
    except Exception as error:  # noqa: BLE001 - hooks of the type may raise anything
        raise CodecError(f"cannot be stored: {error}", reason="type") from None


def decode(
    decoder: msgspec.msgpack.Decoder[Any] | msgspec.json.Decoder[Any],
    body: bytes,
    error: type[CodecError | SessionDamaged] = CodecError,
) -> Any:
    try:
        return decoder.decode(body)
    except (RecursionError, MemoryError):
        raise error("nested too deeply", reason="too_large") from None
    except msgspec.ValidationError as failure:
        raise error(str(failure), reason="type") from None
    except Exception as failure:  # noqa: BLE001 - hooks of the type may raise anything
        raise error(f"refused: {type(failure).__name__}", reason="damaged") from None
