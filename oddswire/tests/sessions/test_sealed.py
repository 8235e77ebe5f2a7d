from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from oddswire.clock import SystemClock
from oddswire.codec import AesGcm, Keyring, PlainNames
from oddswire.codec.compression import Zstd
from oddswire.errors import CodecError, SessionDamaged, SessionError, SettingsError
from oddswire.sessions._scripts import SessionHeader
from support.hooks import sealed_section, session_keys


def fill(person):
    """Put something to look for into every section."""
    person.city, person.token = "Trondheim", "hunter2-hunter2"
    person.limits = {"threshold": 0.0517}
    person.dialog = ["howmuch"] * 100


async def everything(client, prefix):
    """Return the bytes of every key under a prefix, and the keys."""
    found = []
    async for key in client.scan_iter(match=prefix + "*", count=1000):
        found += [key, await client.dump(key)]
        match await client.type(key):
            case b"hash":
                pairs = await client.hgetall(key)
                found += [each for pair in pairs.items() for each in pair]
            case b"zset":
                found += await client.zrange(key, 0, -1)
            case b"set":
                found += await client.smembers(key)
            case b"stream":
                found += [
                    each
                    for _, fields in await client.xrange(key)
                    for pair in fields.items()
                    for each in pair
                ]
    return b"\n".join(found)


SECRETS = (
    b"Trondheim",
    b"hunter2",
    b"threshold",
    b"howmuch",
    b"0xdeadbeef",
    b"7000123",
)
SECRETS = (*SECRETS, b"limits", b"whale")


@pytest.mark.integration
@pytest.mark.requirement("S7", "X2")
async def test_nothing_is_readable_in_redis(people, keyring):
    """Sealed, no value, user or indexed value is in any key, field or member."""
    sessions = people(keyring=keyring)
    await sessions.update(7_000_123, fill, create=True)
    await sessions.add_to(7_000_123, "wallets", "0xdeadbeef", people.Wallet("whale"))
    raw = await everything(people.client, people.prefix)
    assert [secret for secret in SECRETS if secret in raw] == []
    assert await sessions.users_for("wallet", "0xdeadbeef") == {7_000_123}
    assert (await sessions.get(7_000_123)).city == "Trondheim"


@pytest.mark.basic
@pytest.mark.requirement("S7")
async def test_not_sealed_it_is_readable(people):
    """The same look finds everything where nothing was sealed: it is a real look."""
    sessions = people(compress_above=10_000)
    await sessions.update(7_000_123, fill, create=True)
    await sessions.add_to(7_000_123, "wallets", "0xdeadbeef", people.Wallet("whale"))
    raw = await everything(people.client, people.prefix)
    assert [secret for secret in SECRETS if secret not in raw] == []


async def whole(sessions, user_id):
    """Read it, with every error that is not `SessionDamaged` passed on."""
    try:
        return await sessions.get(user_id)
    except SessionDamaged:
        return "damaged"


@pytest.mark.errors
@pytest.mark.requirement("S7", "X2", "C7")
async def test_a_blob_in_another_place_does_not_open(people, keyring):
    """Swapped between users, fields, members, prefixes or lives, it is damaged."""
    sessions = people(keyring=keyring)
    client = people.client
    for user in (1, 2):
        await sessions.update(user, fill, create=True)
        await sessions.add_to(user, "wallets", "0xaa", people.Wallet("a"))
        await sessions.add_to(user, "wallets", "0xbb", people.Wallet("b"))
    (mine, short), (theirs, _) = map(session_keys(sessions).pair, (1, 2))
    main = await client.hgetall(mine)
    members = [name for name in main if b":" in name]
    swaps = [
        (mine, b"D", await client.hget(theirs, b"D")),
        (mine, members[0], main[members[1]]),
        (mine, members[0], await client.hget(theirs, members[0])),
        (mine, b"D", await client.hget(short, b"T")),
        (short, b"A", await client.hget(short, b"T")),
        (short, b"A", main[b"D"]),
    ]
    for key, field, blob in swaps:
        kept = await client.hget(key, field)
        await client.hset(key, field, blob)
        assert await whole(sessions, 1) == "damaged", field
        with pytest.raises(SessionDamaged):
            await sessions.update(1, lambda p: setattr(p, "city", "Rome"), create=True)
        assert await client.hget(key, field) == blob, "it was left as it is"
        await client.hset(key, field, kept)
        assert (await sessions.get(1)).city == "Trondheim"
    # What was recorded in a life before this one.
    await sessions.delete(1)
    await sessions.update(1, fill, create=True)
    await client.hset(mine, b"D", main[b"D"])
    assert await whole(sessions, 1) == "damaged"


