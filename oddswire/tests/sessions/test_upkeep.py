from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.clock import SystemClock
from oddswire.errors import NoPermission
from oddswire.sessions import Sessions
from support import eventually
from support.hooks import limit, mirror_complete, mirrored, session_keys, traces


@pytest.mark.integration
@pytest.mark.requirement("S6")
async def test_statistics_are_what_a_full_scan_finds(people):
    """Every figure equals what reading all the sessions gives, after random changes."""
    sessions = people(ttl=3600, touch_interval=0)
    chance = random.Random(3)
    later = 0.0
    for step in range(300):
        user = chance.randrange(40)
        await sessions.update(user, lambda p: p.dialog.append("?"), create=True)
        match chance.randrange(6):
            case 0:
                await sessions.add_to(user, "wallets", str(step), people.Wallet())
            case 1:
                wallets = (await sessions.get(user)).wallets
                if wallets:
                    await sessions.remove_from(user, "wallets", next(iter(wallets)))
            case 2:
                await sessions.deactivate(user)
            case 3:
                await sessions.activate(user)
            case 4:
                await sessions.delete(user)
            case 5:
                await sessions.update(user, lambda p: p.wallets.clear())
        if step % 60 == 59:
            hours = chance.choice((0.3, 0.6, 1.1))
            await people.passed(sessions, hours)
            later += hours
    found = [p for user in range(40) if (p := await sessions.get(user))]
    stats = await sessions.stats(windows=(1800.0, 7200.0))
    now = SystemClock().now() + 3600 * later
    assert stats.total == len(found) > 10
    assert stats.active == sum(p.is_active for p in found)
    assert stats.inactive == sum(not p.is_active for p in found) > 0
    assert stats.having == {"wallets": sum(bool(p.wallets) for p in found)}
    assert stats.having["wallets"] > 0
    age = sum(now - p.created_at for p in found) / len(found)
    assert stats.mean_age == pytest.approx(age, abs=0.5)
    for window, count in stats.active_within.items():
        assert count == sum(p.last_activity >= now - window for p in found)
    assert stats.conversations == sum(p.last_activity > now - 3600 for p in found)
    assert 0 < stats.conversations < stats.total
    assert stats.created >= stats.total


@pytest.mark.basic
@pytest.mark.requirement("S6")
async def test_no_sessions_are_statistics_too(people):
    """An empty server gives zeroes."""
    stats = await people().stats()
    assert (stats.total, stats.active, stats.mean_age) == (0, 0, 0.0)
    assert stats.having == {"wallets": 0}


@pytest.mark.advanced
@pytest.mark.requirement("S6")
async def test_any_number_of_sweepers_remove_each_session_once(people):
    """Sweepers of several processes at once count every ended session once."""
    parts = [people(ttl=3600, touch_interval=0) for _ in range(4)]
    for user in range(450):
        await parts[0].update(user, lambda p: p.dialog.append("?"), create=True)
    await parts[0].update(7, lambda p: p.limits.update(x=1.0))
    for part in parts:
        await people.passed(part, 2)
    removed = await asyncio.gather(*(part.sweep() for part in parts))
    assert sum(removed) == 449
    stats = await parts[0].stats()
    assert (stats.total, stats.created) == (1, 450)
    assert (await parts[0].get(7)).limits == {"x": 1.0}


