from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.store import (
    MAX_WALLETS,
    Kind,
    Notifications,
    QuietHours,
    TrackedWallet,
    UserSession,
)
from oddswire import Client
from oddswire.codec import Keyring
from oddswire.errors import CodecError, SessionFull
from oddswire.sessions import Sessions
from support.hooks import advance_server_clock

WALLET = "0x" + "ab" * 20


@pytest.fixture
async def sessions(server, prefix):
    """Return sealed sessions of the bot's own type."""
    keyring = Keyring.from_text(Keyring.new_line(1))
    async with Client.from_url(server.url) as client:
        yield Sessions(client, UserSession, prefix=prefix, keyring=keyring)


@pytest.mark.integration
@pytest.mark.requirement("S1")
async def test_one_flag_changes_and_the_others_stay(sessions):
    """Changing a notification, a threshold or an alias leaves everything else."""

    def begin(user):
        user.profile.username = "ada"
        user.notifications.price = False
        user.quiet = QuietHours(22 * 60, 7 * 60)
        user.conversation.answers["amount"] = 5
        user.wallets[WALLET] = TrackedWallet("whale")

    await sessions.update(1, begin, create=True)
    await sessions.update(1, lambda u: setattr(u.notifications, "new_market", True))
    await sessions.update(1, lambda u: setattr(u.wallets[WALLET], "muted", True))
    user = await sessions.get(1)
    assert user.notifications == Notifications(price=False, new_market=True)
    assert user.wallets == {WALLET: TrackedWallet("whale", muted=True)}
    assert user.profile.username == "ada"
    assert user.quiet == QuietHours(22 * 60, 7 * 60)
    assert user.conversation.answers == {"amount": 5}
    assert await sessions.users_for("wallet", WALLET) == {1}


@pytest.mark.integration
@pytest.mark.requirement("S2")
async def test_silent_for_48_hours_she_keeps_everything_but_the_dialogue(sessions):
    """After two days she is found by her wallet and keeps what she asked for."""

    def begin(user):
        user.thresholds.price_change = 0.1
        user.conversation.step, user.linked = "amount", "token"

    await sessions.update(1, begin, create=True)
    await sessions.add_to(1, "wallets", WALLET, TrackedWallet("whale"))
    advance_server_clock(sessions, 48 * 3600)
    await sessions.sweep()
    user = await sessions.get(1)
    assert await sessions.users_for("wallet", WALLET) == {1}
    assert user.thresholds.price_change == 0.1
    assert (user.conversation.step, user.linked) == ("", "")


@pytest.mark.errors
@pytest.mark.requirement("S1", "S4")
async def test_bad_input_is_refused_and_loses_nothing(sessions):
    """Values out of range, odd addresses and too many wallets leave the session."""
    before = await sessions.update(1, lambda u: None, create=True)
    wrong = [
        lambda u: setattr(u.thresholds, "price_change", 1.5),
        lambda u: setattr(u.thresholds, "position", -1.0),
        lambda u: setattr(u.quiet, "start", 1440),
        lambda u: setattr(u.display, "odds", "roman"),
        lambda u: u.wallets.update({"0xABC": TrackedWallet()}),
        lambda u: setattr(u, "language", "x" * 17),
    ]
    for spoil in wrong:
        with pytest.raises(CodecError) as caught:
            await sessions.update(1, spoil)
        assert caught.value.reason == "type"
    with pytest.raises(CodecError):
        await sessions.add_to(1, "wallets", "not a wallet", TrackedWallet())
    assert await sessions.get(1) == before
    many = {f"0x{number:040x}": TrackedWallet() for number in range(MAX_WALLETS + 1)}
    with pytest.raises(SessionFull, match="50"):
        await sessions.update(1, lambda u: u.wallets.update(many))


@pytest.mark.basic
@given(start=st.integers(0, 1439), end=st.integers(0, 1439), now=st.integers(0, 1439))
def test_quiet_hours_may_span_midnight(start, end, now):
    """Quiet minutes are those on the way from start to end, on a round clock."""
    inside = (now - start) % 1440 < (end - start) % 1440
    assert QuietHours(start, end).holds(now) == inside


@pytest.mark.basic
def test_quiet_is_by_her_own_clock():
    """The same moment is night in one time zone and day in another."""
    user = UserSession(timezone="Asia/Tokyo", quiet=QuietHours(22 * 60, 7 * 60))
    noon = datetime(2026, 1, 5, 14, 0, tzinfo=UTC)
    assert user.is_quiet(noon)
    user.timezone = "UTC"
    assert not user.is_quiet(noon)
    with pytest.raises(ValueError, match="aware"):
        user.is_quiet(datetime(2026, 1, 5, 14, 0))  # noqa: DTZ001 - the fault itself
    assert all(isinstance(user.notifications.wants(kind), bool) for kind in Kind)
