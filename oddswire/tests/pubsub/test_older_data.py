"""A server that comes back with older data: nothing twice, nothing lost in silence."""

from __future__ import annotations

from contextlib import suppress

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.errors import AuthFailed, OddswireError
from oddswire.pubsub import Delivery, Gap, GapReason, Topic
from support import eventually

pytestmark = pytest.mark.errors

SHORT = Topic("short", int, delivery=Delivery.LOG, history=100)
# More than a reader remembers by link.
MANY = 400


async def publish(pubsub, numbers, topic=SHORT):
    """Publish these numbers, in order."""
    for number in numbers:
        await pubsub.publish(topic, number)


async def _answers(client):
    with suppress(OddswireError):
        return await client.ping()


async def _published(pubsub, number):
    with suppress(AuthFailed):
        return await pubsub.publish(SHORT, number)


async def back_to_the_dump(server):
    """Kill the server; it comes back as of its last SAVE, as another process."""
    server.kill()
    await server.wait_exit()
    await server.restart()


@pytest.mark.requirement("P2")
@pytest.mark.parametrize("restarts", [1, 3])
async def test_a_reader_far_ahead_of_an_older_dump_is_given_nothing_twice(
    opened, collect, restarts
):
    """Of a history longer than any memory of links nothing comes again."""
    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url) as admin,
        opened(server.url) as pubsub,
        pubsub.subscribe(SHORT) as sub,
        collect(sub) as got,
    ):
        await publish(pubsub, range(80))
        await admin.execute_command("SAVE")
        first = 80
        for _ in range(restarts):
            # The subscriber is back before the log is trimmed behind it.
            await publish(pubsub, range(first, first + 1))
            await got.saw(first)
            await publish(pubsub, range(first + 1, first + MANY))
            first += MANY
            await got.saw(first - 1)
            await back_to_the_dump(server)
        await publish(pubsub, range(first, first + 5))
        await got.saw(first + 4)

    assert got.values == list(range(first + 5))
    assert {gap.reason for gap in got.gaps} == {GapReason.ROLLBACK}


@pytest.mark.requirement("P2")
async def test_a_reader_behind_is_told_of_a_tail_that_it_had_only_heard_of(
    opened, take, collect
):
    """What was announced and not read, and is gone, is a gap with its number."""
    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url) as admin,
        opened(server.url) as pubsub,
        pubsub.subscribe(SHORT, queue=4) as sub,
        pubsub.subscribe(SHORT) as other,
        collect(other) as got,
    ):
        await publish(pubsub, range(20))
        await admin.execute_command("SAVE")
        await publish(pubsub, range(20, 50))
        # Both are given the same frames; the one that reads shows that the last came.
        await got.saw(49)
        await back_to_the_dump(server)
        await publish(pubsub, range(50, 53))
        events = await take(sub, 24)

    values = [each.value for each in events if not isinstance(each, Gap)]
    (gap,) = [each for each in events if isinstance(each, Gap)]
    assert values == [*range(20), *range(50, 53)]
    assert (gap.reason, gap.lost) == (GapReason.ROLLBACK, 30)


@pytest.mark.requirement("P2")
async def test_a_late_reader_is_not_given_what_came_before_it(opened, collect):
    """A server that goes back behind a reader's beginning gives it nothing older."""
    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url) as admin,
        opened(server.url) as pubsub,
    ):
        await publish(pubsub, range(80))
        await admin.execute_command("SAVE")
        await back_to_the_dump(server)
        await publish(pubsub, range(80, 90))
        async with pubsub.subscribe(SHORT) as sub, collect(sub) as got:
            await publish(pubsub, range(90, 95))
            await got.saw(94)
            await back_to_the_dump(server)
            await publish(pubsub, range(95, 98))
            await got.saw(97)

    assert got.values == list(range(90, 98))


@pytest.mark.requirement("P2")
async def test_a_restart_that_lost_nothing_is_no_gap(opened, collect):
    """Another process with the same data goes on where the first one ended."""
    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url) as admin,
        opened(server.url) as pubsub,
        pubsub.subscribe(SHORT) as sub,
        collect(sub) as got,
    ):
        for first in (0, 10, 20):
            await publish(pubsub, range(first, first + 10))
            await got.saw(first + 9)
            await admin.execute_command("SAVE")
            await back_to_the_dump(server)
        await publish(pubsub, range(30, 33))
        await got.saw(32)

    assert got.values == list(range(33))
    assert got.gaps == []


@pytest.mark.requirement("P2")
async def test_without_info_links_tell_as_far_as_they_are_remembered(opened, collect):
    """A publisher that may not run INFO: nothing twice within `history` messages."""
    async with EmbeddedServer() as server, Client.from_url(server.url) as admin:

        async def narrow():
            await admin.execute_command(
                "ACL SETUSER", "few", "on", ">pw", "+@all", "-info", "~*", "&*"
            )

        await narrow()
        url = f"redis://few:pw@127.0.0.1:{server.port}"
        async with (
            opened(url) as pubsub,
            Client.from_url(url) as few,
            pubsub.subscribe(SHORT) as sub,
            collect(sub) as got,
        ):
            await publish(pubsub, range(50))
            await admin.execute_command("SAVE")
            await publish(pubsub, range(50, 90))
            await got.saw(89)
            await back_to_the_dump(server)
            await narrow()  # users are not in the dump
            await eventually(lambda: _answers(few))
            await eventually(lambda: _published(pubsub, 90))
            await publish(pubsub, range(91, 93))
            await got.saw(92)

    assert got.values == list(range(93))
    assert [gap.reason for gap in got.gaps] == [GapReason.ROLLBACK]