@pytest.mark.integration
@pytest.mark.requirement("X5")
@pytest.mark.parametrize("sealed", [False, True])
async def test_an_erased_user_is_nowhere(people, keyring, sealed):
    """After erasing, no key, field, member or log entry speaks of the user."""
    sessions = people(keyring=keyring if sealed else None)

    def fill(person):
        person.city, person.token = "Oslo", "secret"
        person.wallets = {"0xaa": people.Wallet("whale"), "0xbb": people.Wallet()}

    for user in (7_000_123, 8):
        await sessions.update(user, fill, create=True)
    await sessions.deactivate(7_000_123)
    name = session_keys(sessions).names.of_user(7_000_123)
    named = session_keys(sessions).names.of_value
    tags = [("wallet", named("wallet", each)) for each in ("0xaa", "0xbb")]
    tags.append(("city", named("city", "Oslo")))
    assert len(await traces(sessions, 7_000_123, *tags)) == 8
    erased = await sessions.erase(7_000_123)
    assert erased.part == "sessions"
    assert erased.removed >= 5
    assert erased.left == ()
    # A look of our own, which knows nothing of what sessions think they store.
    async for key in people.client.scan_iter(match=people.prefix + "*", count=1000):
        assert name.encode() not in key
        dumped = await people.client.dump(key)
        assert name.encode() not in dumped, key
    assert await sessions.users_for("wallet", "0xaa") == {8}
    assert (await sessions.stats()).total == 1
    again = await sessions.erase(7_000_123)
    assert (again.removed, again.left) == (0, ())


@pytest.mark.errors
@pytest.mark.requirement("X5")
async def test_a_receipt_says_what_is_left(people):
    """A search of all indexes finds an entry that no session wrote."""
    sessions = people()
    await sessions.update(1, lambda p: setattr(p, "city", "Oslo"), create=True)
    stray = session_keys(sessions).index("wallet", "0xff")
    await people.client.sadd(stray, "1")
    assert (await sessions.erase(1)).left == ()
    assert (await sessions.erase(1, search=True)).left == (stray,)


@pytest.mark.errors
@pytest.mark.requirement("X5")
@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    "loss", ["hash", "hash, and she began again", "list", "header"]
)
async def test_index_entries_that_no_session_tells_of_are_searched_for(
    people, keyring, sealed, loss
):
    """Where somebody took a session's hash or list away, erasing finds its entries."""
    sessions = people(keyring=keyring if sealed else None)
    keys = session_keys(sessions)

    def settle(person):
        person.city = "Oslo"
        person.wallets["0xaa"] = people.Wallet()

    await sessions.update(1, settle, create=True)
    main, _ = keys.pair(1)
    left = {keys.index("city", "Oslo"), keys.index("wallet", "0xaa")}
    if loss == "list":
        await people.client.hset(main, "i", "no list")
        left.remove(keys.index("wallet", "0xaa"))  # its member tells of it
    elif loss == "header":
        await people.client.hdel(main, "h")
        left.clear()
    else:
        await people.client.unlink(main)
    if loss == "hash, and she began again":
        await sessions.update(1, lambda p: setattr(p, "city", "Bergen"), create=True)
    assert set((await sessions.erase(1)).left) == left
    found = await people.client.smembers(keys.index("city", "Oslo"))
    assert len(found) == len(left & {keys.index("city", "Oslo")})


@pytest.mark.performance
@pytest.mark.requirement("X5")
async def test_erasing_one_user_costs_the_same_among_any_number(people):
    """Erasing reads no other user's keys: the server runs as many commands for it."""
    counts = []
    async with EmbeddedServer() as own, Client.from_url(own.url) as client:
        sessions = people(client=client)
        for size in (3, 300):

            def settle(number, person):
                person.wallets[f"0x{number}"] = people.Wallet()

            for user in range(size):
                await sessions.update(user, partial(settle, user), create=True)
            for user in (0, 1):
                await client.config_resetstat()
                assert (await sessions.erase(user)).left == ()
                stats = await client.info("commandstats")
                stats.pop("cmdstat_config|resetstat")
                stats.pop("cmdstat_ping", None)  # a heartbeat comes by the clock
            assert "cmdstat_scan" not in stats
            counts.append(
                sum(each["calls"] for each in stats.values() if isinstance(each, dict))
            )
    assert counts[0] == counts[1]


