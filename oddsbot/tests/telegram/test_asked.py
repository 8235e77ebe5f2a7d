from __future__ import annotations

from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.alerts import Direction, Unit
from oddsbot.telegram.addresses import AddressError, checked_address
from oddsbot.telegram.asked import AskedError, Level, Move, Traded, parse_asked
from oddsbot.telegram.buttons import Buttons, NotOurs
from oddsbot.telegram.commands.person import hours_of, minutes_of
from oddsbot.telegram.links import (
    EventLink,
    MarketId,
    MarketLink,
    ProfileLink,
    Refused,
    RuleId,
    Wallet,
    Words,
    parse,
    parse_deep_link,
    split,
)
from oddsbot.telegram.updates import line_of
from oddsbot.telegram.zones import named, nearest, shown

ABOVE, BELOW = Direction.ABOVE, Direction.BELOW


def level(price, direction=None, outcome=""):
    """Return a level."""
    return Level(Decimal(price), direction, outcome)


@pytest.mark.basic
@pytest.mark.requirement("B2")
@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("65", level("0.65")),
        ("0.65", level("0.65")),
        ("65.", level("0.65")),
        ("yes > 65!", level("0.65", ABOVE, "yes")),
        ("5c in 15m.", Move(Decimal(5), Unit.CENTS, "", 900)),
        ("65,5", level("0.655")),
        (".65", level("0.65")),
        ("$0.65", level("0.65")),
        ("yes > $.65", level("0.65", ABOVE, "yes")),
        ("=> 65", level("0.65", ABOVE)),
        ("yes =< 65", level("0.65", BELOW, "yes")),
        ("yes > 65", level("0.65", ABOVE, "yes")),
        ("no<40¢", level("0.40", BELOW, "no")),
        ("down 50", level("0.50", None, "down")),
        ("Ana Rivera above 5 %", level("0.05", ABOVE, "Ana Rivera")),
        ("under 12 cents", level("0.12", BELOW)),
        ("5c", Move(Decimal(5), Unit.CENTS)),
        ("±5%", Move(Decimal(5), Unit.PERCENT)),
        ("no 12 ¢", Move(Decimal(12), Unit.CENTS, "no")),
        ("volume 1m", Traded(1_000_000)),
        ("vol > $2,5k", Traded(2_500)),
        ("$500k in 24h", Traded(500_000, daily=True)),
        ("100k in 24h", Traded(100_000, daily=True)),
        ("2.5m", Traded(2_500_000)),
        ("volume 100,000", Traded(100_000)),
        ("volume $2,000,000", Traded(2_000_000)),
        ("volume 2 000 000", Traded(2_000_000)),
        ("volume 1.250.000", Traded(1_250_000)),
        ("volume 1.250m", Traded(1_250_000)),
        ("vol 3 million", Traded(3_000_000)),
        ("5c in 15m", Move(Decimal(5), Unit.CENTS, "", 900)),
        ("5c within 15m", Move(Decimal(5), Unit.CENTS, "", 900)),
        ("5% in an hour", Move(Decimal(5), Unit.PERCENT, "", 3_600)),
        ("no 10% in 1 day", Move(Decimal(10), Unit.PERCENT, "no", 86_400)),
        ("Up In Time 5c in 60 min", Move(Decimal(5), Unit.CENTS, "Up In Time", 3_600)),
    ],
)
def test_what_people_write_is_what_they_mean(text, asked):
    """A price, a way, an outcome, a move; in cents, as a part of a dollar, percent."""
    assert parse_asked(text) == asked


@pytest.mark.errors
@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes",
        "0",
        "100",
        "101",
        "1.00000001",
        "0%",
        "99999%",
        "5c in 7m",
        "volume 0",
        "volume 9999b",
        "volume many",
        "65 in 15m",
        "yes > 65 in 1h",
        "> $55",
        "volume 1,2,3",
        "x" * 300,
    ],
)
def test_what_cannot_be_meant_is_a_sentence(text):
    """Refused with what to write instead."""
    with pytest.raises(AskedError, match=r"\.$"):
        parse_asked(text)


@pytest.mark.errors
@pytest.mark.requirement("X1")
@given(st.text() | st.from_regex(r"[a-z ><]{0,9}[0-9.,]{0,9}[c%¢]?", fullmatch=True))
def test_any_text_is_a_wish_within_bounds_or_a_sentence(text):
    """No text raises anything else, and no price is out of range."""
    try:
        asked = parse_asked(text)
    except AskedError:
        return
    if isinstance(asked, Level):
        assert 0 < asked.price < 1
    elif isinstance(asked, Move):
        assert 1 <= asked.by <= 1_000
    else:
        assert asked.dollars >= 1


ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"  # of EIP-55's own examples


