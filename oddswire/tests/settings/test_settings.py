"""Settings: frozen, checked together, strict in service, silent on secrets."""

from __future__ import annotations

import math
import pickle
import re
import traceback
from itertools import pairwise

import msgspec
import pytest
import rich.pretty
from hypothesis import given
from hypothesis import strategies as st

from oddswire.errors import SettingsError
from oddswire.settings import OPTIONS, PROFILES, Endpoint, Settings
from oddswire.settings.values import Count, Duration, Flag, Text

KEY = "0123456789abcdefFEDCBA98765432100f1e2d3c4b5a69788796a5b4c3d2e1f0"
PUBLIC = "redis://db.example.com"


def _problems(**given) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings(**given)
    return list(caught.value.problems)


@pytest.mark.basic
def test_settings_are_frozen_and_keyword_only() -> None:
    """They cannot be changed, need names, and refuse unknown ones."""
    settings = Settings()
    with pytest.raises(AttributeError):
        settings.pool_min = 3
    with pytest.raises(SettingsError, match=r"by name: Settings\(url=...\)"):
        Settings("redis://:CANARY@h")
    with pytest.raises(SettingsError, match="pool_mim is not a setting; did you mean"):
        Settings(pool_mim=3)


@pytest.mark.basic
def test_durations_are_floats() -> None:
    """A duration given as an int is a float afterwards, a changed copy too."""
    settings = msgspec.structs.replace(Settings(command_timeout=3), keepalive=4)

    assert repr((settings.command_timeout, settings.keepalive)) == "(3.0, 4.0)"


@pytest.mark.basic
def test_a_changed_copy_is_checked_again() -> None:
    """`msgspec.structs.replace` refuses what the constructor refuses."""
    with pytest.raises(SettingsError, match="pool_max"):
        msgspec.structs.replace(Settings(), pool_max=1)


WRONG = [None, True, "-", b"3", math.nan, math.inf, -math.inf, -1, [], {}, 1j]


@pytest.mark.errors
@pytest.mark.requirement("G1")
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.field)
def test_wrong_values_are_refused_by_name(option) -> None:
    """Another type, NaN, infinity, a negative: one line that begins with the field."""
    right = {Flag: True, Text: "-"}.get(type(option.kind))
    if option.field in ("profile", "encryption_key"):
        right = None  # texts, but not any text
    for value in WRONG:
        if (value is None and option.optional) or (
            right is not None and value == right
        ):
            continue
        lines = _problems(**{option.field: value})
        assert any(re.match(rf"{option.field}(=|: )", line) for line in lines), value


# Both ends of these need a partner that allows them.
PARTNERS = {
    "pool_min": {"pool_max": 1000},
    "reconnect_delay": {"reconnect_cap": 3600},
    "reconnect_cap": {"reconnect_delay": 0.001},
}
NUMBERS = [option for option in OPTIONS if isinstance(option.kind, Count | Duration)]


@pytest.mark.errors
@pytest.mark.requirement("G1")
@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.field)
def test_ranges_end_where_they_say(option) -> None:
    """The ends of a range are accepted, what lies beyond is refused."""
    low, high = option.kind.low, option.kind.high
    step = 1 if isinstance(option.kind, Count) else 1e-6
    partner = PARTNERS.get(option.field, {})

    for value in (low, high):
        settings = Settings(**partner, **{option.field: value})
        assert getattr(settings, option.field) == value
    for value in (low - step, high + step):
        lines = _problems(**partner, **{option.field: value})
        assert lines[0].startswith(f"{option.field}={value!r}: must be ")


@pytest.mark.errors
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"pool_min": 11}, "pool_min=11 is above pool_max=10"),
        ({"pool_min": 1}, "2 to 1000"),
        (
            {"reconnect_delay": 6},
            "reconnect_delay=6 is above reconnect_cap=5: change one",
        ),
        ({"tls_cert_file": "c"}, "tls_cert_file is set without tls_key_file"),
        ({"tls_key_file": "k"}, "tls_key_file is set without tls_cert_file"),
        (
            {
                "encryption_key": KEY,
                "encryption_key_file": "k",
                "session_encryption": True,
            },
            "keep one",
        ),
        ({"encryption_key": "short"}, "64 hexadecimal digits"),
        ({"session_encryption": True}, "set encryption_key_file"),
        ({"prefix": "a"}, "a colon"),
        ({"prefix": "a:b:"}, "one segment"),
        ({"prefix": ":"}, "one segment"),
        ({"prefix": "x" * 64 + ":"}, "64 characters"),
        ({"server_bin": ""}, "the path of a file"),
        ({"server_bin": " /bin/x"}, "white space"),
        ({"profile": "prod"}, "one of development, test, staging, production"),
    ],
)
def test_a_broken_rule_says_what_to_do(given, says) -> None:
    """Each broken rule is exactly one line, with the fields and the remedy."""
    [line] = _problems(**given)

    assert says in line


