"""Run as a program it writes the snapshots anew; read their difference then."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.alerts import (
    Base,
    Direction,
    Disputed,
    Moved,
    MoveRule,
    Opened,
    PriceCrossed,
    PriceRule,
    Proposed,
    Resolved,
    RuleState,
    Unit,
    VolumeReached,
    VolumeRule,
)
from oddsbot.delivery import Action, File
from oddsbot.markets import Price
from oddsbot.polymarket import (
    GammaEvent,
    GammaMarket,
    Level,
    OrderBook,
    Position,
    Profile,
    SearchPage,
    Stats,
)
from oddsbot.store import (
    AlertRow,
    Fate,
    FollowedTag,
    Kind,
    Notifications,
    Place,
    QuietHours,
    StoredRule,
    UserSession,
    WatchedMarket,
)
from oddsbot.telegram.screens import errors, person, start
from oddsbot.telegram.screens.alerts import (
    Group,
    alerts_card,
    change_card,
    level_card,
    removed_card,
    rule_card,
    set_card,
    set_many_card,
    why_card,
)
from oddsbot.telegram.screens.fired import digest_card, fired_card, opened_digest_card
from oddsbot.telegram.screens.found import (
    event_card,
    list_card,
    nearest_card,
    search_card,
)
from oddsbot.telegram.screens.history import history_card, why_nothing_card
from oddsbot.telegram.screens.market import (
    MarketView,
    book_card,
    market_card,
    price_card,
)
from oddsbot.telegram.screens.wallet import WalletView, wallet_card
from oddsbot.telegram.text import Text, cut, earlier, units
from oddswire.erasure import Erased, Receipt

if __name__ == "__main__":
    from cards import drawn, fits
else:
    from .cards import drawn, fits

# A mention, a command or a tag, as Telegram finds them in a text.
CALLING = re.compile(r"(?<!\w)[@#/]\w")
FOLDER = Path(__file__).with_name("screens")
NOW = datetime(2026, 11, 30, 14, 0, tzinfo=UTC)
D = Decimal


def market(number=7, question="Fed cuts rates in December?", **fields):
    """Return an open market of two outcomes."""
    given_ = {
        "id": str(number),
        "condition_id": f"0xc{number}",
        "slug": f"market-{number}",
        "question": question,
        "outcomes": ("Yes", "No"),
        "outcome_prices": (D("0.64"), D("0.36")),
        "clob_token_ids": (f"{number}1", f"{number}2"),
        "end_date": "2026-12-17T19:00:00Z",
        "volume": D(4_200_000),
        "volume24hr": D(310_000),
        "liquidity": D(182_000),
        "spread": D("0.02"),
    }
    return GammaMarket(**{**given_, **fields})


def decided(**fields):
    """Return one whose first outcome won."""
    return market(
        closed=True,
        closed_time="2026-12-17 19:00:00+00",
        uma_resolution_status="resolved",
        outcome_prices=(D(1), D(0)),
        **fields,
    )


PRICES = {
    "71": Price(D("0.63"), D("0.65"), 1),
    "72": Price(D("0.35"), D("0.37"), 1),
}


def price_rule(rule_id="00000000000000aa", **fields):
    """Return a price rule of that market."""
    given_ = {
        "id": rule_id,
        "user_id": 1,
        "market": "0xc7",
        "asset_id": "71",
        "direction": Direction.ABOVE,
        "level": D("0.7"),
    }
    return PriceRule(**{**given_, **fields})


def move_rule(by=5, **fields):
    """Return a move rule of that market."""
    return MoveRule(
        id="00000000000000bb",
        user_id=1,
        market="0xc7",
        asset_id="71",
        by=D(by),
        base=Base(D("0.63"), D("0.65")),
        **fields,
    )


def volume_rule(**fields):
    """Return a volume rule of that market."""
    given_ = {"id": "00000000000000cc", "user_id": 1, "market": "0xc7"}
    return VolumeRule(**given_, level=5_000_000, **fields)


def view(**fields):
    """Return what a person sees of that market."""
    return MarketView(**{"market": market(), "prices": PRICES, "now": NOW, **fields})


def event(count, **fields):
    """Return an event of so many markets."""
    given_ = {
        "id": "900",
        "slug": "who-wins",
        "title": "Who wins the election?",
        "volume": D(92_000_000),
        "end_date": "2028-11-03T00:00:00Z",
        "markets": tuple(
            market(
                number,
                f"Will candidate {number} win?",
                group_item_title=f"Candidate {number}",
                outcome_prices=(D(number) / 100, 1 - D(number) / 100),
            )
            for number in range(1, count + 1)
        ),
    }
    return GammaEvent(**{**given_, **fields})


BOOK = OrderBook(
    market="0xc7",
    asset_id="71",
    timestamp=1,
    bids=tuple(Level(D(price) / 100, D(1_000 + price)) for price in range(50, 64)),
    asks=tuple(Level(D(price) / 100, D(20_000 + price)) for price in range(65, 70)),
)
CROSSED = PriceCrossed(
    id="00000000000000aa:1",
    user_id=1,
    rule_id="00000000000000aa",
    market="0xc7",
    asset_id="71",
    direction=Direction.ABOVE,
    level=D("0.65"),
    price=D("0.652"),
    at=1_796_047_327_000,
    seen_at=1_796_047_327.3,
)
MOVED = Moved(
    id="00000000000000bb:1",
    user_id=1,
    rule_id="00000000000000bb",
    market="0xc7",
    asset_id="71",
    direction=Direction.BELOW,
    by=D(5),
    unit=Unit.PERCENT,
    reference=D("0.65"),
    price=D("0.6"),
    at=1_796_047_327_000,
    seen_at=1_796_047_327.3,
)
REACHED = VolumeReached(
    id="00000000000000cc:1",
    user_id=1,
    rule_id="00000000000000cc",
    market="0xc7",
    level=5_000_000,
    daily=True,
    volume=D(5_012_345),
    at=1_796_047_327_000,
    seen_at=1_796_047_327.3,
)
PROPOSED = Proposed(
    id="1:0xc7:proposed:1",
    user_id=1,
    market="0xc7",
    outcome="Yes",
    final_at=1_796_054_527,
    at=1,
    seen_at=1.0,
)
DISPUTED = Disputed(
    id="1:0xc7:disputed:1", user_id=1, market="0xc7", outcome="Yes", at=1, seen_at=1.0
)
OPENED = Opened(
    id="1:9:opened",
    user_id=1,
    tag="crypto",
    event="9",
    title="Who wins the election?",
    market="0xc7",
    markets=14,
    at=1,
    seen_at=1.0,
)
JOINED = msgspec.structs.replace(OPENED, choice="Morales", joined=3)
RESOLVED = Resolved(
    id="1:0xc7:resolved",
    user_id=1,
    market="0xc7",
    asset_id="71",
    outcome="Yes",
    at=1,
    seen_at=1.0,
)


def session():
    """Return a person who changed some of her settings."""
    hers = UserSession()
    hers.timezone = "Europe/Berlin"
    hers.quiet = QuietHours(23 * 60, 7 * 60 + 30)
    hers.notifications.resolution = False
    hers.muted_until = 1_000_000 + 7_200
    hers.per_minute = 3
    hers.thresholds.price_change = 0.05
    hers.markets["0xc7"] = WatchedMarket()
    return hers


RECEIPT = Receipt(
    1,
    NOW.timestamp(),
    (Erased("queue:alerts", 3), Erased("cache", 0), Erased("sessions", 2)),
)
SENT = CROSSED.seen_at + 0.6
SHARE = person.Share(3, 200, 1, 200, 20)


def standing(rule, **state):
    """Return a rule with where it stands."""
    return StoredRule(rule, RuleState(**state), 1, None)


def row(alert, fate, number):
    """Return an alert as the database has it."""
    return AlertRow(
        user_id=1,
        id=alert.id,
        rule_id="",
        kind="price",
        market=alert.market,
        data=msgspec.json.encode(alert).decode(),
        due_at=CROSSED.at - number * 60_000,
        where=Place("0", 9 - number, 0),
        home="",
        fate=fate,
        reason=None,
        message_id=None,
        settled_at=None,
    )


HAPPENED = [
    row(CROSSED, Fate.SENT, 0),
    row(MOVED, None, 1),
    row(msgspec.structs.replace(RESOLVED, market="0xgone"), Fate.MUTED, 2),
    msgspec.structs.replace(row(CROSSED, Fate.FAILED, 3), data="{}"),
]
FIRED = {"n": 2, "armed": False, "fired_at": CROSSED.at}
SCREENS = {
    "start": start.start_card(),
    "start-unknown-link": start.start_card(errors.UNKNOWN_LINK),
    "help": start.help_card(),
    "find": start.find_card(),
    "stopped": start.stopped_card(3),
    "stopped-nothing": start.stopped_card(0),
    "market": market_card(
        view(rules=[standing(price_rule()), standing(move_rule())], watched=True)
    ),
    "market-photo": market_card(view(chart=b"png", span=1)),
    "market-decided": market_card(view(market=decided(), prices={})),
    "market-decided-early": market_card(
        view(
            market=msgspec.structs.replace(
                decided(),
                end_date="2027-12-31T00:00:00Z",
                closed_time="2025-03-01 12:00:00+00",
            ),
            prices={},
        )
    ),
    "market-closed-early": market_card(
        view(market=market(closed=True, end_date="2027-12-31T00:00:00Z"))
    ),
    "market-one-side": market_card(
        view(prices={"71": Price(None, D("0.01"), 1), "72": Price(D("0.99"), None, 1)})
    ),
    "market-late": market_card(
        view(age=125.0, market=market(end_date="2026-11-29T00:00:00Z"))
    ),
    "market-odds": market_card(
        view(odds="decimal", market=market(one_day_price_change=D("-0.03")))
    ),
    "price": price_card(view()),
    "price-decided": price_card(view(market=decided(), prices={})),
    "book": book_card(market(), 0, BOOK),
    "book-empty": book_card(market(), 1, None),
    "event": event_card(event(12), 0, NOW),
    "event-moved": event_card(
        event(
            2,
            markets=(
                market(1, one_day_price_change=D("0.021")),
                market(2, one_day_price_change=D("0.001")),
            ),
        ),
        0,
        NOW,
    ),
    "event-closed": event_card(event(2, closed=True), 0, NOW),
    "event-last": event_card(event(12, skipped=2), 7, NOW),
    "search": search_card(
        "fed <b>december",
        SearchPage(
            events=(event(1, id="1"), event(3, id="2", closed=True)),
            profiles=(Profile(name="@whale", proxy_wallet="0x" + "ab" * 20),),
            total=7,
            more=True,
        ),
        0,
        closed=False,
    ),
    "search-nothing": search_card("xyzzy", SearchPage(), 0, closed=False),
    "list": list_card("Traded most today: crypto", [event(1), event(2)], Action.TOP),
    "list-page": list_card(
        "New", [event(n, id=str(n)) for n in range(1, 13)], Action.NEW, 1, "percent"
    ),
    "list-tag": list_card(
        "New: crypto", [event(1)], Action.NEW, tag="crypto", followed=False
    ),
    "list-tag-followed": list_card(
        "New: crypto", [event(1)], Action.NEW, tag="crypto", followed=True
    ),
    "list-nothing": list_card("New: knitting", [], Action.NEW),
    "nearest": nearest_card([event(1), event(2, id="2")]),
    "in-private": start.in_private_card("odds_bot"),
    "alerts": alerts_card(
        [
            Group(market(), [standing(price_rule()), standing(move_rule())], PRICES),
            Group(
                None,
                [
                    standing(
                        price_rule(
                            "00000000000000cc",
                            market="0xgone",
                            direction=Direction.BELOW,
                            asset_id="9",
                        ),
                        **FIRED,
                    )
                ],
                {},
            ),
        ]
    ),
    "alerts-none": alerts_card([]),
    "alerts-many": alerts_card(
        [
            Group(
                market(),
                [
                    standing(price_rule(f"{n:016x}", level=D(n) / 100))
                    for n in range(1, 24)
                ],
                PRICES,
            )
        ],
        1,
    ),
    "alert": rule_card(standing(price_rule()), market(), PRICES),
    "alert-paused": rule_card(standing(price_rule(paused=True)), market(), PRICES),
    "alerts-paused": alerts_card(
        [
            Group(
                market(),
                [standing(price_rule(paused=True)), standing(move_rule())],
                PRICES,
            )
        ]
    ),
    "wallet": wallet_card(
        WalletView(
            address="0x" + "5c" * 20,
            profile=Profile(name="whale-7"),
            stats=Stats(proxy_wallet="0x", trades=1_204, join_date=1_709_251_200),
            value=D(412_000),
            positions=[
                Position(
                    condition_id="0xc7",
                    title="Fed cuts in December?",
                    outcome="Yes",
                    current_size=D(20_261 - number),
                    avg_price=D("0.612"),
                    current_price=D("0.63"),
                    current_value=D(12_764 - number),
                )
                for number in range(7)
            ],
        )
    ),
    "wallet-unknown": wallet_card(
        WalletView(
            address="0x" + "5c" * 20,
            profile=None,
            stats=None,
            value=D(0),
            positions=[],
        )
    ),
    "wallet-empty": wallet_card(
        WalletView(
            address="0x" + "5c" * 20,
            profile=None,
            stats=Stats(proxy_wallet="0x", trades=3),
            value=D(0),
            positions=[],
        )
    ),
    "alert-set": set_card(price_rule(), market(), PRICES),
    "alert-set-within": set_card(move_rule(within=3_600), market(), PRICES),
    "alert-set-move": set_card(move_rule(55), market(), PRICES),
    "alert-set-held-up": set_card(
        price_rule(),
        market(),
        PRICES,
        held_up=person.held_up(
            UserSession(
                muted_until=int(NOW.timestamp()) + 90,
                notifications=Notifications(price=False, volume=False),
            ),
            NOW.timestamp(),
            Kind.PRICE,
        ),
    ),
    "alert-set-there": set_card(price_rule(level=D("0.6")), market(), PRICES),
    "alert-removed": removed_card(was_there=True),
    "alert-gone": removed_card(was_there=False),
    "alert-level": level_card(),
    "alert-rests": rule_card(standing(price_rule(), **FIRED), market(), PRICES),
    "alert-change": change_card(price_rule(level=D("0.97")), market()),
    "alert-change-move": change_card(move_rule(), market()),
    "alert-change-volume": change_card(volume_rule(), market()),
    "alert-level-volume": level_card(volume=True),
    "alert-any": set_many_card("Who wins the election?", 14, 2, 5),
    "alert-why": why_card(
        standing(price_rule(base=Base(D("0.63"), None)), **FIRED),
        market(),
        PRICES,
        {Fate.SENT: 1, None: 1},
        "percent",
    ),
    "alert-why-move": why_card(standing(move_rule(), n=1), None, {}, {Fate.MUTED: 1}),
    "history": history_card(
        HAPPENED,
        {"0xc7": market()},
        {Fate.SENT: 1_201, None: 2, Fate.MUTED: 2, Fate.FAILED: 1},
        2,
    ),
    "history-none": history_card([], {}, {}),
    "why-nothing": why_nothing_card(
        Group(market(), [standing(price_rule()), standing(move_rule())], PRICES),
        {Fate.SENT: 3, Fate.COOLDOWN: 4},
        session(),
        1_000_000,
    ),
    "why-nothing-asked": why_nothing_card(
        Group(market(), [], PRICES), {}, UserSession(), 0
    ),
    "alert-volume": rule_card(standing(volume_rule()), market(), {}),
    "alert-set-volume": set_card(volume_rule(daily=True), market(), {}),
    "alert-why-volume": why_card(standing(volume_rule()), market(), {}, {}),
    "fired-volume": fired_card(REACHED, market(), None, sent_at=SENT),
    "alert-why-within": why_card(
        standing(move_rule(within=900), n=1, armed=False, armed_fall=True),
        market(),
        PRICES,
        {Fate.SENT: 1},
    ),
    "fired": fired_card(
        CROSSED, market(), PRICES["71"], rule=price_rule(), sent_at=SENT
    ),
    "fired-late": fired_card(
        msgspec.structs.replace(CROSSED, seen_at=CROSSED.at / 1000 + 250),
        market(),
        PRICES["71"],
        rule=price_rule(),
        sent_at=SENT + 250,
        odds="decimal",
    ),
    "fired-recorded": fired_card(
        msgspec.structs.replace(CROSSED, seen_at=CROSSED.at / 1000 + 9e6),
        market(),
        None,
        sent_at=CROSSED.at / 1000 + 9e6 + 0.6,
    ),
    "fired-move": fired_card(MOVED, market(), None, sent_at=SENT),
    "fired-within": fired_card(
        msgspec.structs.replace(MOVED, within=900), market(), None, sent_at=SENT
    ),
    "fired-unknown": fired_card(CROSSED, None, None, sent_at=SENT),
    "fired-resolved": fired_card(RESOLVED, market(), None, sent_at=SENT),
    "fired-proposed": fired_card(PROPOSED, market(), None, sent_at=SENT),
    "fired-disputed": fired_card(DISPUTED, market(), None, sent_at=SENT),
    "fired-opened": fired_card(OPENED, None, None, sent_at=SENT),
    "fired-joined": fired_card(JOINED, None, None, sent_at=SENT),
    "digest-opened": opened_digest_card([OPENED, JOINED]),
    "digest-opened-many": opened_digest_card(
        [msgspec.structs.replace(OPENED, title=f"Event {n}") for n in range(1, 1_200)]
    ),
    "digest": digest_card([CROSSED, CROSSED, MOVED], market(), PRICES),
    "digest-unknown": digest_card([MOVED], None, {}, "percent"),
    "digest-many": digest_card(
        [msgspec.structs.replace(CROSSED, level=D(n) / 100) for n in range(1, 20)],
        market(),
        {},
    ),
    "settings": person.settings_card(session(), 1_000_000),
    "settings-new": person.settings_card(UserSession(), 1_000_000),
    "settings-tags": person.settings_card(
        msgspec.structs.replace(UserSession(), tags={"fed": FollowedTag()}), 1_000_000
    ),
    "limits": person.limits_card(session()),
    "limits-none": person.limits_card(UserSession()),
    "export": person.export_card(File("oddsbot-1-1.json", b"{}")),
    "earlier": earlier(person.muted_card(120), 1_796_047_327),
    "zone": person.zone_card(),
    "quiet": person.quiet_card(),
    "muted": person.muted_card(120),
    "muted-odd": person.muted_card(1_440 * 2 + 90),
    "unmuted": person.unmuted_card(UserSession(), 1),
    "watchlist": person.watchlist_card([market(), decided(number=8)], 1),
    "watchlist-page": person.watchlist_card(
        [market(number=n) for n in range(1, 24)], 0, 2, "percent"
    ),
    "watchlist-none": person.watchlist_card([], 0),
    "watchlist-tags": person.watchlist_card([market()], 0, tags=["crypto", "fed"]),
    "status": person.status_card(
        person.StatusView(last_event=0.4, followed=1_204, gaps=1, waiting=0),
        SHARE,
    ),
    "status-bad": person.status_card(
        person.StatusView(
            last_event=None,
            followed=2,
            gaps=0,
            waiting=None,
            problems=["Redis does not answer: messages wait and come later."],
        ),
        SHARE,
    ),
    "erase": person.erase_card(0xABC, 6, 2),
    "erased": person.erased_card(RECEIPT, 6),
    "erased-not-all": person.erased_card(
        Receipt(1, NOW.timestamp(), (Erased("sessions", 2, ("polymarket:x",)),)), 0
    ),
    "error": errors.sentence_card(errors.UPSTREAM),
    "error-bug": errors.bug_card("7f3a09bc"),
}


@pytest.mark.basic
@pytest.mark.requirement("B2")
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_as_it_was_agreed(name):
    """Text, entities and buttons of each screen are those of its snapshot."""
    assert fits(SCREENS[name])
    assert drawn(SCREENS[name]) == (FOLDER / f"{name}.txt").read_text()


@pytest.mark.basic
def test_there_is_no_snapshot_without_its_screen():
    """Each file beside the test is one of its screens."""
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(SCREENS)


HOSTILE = st.text(max_size=600) | st.sampled_from(
    [
        "\u202e evil",
        "<b>x</b> *y* [z](u)",
        "@channel /erase #tag",
        "\x1b[31m",
        "\U0001d54f" * 500,
    ]
)


@pytest.mark.errors
@pytest.mark.requirement("X1")
@given(HOSTILE, HOSTILE)
def test_names_of_anybody_make_a_card_that_telegram_takes(question, outcome):
    """Any question and outcome: a card within the limits that mentions nobody."""
    odd = {"id": outcome or "1", "slug": question, "condition_id": question or "0x"}
    hostile = market(question=question, outcomes=(outcome, "No"), **odd)
    link = {"id": outcome or "1", "slug": question}
    rules = [standing(price_rule()), standing(move_rule())]
    for card in (
        market_card(view(market=hostile, rules=rules, chart=b"png")),
        market_card(view(market=hostile, rules=rules)),
        price_card(view(market=hostile)),
        book_card(hostile, 0, BOOK),
        set_card(rules[0].rule, hostile, PRICES),
        change_card(rules[0].rule, hostile),
        why_card(rules[0], hostile, PRICES, {Fate.SENT: 1}),
        nearest_card([event(1, title=question)]),
        set_many_card(question, 3, 0, 5),
        alerts_card([Group(hostile, rules, PRICES)]),
        fired_card(CROSSED, hostile, PRICES["71"], sent_at=SENT),
        digest_card([CROSSED, MOVED], hostile, PRICES),
        opened_digest_card(
            [msgspec.structs.replace(JOINED, title=question, choice=question)] * 20
        ),
        event_card(
            event(2, title=question, markets=(hostile, hostile), **link), 0, NOW
        ),
        search_card(
            question,
            SearchPage(events=(event(1, title=outcome, **link),)),
            0,
            closed=True,
        ),
        person.watchlist_card([hostile], 0),
        rule_card(rules[0], hostile, PRICES),
        list_card("New", [event(1, title=outcome, **link)], Action.TOP),
        fired_card(
            msgspec.structs.replace(RESOLVED, outcome=outcome),
            hostile,
            None,
            sent_at=SENT,
        ),
        fired_card(
            msgspec.structs.replace(PROPOSED, outcome=outcome), None, None, sent_at=SENT
        ),
        wallet_card(
            WalletView(
                address="0x" + "5c" * 20,
                profile=Profile(name=question, pseudonym=outcome),
                stats=None,
                value=D(1),
                positions=[
                    Position(condition_id="0x", title=question, outcome=outcome)
                ],
            )
        ),
        person.settings_card(
            msgspec.structs.replace(UserSession(), timezone=question), 1
        ),
        start.in_private_card("odds_bot"),
    ):
        late = earlier(card, 1_796_047_327)
        assert fits(card)
        assert fits(late)
        drawn(card)
        drawn(late)
        assert not CALLING.search(card.text.replace("/top", "").replace("/new", ""))


@pytest.mark.errors
@given(st.text(), st.integers(1, 50))
def test_a_text_is_cut_where_telegram_counts(text, most):
    """A cut text has at most so many UTF-16 units, and ends with an ellipsis."""
    short = cut(text, most)
    assert units(short) <= most
    assert short == text or short.endswith("…")


@pytest.mark.errors
@given(st.lists(st.tuples(st.text(max_size=300), st.sampled_from(["", "bold"]))))
def test_entities_lie_within_the_text(parts):
    """Whatever is put together, each entity covers a part that was not cut off."""
    text = Text()
    for part, kind in parts:
        text.foreign(part, kind)
    for card in (text.add("x").card(), text.card(photo=b"p")):
        assert fits(card)
        drawn(card)


if __name__ == "__main__":
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for name, card in SCREENS.items():
        (FOLDER / f"{name}.txt").write_text(drawn(card))
