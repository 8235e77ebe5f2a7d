"""A primary that may have been deposed: what it says of sessions does not count."""

from __future__ import annotations

import pytest

from oddswire import Client
from oddswire.errors import NoReplicas
from support import eventually

from .conftest import People

pytestmark = pytest.mark.requirement("S3", "C12")


@pytest.mark.errors
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_a_deposed_primary_is_believed_by_no_read(pair, transport):
    """From memory and from the server, nothing is answered that it cannot vouch for."""
    async with (
        Client.from_url(pair.primary.url, transport=transport) as client,
        People(client, "pair:")() as sessions,
    ):
        await sessions.update(
            1, lambda person: setattr(person, "city", "Oslo"), create=True
        )
        assert (await sessions.get(1)).city == "Oslo"
        assert await sessions.users_for("city", "Oslo") == {1}
        await pair.depose()
        reads = (
            lambda: sessions.get(1),
            lambda: sessions.get(1, fresh=True),
            lambda: sessions.users_for("city", "Oslo"),
            lambda: sessions.users_for("city", "Oslo", fresh=True),
        )
        for read in reads:
            await eventually(lambda read=read: _is_refused(read))
        for read in reads:
            with pytest.raises(NoReplicas):
                await read()
        await pair.restore()
        for read in reads:
            await eventually(
                lambda read=read: _is_refused(read), holds=lambda it: not it
            )
        assert (await sessions.get(1, fresh=True)).city == "Oslo"


async def _is_refused(read):
    try:
        await read()
    except NoReplicas:
        return True
    return False


@pytest.mark.advanced
async def test_fresh_reads_send_one_write_in_two_seconds(own):
    """A hundred reads from the server share one proof that it may still write."""
    async with Client.from_url(own.url) as client:
        sessions = People(client, "own:")()
        await sessions.update(1, lambda _: None, create=True)
        for _ in range(100):
            await sessions.get(1, fresh=True)
        stats = await client.info("commandstats")
        # As many as there are 2 s in them, on a slow machine.
        assert stats["cmdstat_unlink"]["calls"] < 10
