"""Types and arguments that do not fit: each is named before anything is stored."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Optional

import pytest

from oddswire.errors import SessionDamaged, SettingsError
from oddswire.sessions import (
    Collection,
    Expiring,
    Indexed,
    Record,
    Secret,
    Session,
    Sessions,
)

pytestmark = pytest.mark.errors

NO_DURATION = [0, -1, float("nan"), float("inf"), 10**400, True, "5", b"x"]


class Classes(Record):
    """A mark that was not made."""

    token: Annotated[str, Secret] = ""


class Halves(Record):
    """A mark of the half of a union."""

    token: Annotated[str, Secret()] | None = None


class Optionals(Record):
    """The same, in the older words."""

    dialog: Optional[Annotated[str, Expiring()]] = None  # noqa: UP045 - the older words


class Values(Record):
    """A mark of the values of a dict."""

    cities: dict[str, Annotated[str, Indexed()]] = {}


class Members(Record):
    """A collection in a list."""

    lists: list[Annotated[dict[str, int], Collection(3)]] = []


@pytest.mark.parametrize("kind", [Classes, Halves, Optionals, Values, Members])
def test_a_mark_that_would_not_be_seen_is_refused(client, kind):
    """A secret that is none for want of brackets would never expire; it is named."""
    with pytest.raises(TypeError, match="would not be seen there: write Annotated"):
        Sessions(client, kind)


def test_a_field_of_the_servers_own_name_is_refused(client):
    """What the server writes into `version` would be lost for the program's."""

    class Own(Record):
        version: int = 5

    class Another(Own):
        city: str = ""

    for kind in (Own, Another):
        with pytest.raises(TypeError, match=r"Own\.version is the server's"):
            Sessions(client, kind)


def test_defaults_that_cannot_be_stored_are_refused(client):
    """Not at the first user, but where the type is given."""

    class Complex(Record):
        number: complex = 0j

    class Wrong(Record):
        number: int = "five"

    for kind in (Complex, Wrong):
        with pytest.raises(TypeError, match="its defaults cannot be stored"):
            Sessions(client, kind)


def test_a_collection_of_no_size_is_refused():
    """The limit is at least 1, and an index has a name."""
    for limit in (0, -1, float("nan"), "3", True, None, 2.0):
        with pytest.raises(SettingsError, match="limit of a Collection"):
            Collection(limit)
    for index in ("", 5, b"x", "\n"):
        with pytest.raises(SettingsError, match="index of a Collection"):
            Collection(3, index=index)


def test_wrong_arguments_are_named(client):
    """A number out of range and a part that is none are `SettingsError`s."""
    for name, wrong in {
        "ttl": [*NO_DURATION, None, Decimal(5), timedelta(1)],
        "absolute": [*NO_DURATION, Decimal(5), timedelta(1)],
        "cleanup": [*NO_DURATION, None, timedelta(1)],
        "touch_interval": [-1, float("nan"), True, "5", timedelta(1)],
        "cap": [0, -1, float("nan"), None, "5", True, 1.0],
        "local_size": [-1, float("nan"), None, "5", True],
        "max_size": [0, -1, None, "5", True],
        "compress_above": [-1, None, "5", True],
        "source": [5, "postgres://"],
        "keyring": ["a" * 64, b"x"],
        "sealer": [5, "x"],
        "names": [5, "x"],
        "compressor": [5, "zlib"],
    }.items():
        for value in wrong:
            with pytest.raises(SettingsError, match=name) as caught:
                Sessions(client, Session, **{name: value})
            assert "a" * 64 not in str(caught.value)


async def test_a_generator_changes_nothing_and_is_told(people):
    """The body of a generator function would never run."""
    sessions = people()

    def change(user):
        user.city = "Oslo"
        yield

    async def later(user):
        yield user

    for wrong in (change, later):
        with pytest.raises(TypeError, match="fn is a plain function"):
            await sessions.update(1, wrong, create=True)
    assert await sessions.get(1) is None


def test_a_schema_and_migrations_of_another_type_are_refused(client):
    """Not at the first user who is stored with an older one."""

    class Text(Record):
        schema = "2"

    class Zero(Record):
        schema = 0

    for kind in (Text, Zero):
        with pytest.raises(TypeError, match="schema"):
            Sessions(client, kind)

    class Listed(Record):
        schema = 2
        migrations = []

    class Numbered(Record):
        schema = 2
        migrations = {1: 5}

    for kind in (Listed, Numbered):
        with pytest.raises(TypeError, match="migrations is a dict of functions"):
            Sessions(client, kind)


async def test_a_migration_that_raises_is_a_damaged_session(people):
    """It is left as it is and named, and the others are migrated."""

    class Before(Record):
        limit: int = 0

    def strict(fields):
        if fields["limit"] == 3:
            raise KeyError("odd")
        return {"limit": fields["limit"] + 1}

    class After(Record):
        schema = 2
        migrations = {1: strict}
        limit: int = 1

    before = people(Before)
    for user, limit in ((1, 3), (2, 5)):
        await before.update(
            user, lambda it, n=limit: setattr(it, "limit", n), create=True
        )
    after = people(After)
    for call in (after.get(1), after.update(1, print), after.reencrypt()):
        with pytest.raises(SessionDamaged, match="from schema 1 raised") as caught:
            await call
        assert caught.value.reason == "schema"
    assert (await after.get(2)).limit == 6
    assert (await before.get(1)).limit == 3