@pytest.mark.basic
@pytest.mark.requirement("G1")
def test_password_and_database_complete_the_url() -> None:
    """User, password and database come from the URL or beside it."""
    settings = Settings(url="redis://h", username="me", password="p@", database=3)
    expected = Endpoint(host="h", username="me", password="p@", database=3)

    assert settings.endpoint == settings.cache_endpoint == expected
    assert settings.full_url == "redis://me:p%40@h:6379/3"
    assert Settings(url="redis://me:p%40@h/3").endpoint == expected
    # The same said twice is no conflict.
    assert Settings(url="redis://:p%40@h", password="p@").endpoint.password == "p@"


@pytest.mark.basic
def test_the_cache_may_have_a_server_of_its_own() -> None:
    """With `cache_url` nothing of `url` is used: no password travels to another."""
    settings = Settings(url="redis://h", cache_url="redis://c/1", password="p")

    assert settings.cache_endpoint == Endpoint(host="c", database=1)
    assert settings.endpoint.password == "p"


@pytest.mark.errors
@pytest.mark.requirement("G1")
@pytest.mark.parametrize(
    ("url", "field", "value"),
    [
        ("redis://:CANARY@h", "password", "other"),
        ("redis://CANARY@h", "username", "other"),
        ("redis://h/1", "database", 0),
        ("redis://h/0", "database", 1),
    ],
)
def test_a_conflict_with_the_url_names_both(url, field, value) -> None:
    """Two different answers are refused, with both sources and neither value."""
    assert _problems(url=url, **{field: value}) == [
        f"url and {field} name two different {field}s: give it in one of them"
    ]
    with pytest.raises(SettingsError, match="REDIS_URL and REDIS_PASSWORD"):
        Settings.from_env(
            {"REDIS_URL": "redis://:a@h", "REDIS_PASSWORD": "b"}, dotenv=None
        )


@pytest.mark.basic
def test_without_a_url_there_is_no_endpoint() -> None:
    """No URL, no endpoint; what would complete a URL is warned of."""
    settings = Settings(password="p")

    assert settings.endpoint is settings.cache_endpoint is None
    with pytest.raises(SettingsError, match="url is not set"):
        _ = settings.full_url
    assert "not used" in settings.warnings[0]


# --- profiles


@pytest.mark.basic
@pytest.mark.requirement("G2")
@pytest.mark.parametrize(
    ("profile", "values"),
    [
        ("development", ("oddswire:", 10.0, 30.0, 1)),
        ("test", ("test:", 10.0, 30.0, 0)),
        ("staging", ("oddswire:", 15.0, 60.0, 5)),
        ("production", ("oddswire:", 20.0, 120.0, 10)),
    ],
)
def test_each_profile_has_its_values(profile, values) -> None:
    """A profile gives the fields of its table; what is given explicitly wins."""
    settings = Settings(profile=profile, url="redis://localhost")
    fields = ("prefix", "connect_timeout", "keepalive", "retries")

    assert tuple(getattr(settings, field) for field in fields) == values
    assert all(tuple(PROFILES[name]) == fields for name in PROFILES)
    explicit = Settings(
        profile=profile, url="redis://localhost", retries=7, prefix="p:"
    )
    assert (explicit.retries, explicit.prefix) == (7, "p:")


@pytest.mark.basic
@pytest.mark.requirement("G2")
@pytest.mark.parametrize("profile", list(PROFILES))
def test_a_server_of_our_own_is_for_development_and_test(profile) -> None:
    """Without a URL staging and production refuse to start and say what to set."""
    if profile in ("development", "test"):
        assert Settings(profile=profile).url is None
        return
    [line] = _problems(profile=profile)

    assert line == (
        f"url is not set and {profile} starts no server of its own: "
        "set it to rediss://user:password@host:6379/0"
    )


