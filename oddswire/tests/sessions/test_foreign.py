"""What somebody else wrote under our keys is skipped and counted; it ends nothing."""

from __future__ import annotations

import pytest

from oddswire.codec import BlindNames, Keyring, PlainNames
from oddswire.errors import CommandRejected, SessionDamaged
from support import eventually
from support.hooks import mirror_complete, session_keys

JUNK = [
    b"junk",
    b"",
    b" 1",
    b"007",
    b"1_0",
    b"+1",
    b"-0",
    "٣".encode(),
    b"\xff\xfe\x00",
    b"9" * 5000,
    b"A" * 22,
    b"\x1b]0;x\x07",
]


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def options(request, keyring):
    """Return how sessions are made: sealed, or not."""
    return {"keyring": keyring} if request.param else {}


async def spoil(sessions, client):
    """Write what nobody here writes into every key that all sessions share."""
    keys = session_keys(sessions)
    for junk in JUNK:
        await client.sadd(keys.index("wallet", "0xaa"), junk)
        await client.sadd(keys.index("city", "Oslo"), junk)
        await client.sadd(keys.off, junk)
        await client.zadd(keys.activity, {junk: 1})
        await client.zadd(keys.expiry, {junk: 1})
        await client.hset(keys.stats, mapping={b"x" + junk: junk})
        await client.xadd(keys.log, {junk or b"x": junk})
    for field in ("created", "creations", "v", "with:wallets"):
        await client.hset(keys.stats, field, "junk")
    for entry in (
        {"p": "", "x": "y", "u": "junk", "v": "1", "o": "1", "j": "", "l": ""},
        {"p": "", "x": "y", "u": "1", "v": "x" * 5000, "o": "1", "j": "", "l": ""},
        {"p": "", "x": "y", "u": "1", "v": "1", "o": "1", "j": "[1]", "l": "\xff"},
    ):
        await client.xadd(keys.log, entry)


@pytest.mark.errors
@pytest.mark.requirement("X4", "S4")
async def test_junk_in_every_shared_key_harms_nobody(people, options):
    """Lookups, memory, sweeps, statistics and rotation go on; the junk is counted."""
    client = people.client
    async with people(**options) as sessions:
        await sessions.update(1, lambda p: setattr(p, "city", "Oslo"), create=True)
        await sessions.add_to(1, "wallets", "0xaa", people.Wallet("w"))
        await sessions.update(2, lambda p: p.dialog.append("hi"), create=True)
        await spoil(sessions, client)
        # A session of no form, in the register of all.
        keys = session_keys(sessions)
        await client.zadd(keys.activity, {keys.names.of_user(77): 1})
        await client.set(keys.pair(77)[0], "a string")
        await sessions.update(3, lambda p: setattr(p, "city", "Oslo"), create=True)
        for fresh in (True, False):
            assert await sessions.users_for("wallet", "0xaa", fresh=fresh) == {1}
            assert await sessions.users_for("city", "Oslo", fresh=fresh) == {1, 3}
        await eventually(lambda: mirror_complete(sessions))
        await sessions.add_to(3, "wallets", "0xaa", people.Wallet("w"))
        await spoil(sessions, client)
        await sessions.deactivate(1)

        async def in_memory():
            return await sessions.users_for("wallet", "0xaa") == {3}

        await eventually(in_memory)
        await people.passed(sessions, hours=25)
        await sessions.sweep()
        assert await client.zcard(keys.expiry) == 0
        found = await sessions.stats()
        assert found.having["wallets"] >= 0
        assert found.foreign > len(JUNK)
        assert await sessions.delete(1)
        assert await sessions.get(3, fresh=True)


@pytest.mark.errors
@pytest.mark.requirement("X4")
async def test_a_damaged_list_of_entries_does_not_keep_memory_from_being_built(
    people, options
):
    """One session's index entries that are none leave everybody else in the mirror."""
    client = people.client
    async with people(**options) as sessions:
        for user in (1, 2):
            await sessions.update(
                user, lambda p: setattr(p, "city", "Oslo"), create=True
            )
        for junk in (b"junk", b"\xff", b'[["' + b"x" * 900 + b'","y"]]', b"{"):
            main = session_keys(sessions).pair(1)[0]
            kept = await client.hget(main, "i")
            await client.hset(main, "i", junk)
            async with people(**options) as other:
                await eventually(lambda: _built(other))
                assert await other.users_for("city", "Oslo") >= {2}
            if kept:
                await client.hset(main, "i", kept)
        await client.hset(main, "i", b'[["' + b"x" * 900 + b'","y"]]')
        assert await sessions.delete(1), "also one that does not open"


async def _built(sessions):
    await sessions.users_for("city", "Oslo")
    return mirror_complete(sessions)


@pytest.mark.errors
@pytest.mark.requirement("X4", "S7")
@pytest.mark.parametrize("names", [PlainNames(), BlindNames(Keyring({1: bytes(32)}))])
def test_what_is_no_name_is_never_a_user(names):
    """Junk is refused, and no name after it is out of step; a user has one name."""
    users = (-(2**63), -1, 0, 7, 2**63 - 1)
    known = {user: names.of_user(user) for user in users}
    fresh = type(names)(Keyring({1: bytes(32)})) if known[7] != "7" else PlainNames()
    junk = [each.decode("utf-8", "replace") for each in JUNK]
    junk += ["Av" * 11, known[7] + "A", known[7][:-1], known[7] + "\n", "-" * 22]
    if known[7] != "7":
        # The last character has four bits that are in no block.
        others = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        junk += [known[7][:-1] + each for each in others - {known[7][-1]}]
    for each in junk:
        with pytest.raises(ValueError, match="name of a user"):
            fresh.user(each)
        assert {user: fresh.user(name) for user, name in known.items()} == {
            user: user for user in users
        }


@pytest.mark.errors
@pytest.mark.requirement("X4")
async def test_a_header_of_any_bytes_is_damage(people, options):
    """Whatever is in a header, a session is read, or it is `SessionDamaged`."""
    sessions, client = people(**options), people.client
    await sessions.update(1, lambda p: setattr(p, "city", "Oslo"), create=True)
    main = session_keys(sessions).pair(1)[0]
    for junk in (*JUNK, b"1 2 3", b"9" * 30 + b" 1 1 1 0 1 1 g", b"1 1 1 1 0 1 1 \xff"):
        await client.hset(main, "h", junk)
        with pytest.raises(SessionDamaged):
            await sessions.get(1)
    assert await sessions.delete(1)


@pytest.mark.errors
@pytest.mark.requirement("X4", "S4")
@pytest.mark.parametrize("which", [0, 1], ids=["durable", "expiring"])
@pytest.mark.parametrize("end", ["delete", "erase"])
async def test_a_key_of_another_type_is_deleted(people, options, which, end):
    """Where another program wrote a list, deleting works, and then creating."""
    sessions, client = people(**options), people.client
    await sessions.update(1, lambda p: setattr(p, "city", "Oslo"), create=True)
    key = session_keys(sessions).pair(1)[which]
    await client.delete(key)
    await client.rpush(key, "of somebody else")
    with pytest.raises(CommandRejected):
        await sessions.get(1)
    assert await getattr(sessions, end)(1)
    assert await sessions.get(1) is None
    assert not await client.exists(key)
    person = await sessions.update(1, lambda p: setattr(p, "city", "Rome"), create=True)
    assert person.city == "Rome"
