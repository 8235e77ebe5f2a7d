from __future__ import annotations

import asyncio
import logging
import math
import random

import pytest

from oddsbot.delivery import Decision
from oddsbot.demo import DemoError, Options
from oddsbot.demo.run import run
from oddsbot.demo.stage import Stage
from oddsbot.polymarket import Silence
from oddsbot.standin.polymarket import RecordingError, sample
from oddsbot.store import Fate
from oddsbot.watch import LIQUIDITY, PRICES, RESOLUTIONS, RULES, TOPICS, VOLUMES
from oddswire import Settings
from oddswire.errors import EmbeddedFailed
from oddswire.pubsub import Gap
from support import eventually

SETTINGS = Settings(profile="test")
NEW = '{"event_type":"new_market","market":"0xnew","timestamp":"1770921570954"}'


class Chat(list):
    """The lines that the chat printed; wakes who waits for more of them."""

    def __init__(self) -> None:
        self._more = asyncio.Event()

    def write(self, line: str) -> None:
        """Take a line."""
        self.append(line)
        self._more.set()

    async def wait_lines(self, count: int) -> None:
        """Wait until there are so many."""
        while len(self) < count:
            self._more.clear()
            await self._more.wait()


async def play(
    chat=None, view=None, stop=None, recording=None, silence=None, **options
):
    """Run the demo over the sample, as fast as possible unless told otherwise."""
    return await run(
        Options(recording=recording or sample(), **({"speed": math.inf} | options)),
        SETTINGS,
        stop=stop or asyncio.Event(),
        write=(Chat() if chat is None else chat).write,
        view=view,
        silence=silence,
    )


@pytest.mark.requirement("B3", "B5")
@pytest.mark.integration
async def test_the_demo_delivers_exactly_what_the_recording_must_cause():
    """The whole road, feed to chat, over the sample: the checker agrees."""
    chat = Chat()
    report = await play(chat)

    assert report.check.agrees
    assert report.check.complete
    assert report.check.expected == len(chat) == sum(report.alerts.values()) == 61
    assert report.alerts == {"Ana": 9, "Ben": 7, "Chloe": 45}
    assert sum("resolved: " in line for line in chat) == 4
    assert (report.outbox.pending, report.outbox.lag) == (0, 0)
    assert report.feed.ticks > 1_000
    assert 0 < report.latency_ms.p50 <= report.latency_ms.p99 <= report.latency_ms.max
    assert report.redis.commands > 100
    assert report.redis.price_writes > 0
    assert not report.interrupted


@pytest.mark.requirement("B5")
@pytest.mark.integration
@pytest.mark.parametrize(
    ("seed", "cluster"), [(1, False), (2, False), (3, True)], ids=["1", "2", "cluster"]
)
async def test_killing_the_server_loses_and_repeats_nothing(seed, cluster):
    """The server killed at random moments: restarted, reconnected, all agrees.

    Of a cluster it is one of three primaries.
    """
    dice = random.Random(seed)
    chat = Chat()

    async def killer(stage: Stage) -> None:
        # Far enough apart for the server to be back before it is killed again.
        for earliest in (3, 20, 37):
            await chat.wait_lines(earliest + dice.randrange(10))
            stage.server.kill()
            await stage.server.wait_exit()

    report = await play(chat, killer, speed=1_000.0, cluster=cluster)

    assert report.check.agrees
    assert report.check.complete
    assert len(chat) == 61
    assert report.redis.restarts == 3
    assert report.redis.reconnects >= 3


@pytest.mark.integration
@pytest.mark.requirement("P4")
async def test_prices_and_resolutions_are_on_their_topics():
    """Who subscribes is told of each resolution once, and of prices as they change."""
    events = []

    async def listen(stage: Stage) -> None:
        async with stage.pubsub.subscribe(PRICES, RESOLUTIONS) as sub:
            async for event in sub:
                events.append(event)  # noqa: PERF401 - as they come

    report = await play(Chat(), listen, speed=2_000.0)

    assert report.check.agrees
    resolved = [each.key for each in events if each.topic == RESOLUTIONS.name]
    assert len(resolved) == len(set(resolved)) >= 1
    priced = [each for each in events if each.topic == PRICES.name]
    assert {each.key for each in priced} == {each.value.asset_id for each in priced}
    assert len({each.key for each in priced}) == 4
    assert not any(isinstance(each, Gap) for each in events)


