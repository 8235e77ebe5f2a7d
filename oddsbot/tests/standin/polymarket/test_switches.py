"""Each switch of the stand-in breaks what it says, and is seen by our clients."""

from __future__ import annotations

import asyncio
import json

import pytest

from oddsbot.polymarket import (
    ActivityBell,
    BadAnswer,
    Clob,
    Data,
    Gamma,
    Gap,
    RateLimitedUpstream,
    Silence,
    StreamPool,
    Tick,
    UpstreamUnavailable,
)
from oddsbot.standin.polymarket import Fault, Replay, parse_switch
from support import eventually

from .conftest import DOWN, INF, UP, connect, take


@pytest.mark.errors
@pytest.mark.requirement("B10")
@pytest.mark.parametrize(
    ("switch", "kind", "attributes"),
    [
        ("limited=/markets,1,7", RateLimitedUpstream, {"retry_after": 7.0}),
        ("limited=/markets", RateLimitedUpstream, {"retry_after": None}),
        ("restarting", UpstreamUnavailable, {}),
        ("error", UpstreamUnavailable, {}),
        ("paused", UpstreamUnavailable, {}),
        ("html", UpstreamUnavailable, {}),
        ("slow=,1,60", UpstreamUnavailable, {}),
        ("cut=/markets/slug", UpstreamUnavailable, {}),
    ],
)
async def test_an_answer_goes_wrong_once(small, session, switch, kind, attributes):
    """Each way is one typed error, and the next request is answered."""
    async with Replay(small, speed=INF) as replay:
        replay.faults.switch(*parse_switch(switch))
        # The others are answers, which a busy machine may give late.
        patience = {"timeout": 0.3} if switch.startswith("slow") else {}
        gamma = Gamma(session, replay.gamma_url, **patience)
        with pytest.raises(kind) as caught:
            await gamma.market("other")
        for name, value in attributes.items():
            assert getattr(caught.value, name) == value
        assert (await Gamma(session, replay.gamma_url).market("other")).slug == "other"


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_a_fault_of_another_path_waits_for_it(small, session):
    """A fault is taken by the requests that it is of, as often as it says."""
    async with Replay(small, speed=INF) as replay:
        replay.faults.planned.append(Fault(kind="error", path="/books", times=2))
        assert (await Gamma(session, replay.gamma_url).market("other")).slug
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable):
                await Clob(session, replay.clob_url).books(UP)
        assert await Clob(session, replay.clob_url).books(UP) == {}


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_rows_go_wrong(sampled, session):
    """Late, twice, backwards, partial, the same cursor again, another time."""
    async with Replay(sampled, speed=INF, seed=3) as replay:
        replay.start()
        await replay.finished()
        data = Data(session, replay.data_url)
        plain = (await data.trades(limit=20)).rows
        faults = replay.faults

        faults.twice = True
        assert (await data.trades(limit=20)).rows[::2] == plain
        faults.twice, faults.backwards = False, True
        assert (await data.trades(limit=20)).rows == plain[::-1]
        faults.backwards, faults.partial = False, True
        assert (await data.trades(limit=20)).rows == plain[::2]
        faults.partial, faults.late = False, 600
        newest = max(row.timestamp for row in (await data.trades(limit=20)).rows)
        assert newest <= replay.position // 1000 - 600
        faults.late, faults.same_cursor = 0, True
        page = await data.trades(limit=20)
        again = await data.trades(limit=20, cursor=page.next_cursor)
        assert again.next_cursor == page.next_cursor


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_young_rows_get_another_time(sampled, session):
    """Rows of the last minute move with each answer, and keep all else."""
    options = {"speed": INF, "seed": 3, "until": sampled.start + 300_000}
    async with Replay(sampled, **options) as replay:
        replay.start()
        await replay.finished()
        data = Data(session, replay.data_url)
        plain = (await data.trades(limit=100)).rows
        replay.faults.rewritten = True
        moved = (await data.trades(limit=100)).rows
        now = replay.position // 1000
    shifts = {
        (one.timestamp > now - 60, other.timestamp - one.timestamp)
        for one, other in zip(plain, moved, strict=True)
    }
    assert now % 7
    assert shifts == {(True, now % 7), (False, 0)}
    assert [row.transaction_hash for row in plain] == [
        row.transaction_hash for row in moved
    ]


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_the_channel_goes_wrong(small, session):
    """No first book, a frozen asset, no resolution."""
    async with Replay(small, speed=INF) as replay:
        replay.faults.no_resolved = True
        replay.faults.frozen_assets = {DOWN}
        ws = await connect(session, replay, UP, DOWN)
        replay.start()
        await replay.finished()
        await replay.inject('{"event_type":"odd"}')
        seen = []
        while not seen or seen[-1].get("event_type") != "odd":
            seen += await take(ws, 1)
        kinds = {each["event_type"] for each in seen}
        told = {each.get("asset_id") for each in seen} | {
            entry["asset_id"]
            for each in seen
            for entry in each.get("price_changes", ())
        }
        assert "market_resolved" not in kinds
        assert UP in told
        assert DOWN not in told

        replay.faults.frozen_assets = set()
        replay.faults.no_first_book = True
        await ws.send_str(json.dumps({"operation": "subscribe", "assets_ids": [UP]}))
        await ws.send_str("PING")
        assert await ws.receive_str() == "PONG"


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_a_freeze_by_switch_ends_by_switch(sampled, session):
    """What is played between both is not sent, and what comes after is."""
    tokens = [t for market in sampled.markets.values() for t in market.tokens]
    sent = {}
    for switches in ((), ("freeze=10",), ("freeze=10", "thaw=15")):
        options = {"speed": INF, "until": sampled.start + 120_000}
        async with Replay(sampled, **options) as replay:
            for text in switches:
                replay.faults.switch(*parse_switch(text))
            ws = await connect(session, replay, *tokens)
            replay.start()
            await replay.finished()
            assert not ws.closed
            sent[len(switches)] = replay.frames_sent
    assert sent[1] < sent[2] < sent[0]


