from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Annotated, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oddswire import Client
from oddswire.errors import (
    CodecError,
    OddswireError,
    SessionDamaged,
    SessionError,
    SessionFull,
    SessionGone,
)
from oddswire.sessions import Collection, Expiring, Indexed, Record, Session, Sessions


@pytest.mark.basic
@pytest.mark.requirement("S1")
@pytest.mark.parametrize("sealed", [False, True])
async def test_what_is_stored_comes_back(people, keyring, sealed):
    """Every kind of field comes back as it was stored, to another process too."""
    sessions = people(keyring=keyring if sealed else None)

    def fill(person):
        person.city = "Oslo"
        person.limits = {"price": 0.05}
        person.wallets = {"0xaa": people.Wallet(alias="whale")}
        person.dialog = ["amount?"] * 200
        person.token = "secret"

    stored = await sessions.update(7, fill, create=True)
    assert stored.user_id == 7
    assert stored.version > 0
    assert stored.created_at == pytest.approx(stored.last_activity, abs=0.01)
    assert await sessions.get(7) == stored
    assert await people(keyring=keyring if sealed else None).get(7) == stored
    assert await sessions.get(8) is None


@pytest.mark.errors
@pytest.mark.requirement("S1")
@pytest.mark.parametrize("field", ["metadata", "preferences", "conversation", "auth"])
@pytest.mark.parametrize("value", [Decimal("0.5"), (1, 2), {1}], ids=repr)
async def test_what_would_come_back_as_another_type_is_refused(people, field, value):
    """A Decimal in a part without a type is an error when it is set, never a text."""
    sessions = people(Session)

    def fill(session):
        getattr(session, field)["deep"] = [value]

    with pytest.raises(CodecError, match=rf"\.{field}\['deep'\]\[0\] is a"):
        await sessions.update(1, fill, create=True)
    assert await sessions.get(1) is None


@pytest.mark.basic
@pytest.mark.requirement("S1")
async def test_the_ready_made_session(people):
    """A bot without a type of its own stores preferences, metadata, dialogue, auth."""
    sessions = people(Session)

    def fill(session):
        session.preferences = {"notify": {"price": True, "wallet": True}}
        session.conversation["step"] = "amount"
        session.auth["level"] = 2

    await sessions.update(1, fill, create=True)
    await sessions.update(1, lambda s: s.preferences["notify"].update(price=False))
    session = await sessions.get(1)
    assert session.preferences == {"notify": {"price": False, "wallet": True}}
    assert session.conversation == {"step": "amount"}
    assert session.auth == {"level": 2}
    # What one caller does to its copy is nothing to another's.
    session.preferences.clear()
    assert (await sessions.get(1)).preferences


@pytest.mark.basic
@pytest.mark.requirement("S4")
async def test_members_are_added_listed_and_removed(people):
    """Adding says whether it is new, removing whether it was there."""
    sessions = people()
    await sessions.update(1, lambda _: None, create=True)
    assert await sessions.add_to(1, "wallets", "0xaa", people.Wallet("a")) is True
    assert await sessions.add_to(1, "wallets", "0xaa", people.Wallet("b")) is False
    assert (await sessions.get(1)).wallets == {"0xaa": people.Wallet("b")}
    assert await sessions.users_for("wallet", "0xaa") == {1}
    assert await sessions.remove_from(1, "wallets", "0xaa") is True
    assert await sessions.remove_from(1, "wallets", "0xaa") is False
    assert (await sessions.get(1)).wallets == {}
    assert await sessions.users_for("wallet", "0xaa") == frozenset()


@pytest.mark.advanced
@pytest.mark.requirement("S4")
async def test_concurrent_adds_keep_all_and_the_limit_holds(people):
    """Adds from two processes never cost one another, and none goes above the limit."""
    one, two = people(), people()
    await one.update(1, lambda _: None, create=True)

    async def add(number):
        sessions = (one, two)[number % 2]
        try:
            return await sessions.add_to(1, "wallets", f"0x{number}", people.Wallet())
        except SessionFull:
            return False

    added = await asyncio.gather(*(add(number) for number in range(40)))
    assert sum(added) == 20
    assert len((await one.get(1)).wallets) == 20
    # The limit is for new ones: what is there may be changed.
    await one.update(1, lambda p: p.limits.update(x=1.0))
    with pytest.raises(SessionFull, match="20"):
        await one.update(1, lambda p: p.wallets.update(more=people.Wallet()))


