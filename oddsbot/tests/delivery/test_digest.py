"""Alerts that are held: one message tells them, whatever happens on the way."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from oddsbot.delivery import Courier, Decision, Sweep
from oddsbot.store import DIGEST, Digest, Fate
from oddswire.clock import ManualClock, SystemClock
from oddswire.errors import CommandTimeout
from oddswire.locks import Locks
from support import eventually


class Capped:
    """Tells a person so many alerts; the others are held for a digest.

    Attributes:
        told: The ids of what was told, a list for each message.
        number: Of the digest.
        judged: How often an alert was to be delivered.
    """

    def __init__(self, most, *, seconds=0.0) -> None:
        self.told = []
        self._most = most
        self._due_at = int(SystemClock().now() + seconds)
        self.number = 1
        self.judged = 0

    async def deliver(self, alert, *, again):
        """Tell an alert, or hold it."""
        self.judged += 1
        if len(self.told) < self._most:
            self.told.append([alert.id.removeprefix("rule:")])
            return Decision(Fate.SENT)
        digest = Digest(
            user_id=alert.user_id,
            id=f"more:0xmarket:{self.number}",
            market=alert.market,
            due_at=self._due_at,
        )
        return Decision(Fate.HELD, digest=digest)

    async def summarize(self, user_id, held, *, again):
        """Tell what was held."""
        self.told.append([each.id.removeprefix("rule:") for each in held])
        return Decision(Fate.SENT)

    def courier(self, book):
        """Return a courier that delivers so."""
        return Courier(
            book.queue, book.log, book.home, self.deliver, SystemClock(), self.summarize
        )


class Minutes(Capped):
    """An alert that is judged again is for the next digest, as a minute later."""

    def __init__(self, most) -> None:
        super().__init__(most)
        self._seen = set()

    async def deliver(self, alert, *, again):
        """Tell an alert, or hold it."""
        self.number += alert.id in self._seen
        self._seen.add(alert.id)
        return await super().deliver(alert, again=again)


async def settled(book, count):
    """Wait until so many rows have a fate."""

    async def all_settled():
        fates = await book.fates()
        return len(fates) >= count and None not in fates

    await eventually(all_settled, 30.0)


@pytest.mark.integration
@pytest.mark.requirement("B4", "B9")
async def test_what_is_too_much_is_one_message(book):
    """Five are due, two are told, three are held: a sixth row tells them in order."""
    capped = Capped(2, seconds=2.0)
    # Five may take longer than two seconds; what comes after its digest misses it.
    await book.queue.pause(kind=DIGEST)
    async with book.running(capped.courier(book)):
        for _ in range(5):
            book.outbox.put(await book.commit(1))
        await eventually(book.fates, holds=lambda fates: fates.count("held") == 3)
        await book.queue.resume(kind=DIGEST)
        await settled(book, 6)
    assert capped.told == [["1.0"], ["2.0"], ["3.0", "4.0", "5.0"]]
    assert sorted(await book.fates()) == ["held"] * 3 + ["sent"] * 3


@pytest.mark.errors
@pytest.mark.requirement("B4", "B9")
async def test_a_digest_that_was_not_queued_is_swept(book, client, prefix, monkeypatch):
    """Redis is away right after the alert was held: the sweep has it told."""
    capped = Capped(0)

    async def away(*_, **__):
        raise CommandTimeout("away")

    book.outbox.put(await book.commit(1))
    with monkeypatch.context() as patched:
        patched.setattr("oddsbot.delivery.courier.enqueue", away)
        async with book.running(capped.courier(book)):
            await eventually(book.fates, holds=lambda fates: fates == ["held", None])
    later = ManualClock(now=SystemClock().now() + 60)
    sweep = Sweep(book.queue, book.log, Locks(client, prefix=prefix), later)
    await sweep.look()
    async with book.running(capped.courier(book)):
        await settled(book, 2)
    assert capped.told == [["1.0"]]


@pytest.mark.errors
@pytest.mark.requirement("B4", "B9")
async def test_an_alert_that_misses_its_digest_joins_the_next(book):
    """The digest is closed by another courier: the alert is judged again."""
    capped = Capped(0)
    await book.commit(1)
    (row,) = await book.log.unsettled("0")
    decision = await capped.deliver(row.alert(), again=False)
    assert await book.log.hold(row, decision.digest, "here")
    (digest,) = await book.log.unsettled(DIGEST)
    await book.log.close(digest)
    courier = capped.courier(book)
    async with book.running(courier):
        book.outbox.put(await book.commit(1))
        await eventually(lambda: capped.judged > 2)
        assert (await book.fates()).count("held") == 1
        capped.number = 2
        await eventually(book.fates, holds=lambda fates: fates.count("held") == 2)
        await eventually(lambda: ["2.0"] in capped.told)


@pytest.mark.errors
@pytest.mark.requirement("B4", "B9")
async def test_a_courier_that_dies_between_two_steps_loses_nothing(
    book, client, prefix
):
    """Cancelled at each step of holding and telling: each alert has one fate.

    A digest whose courier died before it was queued is found by the sweep.
    """
    capped = Minutes(1)
    for _ in range(4):
        book.outbox.put(await book.commit(1))

    async def some_time(seconds):
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), book.running(capped.courier(book)):
                await asyncio.Event().wait()

    for step in range(8):
        await some_time(0.005 * step)
    later = ManualClock(now=SystemClock().now() + 60)
    await Sweep(book.queue, book.log, Locks(client, prefix=prefix), later).look()
    async with book.running(capped.courier(book)):
        await settled(book, 5)
    fates = await book.fates()
    # A digest that was closed before the last alert came is followed by another.
    assert fates.count("held") == 3
    assert set(fates) == {"held", "sent"}
    assert {name for each in capped.told for name in each} == {
        f"{n}.0" for n in range(1, 5)
    }
