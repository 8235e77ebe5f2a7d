"""redis-py's URL options: each becomes its counterpart, or the error names it."""

from __future__ import annotations

import msgspec
import pytest
import redis
import redis.asyncio as aredis

from oddswire import Client
from oddswire.errors import SettingsError
from oddswire.settings import Settings

H = "rediss://db.example.net:6380/0"


@pytest.mark.basic
@pytest.mark.requirement("G1")
@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("socket_timeout=0.5", {"command_timeout": 0.5}),
        ("socket_connect_timeout=3", {"connect_timeout": 3.0}),
        ("health_check_interval=25", {"heartbeat": 25.0}),
        ("health_check_interval=0", {"heartbeat": 30.0}),
        ("max_connections=20", {"pool_max": 20}),
        ("timeout=7", {"acquire_timeout": 7.0}),
        ("ssl_cert_reqs=none", {"tls_verify": False}),
        ("ssl_cert_reqs=CERT_REQUIRED", {"tls_verify": True}),
        ("ssl_cert_reqs=optional", {"tls_verify": True}),
        ("ssl_check_hostname=False", {"tls_check_hostname": False, "tls_verify": True}),
        ("ssl_ca_certs=/etc/ca.pem", {"tls_ca_file": "/etc/ca.pem"}),
        (
            "ssl_certfile=/c&ssl_keyfile=%2Fk",
            {"tls_cert_file": "/c", "tls_key_file": "/k"},
        ),
        ("retry_on_timeout=True&socket_keepalive=yes", {"retries": 1}),
    ],
)
def test_an_option_becomes_its_field(query, fields) -> None:
    """The field has the option's value, and a changed copy may change it again."""
    settings = Settings(url=f"{H}?{query}")

    assert {name: getattr(settings, name) for name in fields} == fields
    assert settings.url == H
    changed = msgspec.structs.replace(settings, command_timeout=9.0)
    assert changed.command_timeout == 9.0


@pytest.mark.basic
@pytest.mark.requirement("G1")
def test_the_caches_url_has_options_of_its_own() -> None:
    """They hold at the cache's server, with none of the other's credentials."""
    settings = Settings(
        url="redis://h?socket_timeout=1", password="p", username="me", database=2,
        cache_url="rediss://:q@c/1?socket_timeout=2&ssl_cert_reqs=none",
    )  # fmt: skip
    cache = settings.for_cache()

    assert (settings.command_timeout, settings.tls_verify) == (1.0, True)
    assert (cache.command_timeout, cache.tls_verify) == (2.0, False)
    assert cache.endpoint.password == "q"
    assert (cache.endpoint.username, cache.endpoint.database) == (None, 1)
    assert Settings(url="redis://h").for_cache().url == "redis://h"


@pytest.mark.errors
@pytest.mark.requirement("G1")
@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("ssl_ciphers=x", "option ssl_ciphers has no counterpart"),
        ("retry_on_error=x", "option retry_on_error has no counterpart"),
        ("sockettimeout=5", "did you mean socket_timeout?"),
        ("zzz=1", "known: "),
        ("socket_timeout=soon", "option socket_timeout must be seconds"),
        ("socket_timeout=", "option socket_timeout must be seconds"),
        ("socket_timeout=0", "by its option socket_timeout"),
        ("socket_timeout=-1", "must be seconds"),
        ("socket_timeout=nan", "must be seconds"),
        ("max_connections=1", "by its option max_connections"),
        ("max_connections=x", "must be a whole number"),
        ("protocol=4", "must be 2 or 3"),
        ("decode_responses=maybe", "must be true or false"),
        ("ssl_cert_reqs=never", "must be required, optional or none"),
        ("ssl_cert_reqs=", "must be required"),
        ("client_name=", "must be printable text"),
        ("db=1", "two databases"),
        ("db=x", "by its number"),
        ("socket_timeout=1&socket_timeout=2", "twice"),
        ("x", "?name=value"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(query, says) -> None:
    """An option without a counterpart, misspelt or out of range: one line."""
    for given in ({"url": f"{H}?{query}"}, {"url": H, "cache_url": f"{H}?{query}"}):
        with pytest.raises(SettingsError) as caught:
            Settings(**given)
        assert says in str(caught.value)
        assert len(caught.value.problems) == 1


@pytest.mark.errors
@pytest.mark.requirement("G1")
def test_an_option_and_its_field_may_not_differ() -> None:
    """Two different answers are refused, with both names; the same twice is one."""
    url = "redis://h?socket_timeout=2"
    with pytest.raises(SettingsError, match="option socket_timeout, and command_timeo"):
        Settings(url=url, command_timeout=3)
    with pytest.raises(
        SettingsError, match=r"^REDIS_URL, by its option socket_timeout, and REDIS_COMM"
    ):
        Settings.from_env({"REDIS_URL": url, "REDIS_COMMAND_TIMEOUT": "3000"}, None)
    assert Settings(url=url, command_timeout=2).command_timeout == 2.0


@pytest.mark.errors
@pytest.mark.requirement("G1")
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"timeout": 1}, "command_timeout or connect_timeout"),
        ({"socket_timeout": 1}, "command_timeout"),
        ({"db": 1}, "database"),
        ({"host": "h"}, "url"),
        ({"pasword": "CANARY"}, "password"),
        ({"max_connections": 5}, "pool_max"),
    ],
)
def test_an_unknown_setting_says_which_was_meant(given, meant) -> None:
    """One sentence with the argument and the right one, from each constructor."""
    [name] = given
    makers = (
        Settings,
        lambda **options: Settings.from_env({}, None, **options),
    )
    for make in makers:
        with pytest.raises(SettingsError) as caught:
            make(**given)
        assert str(caught.value) == f"{name} is not a setting; did you mean {meant}?"


@pytest.mark.integration
@pytest.mark.requirement("C15", "G1")
@pytest.mark.parametrize(
    ("query", "seen"),
    [
        ("decode_responses=True", "v"),
        ("protocol=2", b"v"),
        ("protocol=3&client_name=a%2Dbot", b"v"),
        ("encoding=latin-1&decode_responses=1", "v"),
        ("socket_timeout=5&max_connections=20", b"v"),
        ("health_check_interval=30&retry_on_timeout=true", b"v"),
        ("max_connections=5000", b"v"),
    ],
)
async def test_a_client_takes_the_url_that_redis_py_takes(server, query, seen) -> None:
    """The same URL, the same reply, by the client and by redis-py's."""
    url = f"{server.url}?{query}"
    async with Client.from_url(url) as ours, aredis.Redis.from_url(url) as theirs:
        await theirs.set("url-options", "v")
        assert await ours.get("url-options") == await theirs.get("url-options") == seen
        assert await ours.blpop("url-options-none", timeout=0.01) is None


@pytest.mark.integration
@pytest.mark.requirement("G1")
async def test_settings_keep_what_belongs_to_the_client(server) -> None:
    """Decoding and the connection's name reach the client from an environment's URL."""
    url = f"{server.url}?decode_responses=yes&client_name=settings-bot&protocol=3"
    settings = Settings.from_env({"REDIS_URL": url}, None)
    async with Client.from_settings(settings) as client:
        await client.set("url-options", "text")
        assert await client.get("url-options") == "text"
        assert await client.client_getname() == "settings-bot"
    with redis.Redis.from_url(settings.full_url) as other:
        assert other.client_getname() == "settings-bot"
