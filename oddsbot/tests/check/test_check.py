from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.app import App
from oddsbot.check import (
    State,
    as_json,
    as_text,
    check_live,
    check_local,
    contract_of,
    drift,
)
from oddsbot.polymarket import GammaMarket
from oddsbot.settings import Settings
from oddsbot.standin.telegram import BotApi
from oddsbot.store import open_database, upgrade
from oddsbot.telegram.updates import POLLING
from oddswire import Client
from oddswire.clock import SystemClock
from oddswire.errors import SettingsError
from oddswire.locks import Locks

TOKEN = "42:A-token-of-the-stand-in"
CANARY = "4242:canary-TOKEN-of-the-tests"


def settings_of(environ):
    """Return settings of an environment."""
    return Settings.from_env({"ODDSWIRE_PROFILE": "test"} | environ, dotenv=None)


def urls_of(replay):
    """Return where a Polymarket of this machine is, as variables."""
    return {
        "POLYMARKET_GAMMA_URL": replay.gamma_url,
        "POLYMARKET_CLOB_URL": replay.clob_url,
        "POLYMARKET_DATA_URL": replay.data_url,
        "POLYMARKET_WS_URL": replay.ws_url,
    }


def states(findings):
    """Return the state of each finding by its name."""
    return {each.name: each.state for each in findings}


@pytest.mark.integration
@pytest.mark.requirement("B7")
async def test_everything_in_order_and_what_is_not(own, replay, tmp_path):
    """Token, Redis, database, Telegram: each with its state, and a fix if it fails."""
    async with BotApi(SystemClock().now) as api:
        environ = {
            "REDIS_URL": own.url,
            **urls_of(replay),
            "DATABASE_URL": f"sqlite:///{tmp_path / 'bot.db'}",
            "TELEGRAM_BOT_TOKEN": TOKEN,
            "TELEGRAM_API_URL": api.url,
        }
        before = await check_local(settings_of(environ), SystemClock())
        async with open_database(environ["DATABASE_URL"]) as engine:
            await upgrade(engine)
        after = await check_local(settings_of(environ), SystemClock())
        wrong = await check_local(
            settings_of(environ | {"TELEGRAM_BOT_TOKEN": CANARY}), SystemClock()
        )
        bare = await check_local(
            settings_of({"DATABASE_URL": "sqlite:////none/at/all.db"}), SystemClock()
        )
    assert states(before)["database"] is State.FAIL
    assert "oddsbot db upgrade" in as_text(before)
    found = states(after)
    for name in (
        *("settings", "token", "database", "owner", "telegram", "webhook", "poller"),
    ):
        assert found[name] is State.PASS, as_text(after)
    assert any(name.startswith("redis ") for name in found)
    assert states(wrong)["telegram"] is State.FAIL
    assert states(bare)["token"] is states(bare)["database"] is State.FAIL
    for findings in (before, after, wrong, bare):
        told = as_text(findings) + as_json(findings)
        assert CANARY not in told
        assert TOKEN not in told
        assert all(each.fix for each in findings if each.state is State.FAIL)
        assert msgspec.json.decode(as_json(findings))["findings"]


@pytest.mark.integration
@pytest.mark.requirement("B7")
async def test_a_bot_that_polls_is_not_disturbed(own, replay, tmp_path):
    """Its lock is held: it is said to poll, and nobody asks for updates beside it."""
    async with BotApi(SystemClock().now) as api, Client.from_url(own.url) as client:
        settings = settings_of(
            {
                "REDIS_URL": own.url,
                **urls_of(replay),
                "DATABASE_URL": f"sqlite:///{tmp_path / 'bot.db'}",
                "TELEGRAM_BOT_TOKEN": TOKEN,
                "TELEGRAM_API_URL": api.url,
            }
        )
        locks = Locks(client, prefix=settings.redis.prefix)
        async with locks.lock(POLLING, 10.0):
            found = await check_local(settings, SystemClock())
    poller = next(each for each in found if each.name == "poller")
    assert (poller.state, poller.seen) == (
        State.PASS,
        "this bot runs and polls itself",
    )


@pytest.mark.errors
@pytest.mark.requirement("B6", "B7")
async def test_a_second_bot_on_the_same_data_is_refused(own, replay, tmp_path):
    """`check` says whose they are and what to do; the bot does not start."""
    async with BotApi(SystemClock().now, token=CANARY) as api:
        settings = settings_of(
            {
                "REDIS_URL": own.url,
                **urls_of(replay),
                "DATABASE_URL": f"sqlite:///{tmp_path / 'bot.db'}",
                "TELEGRAM_BOT_TOKEN": CANARY,
                "TELEGRAM_API_URL": api.url,
            }
        )
        clock = SystemClock()
        async with App(settings, TOKEN, clock=clock, api_url=api.url):
            pass
        found = await check_local(settings, clock)
        with pytest.raises(SettingsError, match="belongs to the bot 42") as caught:
            await App(settings, CANARY, clock=clock, api_url=api.url).__aenter__()
    owner = next(each for each in found if each.name == "owner")
    assert owner.state is State.FAIL
    assert owner.seen.startswith("DATABASE_URL belongs to the bot 42, and the token")
    assert "oddsbot db adopt" in owner.fix
    assert "canary" not in as_text(found) + str(caught.value)


