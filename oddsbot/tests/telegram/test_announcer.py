"""What becomes of alerts that were held back, by what their person wants then."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from oddsbot.alerts import Direction, PriceCrossed, PriceRule, RuleState
from oddsbot.polymarket import NotFound
from oddsbot.store import Fate, StoredRule, UserSession
from oddsbot.telegram.announcer import Announcer
from oddswire.clock import ManualClock

RULE = PriceRule(
    id="00000000000000aa",
    user_id=1,
    market="0xc7",
    asset_id="71",
    direction=Direction.ABOVE,
    level=Decimal("0.65"),
    once=True,
)
ALERT = PriceCrossed(
    id="00000000000000aa:1",
    user_id=1,
    rule_id=RULE.id,
    market="0xc7",
    asset_id="71",
    direction=Direction.ABOVE,
    level=Decimal("0.65"),
    price=Decimal("0.652"),
    at=1_796_047_327_000,
    seen_at=1_796_047_327.3,
)


class Around:
    """A person, her rules, Polymarket that answers nothing, and a chat."""

    def __init__(self, *rules):
        self.rules = rules
        self.sent = []

    async def get(self, _person):
        """Return her settings."""
        return UserSession()

    async def of(self, _person):
        """Return her rules."""
        return self.rules

    async def market(self, _market):
        """Answer as Polymarket does when it knows none."""
        raise NotFound("there is none")

    async def send(self, _person, card):
        """Keep a card."""
        self.sent.append(card)
        return len(self.sent)


@pytest.mark.errors
@pytest.mark.requirement("B4", "B9")
@pytest.mark.parametrize(
    ("rules", "fate"),
    [
        ([(RULE, RuleState(n=1, ended=True))], Fate.SENT),
        ([(msgspec.structs.replace(RULE, paused=True), RuleState())], Fate.WITHDRAWN),
        ([], Fate.WITHDRAWN),
    ],
    ids=["fired once", "paused", "stopped"],
)
async def test_a_digest_tells_of_a_rule_that_ended_by_firing(rules, fate):
    """A rule that fires once is over when its alert is held: it is told anyway."""
    around = Around(*(StoredRule(rule, state, 1, None) for rule, state in rules))
    clock = ManualClock()
    announcer = Announcer(around, around, around, around, around, clock, minute=60.0)

    decision = await announcer.summarize(1, [ALERT], again=False)

    assert decision.fate is fate
    assert len(around.sent) == (fate is Fate.SENT)
