"""A recording through the whole shard: each round a transaction, no alert amiss."""

from __future__ import annotations

from decimal import Decimal

import pytest

from oddsbot.alerts import Moved
from oddsbot.polymarket import Quote
from oddsbot.standin.polymarket import Group, Recording, sample
from oddswire import Client
from oddswire.locks import Locks
from support.one_rule import Fired, NaiveAlerts
from support.recorded import by_person, fill, people, recorded, watched


def as_fired(alert):
    """Return an alert as the naive loop has it."""
    reference = alert.reference if isinstance(alert, Moved) else None
    return Fired(
        alert.id, alert.user_id, alert.direction, alert.price, reference, alert.at,
        alert.in_cooldown,
    )  # fmt: skip


@pytest.fixture
def sample_quotes():
    """Return the tops of the books of the sample."""
    return list(tops_of(Recording.load(sample())))


@pytest.fixture
def day_of_quotes(shared_data):
    """Return the whole recording of quotes."""
    return recorded(shared_data / "quotes/2026-07-10.bbo-changes.csv.gz")


def tops_of(recording):
    """Yield the tops of its books."""
    for group in recording.timeline:
        for book in group.snapshots if isinstance(group, Group) else ():
            sides = book.bids, book.asks
            tops = (Decimal(each[0][0]) if each else None for each in sides)
            yield Quote(book.market_id, f"{book.market_id}{book.side}", *tops, book.ts)


async def compare(engine, server, prefix, shown, rules):
    """Return what a shard made of quotes, once it agrees with the naive loop."""
    naive = NaiveAlerts(rules)
    wanted = by_person(
        each for quote in shown for each in naive.on_quote(quote, quote.at / 1000)
    )
    await fill(engine, rules)
    async with Client.from_url(server.url) as client:
        found = await watched(engine, Locks(client, prefix=prefix), shown)
    for person in wanted.keys() | found.alerts.keys():
        told = [as_fired(each) for each in found.alerts[person]]
        assert told == wanted[person], person
    return found


@pytest.mark.advanced
@pytest.mark.requirement("B3", "B4")
async def test_the_recorded_sample_through_the_transaction(
    engine, server, prefix, sample_quotes
):
    """Each person has exactly the alerts of the naive loop, in their order."""
    rules = list(people(sample_quotes, 40, 200))
    found = await compare(engine, server, prefix, sample_quotes, rules)
    assert sum(map(len, found.alerts.values())) > 500
    assert found.rounds > 1


@pytest.mark.timeout(300)
@pytest.mark.shared
@pytest.mark.advanced
@pytest.mark.requirement("B3", "B4")
async def test_a_recorded_day_through_the_transaction(
    engine, server, prefix, day_of_quotes
):
    """1,000 people and 5,000 rules: exactly the alerts of the naive loop.

    `make bench-watch` does the same with ten times as many.
    """
    rules = list(people(day_of_quotes, 1_000, 5_000))
    found = await compare(engine, server, prefix, day_of_quotes, rules)
    assert sum(map(len, found.alerts.values())) > 1_000