@pytest.mark.integration
@pytest.mark.requirement("B7")
async def test_the_stand_in_answers_as_the_models_read(replay):
    """Each endpoint in use is asked once, and none of them drifts."""
    async with BotApi(SystemClock().now, token=TOKEN) as api:
        found = await check_live(
            settings_of(
                {
                    **urls_of(replay),
                    "TELEGRAM_BOT_TOKEN": TOKEN,
                    "TELEGRAM_API_URL": api.url,
                }
            )
        )
    assert len(found) == 19
    by_state = states(found)
    # Nobody has set a command: there is nothing to compare.
    assert by_state.pop("telegram getMyCommands") is State.WARN
    assert set(by_state.values()) == {State.PASS}, as_text(found)
    assert TOKEN not in as_text(found) + as_json(found)


@pytest.mark.errors
@pytest.mark.requirement("B7")
async def test_services_that_are_away_are_sentences(unused_url):
    """Nothing answers: each endpoint fails with what to look at, and nothing raises."""
    found = await check_live(
        settings_of(
            {
                "POLYMARKET_GAMMA_URL": unused_url,
                "POLYMARKET_CLOB_URL": unused_url,
                "POLYMARKET_DATA_URL": unused_url,
                "TELEGRAM_API_URL": unused_url,
                "TELEGRAM_BOT_TOKEN": CANARY,
            }
        )
    )
    assert CANARY not in as_text(found) + as_json(found)
    assert {each.state for each in found} == {State.FAIL}
    assert all(each.fix for each in found)


@pytest.mark.basic
def test_drift_names_the_field():
    """Missing, of another kind, new: each by its name."""
    contract = contract_of(GammaMarket)
    optional = frozenset(contract) - {"conditionId", "slug"}
    row = {"conditionId": "0x1", "slug": "x", "closed": "no", "brandNew": 1}
    found = drift([row, {"conditionId": "0x2", "slug": None}], contract, optional)
    assert (found.missing, found.changed, found.new) == (
        (),
        ("closed: text",),
        ("brandNew",),
    )
    assert drift([{"slug": "x"}], contract, optional).missing == ("conditionId",)
    assert not drift([], contract, optional).breaks


@pytest.mark.errors
@given(
    st.lists(st.dictionaries(st.text(), st.none() | st.lists(st.text())) | st.text())
)
def test_rows_of_anything_are_compared(rows):
    """Whatever a row is, the comparison says how it differs and never raises."""
    drift(rows, contract_of(GammaMarket), frozenset())


@pytest.mark.errors
@pytest.mark.requirement("X2")
@pytest.mark.parametrize(
    "environ",
    [
        {"TELEGRAM_BOT_TOKEN": "canary"},
        {"TELEGRAM_BOT_TOKEN": "x:canary"},
        {"TELEGRAM_BOT_TOKEN_FILE": "/none/at/all-canary-file"},
        {"TELEGRAM_MODE": "both"},
        {"TELEGRAM_MODE": "webhook"},
        {"TELEGRAM_MODE": "webhook", "WEBHOOK_URL": "https://x.example"},
        {
            "TELEGRAM_MODE": "webhook",
            "WEBHOOK_URL": "https://x.example",
            "WEBHOOK_SECRET": "canary",
        },
        {"TELEGRAM_API_URL": "ftp://canary@x.example"},
        {"ODDSBOT_ROLES": "everything"},
        {"ODDSBOT_MAX_RULES": "0"},
        {"ODDSBOT_MAX_RULES": "many"},
    ],
)
def test_a_wrong_account_is_refused_and_not_repeated(environ):
    """Each is one error that says what to give; no secret is in it."""
    with pytest.raises(SettingsError) as caught:
        settings_of(environ)
    assert "canary" not in str(caught.value)


@pytest.mark.basic
@pytest.mark.requirement("X2")
def test_a_token_from_a_file_is_in_no_repr(tmp_path):
    """The settings show that there is one, and not which."""
    file = tmp_path / "token"
    file.write_text(f"{CANARY}\n")
    settings = settings_of({"TELEGRAM_BOT_TOKEN_FILE": str(file)})
    assert settings.telegram.token == CANARY
    assert "canary" not in repr(settings) + repr(settings.telegram)