@pytest.mark.basic
@pytest.mark.requirement("S4")
async def test_deactivated_is_found_by_nobody_and_keeps_everything(people):
    """A user who is switched off is in no lookup, and is back with one call."""
    sessions = people()
    await sessions.update(1, lambda p: setattr(p, "city", "Oslo"), create=True)
    await sessions.add_to(1, "wallets", "0xaa", people.Wallet())
    assert await sessions.deactivate(1)
    assert not (await sessions.get(1)).is_active
    assert await sessions.users_for("wallet", "0xaa") == frozenset()
    assert await sessions.users_for("city", "Oslo") == frozenset()
    assert await sessions.activate(1)
    assert await sessions.users_for("wallet", "0xaa") == {1}
    assert await sessions.users_for("city", "Oslo") == {1}
    assert not await sessions.activate(2)
    assert not await sessions.deactivate(2)


@pytest.mark.basic
@pytest.mark.requirement("S4")
async def test_revoking_ends_authentication_and_keeps_what_was_asked_for(people):
    """Revoke leaves wallets and preferences, and no conversation or token."""
    sessions = people()

    def fill(person):
        person.city, person.dialog, person.token = "Oslo", ["?"], "secret"

    await sessions.update(1, fill, create=True)
    assert await sessions.revoke(1)
    person = await sessions.get(1)
    assert (person.city, person.dialog, person.token) == ("Oslo", [], "")
    assert not (await people.raw(sessions, 1))[1]
    assert not await sessions.revoke(2)


@pytest.mark.basic
async def test_a_field_that_changes_moves_in_its_index(people):
    """A user is under the new value and no longer under the old one."""
    sessions = people()
    await sessions.update(1, lambda p: setattr(p, "city", "Oslo"), create=True)
    await sessions.update(1, lambda p: setattr(p, "city", "Rome"))
    assert await sessions.users_for("city", "Oslo") == frozenset()
    assert await sessions.users_for("city", "Rome") == {1}
    await sessions.update(1, lambda p: setattr(p, "city", ""))
    assert await sessions.users_for("city", "Rome") == frozenset()


@pytest.mark.errors
@pytest.mark.requirement("S1")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: setattr(p, "city", 5),
        lambda p: setattr(p, "limits", {"price": "much"}),
        lambda p: setattr(p, "wallets", {"0xaa": "no wallet"}),
        lambda p: setattr(p, "dialog", [object()]),
        lambda p: setattr(p, "token", "x" * 2_000_000),
        lambda p: setattr(p, "city", "\ud800"),
    ],
    ids=["type", "nested", "member", "unencodable", "large", "unicode"],
)
async def test_what_could_not_be_read_back_is_not_stored(people, spoil):
    """A wrong value is refused with its reason, and the session is as it was."""
    sessions = people()
    before = await sessions.update(1, lambda p: p.dialog.append("a"), create=True)
    with pytest.raises(CodecError):
        await sessions.update(1, spoil)
    assert await sessions.get(1) == before


@pytest.mark.errors
async def test_a_function_that_raises_or_waits_stores_nothing(people):
    """An exception passes through; a coroutine function is refused with the reason."""
    sessions = people()

    async def waits(person):
        person.city = "Oslo"

    with pytest.raises(ZeroDivisionError):
        await sessions.update(1, lambda _: 1 / 0, create=True)
    with pytest.raises(TypeError, match="plain function"):
        await sessions.update(1, waits, create=True)
    assert await sessions.get(1) is None