@pytest.mark.errors
@pytest.mark.requirement("B10", "B1")
async def test_a_channel_that_breaks_again_and_again_is_followed(sampled, session):
    """Cuts, freezes, bad frames and unknown events by switch: the pool goes on."""
    async with Replay(sampled, speed=120.0, seed=1) as replay:
        for text in (
            "disconnect=300",
            "freeze=200",
            "bad_frame=50",
            "unknown_event=70",
        ):
            replay.faults.switch(*parse_switch(text))
        tokens = [t for market in sampled.markets.values() for t in market.tokens]
        clob = Clob(session, replay.clob_url)

        async def books(assets):
            return await clob.books(*assets)

        seen = []

        async def follow(pool):
            async for event in pool:
                seen.extend((event,))

        silence = Silence(
            quiet_after=0.5, again=(0.5,), settle=0.2, first_book=1, sample_every=1
        )
        async with StreamPool(
            session, replay.ws_url, books, tokens, silence=silence, backoff=(0.01, 0.1)
        ) as pool:
            task = asyncio.get_running_loop().create_task(follow(pool), name="follow")
            await replay.wait_subscribed(*tokens)
            replay.start()
            counted = pool.counters.streams
            await eventually(
                lambda: (
                    counted.bad_frames
                    and counted.skipped["unheard_of"]
                    and pool.counters.replaced
                    and counted.reconnects > pool.counters.replaced
                    # It is counted when it is told, and seen a moment later.
                    and pool.counters.gaps == sum(isinstance(e, Gap) for e in seen) >= 2
                ),
                60,
            )
            task.cancel()
            await asyncio.wait([task])
        assert {each.quote.asset_id for each in seen if isinstance(each, Tick)}


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_from_the_501st_asset_on_no_book_comes(small, session):
    """A connection that asks for too much gets no first book, as on the real one."""
    async with Replay(small, speed=INF) as replay:
        replay.start()
        await replay.finished()
        many = [str(number) for number in range(500)]
        ws = await connect(session, replay, *many, UP)
        await ws.send_str("PING")
        assert await ws.receive_str() == "PONG"
        less = await connect(session, replay, *many[1:], UP)
        (books,) = await take(less, 1)
        assert [book["asset_id"] for book in books] == [UP]