@pytest.mark.basic
@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("https://polymarket.com/event/fed-cuts", EventLink("fed-cuts")),
        ("polymarket.com/de/event/a/b?tid=1", EventLink("a", "b")),
        ("https://www.polymarket.com/market/x-1#top", MarketLink("x-1")),
        ("https://polymarket.com/@whale-7", ProfileLink("whale-7")),
        ("https://polymarket.com/profile/%40whale", ProfileLink("whale")),
        (f"https://polymarket.com/profile/{ADDRESS}", Wallet(ADDRESS.lower())),
        (ADDRESS, Wallet(ADDRESS.lower())),
        (ADDRESS.lower(), Wallet(ADDRESS.lower())),
        ("@whale", ProfileLink("whale")),
        ("  fed \n december ", Words("fed december")),
        ("HTTPS://POLYMARKET.COM/EVENT/Fed-Cuts", EventLink("fed-cuts")),
        ("https://m.polymarket.com/zh-Hans/event/a", EventLink("a")),
        ("Look: https://polymarket.com/event/a?via=x wow", EventLink("a")),
        ("BREAKING\n\n(polymarket.com/event/a/b).", EventLink("a", "b")),
        ("[a](https://polymarket.com/event/a)", EventLink("a")),
        ("https://t.me/share/url?url=https://polymarket.com/event/a", EventLink("a")),
        ("https://x.com/1 https://polymarket.com/event/a", EventLink("a")),
        ("@ben https://polymarket.com/event/a", EventLink("a")),
        (
            "polymarket.com/sports/nba/games/week/1/nba-lal-bos-2026-01-01",
            EventLink("nba-lal-bos-2026-01-01"),
        ),
        (f"who is {ADDRESS}?", Wallet(ADDRESS.lower())),
        (f"https://polygonscan.com/address/{ADDRESS}", Wallet(ADDRESS.lower())),
        (f"{ADDRESS},", Wallet(ADDRESS.lower())),
    ],
)
def test_a_text_names_what_it_says(text, sent):
    """Links of events, markets and profiles, addresses, names, words.

    In capitals, in a sentence, in brackets and behind another site's address too.
    """
    assert parse(text) == sent


@pytest.mark.errors
@pytest.mark.requirement("X1")
@pytest.mark.parametrize(
    "text",
    [
        "https://polymarket.com.evil.example/event/x",
        "https://evil.example/polymarket.com/event/x",
        "https://polymarket.com@evil.example/event/x",
        "https://user:pw@polymarket.com/event/x",
        "https://polymarket.com:8443/event/x",
        "https://polymarket.com/event/../../x",
        "https://polymarket.com/event/%2e%2e%2f",
        "https://[::1/event/x",
        "https://polymarket.com/",
        "https://polymarket.com/" + "a" * 3_000,
        "0x123",
        "polymarket.com",
        "https://docs.polymarket.com/event/x",
        "https://evilpolymarket.com/event/x",
        "https://polymarket.com/sports/nba/games",
        "Vitalik.eth",
        ADDRESS.replace("5aA", "5AA"),
        "",
    ],
)
def test_what_looks_like_one_and_is_not_is_refused(text):
    """Other hosts, odd paths, a mistyped address: a sentence, and nothing is asked."""
    assert isinstance(parse(text), Refused)


@pytest.mark.errors
@pytest.mark.requirement("X1")
@given(st.text() | st.text().map(lambda text: f"https://polymarket.com/event/{text}"))
def test_any_text_and_any_payload_is_read(text):
    """Neither raises; a slug that is asked for has the form of one."""
    match parse(text):
        case EventLink(slug, market):
            assert slug.isascii()
            assert "/" not in slug + market
        case Words(words):
            assert 0 < len(words) <= 200
    parse_deep_link(text)


@pytest.mark.basic
def test_the_link_of_a_command_may_stand_anywhere():
    """It is taken out; an outcome with a stroke is none."""
    link = "Polymarket.com/event/a?tid=1"
    assert split(f"> 65 {link}") == split(f"{link}  >  65") == (link, "> 65")
    assert split("O/U 2.5 > 65") == ("", "O/U 2.5 > 65")
    assert split("https://x.com/1 65") == ("https://x.com/1", "65")


@pytest.mark.basic
def test_deep_links_are_of_four_kinds():
    """Markets, events, wallets and alerts; anything else is none."""
    assert parse_deep_link("m_123") == MarketId(123)
    assert parse_deep_link("r_00000000000000aa") == RuleId("00000000000000aa")
    assert parse_deep_link(f"w_{ADDRESS}") == Wallet(ADDRESS.lower())
    for payload in ("m_", "m_-1", "m_99999999999999999999", "x_1", "r_AA", "w_0x1"):
        assert parse_deep_link(payload) is None