@pytest.mark.integration
@pytest.mark.requirement("P4")
async def test_the_demo_publishes_on_every_topic_that_its_recording_can_fill():
    """Prices, resolutions, new markets, health, numbers and errors reach a subscriber.

    The recording has no volumes and no liquidity, and nobody changes rules.
    """
    seen = set()
    silent = {VOLUMES.name, LIQUIDITY.name, RULES.name}
    wanted = {topic.name for topic in TOPICS} - silent

    async def listen(stage: Stage) -> None:
        async with stage.pubsub.subscribe(*TOPICS) as sub:
            logging.getLogger("oddsbot.demo").error("seen by the handler")
            await stage.replay.wait_subscribed(*stage.outcomes)
            await stage.replay.inject(NEW)
            async for event in sub:
                seen.add(event.topic)

    report = await play(Chat(), listen, speed=1_000.0)

    assert report.check.agrees
    assert seen == wanted


@pytest.mark.errors
async def test_a_cut_feed_is_taken_up_again():
    """A websocket cut mid-run: no crash, no alert twice, the rest is still told."""
    chat = Chat()

    async def cutter(stage: Stage) -> None:
        for after in (5, 15):
            await chat.wait_lines(after)
            # Alerts found before the first cut may still come while the feed is away.
            while not stage.replay.disconnect():
                await chat.wait_lines(len(chat) + 1)

    report = await play(chat, cutter, speed=800.0)

    assert report.check.agrees
    assert not report.check.complete
    assert report.feed.reconnects == 2
    assert report.check.out_of_order == []
    # The second market's resolution is at the very end, long after the cuts.
    assert any("8:30AM-8:45AM ET resolved: Down" in line for line in chat)
    assert len(chat) > 17


@pytest.mark.errors
@pytest.mark.requirement("B1", "B5")
@pytest.mark.parametrize("seed", [1, 2])
async def test_each_fault_of_the_feed_is_one_gap(seed):
    """Connections cut and frozen, an asset frozen: as many gaps, nothing told twice."""
    chat, dice, made = Chat(), random.Random(seed), 0
    faults = ["cut", "freeze", "asset", "cut"]
    dice.shuffle(faults)

    async def breaker(stage: Stage) -> None:
        nonlocal made
        switches, counters = stage.replay.faults, stage.feed.counters
        await chat.wait_lines(3)
        for fault in faults:
            match fault:
                case "cut":
                    assert stage.replay.disconnect() == 1
                case "freeze":
                    stage.replay.freeze()
                case "asset":
                    # The second market has no prices yet.
                    first = stage.markets[0].clob_token_ids
                    switches.frozen_assets = {dice.choice(first)}
            made += 1
            await eventually(lambda: counters.gaps, 30, holds=made.__eq__)
            switches.frozen_assets = set()
            await eventually(lambda: stage.feed.down_for == 0)

    silence = Silence(
        quiet_after=1.5, again=(1.0,), settle=1.0, first_book=3.0, sample_every=5.0
    )
    report = await play(chat, breaker, silence=silence, speed=60.0)

    assert report.check.agrees
    assert not report.check.complete
    assert report.feed.gaps == made == len(faults)
    assert report.check.out_of_order == []
    assert any("8:30AM-8:45AM ET resolved: Down" in line for line in chat)


@pytest.mark.errors
async def test_a_broken_frame_costs_nothing_but_itself():
    """Frames that are no JSON, or no event, are counted; every alert still comes."""
    chat = Chat()

    async def vandal(stage: Stage) -> None:
        await chat.wait_lines(5)
        await stage.replay.inject('{"event_type": "price_ch')
        await stage.replay.inject('[{"event_type": "unheard_of"}]')

    report = await play(chat, vandal, speed=1_500.0)

    assert report.check.agrees
    assert report.check.complete
    assert (report.feed.bad_frames, report.feed.skipped_events) == (1, 1)
    assert len(chat) == 61


@pytest.mark.basic
async def test_stopping_delivers_what_was_found():
    """Stopped mid-run: what was found is delivered, and it is what had to come."""
    chat, stop = Chat(), asyncio.Event()

    async def stopper(_stage: Stage) -> None:
        await chat.wait_lines(20)
        stop.set()

    report = await play(chat, stopper, stop, speed=600.0)

    assert report.interrupted
    assert report.check.agrees
    assert 19 <= report.check.expected < 61
    assert report.check.drained