@pytest.mark.errors
@pytest.mark.requirement("S7")
async def test_a_flipped_bit_anywhere_is_found(people, keyring):
    """Each byte of each field, changed, is `SessionDamaged`: never None, never part."""
    sessions = people(keyring=keyring)
    client = people.client
    await sessions.update(1, fill, create=True)
    await sessions.add_to(1, "wallets", "0xaa", people.Wallet("a"))
    for key, fields in zip(
        session_keys(sessions).pair(1), await people.raw(sessions, 1), strict=True
    ):
        for field, blob in fields.items():
            for place in range(0, len(blob), 1 + len(blob) // 40):
                flipped = bytearray(blob)
                flipped[place] ^= 1 << place % 8
                await client.hset(key, field, bytes(flipped))
                assert await whole(sessions, 1) == "damaged", (field, place)
            for cut in (blob[:-1], blob[:10], b"", blob + b"\0"):
                await client.hset(key, field, cut)
                assert await whole(sessions, 1) == "damaged", (field, cut)
            await client.hset(key, field, blob)
    assert (await sessions.get(1)).wallets
    await client.hset(session_keys(sessions).pair(1)[0], "h", "1 2 3")
    for call in (
        sessions.get(1),
        sessions.update(1, lambda _: None),
        sessions.update(1, lambda _: None, create=True),
        sessions.add_to(1, "wallets", "0xbb", people.Wallet()),
    ):
        with pytest.raises(SessionDamaged):
            await call
    assert await sessions.delete(1)
    assert await sessions.users_for("wallet", "0xaa") == frozenset()
    assert await sessions.users_for("city", "Trondheim") == frozenset()


@pytest.mark.errors
@pytest.mark.requirement("S7", "X2")
async def test_a_session_opens_whole_or_not_at_all(people, keyring):
    """A part removed, added, renamed or put back as it was is noticed."""
    sessions, client = people(keyring=keyring), people.client
    await sessions.update(1, fill, create=True)
    for wallet in ("0xaa", "0xbb"):
        await sessions.add_to(1, "wallets", wallet, people.Wallet("a"))
    keys, was = session_keys(sessions).pair(1), await people.raw(sessions, 1)
    await sessions.update(1, lambda p: setattr(p, "token", "another"))
    await sessions.update(1, lambda p: p.limits.update(threshold=1.0))
    stored = await people.raw(sessions, 1)
    for key, fields, older in zip(keys, stored, was, strict=True):
        for field in fields:
            await client.hdel(key, field)
            assert await whole(sessions, 1) == "damaged", field
            if older[field] != fields[field]:
                await client.hset(key, field, older[field])
                assert await whole(sessions, 1) == "damaged", field
            await client.hset(key, field, fields[field])
        await client.hset(key, "Z", fields.get(b"D", fields.get(b"T")))
        assert await whole(sessions, 1) == "damaged", "one more"
        await client.hdel(key, "Z")
    await client.unlink(keys[1])
    for attempt in (
        sessions.get(1),
        sessions.update(1, lambda _: None),
        sessions.touch(1),
        sessions.add_to(1, "wallets", "0xcc", people.Wallet()),
        sessions.deactivate(1),
    ):
        with pytest.raises(SessionDamaged):
            await attempt
    for field in stored[0].keys() - {b"h"}:
        await client.hdel(keys[0], field)
    await people.passed(sessions, hours=25)
    assert await whole(sessions, 1) == "damaged", "it does not look ended"
    await people.passed(sessions, hours=-25)
    ttl = SessionHeader.parse(stored[0][b"h"]).expiry
    await client.hset(keys[0], mapping=stored[0])
    await client.hset(keys[1], mapping=stored[1])
    await client.pexpireat(keys[1], ttl)
    assert (await sessions.get(1)).token == "another"


@pytest.mark.errors
@pytest.mark.requirement("S7", "X2")
@pytest.mark.parametrize("place", range(8))
async def test_no_word_of_the_header_can_be_changed(people, keyring, place):
    """Version, times, deadline, schema, activity and generation are authenticated."""
    sessions, client = people(keyring=keyring), people.client
    await sessions.update(1, fill, create=True)
    main, _ = session_keys(sessions).pair(1)
    header = await client.hget(main, "h")
    words = header.split(b" ", 8)
    numbers = (b"0", b"1", b"7", b"9" * 16, words[place] + b"0", b"9" * 5000)
    for other in (*numbers, b"", b"-1", b"\xd9\xa3", b"1\n"):
        if other != words[place]:
            changed = [*words[:place], other, *words[place + 1 :]]
            await client.hset(main, "h", b" ".join(changed))
            assert await whole(sessions, 1) == "damaged", other
    await client.hset(main, "h", b" ".join(words[:8]))
    assert await whole(sessions, 1) == "damaged", "without its seal"
    await client.hset(main, "h", header)
    assert (await sessions.get(1)).city == "Trondheim"


@pytest.mark.advanced
@pytest.mark.requirement("S7", "S3")
async def test_what_lapsed_with_its_conversation_is_no_damage(people, keyring):
    """After the time to live the rest opens; every way of going on then works."""
    sessions = people(keyring=keyring)
    for user in (1, 2, 3, 4):
        await sessions.update(user, fill, create=True)
    await people.passed(sessions, hours=25)
    assert [(await sessions.get(user)).dialog for user in (1, 2, 3, 4)] == [[]] * 4
    assert await sessions.touch(1)
    assert await sessions.deactivate(2)
    await sessions.update(3, lambda p: setattr(p, "token", "new"))
    await sessions.update(4, lambda p: p.limits.update(x=1.0), active=False)
    await sessions.update(5, lambda p: p.dialog.append("hello"), create=True)
    await people.passed(sessions, hours=25)
    assert await sessions.get(5) is None, "it asked for nothing, and has ended"
    await sessions.update(3, lambda p: setattr(p, "token", "new"))
    found = [await sessions.get(user) for user in (1, 2, 3, 4)]
    assert [each.token for each in found] == ["", "", "new", ""]
    assert [each.city for each in found] == ["Trondheim"] * 4
    assert [each.is_active for each in found] == [True, False, True, True]
    assert await sessions.migrate(3, 33)
    assert (await sessions.get(33)).token == "new"


class Wrong(SystemClock):
    """A machine's clock that is some seconds ahead of the server's."""

    def __init__(self, ahead):
        self.now = lambda: SystemClock.now() + ahead


@pytest.mark.advanced
@pytest.mark.requirement("S7")
async def test_sealed_processes_with_wrong_clocks_agree(people, keyring):
    """The server's clock decides, though each process seals by its own."""
    one = people(keyring=keyring, clock=Wrong(3600.0))
    two = people(keyring=keyring, clock=Wrong(-3600.0))
    await one.update(1, fill, create=True)
    for turn in range(5):
        for each in (one, two):
            await each.update(1, lambda p, turn=turn: p.limits.update(x=float(turn)))
            await each.touch(1)
            await each.add_to(1, "wallets", f"0x{turn}", people.Wallet())
    now, _ = await people.client.time()
    session = await one.get(1)
    assert abs(session.last_activity - now) < 30
    assert abs(session.created_at - now) < 30
    assert len(session.wallets) == 5


@pytest.mark.advanced
@pytest.mark.requirement("S7")
async def test_sealed_changes_of_many_processes_are_all_kept(people, keyring):
    """Members, touches, switches and updates at once: none is lost, none damages."""
    parts = [people(keyring=keyring, touch_interval=0) for _ in range(4)]
    await parts[0].update(1, fill, create=True)

    async def work(at, part):
        for turn in range(4):
            name = f"{at}{turn}"
            await part.add_to(1, "wallets", f"0x{name}", people.Wallet())
            await part.touch(1)
            await part.update(1, lambda p, n=name: p.limits.update({n: 1.0}))

    await asyncio.gather(*(work(at, part) for at, part in enumerate(parts)))
    session = await parts[0].get(1)
    assert (len(session.wallets), len(session.limits)) == (16, 17)


@pytest.mark.errors
@pytest.mark.requirement("S7")
async def test_an_older_whole_record_is_the_limit(people, keyring):
    """Somebody who can write to Redis can put a whole session back as it was."""
    sessions = people(keyring=keyring)
    await sessions.update(1, fill, create=True)
    main, short = session_keys(sessions).pair(1)
    older = await people.raw(sessions, 1)
    await sessions.update(1, lambda p: p.limits.update(threshold=1.0))
    await people.client.hset(main, mapping=older[0])
    await people.client.hset(short, mapping=older[1])
    assert (await sessions.get(1)).limits == {"threshold": 0.0517}


@pytest.mark.errors
@pytest.mark.requirement("S7")
@pytest.mark.parametrize("sealed", [False, True])
async def test_a_bomb_is_refused(people, keyring, sealed):
    """A field that would open to more than its limit is damaged, not memory."""
    sessions = people(keyring=keyring if sealed else None, max_size=100_000)
    await sessions.update(1, fill, create=True)
    bomb = Zstd().compress(bytes(200_000_000))
    header = (await people.raw(sessions, 1))[0][b"h"]
    generation = SessionHeader.parse(header).generation
    if sealed:
        blob = sealed_section(sessions, 1, generation, "D", b"\1" + bomb)
    else:
        from oddswire.codec import Envelope

        blob = Envelope(body=bomb, compressed=True).to_bytes()
    await people.client.hset(session_keys(sessions).pair(1)[0], "D", blob)
    with pytest.raises(SessionDamaged) as caught:
        await sessions.get(1)
    assert caught.value.reason == "too_large"
    await people.client.hset(session_keys(sessions).pair(1)[0], "D", b"\xf5" * 300_000)
    with pytest.raises(SessionDamaged) as caught:
        await sessions.get(1)
    assert caught.value.reason == "too_large"


@pytest.mark.advanced
@pytest.mark.requirement("S7")
async def test_the_authentication_section_is_never_compressed(people, keyring):
    """A long token takes its length; a long dialogue does not."""
    sessions = people(keyring=keyring)

    def talk(person):
        person.token, person.dialog = "a" * 5000, ["a" * 5000]

    await sessions.update(1, talk, create=True)
    short = (await people.raw(sessions, 1))[1]
    assert len(short[b"A"]) > 5000
    assert len(short[b"T"]) < 500


@pytest.mark.advanced
@pytest.mark.requirement("S7", "C7")
async def test_keys_rotate_without_losing_a_session(people):
    """Old keys open, the new one seals, and a key leaves only when nothing needs it."""
    first = Keyring.new_line(1)
    old = Keyring.from_text(first)
    sessions = people(keyring=old)
    for user in range(5):
        await sessions.update(user, fill, create=True)
        await sessions.add_to(user, "wallets", "0xaa", people.Wallet())
    text = Keyring.new_line(2) + first + old.index_line()
    both = people(keyring=Keyring.from_text(text))
    assert (await both.get(0)).city == "Trondheim"
    assert await both.users_for("wallet", "0xaa") == set(range(5))
    # Any change seals what it finds under the old key anew.
    await both.update(0, lambda p: p.limits.update(x=1.0))
    with pytest.raises(SessionError, match="4 sessions"):
        await both.retire(1)
    with pytest.raises(SettingsError, match="seals"):
        await both.retire(2)
    assert await both.reencrypt() == 4
    await both.retire(1)
    assert {(await both.get(user)).city for user in range(5)} == {"Trondheim"}
    with pytest.raises(SessionDamaged, match="key 2") as caught:
        await sessions.get(1)
    assert caught.value.reason == "key"


@pytest.mark.errors
@pytest.mark.requirement("S7")
async def test_another_key_for_names_is_told_and_creates_nobody(people, keyring):
    """A process without the key does not find everybody absent and start over."""
    await people(keyring=keyring).update(1, fill, create=True)
    other = Keyring.from_text(Keyring.new_line(1))
    for stranger in (people(), people(keyring=other)):
        with pytest.raises(SessionError, match="another key"):
            await stranger.update(1, fill, create=True)
        with pytest.raises(SessionError, match="another key"):
            async with stranger:
                pass
    assert (await people(keyring=keyring).stats()).total == 1


class Kms:
    """A sealer of the user's own: reversed text under a number, and a checksum."""

    overhead = 64
    primary = 9

    def seal(self, data, owner, place):
        """Return it upside down."""
        check = str(hash((data, owner, place))).encode()
        return b"KMS" + len(check).to_bytes(1, "big") + check + data[::-1]

    def open(self, data, owner, place):
        """Return it as it was."""
        if not data.startswith(b"KMS"):
            raise CodecError("not sealed", reason="foreign")
        check, body = data[4 : 4 + data[3]], data[4 + data[3] :][::-1]
        if check != str(hash((body, owner, place))).encode():
            raise CodecError("changed", reason="damaged")
        return body

    def key_number(self, data):
        """Return the one key's number."""
        return 9


@pytest.mark.advanced
@pytest.mark.requirement("S7")
async def test_a_sealer_of_the_users_own_takes_its_place(people):
    """Two methods and two numbers are a Sealer; names stay plain unless given."""
    sessions = people(sealer=Kms())
    await sessions.update(1, fill, create=True)
    await sessions.add_to(1, "wallets", "0xaa", people.Wallet("whale"))
    assert (await sessions.get(1)).wallets == {"0xaa": people.Wallet("whale")}
    main, _ = await people.raw(sessions, 1)
    assert main[b"D"].startswith(b"KMS")
    await people.client.hset(
        session_keys(sessions).pair(1)[0], "D", main[b"D"][:-1] + b"?"
    )
    assert await whole(sessions, 1) == "damaged"
    with pytest.raises(SessionError, match="Keyring"):
        await sessions.retire(9)


@pytest.mark.errors
@pytest.mark.requirement("S7")
async def test_plain_blobs_do_not_pass_for_sealed_ones(people, keyring):
    """With a key, what nobody sealed is damaged, though its form is right."""
    plain = people()
    await plain.update(1, fill, create=True)
    sessions = people(sealer=AesGcm(keyring), names=PlainNames())
    with pytest.raises(SessionDamaged) as caught:
        await sessions.get(1)
    assert caught.value.reason == "foreign"


@pytest.mark.performance
@pytest.mark.requirement("S7")
def test_a_bomb_takes_little_memory():
    """A sealed bomb of 400 MB is refused within 100 MB more than the start took."""
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("bomb.py")],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert (run.stdout, run.returncode) == ("too_large\n", 0), run.stderr
