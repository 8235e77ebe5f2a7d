"""What the tests of sessions share: a type with every kind of field."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from oddswire.codec import Keyring
from oddswire.sessions import Collection, Expiring, Indexed, Record, Secret, Sessions
from support.hooks import advance_server_clock, session_keys


class Wallet(msgspec.Struct):
    """A member of a collection."""

    alias: str = ""
    muted: bool = False


class Person(Record):
    """A session with every kind of field."""

    city: Annotated[str, Indexed()] = ""
    limits: dict[str, float] = {}
    wallets: Annotated[dict[str, Wallet], Collection(20, index="wallet")] = {}
    dialog: Annotated[list[str], Expiring()] = []
    token: Annotated[str, Secret()] = ""


class People:
    """Makes sessions of `Person`, or of another type, under the test's prefix."""

    Person = Person
    Wallet = Wallet

    def __init__(self, client, prefix):
        self.client = client
        self.prefix = prefix

    def __call__(self, kind=Person, client=None, **options):
        """Return sessions of one process."""
        return Sessions(client or self.client, kind, prefix=self.prefix, **options)

    async def passed(self, sessions, hours):
        """Have the server's clock stand so many hours on, for these sessions."""
        advance_server_clock(sessions, hours * 3600)

    async def raw(self, sessions, user_id):
        """Return the two hashes of a user, as they are stored."""
        main, short = session_keys(sessions).pair(user_id)
        return await self.client.hgetall(main), await self.client.hgetall(short)


@pytest.fixture
def people(client, prefix):
    """Return the maker of sessions."""
    return People(client, prefix)


@pytest.fixture
def keyring():
    """Return a keyring with one key."""
    return Keyring.from_text(Keyring.new_line(1))


@pytest.fixture
def people_maker(prefix):
    """Return the maker of sessions without a client of its own."""
    return People(None, prefix)
