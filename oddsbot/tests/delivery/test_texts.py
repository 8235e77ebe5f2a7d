"""What comes from outside is shown as the characters it is made of."""

from __future__ import annotations

import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.alerts import (
    Direction,
    Moved,
    Opened,
    PriceCrossed,
    Proposed,
    Resolved,
    Unit,
)
from oddsbot.delivery import PrintedChat, text_of

EVIL = "Rain?\nBen: Yes\x1b]0;x\x07\u202e<a href='tg://x'>"
NUMBERS = st.decimals() | st.sampled_from([Decimal("1E+999999"), Decimal("NaN")])
TIMES = st.integers() | st.sampled_from([10**18, -(10**18), 2**63, 10**400])


@pytest.mark.errors
@pytest.mark.requirement("X4")
@given(text=st.text() | st.just(EVIL * 500), at=TIMES, number=NUMBERS)
def test_an_alert_is_one_line_whatever_is_in_it(text, at, number):
    """No title, time or number makes a second line, steers a terminal or raises."""
    crossed = PriceCrossed(
        id="1", user_id=1, rule_id="r", market="m", asset_id="a", at=at, seen_at=0.0,
        direction=Direction.ABOVE, level=number, price=number,
    )  # fmt: skip
    moved = Moved(
        id="1", user_id=1, rule_id="r", market="m", asset_id="a", at=at, seen_at=0.0,
        direction=Direction.BELOW, by=number, unit=Unit.PERCENT, reference=number,
        price=number,
    )  # fmt: skip
    resolved = Resolved(
        id="1", user_id=1, market=text, asset_id="a", outcome=text, at=at, seen_at=0.0
    )
    proposed = Proposed(
        id="1", user_id=1, market="m", outcome=text, final_at=at, at=at, seen_at=0.0
    )
    opened = Opened(
        id="1", user_id=1, tag=text, event="1", title=text, market="m", markets=1,
        at=at, seen_at=0.0, choice=text, joined=9,
    )  # fmt: skip
    for line in (
        text_of(opened, {}, {}),
        text_of(crossed, {"m": text}, {"a": text}),
        text_of(moved, {"m": text}, {"a": text}),
        text_of(resolved, {}, {}),
        text_of(proposed, {"m": text}, {}),
    ):
        assert len(line) < 600
        assert not {unicodedata.category(each) for each in line} & {"Cc", "Zl", "Zp"}


@pytest.mark.basic
@pytest.mark.requirement("B3")
def test_a_move_says_how_far_and_from_where():
    """The text of a move has its size, its way, both prices and the market."""
    moved = Moved(
        id="1", user_id=1, rule_id="r", market="m", asset_id="a", at=0, seen_at=0.0,
        direction=Direction.BELOW, by=Decimal(5), unit=Unit.CENTS,
        reference=Decimal("0.52"), price=Decimal("0.46"),
    )  # fmt: skip
    text = text_of(moved, {"m": "Rain?"}, {"a": "Yes"})
    assert text == "Yes down 5¢ from 0.52: ask 0.46, Rain? (00:00:00 UTC)"


@pytest.mark.errors
@pytest.mark.requirement("X4")
async def test_a_printed_chat_has_a_line_for_each_text():
    """A text with line breaks and escapes cannot speak for another user."""
    lines = []
    await PrintedChat(lines.append, {1: "Ana\n"}).send(1, EVIL)
    assert lines == ["Ana: Rain? Ben: Yes\\x1b]0;x\\x07\\u202e<a href='tg://x'>"]