@pytest.mark.integration
@pytest.mark.requirement("B10", "B1")
async def test_the_bell_rings_for_each_trade_with_its_wallet(sampled, session):
    """RTDS tells of both sides of each trade; a filter counts by its exact text."""
    async with Replay(sampled, speed=600.0, seed=3) as replay:
        deaf = await session.ws_connect(replay.live_url)
        slug = next(iter(replay.recording.markets.values())).slug
        filters = f'{{"event_slug": "{slug}"}}'  # not compact: it delivers nothing
        wanted = {"topic": "activity", "type": "orders_matched", "filters": filters}
        await deaf.send_json({"action": "subscribe", "subscriptions": [wanted]})
        told = []

        async def listen():
            async with ActivityBell(session, replay.live_url) as bell:
                async for trade in bell:
                    told.extend([trade])

        task = asyncio.get_running_loop().create_task(listen(), name="listen")
        await eventually(lambda: replay.calls["GET /ws/live"] == 2)
        replay.start()
        await eventually(lambda: len(told) >= 10, 60)
        task.cancel()
        await asyncio.wait([task])
        rows = (await Data(session, replay.data_url).trades(limit=1_000)).rows
        assert {row.transaction_hash for row in told} <= {
            row.transaction_hash for row in rows
        }
        assert {trade.proxy_wallet for trade in told} <= set(replay.wallets)
        await deaf.send_str("PING")
        assert await deaf.receive_str() == "PONG"


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_switches_are_set_by_programs_that_know_the_token(small, session):
    """POST /control sets switches, freezes and cuts; without the token it is 403."""
    async with Replay(small, speed=INF) as replay:
        url = f"{replay.gamma_url}/control"
        async with session.post(url, json={"thaw": True}) as response:
            assert response.status == 403
        key = {"Authorization": f"Bearer {replay.control_token}"}
        ws = await connect(session, replay, UP)
        asked = {
            "switches": {"late": 30, "planned": [{"kind": "error", "times": 2}]},
            "propose": [{"market": "0xaa", "outcome": 1}],
            "disconnect": True,
        }
        async with session.post(url, json=asked, headers=key) as response:
            assert (await response.json())["switches"]["late"] == 30
        assert replay.faults.late == 30
        assert (await ws.receive()).data is not True
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable):
                await Data(session, replay.data_url).resolutions("0xaa")
        row = (await Data(session, replay.data_url).resolutions("0xaa"))["0xaa"]
        assert (row.status, row.proposal) == ("proposed", 0)
        async with session.post(url, json={"tea": 1}, headers=key) as response:
            assert response.status == 400


@pytest.mark.errors
@pytest.mark.requirement("B10")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tea", "is no switch"),
        ("late=soon", "late"),
        ("limited=/a,b", "limited: Expected `int`"),
        ("freeze=-1", "freeze"),
    ],
)
def test_a_switch_that_is_none_is_refused(text, why):
    """A misspelt switch says which there are."""
    with pytest.raises(ValueError, match=why):
        parse_switch(text)


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_a_body_that_is_html_is_a_bad_answer(small, session):
    """A page in place of JSON, with status 200, is `BadAnswer`."""
    async with Replay(small, speed=INF) as replay:
        with pytest.raises(BadAnswer):
            await Gamma(session, f"{replay.gamma_url}/?").market("a")