@pytest.mark.basic
@pytest.mark.requirement("G2")
@pytest.mark.parametrize("field", ["url", "cache_url"])
@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize(
    ("url", "reach"),
    [
        ("redis://db.example.com", "public"),
        ("redis://8.8.8.8", "public"),
        ("redis://[2606:4700::1111]", "public"),
        ("redis://10.0.0.5", "private"),
        ("redis://100.64.0.1", "private"),
        ("redis://redis", "named"),
        ("redis://db.internal", "named"),
        ("redis://localhost", "local"),
        ("redis://127.0.0.1", "local"),
        ("unix:///run/r.sock", "local"),
        ("rediss://db.example.com", "encrypted"),
    ],
)
def test_plaintext_and_profiles(field, profile, url, reach) -> None:
    """Production refuses plaintext to the public, warns of private; local is fine."""
    given = {"profile": profile, "url": "unix:///run/r.sock"} | {field: url}
    if profile == "production" and reach in ("public", "named"):
        [line] = _problems(**given)
        assert line.startswith(f"{field}='redis://")
        assert "use rediss://" in line
        if reach == "public":
            return
        # A name that only looks private is private once it is declared.
        given["private_hosts"] = "redis, .internal"
    reach = "private" if reach == "named" else reach
    warned = Settings(**given).warnings
    served = profile in ("staging", "production")
    if served and reach in ("public", "private"):
        [line] = warned
        assert line.startswith(f"{field}: plaintext to ")
        assert f"a {reach} address" in line
    else:
        assert warned == ()


@pytest.mark.basic
@pytest.mark.requirement("G2")
@pytest.mark.parametrize("profile", list(PROFILES))
def test_an_unchecked_certificate_and_profiles(profile) -> None:
    """Staging and production refuse it however it is spelled; elsewhere a warning."""
    plain = "rediss://db.example.com"
    for spelled in (
        {"url": plain, "tls_verify": False},
        {"url": plain, "tls_check_hostname": False},
        {"url": f"{plain}?ssl_cert_reqs=none"},
        {"url": f"{plain}?ssl_cert_reqs=CERT_NONE"},
        {"url": f"{plain}?ssl_check_hostname=no"},
        {"url": f"{plain}/0?ssl_check_hostname=False&ssl_ca_certs=ca.pem"},
        {"url": plain, "cache_url": "rediss://c.example.com?ssl_cert_reqs=None"},
        {"url": plain, "cache_url": "valkeys://c.example.com?ssl_check_hostname=0"},
    ):
        if profile in ("staging", "production"):
            [line] = _problems(profile=profile, **spelled)
            assert "trust your own authority" in line
        else:
            warned = Settings(profile=profile, **spelled).warnings
            assert any("not checked" in line for line in warned)


@pytest.mark.basic
@pytest.mark.requirement("G2")
def test_the_sentinels_are_addresses_too() -> None:
    """Each sentinel is judged; the primary's name is no address."""
    production = {"profile": "production", "url": "redis://mymaster"}

    assert Settings(**production, sentinels="10.0.0.1,[fd00::1]:26380").url is not None
    lines = _problems(**production, sentinels="10.0.0.1, 8.8.8.8:1, sentinel-1")
    assert [re.findall("'(.*)'", line) for line in lines] == [
        ["redis://8.8.8.8:1"],
        ["redis://sentinel-1:26379"],
    ]
    tls = production | {"url": "rediss://mymaster"}
    assert Settings(**tls, sentinels="8.8.8.8").sentinels == "8.8.8.8"


@pytest.mark.basic
@pytest.mark.requirement("G2")
@pytest.mark.parametrize("profile", list(PROFILES))
def test_encryption_without_a_key_is_refused(profile) -> None:
    """What is said to be encrypted is never written plain, in no profile."""
    given = {"profile": profile, "url": "redis://localhost", "session_encryption": True}

    [line] = _problems(**given)
    assert "there is no key: set encryption_key_file" in line
    assert Settings(**given, encryption_key_file="k").session_encryption
    assert Settings(**given, encryption_key=KEY).session_encryption


@pytest.mark.errors
@pytest.mark.requirement("G2", "S7")
@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("key", ["encryption_key", "encryption_key_file"])
def test_a_key_while_nothing_is_sealed_is_refused(profile, key) -> None:
    """A key that seals nothing is an error that names it, in every profile."""
    given = {"profile": profile, "url": "redis://localhost", key: KEY}

    [line] = _problems(**given)
    assert line.startswith(f"{key} is set and nothing is sealed with it")
    assert "session_encryption" in line
    assert KEY not in line
    assert Settings(**given, session_encryption=True).session_encryption


@pytest.mark.basic
@pytest.mark.requirement("G2")
@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize(
    "key",
    [
        "0" * 64,
        "ff" * 32,
        "0123456789abcdef" * 4,
        "deadbeef" * 8,
        bytes(range(32)).hex(),
        bytes(range(255, 223, -1)).hex(),
        b"change me: 32 bytes of key here!".hex(),
    ],
)
def test_example_keys_and_profiles(profile, key) -> None:
    """Keys that nobody drew at random are refused in service, else warned of."""
    given = {
        "profile": profile,
        "url": "redis://localhost",
        "encryption_key": key,
        "session_encryption": True,
    }
    if profile in ("staging", "production"):
        [line] = _problems(**given)
        assert "openssl rand -hex 32" in line
        assert key not in line
        return
    [line] = Settings(**given).warnings
    assert "example" in line
    assert key not in line


