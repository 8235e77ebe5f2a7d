"""The name of the server and its data: what was lost is enqueued again, and says so."""

from __future__ import annotations

import pytest

from oddswire import Client, EmbeddedServer, acl
from oddswire.errors import OtherServer, Outcome
from oddswire.queue import Queue

from .conftest import Inbox, Note, drained


@pytest.mark.integration
@pytest.mark.requirement("P5")
async def test_what_a_lost_server_had_is_enqueued_again_and_marked():
    """Restarted with a part of its data: the rest comes again, once, `uncertain`."""
    async with (
        EmbeddedServer(aof=True, args=("--appendfsync", "always")) as server,
        Client.from_url(server.url, reconnect_delay=0.01) as client,
    ):
        queue = Queue(client, "notes", Note, poll=0.05)
        first = await queue.identity()
        assert await queue.identity() == first
        due = {f"alert {n}": Note(str(n)) for n in range(4)}
        for dedup_id, note in list(due.items())[:2]:
            assert await queue.enqueue(7, note, dedup_id=dedup_id, identity=first)
        # What the server acknowledged after that and lost is as if it never came.
        await server.restart()
        with pytest.raises(OtherServer, match="uncertain=True") as caught:
            await queue.enqueue(7, due["alert 3"], dedup_id="alert 3", identity=first)
        assert caught.value.outcome is Outcome.REJECTED
        assert (await queue.stats()).depth == 2
        second = await queue.identity()
        assert second != first
        # Everything is enqueued again: what is known is refused.
        again = [
            await queue.enqueue(
                7, note, dedup_id=dedup_id, identity=second, uncertain=True
            )
            for dedup_id, note in due.items()
        ]
        assert [each is None for each in again] == [True, True, False, False]
        inbox = Inbox()
        await drained(queue, inbox)
        assert [(m.value.text, m.uncertain) for m in inbox.messages] == [
            ("0", False), ("1", False), ("2", True), ("3", True),
        ]  # fmt: skip


@pytest.mark.integration
@pytest.mark.requirement("P5")
async def test_an_emptied_server_has_another_name(own, prefix):
    """FLUSHALL in the same process: what was named before takes nothing any more."""
    async with Client.from_url(own.url) as client, Client.from_url(own.url) as far:
        queue, elsewhere = (Queue(each, "notes", Note, prefix=prefix)
                            for each in (client, far))  # fmt: skip
        name = await queue.identity()
        assert await elsewhere.identity() == name
        await client.flushall()
        for values in ({1: Note("a")}, dict.fromkeys(range(1200), Note("a"))):
            with pytest.raises(OtherServer):
                await queue.enqueue_many(values, identity=name)
        assert (await queue.stats()).enqueued == 0
        assert queue.counts.enqueued == 0
        other = await queue.identity()
        assert other != name
        assert await elsewhere.identity() == other
        assert await queue.enqueue(1, Note("a"), identity=other)


@pytest.mark.errors
async def test_without_info_the_name_is_that_of_the_data_alone(own, prefix):
    """Who may not ask for the run id still finds out that the data is gone."""
    rules = acl.rules([acl.QUEUE], prefix, without=["info"])
    async with Client.from_url(own.url) as admin:
        await admin.execute_command("ACL", "SETUSER", "part", "on", ">pw", *rules)
        url = f"redis://part:pw@127.0.0.1:{own.port}"
        async with Client.from_url(url) as client:
            queue = Queue(client, "notes", Note, prefix=prefix)
            name = await queue.identity()
            assert name.startswith("-")
            assert await queue.enqueue(1, Note("a"), identity=name)
            await admin.flushall()
            with pytest.raises(OtherServer):
                await queue.enqueue(1, Note("a"), identity=name)
