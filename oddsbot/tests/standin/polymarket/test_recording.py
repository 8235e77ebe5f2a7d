"""Reading recordings, whole and damaged."""

from __future__ import annotations

import asyncio
import gzip
import json
import zipfile
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.polymarket import Clob, MarketResolved, StreamPool, Tick
from oddsbot.standin.polymarket import (
    Group,
    Recording,
    RecordingError,
    Replay,
    Resolution,
    sample,
    token_id,
)

from .conftest import MARKET, line

D = Decimal


@pytest.mark.basic
def test_the_sample_is_two_markets_from_quiet_to_settled(sampled):
    """It is whole, holds both results, and one falls in its first 20 minutes."""
    first, second = sampled.markets.values()
    resolutions = [item for item in sampled.timeline if isinstance(item, Resolution)]

    assert (sampled.skipped, sampled.first_skipped, sampled.warning) == (0, None, None)
    assert first.end_ts == second.start_ts
    assert (first.winner, second.winner) == (0, 1)
    assert [item.market_id for item in resolutions] == list(sampled.markets)
    assert resolutions[0].ts - sampled.start < 20 * 60_000
    assert sampled.start >= first.start_ts - 180_000
    assert sampled.end == resolutions[1].ts
    assert sample().stat().st_size < 600_000


@pytest.mark.basic
def test_a_recording_is_read_exactly(write):
    """Prices and sizes are those of the text; both sides of a moment are one group."""
    path = write(
        line(bids=[[0.4, 205.0], [0.123456789012345, 1]]),
        line(side="DOWN", bids=[], asks=[[0.6, 205.0]]),
        line(ts=1_000_500),
    )

    recording = Recording.load(path)
    group, later, resolution = recording.timeline

    assert isinstance(group, Group)
    assert group.snapshots[0].bids == (
        (D("0.4"), D("205.0")),
        (D("0.123456789012345"), D(1)),
    )
    assert [each.side for each in group.snapshots] == ["UP", "DOWN"]
    assert (later.ts, len(later.snapshots)) == (1_000_500, 1)
    assert resolution == Resolution(1_900_000, "0xaa")
    assert (recording.start, recording.end) == (1_000_000, 1_900_000)


@pytest.mark.basic
def test_a_market_is_resolved_after_its_last_book(write):
    """Books that come after the end of the slot put the resolution off."""
    recording = Recording.load(write(line(), line(ts=1_950_000)))

    assert recording.timeline[-1] == Resolution(1_950_000, "0xaa")


@pytest.mark.basic
def test_token_ids_are_77_digits_and_stay_the_same(sampled):
    """A token id is derived from the market and the side alone."""
    tokens = [each for market in sampled.markets.values() for each in market.tokens]

    assert len(set(tokens)) == 4
    assert {len(each) for each in tokens} == {77}
    assert token_id("0xaa", "UP") == (
        "71417342566379939342453146731584127641946853179087341452851067959773276088903"
    )


BAD_LINES = {
    "bad JSON": '{"ts": 1000000,',
    "no JSON": "hello",
    "another shape": "[1, 2]",
    "too deep": "[" * 100_000,
    "no side": json.dumps({"ts": 1_000_000, "market_id": "0xaa"}),
    "unknown side": line(side="SIDEWAYS"),
    "text for a time": line(ts="1000000"),
    "text for a price": line(bids=[["0.4x", 1]]),
    "a level of three": line(bids=[[0.4, 1, 2]]),
    "unknown market": line(market_id="0xbb"),
    "earlier than the line before": line(ts=999_999),
    "a year ahead": line(ts=32_000_000_000),
    "price of 1": line(asks=[[1.0, 5]]),
    "price of 0": line(bids=[[0, 5]]),
    "price of nothing": line(bids=[["NaN", 5]]),
    "size of 0": line(bids=[[0.4, 0]]),
    "endless size": line(bids=[[0.4, "Infinity"]]),
    "bids not descending": line(bids=[[0.3, 1], [0.4, 1]]),
    "a price twice": line(bids=[[0.4, 1], [0.4, 1]]),
    "asks not ascending": line(asks=[[0.6, 1], [0.5, 1]]),
    "half a character": '{"ts": 1000000, "market_id": "\ud800"}',
}