@pytest.mark.basic
async def test_the_playing_ends_after_the_seconds_asked_for():
    """A limit in seconds plays that part of the recording, to the millisecond."""
    report = await play(seconds=0.5, speed=1_200.0)

    assert report.recording.seconds_played == 600.0
    assert report.check.agrees
    assert 0 < report.check.expected < 61
    assert not report.interrupted


@pytest.mark.errors
@pytest.mark.parametrize("fault", ["lose", "repeat", "swap"])
async def test_the_checker_sees_a_fault_of_the_road(monkeypatch, fault):
    """One alert lost, told twice, or told late: the run does not agree."""
    deliver = Stage._deliver
    kept, swapped = [], []

    async def faulty(stage, alert, *, again):
        kept.append(alert)
        if fault in {"lose", "swap"} and len(kept) == 20:
            return Decision(Fate.SENT)
        decision = await deliver(stage, alert, again=again)
        if fault == "repeat" and len(kept) == 20:
            await deliver(stage, alert, again=again)
        if fault == "swap" and len(kept) > 20 and not swapped:
            late = kept[19]
            if (alert.user_id, alert.at) > (late.user_id, late.at) and (
                alert.user_id == late.user_id
            ):
                swapped.append(late)
                await deliver(stage, late, again=again)
        return decision

    monkeypatch.setattr(Stage, "_deliver", faulty)
    report = await play(speed=3_000.0)

    assert not report.check.agrees
    found = {
        "lose": report.check.missing,
        "repeat": report.check.unexpected,
        "swap": report.check.out_of_order,
    }
    assert len(found[fault]) == 1


@pytest.mark.errors
async def test_a_damaged_line_is_counted_and_the_rest_played(written):
    """A recording with a damaged line plays without it, and the report says so."""
    written.book(0, bid=0.5)
    written.line(b'{"ts": 17900000')
    for at in range(1, 20):
        written.book(at, bid=0.3 if at % 2 else 0.7)
    chat = Chat()
    report = await play(chat, recording=written.save())

    assert report.recording.skipped_lines == 1
    assert report.recording.first_skipped.startswith("line 2: ")
    assert report.check.agrees
    assert len(chat) == report.check.expected > 5
    assert "1 damaged lines skipped, first line 2" in report.text()


@pytest.mark.errors
async def test_what_an_earlier_run_left_is_not_told_in_the_next(tmp_path, written):
    """Its alerts ended with its database; the queue is emptied of them, untold."""
    for at in range(20):
        written.book(at, bid=0.3 if at % 2 else 0.7)
    recording = written.save()
    chat = Chat()

    with pytest.raises(OSError, match="no messenger"):
        await play(_Broken(), recording=recording, data_dir=tmp_path / "data")
    report = await play(chat, recording=recording, data_dir=tmp_path / "data")

    assert report.check.agrees
    assert len(chat) == report.check.expected == sum(report.alerts.values())
    assert (report.outbox.pending, report.outbox.lag) == (0, 0)


class _Broken(Chat):
    def write(self, line: str) -> None:
        raise OSError("no messenger")


@pytest.mark.errors
async def test_a_server_that_cannot_return_ends_the_run_with_its_reason(monkeypatch):
    """When the restart fails, the run ends with that error and not with a hang."""
    chat = Chat()

    async def killer(stage: Stage) -> None:
        await chat.wait_lines(3)

        async def refuse() -> None:
            raise EmbeddedFailed("the port was taken")

        monkeypatch.setattr(stage.server, "restart", refuse)
        stage.server.kill()

    with pytest.raises(EmbeddedFailed, match="the port was taken"):
        await play(chat, killer, speed=500.0)


@pytest.mark.errors
async def test_a_recording_that_is_not_there(tmp_path):
    """A missing recording is a typed error before anything is started."""
    with pytest.raises(RecordingError, match="is not there"):
        await play(recording=tmp_path / "no.books.jsonl.gz")


@pytest.mark.errors
@pytest.mark.parametrize(
    "wrong",
    [
        {"speed": 0.0},
        {"speed": -1.0},
        {"speed": math.nan},
        {"seconds": 0.0},
        {"seconds": math.inf},
        {"seconds": math.nan},
        {"port": -1},
        {"port": 65_536},
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong):
    """Each is one line that names the option and what to give."""
    with pytest.raises(DemoError, match=r"^--\w+ .*: give .*$"):
        Options(recording=sample(), **wrong)