@pytest.mark.performance
@pytest.mark.requirement("X5")
async def test_erasing_a_user_does_not_have_others_build_their_memory_again(
    people, monkeypatch
):
    """A process that read of the deletion goes on with the emptied log."""
    limit(monkeypatch, "log is emptied", 2.0)
    async with people() as reader, people() as eraser:
        for user in (1, 2):
            await eraser.update(
                user, lambda p: p.wallets.update({"0xaa": people.Wallet()}), create=True
            )

        async def reads(expected):
            await reader.get(2)
            return await reader.users_for("wallet", "0xaa") == expected

        await eventually(lambda: reads({1, 2}))
        await eventually(lambda: mirror_complete(reader))
        built = (await reader.stats()).replica_rebuilds
        assert (await eraser.erase(1)).left == ()
        await eventually(lambda: reads({2}))
        await eraser.update(2, lambda p: p.wallets.clear())
        await eventually(lambda: reads(frozenset()))
        assert (await reader.stats()).replica_rebuilds == built


@pytest.mark.errors
async def test_reading_all_sessions_does_not_stop_at_a_damaged_one(people):
    """Re-encrypting goes on past a session that does not open, and then says so."""
    from oddswire.codec import AesGcm, Keyring
    from oddswire.errors import SessionDamaged

    first = Keyring.new_line(1)
    old = Keyring.from_text(first)
    sessions = people(keyring=old)
    for user in range(4):
        await sessions.update(user, lambda p: p.limits.update(x=1.0), create=True)
    await people.client.hset(session_keys(sessions).pair(2)[0], "D", b"broken")
    new = Keyring.from_text(Keyring.new_line(2) + first + old.index_line())
    both = people(keyring=new)
    with pytest.raises(SessionDamaged, match="1 sessions do not open"):
        await both.reencrypt()
    for user in (0, 1, 3):
        main, _ = await people.raw(both, user)
        assert AesGcm(new).key_number(main[b"D"]) == 2


@pytest.mark.basic
async def test_sessions_work_through_a_client_that_decodes(server, prefix):
    """A client that decodes its replies to text changes nothing."""
    from oddswire import Client
    from oddswire.codec import Keyring

    ring = Keyring.from_text(Keyring.new_line(1))
    async with (
        Client.from_url(server.url, decode_responses=True) as client,
        Sessions(client, prefix=prefix, keyring=ring) as sessions,
    ):
        await sessions.update(1, lambda s: s.metadata.update(a="b"), create=True)
        await eventually(lambda: mirrored(sessions, "wallet") is not None)
        assert (await sessions.get(1, fresh=True)).metadata == {"a": "b"}
        assert (await sessions.erase(1)).left == ()


@pytest.mark.performance
async def test_a_sealed_session_without_conversation_is_one_packed_key(people, keyring):
    """What a user asked for takes one hash that the embedded server packs."""
    sessions = people(keyring=keyring)

    def settle(person):
        person.city = "Oslo"
        person.limits = {f"limit {n}": n / 7 for n in range(8)}
        person.wallets = {f"0x{n:040x}": people.Wallet("whale") for n in range(3)}

    await sessions.update(1, settle, create=True)
    main, short = session_keys(sessions).pair(1)
    assert await people.client.object("ENCODING", main) in (b"listpack", "listpack")
    assert not await people.client.exists(short)
    assert max(map(len, (await people.client.hgetall(main)).values())) > 64


@pytest.mark.errors
@pytest.mark.requirement("C14")
async def test_without_rights_to_sessions_the_rest_opens_and_each_call_is_told(people):
    """Who may not read sessions can enter them; no call takes that for no session."""
    async with EmbeddedServer() as own, Client.from_url(own.url) as admin:
        await people(client=admin).update(1, lambda _: None, create=True)
        await admin.execute_command(
            "ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+@all"
        )
        async with (
            Client(
                host=own.host, port=own.port, username="app", password="secret"
            ) as client,
            people(client=client) as sessions,
        ):
            for call in (
                sessions.get(1),
                sessions.users_for("wallet", "0xaa"),
                sessions.update(1, lambda _: None, create=True),
            ):
                with pytest.raises(NoPermission):
                    await call
