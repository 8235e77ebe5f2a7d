from __future__ import annotations

import pytest

from oddsbot.settings import Settings
from oddswire.errors import SettingsError


@pytest.mark.basic
def test_without_variables_the_live_service_is_meant():
    """Nothing set: Polymarket's public addresses, development, the bot's prefix."""
    settings = Settings.from_env({}, dotenv=None)

    assert settings.gamma_url == "https://gamma-api.polymarket.com"
    assert settings.clob_url == "https://clob.polymarket.com"
    assert settings.ws_url.startswith("wss://")
    assert settings.redis.profile == "development"
    assert settings.redis.prefix == "polymarket:"


@pytest.mark.basic
def test_variables_replace_the_defaults():
    """Each address can be replaced, and the Redis layer reads its own variables."""
    settings = Settings.from_env(
        {
            "POLYMARKET_GAMMA_URL": "http://127.0.0.1:1",
            "POLYMARKET_CLOB_URL": "http://127.0.0.1:2",
            "POLYMARKET_WS_URL": "ws://127.0.0.1:3/ws/market",
            "ODDSWIRE_PROFILE": "test",
            "REDIS_URL": "redis://localhost:6379/3",
        },
        dotenv=None,
    )

    assert (settings.gamma_url, settings.clob_url) == (
        "http://127.0.0.1:1",
        "http://127.0.0.1:2",
    )
    assert settings.ws_url == "ws://127.0.0.1:3/ws/market"
    assert settings.redis.profile == "test"
    assert settings.redis.endpoint.database == 3


@pytest.mark.errors
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("POLYMARKET_GAMMA_URL", ""),
        ("POLYMARKET_GAMMA_URL", "gamma-api.polymarket.com"),
        ("POLYMARKET_CLOB_URL", "ftp://clob"),
        ("POLYMARKET_WS_URL", "https://not-a-socket"),
        ("POLYMARKET_WS_URL", "wss://[::1"),
    ],
)
def test_a_malformed_address_is_one_line_that_names_its_variable(variable, value):
    """A wrong address is refused with the variable and an example, on one line."""
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({variable: value}, dotenv=None)

    (problem,) = refused.value.problems
    assert problem.startswith(f"{variable} is no ")
    assert "give one like " in problem


@pytest.mark.errors
def test_all_problems_are_told_at_once():
    """Problems of the bot's variables and of the Redis layer's come together."""
    with pytest.raises(SettingsError) as refused:
        Settings.from_env(
            {
                "POLYMARKET_WS_URL": "wss://user:hunter2@",
                "ODDSWIRE_PROFILE": "prodction",
                "REDIS_URL": "redis//localhost",
            },
            dotenv=None,
        )

    text = str(refused.value)
    assert "hunter2" not in text
    for name in ("POLYMARKET_WS_URL", "ODDSWIRE_PROFILE", "REDIS_URL"):
        assert name in text


@pytest.mark.basic
@pytest.mark.requirement("S8")
def test_the_database_is_a_file_or_the_one_of_the_environment():
    """``DATABASE_URL`` says where users are kept; without it, a file beside the bot."""
    url = "postgresql://bot@db/oddsbot"
    assert Settings.from_env({}, None).database_url == "sqlite:///oddsbot.db"
    assert Settings.from_env({"DATABASE_URL": url}, None).database_url == url


@pytest.mark.errors
@pytest.mark.requirement("G2")
@pytest.mark.parametrize(
    ("database", "refused"),
    [
        ("postgresql://me:CANARY@db.example.com/bot", True),
        ("postgres://db.internal/bot", True),
        ("postgresql://8.8.8.8/bot?ssl=require", True),
        ("postgresql://db.example.com/bot?ssl=verify-full", False),
        ("postgresql:///bot?host=db.example.com", True),
        ("postgresql:///bot?host=10.0.0.1:5432,db.example.com:5432", True),
        ("postgresql:///bot?host=/run/postgresql", False),
        ("postgresql://10.0.0.1/bot", False),
        ("postgresql://db-1/bot", False),
        ("postgresql://localhost/bot", False),
        ("sqlite:///bot.db", False),
    ],
)
def test_production_sends_no_plaintext_to_a_public_database(database, refused):
    """The source of record is an address like any other."""
    environ = {
        "ODDSWIRE_PROFILE": "production", "REDIS_URL": "rediss://r.example.com",
        "ODDSWIRE_PRIVATE_HOSTS": "db-1", "DATABASE_URL": database,
    }  # fmt: skip
    if refused:
        with pytest.raises(SettingsError, match=r"^DATABASE_URL: production") as caught:
            Settings.from_env(environ, None)
        assert "CANARY" not in str(caught.value)
    else:
        assert Settings.from_env(environ, None).database_url == database
    development = environ | {"ODDSWIRE_PROFILE": "development"}
    assert Settings.from_env(development, None).database_url == database


@pytest.mark.errors
@pytest.mark.requirement("X3")
def test_settings_show_no_password():
    """Neither the database's nor Redis's is in a representation."""
    settings = Settings.from_env(
        {
            "DATABASE_URL": "postgresql://me:CANARY@h/bot",
            "REDIS_URL": "redis://:CANARY@h",
        },
        None,
    )
    assert "CANARY" not in repr(settings) + str(settings)
    assert "h/bot" in repr(settings)
