"""`Wallets` against a local Data API. Its rows are generated."""

from __future__ import annotations

import pytest
from aiohttp import web

from oddsbot.polymarket import Unreadable
from oddsbot.standin.polymarket import Replay

WALLET = "0x56687BF447DB6ffa42ffe2204A05EDAA20F55839"


class Polymarket:
    """Answers for one wallet; its rows can be changed."""

    def __init__(self) -> None:
        self.trades = 1
        self.price = "0.5"
        self.pages = 1

    async def serve(self, request):
        """Answer one request."""
        if request.path == "/public-profile":
            if request.query["address"] != WALLET.lower():
                return web.json_response({"error": "none"}, status=404)
            return web.json_response({"proxyWallet": WALLET, "name": "Ana"})
        if request.path == "/v2/activity":
            rows = [
                {
                    "proxy_wallet": WALLET,
                    "timestamp": n,
                    "price": self.price,
                    "size": "1",
                }
                for n in range(1, self.trades + 1)
            ]
            return web.json_response({"data": rows, "pagination": {}})
        page = int(request.query.get("cursor", "1"))
        following = str(page + 1) if page < self.pages else None
        return web.json_response(
            {
                "data": [{"condition_id": f"0x{page}", "current_size": "1"}],
                "pagination": {"next_cursor": following},
            }
        )


@pytest.fixture
async def polymarket():
    """A local Data API and profile page; `.url` is its address."""
    polymarket = Polymarket()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", polymarket.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    polymarket.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield polymarket
    await runner.cleanup()


@pytest.mark.requirement("K9")
@pytest.mark.integration
async def test_a_wallet_is_asked_about_once_however_it_is_spelled(
    polymarket, known, asked
):
    """Activity, positions and profile: one request each, in any letter case."""
    _, wallets = known(polymarket.url)
    for spelling in (WALLET, WALLET.lower(), WALLET.upper().replace("0X", "0x")):
        assert len(await wallets.activity(spelling)) == 1
        assert len(await wallets.positions(spelling)) == 1
        assert (await wallets.profile(spelling)).name == "Ana"
    assert await wallets.profile("0x" + "0" * 40) is None

    assert asked == {"/v2/activity": 1, "/v2/positions": 1, "/public-profile": 2}


@pytest.mark.requirement("K9", "K1")
@pytest.mark.integration
async def test_a_wallet_that_moved_is_looked_at_again(polymarket, known):
    """What was cached of a wallet is gone once it is said that it did something."""
    _, wallets = known(polymarket.url)
    assert len(await wallets.activity(WALLET)) == 1
    polymarket.trades = 2
    assert len(await wallets.activity(WALLET)) == 1

    await wallets.changed(WALLET.lower())

    assert len(await wallets.activity(WALLET)) == 2


@pytest.mark.basic
async def test_all_pages_of_positions_are_read(polymarket, known, asked):
    """A wallet with several pages of positions has them all, in their order."""
    polymarket.pages = 3
    _, wallets = known(polymarket.url)

    found = await wallets.positions(WALLET)

    assert [each.condition_id for each in found] == ["0x1", "0x2", "0x3"]
    assert asked["/v2/positions"] == 3


@pytest.mark.errors
@pytest.mark.requirement("K3")
async def test_rows_that_nobody_can_read_are_not_remembered_as_none(polymarket, known):
    """An activity of unreadable rows is an error, and asked for again."""
    _, wallets = known(polymarket.url)
    polymarket.price = "?"
    with pytest.raises(Unreadable):
        await wallets.activity(WALLET)
    polymarket.price = "0.5"

    assert len(await wallets.activity(WALLET)) == 1


@pytest.mark.integration
@pytest.mark.requirement("B1", "B10")
async def test_a_wallet_of_the_standin_is_known_by_one_request_each(
    known, asked, sampled
):
    """Value, statistics, profit and rank come through the cache, and agree."""
    async with Replay(sampled, speed=float("inf"), seed=2) as replay:
        replay.start()
        await replay.finished()
        _, wallets = known(replay.data_url)
        ranks = await wallets.leaderboard("all")
        best = ranks[0].user_id
        for _ in range(3):
            (point,) = await wallets.pnl(best)
            assert point.realized_pnl + point.unrealized_pnl == ranks[0].pnl
            assert (await wallets.stats(best)).trades == 2
            assert await wallets.value(best.upper().replace("X", "x")) >= 0
            assert await wallets.leaderboard("all") == ranks
        assert await wallets.stats("0x" + "0" * 40) is None
    names = ("/v2/user-pnl", "/v2/user-stats", "/v2/value", "/v2/leaderboard")
    assert [asked[name] for name in names] == [1, 2, 1, 1]
