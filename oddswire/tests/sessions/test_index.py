from __future__ import annotations

import asyncio
import functools

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.errors import OddswireError
from oddswire.sessions import Change, Changes, Reset
from oddswire.testing import FaultProxy, frozen
from support import eventually
from support.hooks import (
    follow,
    is_following,
    kept_in_memory,
    memory_of,
    mirrored,
    reads_under_way,
    session_keys,
    stop_follower,
    stored_session,
)


async def watch(people, sessions, *users):
    """Have users watch one wallet."""
    for user in users:
        await sessions.update(user, lambda _: None, create=True)
        await sessions.add_to(user, "wallets", "0xaa", people.Wallet())


async def watchers(sessions, **options):
    """Return who watches it."""
    return await sessions.users_for("wallet", "0xaa", **options)


@pytest.mark.integration
@pytest.mark.requirement("S5")
@pytest.mark.parametrize("sealed", [False, True])
async def test_changes_of_others_reach_the_index_in_memory(people, keyring, sealed):
    """What another process adds, removes, switches, moves or deletes is seen here."""
    options = {"keyring": keyring} if sealed else {}
    other = people(**options)
    await watch(people, other, 1, 2)

    async with people(**options) as sessions:

        async def seen(*users):
            await eventually(lambda: mirrored(sessions, "wallet") is not None)

            async def same():
                return await watchers(sessions) == set(users)

            await eventually(same)

        await seen(1, 2)
        await watch(people, other, 3)
        await seen(1, 2, 3)
        await other.remove_from(1, "wallets", "0xaa")
        await seen(2, 3)
        await other.deactivate(2)
        await seen(3)
        await other.activate(2)
        await seen(2, 3)
        await other.migrate(3, 33)
        await seen(2, 33)
        await other.delete(33)
        await seen(2)
        await other.update(2, lambda p: p.wallets.clear())
        await seen()
        assert (await sessions.stats()).replica_rebuilds == 1
        # It really is memory: the server is not asked.
        calls = people.client.stats().calls
        await watchers(sessions)
        assert people.client.stats().calls == calls


@pytest.mark.integration
@pytest.mark.requirement("S5")
async def test_a_cut_link_bypasses_memory_and_loses_no_change(people):
    """While the link is down nothing old is answered; afterwards nothing is missing."""
    async with (
        EmbeddedServer() as own,
        Client.from_url(own.url) as direct,
        FaultProxy(own.url) as proxy,
        Client.from_url(proxy.url, command_timeout=1.0) as client,
    ):
        other = people(client=direct)
        await watch(people, other, 1)
        async with people(client=client) as sessions:
            await eventually(lambda: mirrored(sessions, "wallet") is not None)
            assert await watchers(sessions) == {1}
            with frozen(own):
                await eventually(lambda: mirrored(sessions, "wallet") is None)
                for call in (watchers(sessions), sessions.get(1)):
                    with pytest.raises(OddswireError):
                        await call
            await watch(people, other, 2)
            await direct.execute_command("CLIENT", "KILL", "TYPE", "normal")

            async def both():
                believed = mirrored(sessions, "wallet") is not None
                return believed and await watchers(sessions) == {1, 2}

            await eventually(both)


@pytest.mark.integration
@pytest.mark.requirement("S5")
async def test_a_log_that_was_cut_is_noticed_and_memory_built_anew(people):
    """Changes that nobody can replay lead to a rebuild, not to a wrong answer."""
    other = people()
    await watch(people, other, 1)
    async with people() as sessions:
        await eventually(lambda: mirrored(sessions, "wallet") is not None)
        keys = session_keys(sessions)

        async def rebuilt():
            return (await sessions.stats()).replica_rebuilds

        for _ in range(3):
            built = await rebuilt()
            # As when more was written than the log keeps, in one instant.
            async with people.client.pipeline() as pipe:
                pipe.srem(keys.index("wallet", "0xaa"), "1")
                pipe.xadd(keys.log, {"p": "x", "x": "y", "u": "1", "v": 1, "o": "1",
                                "j": "", "l": ""})  # fmt: skip
                pipe.hset(keys.stats, "link", "y")
                await pipe.execute()
            await eventually(rebuilt, holds=lambda now, built=built: now > built)
        await people.client.delete(keys.log)
        built = await rebuilt()
        await eventually(rebuilt, holds=lambda now: now > built)
        await watch(people, other, 2)

        async def right():
            return await watchers(sessions) >= {2}

        await eventually(right)


@pytest.mark.advanced
@pytest.mark.requirement("S5")
async def test_memory_is_not_believed_without_word_from_the_feed(people):
    """Any feed will do; after two seconds of silence, or a gap, Redis is asked."""
    from oddswire.clock import ManualClock

    clock = ManualClock()
    sessions = people(clock=clock)
    await watch(people, sessions, 1)
    items = asyncio.Queue()

    class Own:
        """A feed of the user's own."""

        async def follow(self):
            while True:
                yield await items.get()
                items.task_done()

    async def say(*said):
        for item in said:
            items.put_nowait(item)
        # One more, so that the last one's handling is over.
        items.put_nowait(Changes(clock.boottime() - 10))
        items.put_nowait(said[-1] if isinstance(said[-1], Changes) else Changes(-100))
        await items.join()
        await asyncio.sleep(0)

    following = asyncio.get_running_loop().create_task(
        follow(sessions, Own(), clock), name="follower"
    )
    found = functools.partial(mirrored, sessions, "wallet", "0xaa")
    assert found() is None, "it follows from the first lookup on"
    await say(Reset("start"))
    assert found() is None
    await say(
        Changes(
            clock.boottime(),
            (Change("2", 5, on=True, index_adds=(("wallet", "0xaa"),)),),
        )
    )
    assert sorted(found()) == ["1", "2"]
    await clock.advance(1.9)
    assert found() is not None
    await clock.advance(0.2)
    assert found() is None
    assert await watchers(sessions) == {1}
    await say(Changes(clock.boottime()))
    assert found() is not None
    await say(Reset("a gap"))
    assert found() is None
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


