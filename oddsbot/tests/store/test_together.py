"""Rows of the application, stored in the transaction that stores a user."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from oddsbot.store import SqlSource, UserSession
from oddswire import Client
from oddswire.codec import Keyring
from oddswire.errors import SessionError, SessionGone, SourceDeclined
from oddswire.sessions import SealedSource, Sessions


@pytest.fixture
async def handled(engine):
    """Return what notes an update as handled, and what reads the notes."""

    def note(number):
        async def also(connection):
            await connection.execute(
                text("INSERT INTO oddsbot_handled VALUES ('u', :id, 0)"), {"id": number}
            )

        return also

    async def notes():
        async with engine.connect() as connection:
            rows = await connection.execute(
                text("SELECT update_id FROM oddsbot_handled")
            )
            return sorted(rows.scalars())

    return note, notes


@pytest.fixture
async def sessions(engine, client, prefix):
    """Return the sessions of one process."""
    async with Sessions(
        client, UserSession, prefix=prefix, source=SqlSource(engine)
    ) as sessions:
        yield sessions


def speaks(language):
    """Return a change that appends, so that one made twice shows."""

    def fn(user):
        user.language = (user.language or "") + language

    return fn


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_an_update_that_comes_twice_changes_once(sessions, handled):
    """The change and the update's id are one commit: the second one is declined."""
    note, notes = handled
    before = (await sessions.update(1, speaks("n"), create=True)).language
    after = (await sessions.update(1, speaks("o"), also=note(7))).language
    assert after == before + "o"
    with pytest.raises(SourceDeclined, match="already"):
        await sessions.update(1, speaks("o"), also=note(7))
    assert (await sessions.get(1, fresh=True)).language == after
    assert await notes() == [7]
    # Declined, it holds up nobody: the user is not waited for.
    assert (await sessions.update(1, speaks("!"))).language == f"{after}!"


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_what_declines_leaves_neither_session_nor_row(sessions, handled):
    """A new session whose transaction declines is not there; without one, neither."""
    _, notes = handled

    async def decline(connection):
        await connection.execute(text("INSERT INTO oddsbot_handled VALUES ('u', 1, 0)"))
        raise SourceDeclined("not now")

    with pytest.raises(SourceDeclined, match="not now"):
        await sessions.update(1, speaks("n"), create=True, also=decline)
    assert await sessions.get(1) is None
    with pytest.raises(SessionGone):
        await sessions.update(1, speaks("n"), also=decline)
    with pytest.raises(SourceDeclined):
        await sessions.delete(1, also=decline)
    assert await notes() == []


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_changes_at_once_have_transactions_of_their_own(
    sessions, handled, engine, server, prefix
):
    """Together, and in two processes: one that is declined harms no other."""
    note, notes = handled
    await sessions.update(1, speaks("x"), create=True)
    start = (await sessions.get(1)).language
    async with (
        Client.from_url(server.url) as far,
        Sessions(
            far, UserSession, prefix=prefix, source=SqlSource(engine)
        ) as elsewhere,
    ):
        outcomes = await asyncio.gather(
            *(
                part.update(1, speaks(letter), also=number and note(number))
                for part, letter, number in (
                    (sessions, "a", None), (sessions, "b", 1), (sessions, "c", None),
                    (sessions, "d", 1), (sessions, "e", 2), (elsewhere, "f", 3),
                    (elsewhere, "g", 2), (elsewhere, "h", None),
                )
            ),
            return_exceptions=True,
        )  # fmt: skip
    declined = [isinstance(each, SourceDeclined) for each in outcomes]
    assert declined[3]
    assert declined.count(True) == 2
    made = {
        letter for letter, none in zip("abcdefgh", declined, strict=True) if not none
    }
    language = (await sessions.get(1, fresh=True)).language.removeprefix(start)
    assert sorted(language) == sorted(made)
    assert await notes() == [1, 2, 3]


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_a_change_of_nothing_is_noted_too(sessions, handled):
    """A handler that had nothing to change still leaves its update's id."""
    note, notes = handled
    await sessions.update(1, lambda user: None, create=True)
    await sessions.update(1, lambda user: None, also=note(5))
    assert await notes() == [5]


@pytest.mark.integration
@pytest.mark.requirement("S8")
async def test_a_deletion_is_noted_once_with_or_without_a_record(sessions, handled):
    """Deleted and noted together; where there was no record, noted all the same."""
    note, notes = handled
    await sessions.update(1, speaks("n"), create=True)
    assert await sessions.delete(1, also=note(1))
    assert not await sessions.delete(1, also=note(2))
    with pytest.raises(SourceDeclined):
        await sessions.delete(1, also=note(2))
    assert await notes() == [1, 2]
    assert await sessions.get(1) is None


@pytest.mark.integration
async def test_a_sealed_source_passes_it_on(engine, client, prefix, handled):
    """Seals the record, and gives the source the rest as it is."""
    note, notes = handled
    source = SealedSource(SqlSource(engine), Keyring.from_text(Keyring.new_line(1)))
    async with Sessions(client, UserSession, prefix=prefix, source=source) as sessions:
        await sessions.update(1, speaks("n"), create=True, also=note(1))
        assert await sessions.delete(1, also=note(2))
    assert await notes() == [1, 2]


@pytest.mark.errors
async def test_without_a_source_nothing_can_be_stored_with_a_change(client, prefix):
    """It is refused, and the change is not made without it."""
    async with Sessions(client, UserSession, prefix=prefix) as sessions:
        await sessions.update(1, speaks("n"), create=True)
        before = (await sessions.get(1)).language
        with pytest.raises(SessionError, match="there is none"):
            await sessions.update(1, speaks("o"), also=print)
        with pytest.raises(SessionError, match="there is none"):
            await sessions.delete(1, also=print)
        assert (await sessions.get(1, fresh=True)).language == before