@pytest.mark.errors
@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_damaged_line_costs_itself_only(write, bad):
    """It is skipped, counted and named; the lines around it are there."""
    path = write(line(), bad, line(ts=1_000_001), bad, line(ts=1_000_002))

    recording = Recording.load(path)

    assert recording.skipped == 2
    assert recording.first_skipped.startswith("line 2: ")
    assert "\n" not in recording.first_skipped
    assert [item.ts for item in recording.timeline[:-1]] == [
        1_000_000,
        1_000_001,
        1_000_002,
    ]


@pytest.mark.errors
def test_a_recording_without_a_usable_line_is_an_error(write):
    """Nothing to play is an error that says what was wrong with the first line."""
    with pytest.raises(RecordingError, match=r"no usable line \(line 1: .*\): give"):
        Recording.load(write("rubbish", "more"))


@pytest.mark.errors
@pytest.mark.parametrize("gone", ["x.books.jsonl.gz", "x.markets.json"])
def test_a_missing_file_is_named(write, gone):
    """Of the two files, the error names the one that is not there."""
    path = write(line())
    path.with_name(gone).unlink()

    with pytest.raises(RecordingError, match=f"{gone} is not there: a recording is"):
        Recording.load(path)


@pytest.mark.errors
@pytest.mark.parametrize("name", ["x.json", "x.books.jsonl", ""])
def test_another_kind_of_file_is_refused(tmp_path, name):
    """A path that cannot be a recording says what a recording is called."""
    with pytest.raises(RecordingError, match=r"named \*\.books\.jsonl\.gz"):
        Recording.load(tmp_path / name)


@pytest.mark.errors
@pytest.mark.parametrize(
    "markets",
    ["", "{}", "[{}]", "\xff", json.dumps([MARKET | {"payout_up": "much"}])],
)
def test_an_unreadable_markets_file_is_an_error(write, markets):
    """Without its markets a recording cannot be played."""
    path = write(line())
    path.with_name("x.markets.json").write_bytes(markets.encode("latin-1"))

    with pytest.raises(RecordingError, match=r"markets\.json cannot be read") as caught:
        Recording.load(path)

    assert "\n" not in str(caught.value)


@pytest.mark.errors
@pytest.mark.parametrize("content", [b"", b"not gzip", gzip.compress(b"", mtime=0)[:5]])
def test_a_file_that_gzip_cannot_read_at_all_is_an_error(write, content):
    """A file of which nothing can be read says so in one line."""
    path = write(line())
    path.write_bytes(content)

    with pytest.raises(RecordingError, match="nothing that gzip can read") as caught:
        Recording.load(path)

    assert "\n" not in str(caught.value)