@pytest.mark.integration
@pytest.mark.requirement("S5", "C14")
async def test_changes_are_followed_only_while_somebody_reads(people, monkeypatch):
    """Without reads for some seconds no command is sent; what changed then is seen."""
    monkeypatch.setattr("oddswire.sessions._local.IDLE", 1.0)
    async with EmbeddedServer() as own, Client.from_url(own.url) as direct:
        other = people(client=direct)
        await watch(people, other, 1)
        await direct.config_resetstat()
        async with (
            Client.from_url(own.url, heartbeat=1000) as client,
            people(client=client) as sessions,
        ):
            await watch(people, sessions, 5)
            await asyncio.sleep(0.5)
            sent = await direct.info("commandstats")
            assert not {"cmdstat_xread", "cmdstat_xrevrange"} & sent.keys()

            async def followed():
                return await watchers(sessions) == {1, 5} and await sessions.get(1)

            await eventually(followed)
            await eventually(lambda: mirrored(sessions, "wallet") is not None)
            await eventually(lambda: not is_following(sessions))
            before = await _reads(direct)
            await watch(people, other, 2)
            await other.update(1, lambda person: setattr(person, "city", "Oslo"))
            await asyncio.sleep(2.1)
            assert await _reads(direct) == before
            # Two seconds after the last word, memory is bypassed.
            assert (await sessions.get(1)).city == "Oslo"
            assert await watchers(sessions) == {1, 2, 5}
            await eventually(lambda: mirrored(sessions, "wallet") is not None)
            calls = client.stats().calls
            assert await watchers(sessions) == {1, 2, 5}
            assert (await sessions.get(1)).city == "Oslo"
            assert client.stats().calls == calls, "from memory"
            assert (await sessions.stats()).replica_rebuilds == 1


async def _reads(client):
    stats = await client.info("commandstats")
    return [stats[f"cmdstat_{name}"]["calls"] for name in ("xread", "xrevrange")]


@pytest.mark.advanced
@pytest.mark.requirement("S5")
async def test_a_read_that_a_change_overtook_is_not_kept(people):
    """What was read before a change was announced does not enter memory after it."""
    async with people() as sessions:
        await sessions.update(1, lambda p: setattr(p, "city", "Oslo"), create=True)
        near = memory_of(sessions)
        await stop_follower(sessions)
        snapshot, value, now = await stored_session(sessions, 1)
        reading = near.begin(1)
        near.announced(1, snapshot.header.version + 1)
        near.put(1, snapshot, value, now, reading)
        near.end(1, reading)
        assert near.snapshot(1) is None
        reading = near.begin(1)
        near.announced(1, 0)
        near.put(1, snapshot, value, now, reading)
        near.end(1, reading)
        assert near.snapshot(1) is None
        reading = near.begin(1)
        near.put(1, snapshot, value, now, reading)
        near.end(1, reading)
        assert near.snapshot(1) is snapshot, "undisturbed, it is kept"
        assert reads_under_way(near) == {}


@pytest.mark.advanced
@pytest.mark.requirement("S3")
async def test_a_crowd_is_found_in_pages(people):
    """More users than one script hands out are all found, without the inactive."""
    sessions = people()
    await watch(people, sessions, 1, 2)
    crowd = range(10, 5010)
    index = session_keys(sessions).index("wallet", "0xaa")
    await people.client.sadd(index, *crowd)
    await sessions.deactivate(2)
    assert await watchers(sessions) == {1, *crowd}


@pytest.mark.basic
async def test_memory_is_bounded(people):
    """No more sessions are kept in memory than was said."""
    async with people(local_size=10) as sessions:
        await eventually(lambda: mirrored(sessions, "wallet") is not None)
        for user in range(30):
            await sessions.update(user, lambda _: None, create=True)
        assert kept_in_memory(sessions) == 10
        assert (await sessions.get(29)).user_id == 29
        assert (await sessions.stats()).local_hits == 1
    assert kept_in_memory(sessions) == 0


@pytest.mark.errors
async def test_following_ends_with_the_block(people):
    """No task is left behind, also when the block ends by a cancellation."""
    before = len(asyncio.all_tasks())
    async with people():
        assert len(asyncio.all_tasks()) == before + 2
    assert len(asyncio.all_tasks()) == before
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):  # noqa: PT012
            async with people():
                asyncio.current_task().cancel()
                await asyncio.sleep(1)
    asyncio.current_task().uncancel()
    assert len(asyncio.all_tasks()) == before