@pytest.mark.basic
def test_addresses_are_checked_as_eip_55_says():
    """The examples of the standard hold; one letter turned is noticed."""
    for address in (
        ADDRESS,
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ):
        assert checked_address(address) == address.lower()
        turned = (
            address.replace("B", "b", 1) if "B" in address[2:] else address.swapcase()
        )
        if turned not in (address, address.lower()):
            with pytest.raises(AddressError):
                checked_address(turned)


@pytest.mark.errors
@pytest.mark.requirement("X2")
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**24 - 1), st.integers(), st.binary())
def test_a_button_opens_for_its_person_and_chat_alone(subject, argument, other, noise):
    """Sealed and opened it is the same; for another, changed, or made up it is none."""
    from oddsbot.delivery import Action, Press

    buttons = Buttons("1:token")
    press = Press(Action.STOP_RULE, subject, argument)
    data = buttons.seal(press, chat=5, person=7)
    assert len(data.encode()) <= 64
    assert buttons.open(data, chat=5, person=7) == press
    assert buttons.seal(press, chat=5, person=7) == data
    wrong = [
        (data, 5, other) if other != 7 else (data, other, 7),
        (data[:-1], 5, 7),
        (noise.decode("latin-1"), 5, 7),
    ]
    for text, chat, person in wrong:
        if (chat, person) == (5, 7) and text == data:
            continue
        with pytest.raises(NotOurs):
            buttons.open(text, chat=chat, person=person)
    with pytest.raises(NotOurs):
        Buttons("1:another").open(data, chat=5, person=7)


@pytest.mark.basic
def test_zones_by_city_by_name_and_by_their_distance():
    """A city, a zone, hours from UTC; what is none or several is a question back."""
    assert named("berlin") == "Europe/Berlin"
    assert named(" new  york ") == "America/New_York"
    assert named("UTC+2") == "Etc/GMT-2"
    assert named("utc") == "UTC"
    assert shown("Etc/GMT-2") == "UTC+2"
    assert shown("Etc/GMT+11") == "UTC-11"
    assert shown("Europe/Berlin") == "Europe/Berlin"
    assert named("UTC+5:30") == named("+0530") == "Asia/Kolkata"
    for text in (
        "UTC+15",
        "-13",
        "+5:20",
        "atlantis",
        "",
        "../../etc/passwd",
        "x" * 500,
    ):
        with pytest.raises(AskedError):
            named(text)


@pytest.mark.basic
def test_a_place_has_the_zone_of_the_nearest_city():
    """Potsdam, Osaka, Brooklyn, the South Pole; what is no place is a question back."""
    for place, zone in (
        ((52.4, 13.06), "Europe/Berlin"),
        ((34.7, 135.5), "Asia/Tokyo"),
        ((40.65, -73.95), "America/New_York"),
    ):
        assert nearest(*place) == zone
    assert nearest(-90, 0).startswith("Antarctica/")
    for latitude, longitude in ((91, 0), (0, 181), (float("nan"), 0)):
        with pytest.raises(AskedError):
            nearest(latitude, longitude)


@pytest.mark.basic
def test_quiet_hours_as_people_write_them():
    """Hours with and without minutes, any of three dashes; others are a question."""
    assert hours_of("22:30-7") == (1350, 420)
    assert hours_of("23 – 8") == (1380, 480)
    assert hours_of("0.15 to 5:45") == (15, 345)
    assert hours_of("22—7") == (1320, 420)
    for text in ("", "25-7", "22:60-7", "22", "a-b", "22:3-7", "\u0662-\u0667"):
        with pytest.raises(AskedError):
            hours_of(text)


@pytest.mark.errors
@given(st.text())
def test_any_zone_and_any_time_is_one_or_a_sentence(text):
    """No text raises anything but a sentence."""
    for read in (named, minutes_of, hours_of):
        with suppress(AskedError):
            read(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.errors
@pytest.mark.requirement("X1")
@given(st.dictionaries(st.sampled_from(["message", "callback_query", "x"]), JSON))
def test_any_update_has_a_line(update):
    """Whatever is in it, and the same person has the same line in each kind."""
    assert 0 <= line_of(update) < 2**63
    person = {"id": 5}
    # Anonymous admins of two groups are not one person, and share no limit.
    anonymous = {"id": 1_087_968_824}
    lines = {
        line_of({"message": {"from": anonymous, "chat": {"id": chat}}})
        for chat in (-1, -2)
    }
    assert len(lines) == 2
    assert line_of({"message": {"from": person}}) == line_of(
        {"callback_query": {"from": person, "message": {"chat": {"id": 9}}}}
    )
