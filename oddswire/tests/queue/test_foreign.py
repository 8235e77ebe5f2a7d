"""What somebody else wrote under a queue's keys is removed and counted."""

from __future__ import annotations

import pytest

from oddswire import keys
from oddswire.keys import KeySpace
from support import eventually

from .conftest import Inbox, Note, consuming

JUNK = [b"junk", b"", b"\xff\xfe", b"9" * 400, b"\xc1", b"\x93\x01\x02\x03", b"7:zz"]


@pytest.mark.errors
@pytest.mark.requirement("X4")
async def test_junk_in_every_key_of_a_queue_delays_nobody(client, queue, make, prefix):
    """Messages are delivered, pages and statistics read; the junk is gone."""
    await queue.enqueue(1, Note("before"))
    await queue.enqueue(2, Note("dead"))
    space = KeySpace(prefix)
    key = {
        family.name: space.key(family, "notes")
        for family in keys.FAMILIES
        if family.name.startswith("queue")
    }
    for junk in JUNK:
        name = junk or b"x"
        await client.hset(key["queue"], name, junk)
        await client.hset(key["queue"], name + b"0" * 16, junk)
        await client.zadd(key["queue-users"], {name: 0})
        await client.zadd(key["queue-lines"], {name + b":" + b"0" * 16: 0})
        await client.zadd(key["queue-delayed"], {name: 0})
        await client.zadd(key["queue-parked"], {name: 0})
        await client.zadd(key["queue-dead"], {name: 0})
        await client.sadd(key["queue-paused"], name)
        await client.hset(key["queue-leases"], name, junk)
    for counter in ("last", "enqueued", "delivered", "duplicates", "dead"):
        await client.hset(key["queue-meta"], counter, "junk")
    # A line of a user who is none, with a message that is one.
    first = next(iter(await client.hkeys(key["queue"])))
    await client.zadd(key["queue-lines"], {b"nobody:" + first: 0})
    await client.zadd(key["queue-users"], {b"nobody": 0})
    await queue.enqueue(1, Note("after"))
    inbox = Inbox()
    async with consuming(queue, inbox):
        await eventually(lambda: len(inbox.got) == 3)
    assert {text for _, text in inbox.got} == {"before", "dead", "after"}
    assert await queue.dead() == []
    assert (await queue.stats()).foreign >= len(JUNK)
    assert await queue.purge(user_id=1) == 0
    assert (await queue.erase(1)).left == ()