@pytest.mark.errors
@given(cut=st.floats(0, 1), data=st.data())
def test_a_cut_or_damaged_file_keeps_what_could_be_read(tmp_path_factory, cut, data):
    """Wherever it is cut or hit, the lines before are there, in order, or an error."""
    lines = [line(ts=1_000_000 + n, bids=[[0.4, n + 1]]) for n in range(300)]
    folder = tmp_path_factory.mktemp("cut")
    path = folder / "x.books.jsonl.gz"
    (folder / "x.markets.json").write_text(json.dumps([MARKET]))
    packed = bytearray(gzip.compress("\n".join(lines).encode(), mtime=0))
    at = min(int(cut * len(packed)), len(packed) - 1)
    if data.draw(st.booleans()):
        del packed[at:]
    else:
        packed[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(packed)

    try:
        recording = Recording.load(path)
    except RecordingError:
        return
    read = [item.ts for item in recording.timeline if isinstance(item, Group)]
    if len(read) < len(lines):
        assert recording.warning is not None or recording.skipped
    assert read == sorted(set(read))
    if recording.skipped == 0:
        assert read == [1_000_000 + n for n in range(len(read))]


@pytest.mark.errors
def test_a_truncated_file_says_so(write):
    """The warning names the file and how much could be read."""
    path = write(*(line(ts=1_000_000 + n, bids=[[0.4, n + 1]]) for n in range(3000)))
    path.write_bytes(path.read_bytes()[:-2000])

    recording = Recording.load(path)
    groups = len(recording.timeline) - 1

    assert 1000 < groups < 3000
    assert recording.warning == (
        f"x.books.jsonl.gz is cut off: only its first {groups} lines could be read; "
        "copy it again"
    )
    assert recording.skipped == 0


@pytest.mark.basic
def test_gzip_members_one_after_another_are_one_recording(write):
    """Files joined end to end read as one, as gzip itself has it."""
    path = write(line())
    path.write_bytes(
        path.read_bytes() + gzip.compress((line(ts=1_000_001) + "\n").encode())
    )

    assert len(Recording.load(path).timeline) == 3


@pytest.mark.shared
@pytest.mark.basic
def test_the_whole_recorded_set_loads(shared_data):
    """All 25,640 snapshots of the 12 markets are read, none skipped."""
    path = shared_data / "l2" / "btc-updown-15m-2026-09-28.books.jsonl.gz"

    recording = Recording.load(path)
    groups = [item for item in recording.timeline if isinstance(item, Group)]

    assert sum(len(group.snapshots) for group in groups) == 25_640
    assert len(recording.markets) == 12
    assert recording.skipped == 0


@pytest.mark.integration
def test_the_sample_and_its_licence_are_in_the_wheel(tmp_path, pytestconfig):
    """Who installs the bot has the sample, and the text that its licence asks for."""
    from hatchling.builders.wheel import WheelBuilder

    builder = WheelBuilder(str(pytestconfig.rootpath / "oddsbot"))
    (wheel,) = builder.build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = {
            name.removeprefix("oddsbot/standin/polymarket/sample/")
            for name in archive.namelist()
            if name.startswith("oddsbot/standin/polymarket/sample/")
        }

    assert names == {
        "btc-updown-15m.books.jsonl.gz",
        "btc-updown-15m.markets.json",
        "ATTRIBUTION.md",
        "LICENSE-CC-BY-4.0.txt",
    }


@pytest.fixture
def write_quotes(tmp_path):
    """Write a recording of quotes; return its path."""

    def write(*lines, markets=("a,sports,Who?,1,api", "b,sports,When?,,")):
        path = tmp_path / "x.bbo-changes.csv.gz"
        heads = "ts,slug,bid,ask", "slug,category,question,resolved_yes,label_source"
        for to, head, body in (
            (path, heads[0], lines), (tmp_path / "x.markets.csv.gz", heads[1], markets),
        ):  # fmt: skip
            to.write_bytes(gzip.compress("\n".join((head, *body, "")).encode()))
        return path

    return write


@pytest.mark.basic
@pytest.mark.requirement("B10")
async def test_a_recording_of_quotes_is_played_like_one_of_books(write_quotes, session):
    """Prices, empty sides and the known result come; the outcomes mirror each other."""
    lines = "1000,a,0.4,0.5", "1000,b,,", "1060,a,0.45,", "1120,a,0.45,0.6"
    recording = await asyncio.to_thread(lambda: Recording.load(write_quotes(*lines)))
    assert (recording.skipped, recording.start, recording.end) == (0, 10**6, 1_120_000)
    first, second = recording.markets.values()
    assert (first.slug, first.winner, second.decided) == ("a", 0, False)
    seen = []
    async with Replay(recording, speed=float("inf")) as replay:
        clob = Clob(session, replay.clob_url)
        async with StreamPool(
            session, replay.ws_url, lambda ids: clob.books(*ids), first.tokens
        ) as pool:
            await replay.wait_subscribed(*first.tokens)
            replay.start()
            async for event in pool:
                seen += [event]
                if isinstance(event, MarketResolved):
                    break
    told = [
        (first.tokens.index(each.quote.asset_id), each.quote.bid, each.quote.ask)
        for each in seen
        if isinstance(each, Tick)
    ]
    assert list(dict.fromkeys(told)) == [
        (0, D("0.4"), D("0.5")), (1, D("0.5"), D("0.6")),
        (0, D("0.45"), None), (1, None, D("0.55")),
        (0, D("0.45"), D("0.6")), (1, D("0.4"), D("0.55")),
    ]  # fmt: skip
    assert seen[-1].winning_outcome == "Yes"


@pytest.mark.errors
@pytest.mark.requirement("B10")
@pytest.mark.parametrize(
    "bad",
    [
        "x,a,0.4,0.5", "1000,none,0.4,0.5", "1000,a,0.6,0.5", "1000,a,nan,0.5",
        "1000,a,0.4", "1000,a,0.4,0.5,7", "1000,a,2,3", "999,a,0.4,0.5", ",,,",
    ],
)  # fmt: skip
def test_a_damaged_line_of_quotes_costs_itself(write_quotes, bad):
    """It is skipped and counted, and the lines around it are there."""
    recording = Recording.load(write_quotes("1000,a,0.4,0.5", bad, "1060,a,0.41,0.5"))
    assert recording.skipped == 1
    assert recording.first_skipped.startswith("line 3: ")
    assert sum(isinstance(item, Group) for item in recording.timeline) == 2