@pytest.mark.errors
async def test_absent_is_told_from_unreadable(people, server):
    """No session is None or `SessionGone`; a server that is away is neither."""
    sessions = people()
    assert await sessions.get(1) is None
    with pytest.raises(SessionGone):
        await sessions.update(1, lambda _: None)
    with pytest.raises(SessionGone):
        await sessions.add_to(1, "wallets", "0xaa", people.Wallet())
    with pytest.raises(SessionGone):
        await sessions.remove_from(1, "wallets", "0xaa")
    assert not await sessions.touch(1)
    assert not await sessions.delete(1)
    assert not await sessions.migrate(1, 2)
    async with Client.from_url(
        f"redis://127.0.0.1:1/{server.port % 16}", connect_timeout=0.2,
        command_timeout=0.5,
    ) as nowhere:  # fmt: skip
        away = people(client=nowhere)
        for call in (away.get(1), away.update(1, lambda _: None, create=True)):
            with pytest.raises(OddswireError) as caught:
                await call
            assert not isinstance(caught.value, SessionError)


@pytest.mark.errors
async def test_names_that_were_not_declared_are_refused(people):
    """A misspelt index or collection is an error that lists the declared ones."""
    sessions = people()
    with pytest.raises(SessionError, match="city, wallet"):
        await sessions.users_for("wallets", "0xaa")
    with pytest.raises(SessionError, match="wallets"):
        await sessions.add_to(1, "wallet", "0xaa")


@pytest.mark.errors
def test_a_type_that_cannot_be_a_session_is_refused():
    """Each wrong declaration is refused when it is made, with the field's name."""

    class NoDefault(Record):
        city: str

    class NumberIndex(Record):
        age: Annotated[int, Indexed()] = 0

    class DefaultIndex(Record):
        city: Annotated[str, Indexed()] = "Oslo"

    class GoneIndex(Record):
        city: Annotated[str, Indexed(), Expiring()] = ""

    class GoneCollection(Record):
        wallets: Annotated[dict[str, int], Collection(5), Expiring()] = {}

    class ListCollection(Record):
        wallets: Annotated[list[str], Collection(5)] = []

    class Twice(Record):
        city: Annotated[str, Indexed()] = ""
        cities: Annotated[dict[str, None], Collection(5, index="city")] = {}

    wrong = (NoDefault, NumberIndex, DefaultIndex, GoneIndex, GoneCollection)
    for kind in (*wrong, ListCollection, Twice):
        with pytest.raises(TypeError, match=r"city|age|wallets"):
            Sessions(None, kind)
    with pytest.raises(TypeError, match="Record"):
        Sessions(None, msgspec.Struct)


# --- schemas


class First(Record):
    """What was stored last year."""

    town: Annotated[str, Indexed()] = ""
    wallets: Annotated[dict[str, None], Collection(5, index="wallet")] = {}


class Place(msgspec.Struct):
    """What a town became."""

    name: str
    country: str = ""


class Third(Record):
    """The same, two schemas later."""

    schema: ClassVar = 3
    migrations: ClassVar = {
        1: lambda fields: {"place": {"name": fields.pop("town", "")}, **fields},
        2: lambda fields: {
            **fields,
            "wallets": {key: {"alias": "old"} for key in fields.get("wallets", {})},
        },
    }
    place: Place = msgspec.field(default_factory=lambda: Place(""))
    wallets: Annotated[dict[str, dict[str, str]], Collection(5, index="wallet")] = {}


@pytest.mark.advanced
@pytest.mark.requirement("S1")
async def test_old_snapshots_are_read_and_rewritten(people, keyring):
    """A session of an older schema is read as the new type, and stored as that."""
    old = people(First, keyring=keyring)
    new = people(Third, keyring=keyring)

    def fill(session):
        session.town, session.wallets = "Oslo", {"0xaa": None}

    for user in (1, 2, 3):
        await old.update(user, fill, create=True)
    assert (await new.get(1)).place == Place("Oslo")
    assert (await new.get(1)).wallets == {"0xaa": {"alias": "old"}}
    await new.update(1, lambda s: setattr(s.place, "country", "NO"))
    assert (await new.get(1)).place == Place("Oslo", "NO")
    # A member alone cannot have another schema than the rest.
    await new.add_to(2, "wallets", "0xbb", {"alias": "new"})
    assert (await new.get(2)).wallets.keys() == {"0xaa", "0xbb"}
    assert await new.reencrypt() == 1
    assert await new.reencrypt() == 0
    assert await new.users_for("wallet", "0xaa") == {1, 2, 3}


