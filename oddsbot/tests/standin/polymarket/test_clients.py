"""Everything that a client of ours asks is answered, and the answers agree."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from decimal import Decimal

import pytest

from oddsbot.polymarket import (
    ActivityBell,
    Clob,
    Data,
    Gamma,
    NotFound,
    RequestRefused,
    StreamPool,
)
from oddsbot.standin.polymarket import ROUTES, Replay
from support import eventually

from .conftest import INF

CLIENTS = (Gamma, Clob, Data)


@pytest.fixture
async def played(sampled):
    """The sample with generated wallets, until one of its two markets is decided."""
    async with Replay(sampled, speed=INF, seed=7, until=sampled.end - 1) as replay:
        replay.start()
        await replay.finished()
        yield replay


@pytest.fixture
def clients(played, session):
    """One of each client, by its class."""
    return {
        Gamma: Gamma(session, played.gamma_url),
        Clob: Clob(session, played.clob_url),
        Data: Data(session, played.data_url),
    }


def calls(replay):
    """Return how each method of each client is called."""
    market = next(iter(replay.recording.markets.values()))
    wallet, token = replay.wallets[0], market.tokens[0]
    return {
        "Gamma.market": ([market.slug], {}),
        "Gamma.market_by_id": ([market.gamma_id], {}),
        "Gamma.event": ([market.slug], {}),
        "Gamma.events": ([], {"tag": "crypto"}),
        "Gamma.event_by_id": ([market.gamma_id], {}),
        "Gamma.tag": (["crypto"], {}),
        "Gamma.search": (["bitcoin"], {"closed": True}),
        "Gamma.profile": ([wallet], {}),
        "Gamma.markets": ([], {"closed": True, "order": "volumeNum"}),
        "Gamma.markets_by_condition": ([market.market_id], {}),
        "Clob.book": ([token], {}),
        "Clob.books": ([token], {}),
        "Clob.market": ([market.market_id], {}),
        "Clob.price": ([token, "BUY"], {}),
        "Clob.midpoint": ([token], {}),
        "Clob.prices_history": ([token], {"interval": "1d"}),
        "Data.activity": ([wallet], {}),
        "Data.positions": ([wallet], {"status": "CLOSED"}),
        "Data.trades": ([], {}),
        "Data.value": ([wallet], {}),
        "Data.stats": ([wallet], {}),
        "Data.pnl": ([wallet], {}),
        "Data.leaderboard": ([], {}),
        "Data.resolutions": ([market.market_id], {}),
    }


def methods():
    """Return the names of all methods of the clients that ask Polymarket."""
    return [
        f"{kind.__name__}.{name}"
        for kind in CLIENTS
        for name, member in inspect.getmembers(kind, inspect.iscoroutinefunction)
        if not name.startswith("_")
    ]


@pytest.mark.integration
@pytest.mark.requirement("B10")
async def test_every_path_of_the_clients_is_answered(played, clients, session):
    """Each method of each client and both streams get what they ask for."""
    asked = calls(played)
    assert sorted(asked) == sorted(methods())
    for name, (args, options) in asked.items():
        kind, _, method = name.partition(".")
        client = next(each for each in CLIENTS if each.__name__ == kind)
        found = await getattr(clients[client], method)(*args, **options)
        assert found not in (None, (), {}), name
        assert getattr(found, "skipped", 0) == 0, name

    async def books(assets):
        return await clients[Clob].books(*assets)

    async def listen(bell):
        async for _ in bell:
            pass

    async with (
        StreamPool(session, played.ws_url, books, ["1"]),
        ActivityBell(session, played.live_url) as bell,
    ):
        task = asyncio.get_running_loop().create_task(listen(bell), name="listen")
        await eventually(lambda: played.calls["GET /ws/market"])
        await eventually(lambda: played.calls["GET /ws/live"])
        task.cancel()
        await asyncio.wait([task])
    assert [path for path in played.calls if path.startswith("unknown")] == []
    for client in clients.values():
        assert not client.left_out.counts


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_a_path_of_no_client_is_refused_and_counted(played, session):
    """Another path is 404, and the test that asks it can see that."""
    async with session.get(f"{played.gamma_url}/v9/nothing") as response:
        assert response.status == 404
    assert played.calls["unknown /v9/nothing"] == 1


@pytest.mark.basic
@pytest.mark.requirement("B10")
async def test_the_page_says_what_is_recorded_and_what_is_generated(played, session):
    """Each route is on the page with where it comes from; nothing is loaded."""
    async with session.get(f"{played.gamma_url}/") as response:
        text = await response.text()
        assert response.headers["Content-Security-Policy"].startswith("default-src 'n")
    for route in ROUTES:
        assert route in text
    assert "<script" not in text
    await Gamma(session, played.gamma_url).markets(closed=True)
    served = {name.split()[-1] for name in played.calls}
    shown = {
        each.split()[-1]
        for route in ROUTES
        for each in route.split(",")
        if each.strip()
    }
    assert served - {"/"} <= shown


@pytest.mark.advanced
@pytest.mark.requirement("B10")
async def test_positions_values_and_the_tape_agree(played, clients):
    """What a wallet holds is the sum of what it did, and the tape has each row."""
    data = clients[Data]
    tape = await _all(data.trades, limit=100)
    for wallet in played.wallets[:10]:
        rows = await _all(data.activity, wallet, limit=7)
        trades = [row for row in rows if row.type == "TRADE"]
        assert Counter(map(_key, trades)) == Counter(
            _key(row) for row in tape if row.proxy_wallet == wallet
        )
        held = Counter()
        for row in rows:
            sign = 1 if row.side == "BUY" else -1
            held[row.token_id] += sign * row.size
        positions = [
            position
            for status in ("OPEN", "REDEEMABLE", "REDEEMABLE_LOST", "CLOSED")
            for position in await _all(data.positions, wallet, status=status, limit=2)
        ]
        assert {each.token_id: each.current_size for each in positions} == held
        worth = sum(each.current_value for each in positions)
        assert abs(await data.value(wallet) - worth) < Decimal("0.001")
    standings = await _all(data.leaderboard, period="all", limit=9)
    assert [each.rank for each in standings] == list(range(1, len(standings) + 1))
    assert standings == sorted(standings, key=lambda each: (-each.pnl, each.user_id))


def _key(row):
    number = row.transaction_hash, row.token_id, row.timestamp
    return (*number, row.side, row.size, row.price)


async def _all(ask, *args, **options):
    rows, cursor = [], None
    while True:
        page = await ask(*args, cursor=cursor, **options)
        rows += page.rows
        cursor = page.next_cursor
        if cursor is None:
            return rows


@pytest.mark.advanced
@pytest.mark.requirement("B10")
async def test_the_same_seed_makes_the_same_rows(sampled, session, clients):
    """Two runs of one seed agree in every row; another seed does not."""
    found = []
    for seed in (7, 8):
        async with Replay(
            sampled, speed=INF, seed=seed, until=sampled.end - 1
        ) as replay:
            replay.start()
            await replay.finished()
            found.append(await Data(session, replay.data_url).trades(limit=1_000))
    ours = await clients[Data].trades(limit=1_000)
    assert ours == found[0]
    assert ours != found[1]


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_it_refuses_and_defaults_as_the_real_one(played, clients, session):
    """Parameters that bite do here too."""
    data, gamma = clients[Data], clients[Gamma]
    takers = await data.trades(takers_only=True, limit=1_000)
    everybody = await data.trades(limit=1_000)
    assert len(takers.rows) < len(everybody.rows)
    many = await data.trades(least_dollars=Decimal(500), limit=1_000)
    assert many.rows
    assert all(row.dollars >= Decimal("499.99") for row in many.rows)
    # The bare feed ignores start and end.
    assert (await data.trades(start=2**40, limit=1_000)).rows == everybody.rows
    wallet = played.wallets[0]
    with pytest.raises(RequestRefused):
        await data.activity(wallet, types=["TRADE", "SOMETHING"])
    page = await data.activity(wallet, limit=2)
    with pytest.raises(RequestRefused):  # the cursor is bound to its filters
        await data.activity(wallet, limit=3, cursor=page.next_cursor)
    with pytest.raises(RequestRefused):
        await data.positions("0x1")
    with pytest.raises(NotFound):
        await gamma.tag("no-such-tag")
    opened, closed = await gamma.markets(), await gamma.markets(closed=True)
    assert [len(page.markets) for page in (opened, closed)] == [1, 1]
    first = await gamma.markets(limit=1)
    url = f"{played.gamma_url}/markets/keyset?limit=1"
    async with session.get(f"{url}&cursor={first.next_cursor}") as response:
        ignored = await response.json()
    assert ignored["markets"][0]["id"] == first.markets[0].id
    async with session.get(f"{url}&offset=1") as response:
        assert response.status == 422


@pytest.mark.advanced
@pytest.mark.requirement("B10")
async def test_a_proposal_is_disputed_and_proposed_again(small, session):
    """The oracle goes through its states, in the Data API and in Gamma."""
    async with Replay(small, speed=INF, seed=1) as replay:
        gamma = Gamma(session, replay.gamma_url)
        data = Data(session, replay.data_url)
        states = []
        for step in (None, False, True, False):
            if step is not None:
                replay.propose("0xaa", 0, disputed=step)
            row = (await data.resolutions("0xaa", "0xnone"))["0xaa"]
            market = (await gamma.markets_by_condition("0xaa"))["0xaa"]
            states.append((row.status, row.proposal, market.uma_resolution_status))
        replay.start()
        await replay.finished()
        row = (await data.resolutions("0xaa"))["0xaa"]
    assert states == [
        ("initialized", None, ""),
        ("proposed", Decimal(1), "proposed"),
        ("disputed", Decimal(1), "disputed"),
        ("reproposed", Decimal(1), "reproposed"),
    ]
    assert (row.status, row.shares) == ("resolved", (Decimal(1), Decimal(0)))