@pytest.mark.advanced
@pytest.mark.requirement("G2")
@given(st.binary(min_size=32, max_size=32).filter(lambda key: len(set(key)) > 20))
def test_random_keys_are_no_examples(key) -> None:
    """A key with the variety of random bytes is taken."""
    text = any(byte > 0x7E or byte < 0x20 for byte in key)
    steps = len({(b - a) % 256 for a, b in pairwise(key)})
    if text and steps > 1:
        Settings(
            profile="production",
            url="rediss://h",
            encryption_key=key.hex(),
            session_encryption=True,
        )


@pytest.mark.basic
def test_tls_files_without_tls_are_warned_of() -> None:
    """Certificates that a plaintext link cannot use are named."""
    [line] = Settings(url="redis://localhost", tls_ca_file="ca.pem").warnings

    assert line == "url is not rediss://: tls_ca_file not used there"


# --- secrets


def _everything_shown(settings: Settings) -> str:
    return "\n".join(
        [
            repr(settings),
            str(settings),
            f"{settings}",
            rich.pretty.pretty_repr(settings),
            repr(settings.endpoint),
            rich.pretty.pretty_repr(settings.endpoint),
            *settings.warnings,
        ]
    )


@pytest.mark.errors
@pytest.mark.requirement("X3")
@pytest.mark.parametrize("profile", list(PROFILES))
def test_secrets_are_not_shown(profile) -> None:
    """No representation and no warning has a password, a user or a key."""
    settings = Settings(
        profile=profile,
        url="rediss://canary1@h",
        password="canary2",
        cache_url="rediss://:canary3@c",
        encryption_key="ca7a" + KEY[4:],
        session_encryption=True,
        tls_verify=profile in ("staging", "production"),
    )

    shown = _everything_shown(settings)
    assert "canary" not in shown
    assert "ca7a" not in shown
    assert "password='***'" in shown


@pytest.mark.errors
@pytest.mark.requirement("X3")
@pytest.mark.parametrize(
    "environ",
    [
        {"REDIS_URL": "redis://:CANARY@h:port"},
        {"REDIS_URL": "CANARY"},
        {"REDIS_URL": "redis://m", "ODDSWIRE_SENTINELS": "redis://:CANARY@h"},
        {
            "REDIS_URL": "redis://:CANARY@db.example.com",
            "ODDSWIRE_PROFILE": "production",
        },
        {"REDIS_URL": "redis://:CANARY@h", "REDIS_PASSWORD": "x"},
        {"REDIS_URL": "redis://:x@h", "REDIS_PASSWORD": "CANARY"},
        {"REDIS_PASSWORD": " CANARY"},
        {"REDIS_PASSWORD": "CANARY\n"},
        {"ODDSWIRE_ENCRYPTION_KEY": "CANARY"},
        {"ODDSWIRE_CACHE_URL": "redis://CANARY@"},
        {"ODDSWIRE_CACHE_URL": "redis://h/CANARY"},
    ],
    ids=str,
)
def test_errors_and_tracebacks_have_no_secret(environ) -> None:
    """The error, its causes and its formatted traceback never contain the canary."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environ, dotenv=None)
    error = caught.value

    text = "".join(traceback.format_exception(error))
    assert "CANARY" not in text + repr(error) + str(error.problems)
    assert error.__cause__ is error.__context__ is None


@pytest.mark.errors
@pytest.mark.requirement("X3")
@given(
    st.text("CANRY", min_size=5).map(lambda text: f"#{text}"),
    st.sampled_from([o.field for o in OPTIONS if o.secret or "url" in o.field]),
)
def test_a_wrong_secret_of_any_type_is_not_shown(secret, field) -> None:
    """Even a password of a wrong type, or a list that holds one, stays hidden."""
    for value in ([secret], secret.encode(), {secret: 1}):
        assert secret not in "\n".join(_problems(**{field: value}))


@pytest.mark.advanced
def test_settings_travel_to_another_process() -> None:
    """Pickled and read again they are equal, with the secrets, for use over there."""
    settings = Settings(url="redis://:p@h", retries=3)

    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.errors
@pytest.mark.parametrize("notices", [None, "a text", ["a list"], (1,), 5])
def test_notices_are_texts(notices):
    """What a log prints later is refused at once where it is not a tuple of texts."""
    with pytest.raises(SettingsError, match="notices"):
        Settings(notices=notices)
    assert Settings(notices=("seen",)).notices == ("seen",)