@pytest.mark.errors
@pytest.mark.requirement("S1")
async def test_a_newer_schema_is_refused_and_left_alone(people):
    """An older program neither reads nor overwrites what a newer one wrote."""
    new, old = people(Third), people(First)
    stored = await new.update(1, lambda s: setattr(s.place, "name", "x"), create=True)
    for call in (
        old.get(1),
        old.update(1, lambda s: setattr(s, "town", "y")),
        old.update(1, lambda s: setattr(s, "town", "y"), create=True),
    ):
        with pytest.raises(SessionDamaged, match="finish the deployment") as caught:
            await call
        assert caught.value.reason == "newer"
    assert await new.get(1) == stored

    class Fourth(Third):
        schema: ClassVar = 5

    with pytest.raises(SessionDamaged, match="migration from schema 3") as caught:
        await people(Fourth).get(1)
    assert caught.value.reason == "schema"


class Wider(Record):
    """What `Narrow` becomes: a field and a collection more, the same schema."""

    city: str = ""
    street: str = ""
    wallets: Annotated[dict[str, None], Collection(5, index="wallet")] = {}


class Narrow(Record):
    """The program before the deployment."""

    city: str = ""


@pytest.mark.advanced
@pytest.mark.requirement("S1")
async def test_an_older_program_keeps_the_fields_that_it_does_not_know(people):
    """While two versions run, neither loses what only the other knows."""
    newer, older = people(Wider), people(Narrow)

    def fill(session):
        session.city, session.street, session.wallets = "Oslo", "Storgata", {"a": None}

    await newer.update(1, fill, create=True)
    await older.update(1, lambda s: setattr(s, "city", "Rome"))
    session = await newer.get(1)
    assert (session.city, session.street, session.wallets) == (
        "Rome",
        "Storgata",
        {"a": None},
    )
    assert await newer.users_for("wallet", "a") == {1}


@pytest.mark.advanced
@pytest.mark.requirement("S1")
async def test_any_content_comes_back(people, keyring):
    """Whatever text and numbers a session holds, that comes back."""
    sessions = people(keyring=keyring)
    texts = st.text(max_size=40).filter(lambda t: t.isprintable() or t == "")

    @settings(
        max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        city=texts,
        limits=st.dictionaries(texts, st.floats(allow_nan=False), max_size=4),
        wallets=st.dictionaries(texts, texts, max_size=4),
        dialog=st.lists(texts, max_size=4),
        user=st.integers(-(2**62), 2**62),
    )
    def holds(city, limits, wallets, dialog, user):
        def fill(person):
            person.city, person.limits, person.dialog = city, limits, dialog
            person.wallets = {k: people.Wallet(v) for k, v in wallets.items()}

        found.append((user, fill, city, limits, wallets, dialog))

    found = []
    holds()
    for user, fill, city, limits, wallets, dialog in found:
        await sessions.update(user, fill, create=True)
        person = await sessions.get(user)
        assert (person.city, person.limits, person.dialog) == (city, limits, dialog)
        assert {k: v.alias for k, v in person.wallets.items()} == wallets
        for key in wallets:
            assert user in await sessions.users_for("wallet", key)


@pytest.mark.basic
async def test_a_group_that_becomes_a_supergroup_keeps_its_session(people, keyring):
    """Migrating moves everything to the new id at once; nothing is left at the old."""
    sessions = people(keyring=keyring)

    def fill(person):
        person.city, person.dialog, person.token = "Oslo", ["?"], "secret"
        person.wallets = {"0xaa": people.Wallet("whale")}

    before = await sessions.update(-5, fill, create=True)
    await sessions.deactivate(-5)
    assert await sessions.migrate(-5, -1005)
    after = await sessions.get(-1005)
    assert await sessions.get(-5) is None
    assert after.version > before.version
    same = ("city", "dialog", "token", "wallets", "created_at")
    assert all(getattr(after, name) == getattr(before, name) for name in same)
    assert not after.is_active
    await sessions.activate(-1005)
    assert await sessions.users_for("wallet", "0xaa") == {-1005}
    assert await sessions.users_for("city", "Oslo") == {-1005}
    assert (await sessions.stats()).total == 1
    await sessions.update(-5, lambda _: None, create=True)
    with pytest.raises(SessionError, match="already"):
        await sessions.migrate(-1005, -5)
