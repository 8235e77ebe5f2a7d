"""Settings from the environment and a .env file: every variable, every wrong one."""

from __future__ import annotations

import os
import re
import runpy
from decimal import Decimal
from pathlib import Path

import hypothesis
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.errors import SettingsError
from oddswire.settings import OPTIONS, PROFILES, UNUSED, Settings
from oddswire.settings.values import Count, Duration, Flag

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"
RENDER = runpy.run_path(str(PAGE.parents[1] / "render_settings.py"))["render"]
BY_VARIABLE = {option.variable: option for option in OPTIONS}

# The original's guide: variable, its default there, the field and value it means here.
# Where the default here differs, the third column is what that text must give.
ORIGINAL = [
    ("REDIS_URL", "redis://localhost:6379", "url", "redis://localhost:6379"),
    ("REDIS_PASSWORD", "x", "password", "x"),
    ("REDIS_DATABASE", "3", "database", 3),
    ("REDIS_KEY_PREFIX", "polymarket:", "prefix", "polymarket:"),
    ("REDIS_RETRY_DELAY", "100", "reconnect_delay", 0.1),
    ("REDIS_MAX_RETRIES", "3", "retries", 3),
    ("REDIS_KEEP_ALIVE", "30000", "keepalive", 30.0),
    ("REDIS_CONNECT_TIMEOUT", "10000", "connect_timeout", 10.0),
    ("REDIS_COMMAND_TIMEOUT", "5000", "command_timeout", 5.0),
    ("REDIS_TLS_REJECT_UNAUTHORIZED", "true", "tls_verify", True),
    ("REDIS_HEALTH_CHECK_INTERVAL", "30000", "heartbeat", 30.0),
    ("REDIS_POOL_MIN", "2", "pool_min", 2),
    ("REDIS_POOL_MAX", "10", "pool_max", 10),
    ("REDIS_POOL_ACQUIRE_TIMEOUT", "30000", "acquire_timeout", 30.0),
    ("REDIS_POOL_IDLE_TIMEOUT", "30000", "pool_idle", 30.0),
    ("REDIS_POOL_DESTROY_TIMEOUT", "5000", "drain_timeout", 5.0),
    ("SESSION_DEFAULT_TTL", "86400", "session_ttl", 86400.0),
    ("SESSION_MAX_CONCURRENT", "10000", "session_max", 10000),
    ("SESSION_CLEANUP_INTERVAL", "300000", "session_cleanup", 300.0),
    ("SESSION_COMPRESSION", "false", "session_compression", False),
    ("SESSION_ENCRYPTION", "false", "session_encryption", False),
    ("CACHE_DEFAULT_TTL", "300", "cache_ttl", 300.0),
    ("CACHE_MAX_SIZE", "1073741824", "cache_max_size", 1024**3),
    ("CACHE_COMPRESSION_THRESHOLD", "1024", "cache_compress_above", 1024),
    ("RATE_LIMIT_WINDOW_MS", "900000", "rate_limit_window", 900.0),
    ("RATE_LIMIT_MAX_REQUESTS", "100", "rate_limit_requests", 100),
]
WITHOUT_COUNTERPART = {
    "REDIS_LAZY_CONNECT",
    "REDIS_OFFLINE_QUEUE",
    "REDIS_MEMORY_POLICY",
    "REDIS_POOL_CREATE_TIMEOUT",
    "REDIS_POOL_REAP_INTERVAL",
    "REDIS_POOL_CREATE_RETRY_INTERVAL",
    "CACHE_EVICTION_POLICY",
    "CACHE_ENABLE_METRICS",
    "CACHE_INVALIDATION_STRATEGY",
    "RATE_LIMIT_SKIP_SUCCESS",
    "RATE_LIMIT_SKIP_FAILED",
}


class Recorded(dict):
    """An environment that remembers which variables were asked for."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.asked = set()

    def get(self, name, default=None):  # noqa: D102 - as dict has it
        self.asked.add(name)
        return super().get(name, default)


def _read(environ, dotenv=None, **overrides) -> Settings:
    return Settings.from_env(environ, dotenv, **overrides)


def _problems(environ) -> list[str]:
    try:
        _read(environ)
    except SettingsError as error:
        return list(error.problems)
    return []


@pytest.mark.basic
@pytest.mark.requirement("G1")
@pytest.mark.parametrize(("variable", "text", "field", "value"), ORIGINAL)
def test_the_originals_variables_mean_what_its_guide_says(
    variable, text, field, value
) -> None:
    """Each variable of the original is read in its documented unit."""
    environ = {"REDIS_URL": "redis://localhost"} | {variable: text}
    read = getattr(_read(environ), field)

    assert read == value
    assert type(read) is type(value)


@pytest.mark.basic
@pytest.mark.requirement("G1")
def test_read_documented_and_listed_variables_are_the_same() -> None:
    """The variables that are read, those of the table and those of the page agree."""
    environ = Recorded()
    _read(environ)
    page = PAGE.read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))
    original = {variable for variable, *_ in ORIGINAL}

    assert environ.asked == set(BY_VARIABLE)
    assert rows == {*BY_VARIABLE, *UNUSED}
    assert RENDER() in page, "paste what docs/render_settings.py prints"
    assert original <= set(BY_VARIABLE)
    assert set(UNUSED) == WITHOUT_COUNTERPART
    assert all(name.startswith("ODDSWIRE_") for name in set(BY_VARIABLE) - original)


@pytest.mark.basic
def test_table_and_fields_are_the_same() -> None:
    """Each field of Settings has one line in the table, and its default is accepted."""
    fields = [field.name for field in msgspec.structs.fields(Settings)]

    assert sorted(fields) == sorted([*(o.field for o in OPTIONS), "notices"])
    for profile in ("development", "test"):
        settings = Settings(profile=profile)
        for option in OPTIONS:
            value = getattr(settings, option.field)
            assert value == (None if value is None else option.kind.check(value))


# What other fields must be, so that only the one is in question.
PARTNERS = {
    "pool_min": {"pool_max": 1000},
    "pool_max": {"pool_min": 2},
    "reconnect_delay": {"reconnect_cap": 3600},
    "reconnect_cap": {"reconnect_delay": 0.001},
    "tls_cert_file": {"tls_key_file": "k"},
    "tls_key_file": {"tls_cert_file": "c"},
    "read_from": {"url": "cluster://h:1"},
    "session_encryption": {"encryption_key_file": "k"},
    "encryption_key": {"session_encryption": True},
    "encryption_key_file": {"session_encryption": True},
}
NO_NUMBERS = ["", " ", "1 ", "nan", "NaN", "inf", "-inf", "1e3", "1_0", "0x1", "-1",
              "-0.5", "+1", "٣", "1,5", "None", "null", "true", "9" * 400,
              "1." + "1" * 30]  # fmt: skip


def _accepted(option) -> st.SearchStrategy[tuple[str, object]]:
    """Texts that the environment may have, with the value each must give."""
    match option.kind:
        case Duration(low=low, high=high, milliseconds=milliseconds):
            scale = 1000 if milliseconds else 1
            ends = round(low * scale * 1000), round(high * scale * 1000)
            number = st.integers(*ends).map(lambda n: Decimal(n) / 1000)
            return number.map(lambda n: (f"{n:f}", float(n) / scale))
        case Count(low=low, high=high):
            return st.integers(low, high).map(lambda n: (str(n), n))
        case Flag():
            texts = {"true": True, "YES": True, "on": True, "1": True, "False": False,
                     "no": False, "Off": False, "0": False}  # fmt: skip
            return st.sampled_from(sorted(texts.items()))
    texts = {
        "profile": ["development", "test"],
        "url": ["redis://h/1", "unix:///s"],
        "cache_url": ["rediss://:x@h"],
        "sentinels": ["h", "10.0.0.1:26379", "a:1, b:2,c", "[::1]:1,::1", "a,"],
        "private_hosts": ["redis", "redis, db.internal", ".svc.cluster.local,h."],
        "prefix": ["a:", "polymarket:", "A-b_c.9:"],
        "read_from": ["primary", "replica"],
        "encryption_key": [
            "0123456789abcdefFEDCBA98765432100f1e2d3c4b5a69788796a5b4c3d2e1f0"
        ],
    }.get(option.field, ["x", "a b", "/run/é", "$HOME"])
    return st.sampled_from(texts).map(lambda text: (text, text))


# Of one option: each kind of option has several, which are read by the same code.
shared_out = hypothesis.settings(
    max_examples=max(20, hypothesis.settings.default.max_examples // 5)
)


@pytest.mark.advanced
@pytest.mark.requirement("G1")
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.field)
@shared_out
@given(st.data())
def test_accepted_texts_become_values(option, data) -> None:
    """Any text in the documented range and unit gives that value in the field."""
    text, value = data.draw(_accepted(option))
    # Off, encryption has no partner: a key that seals nothing is refused.
    partners = PARTNERS.get(option.field, {}) if value is not False else {}
    settings = _read({option.variable: text}, **partners)

    assert getattr(settings, option.field) == value


@pytest.mark.errors
@pytest.mark.requirement("G1")
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.field)
@shared_out
@given(st.text(max_size=20) | st.sampled_from(NO_NUMBERS))
def test_any_other_text_is_one_line_that_names_the_variable(option, text) -> None:
    """Whatever a variable holds: a value in the range, or a line with its name."""
    problems = _problems({option.variable: text})
    if problems:
        assert not any("\n" in problem for problem in problems)
        assert any(option.variable in problem for problem in problems)
        return
    settings = _read({option.variable: text})
    value = getattr(settings, option.field)
    if option.blank and not text:
        assert value is None
        return
    assert value == option.kind.check(value)
    assert text.strip() != ""
    assert text == text.strip() or option.field == "sentinels"


@pytest.mark.errors
@pytest.mark.requirement("G1")
@pytest.mark.parametrize(
    "text", ["", " ", "nan", "inf", "1e3", "-1", "True", "10 ", "3600001", "0"]
)
def test_a_timeout_says_its_unit_when_it_is_wrong(text) -> None:
    """The line has the variable, what it holds, the unit and the range."""
    with pytest.raises(SettingsError) as caught:
        _read({"REDIS_CONNECT_TIMEOUT": text})

    assert str(caught.value).startswith(
        f"REDIS_CONNECT_TIMEOUT={text!r}: {'must be' if text else 'is empty'}"
    )
    assert "milliseconds, 1 to 3600000" in str(caught.value)


@pytest.mark.errors
@pytest.mark.requirement("G1")
def test_all_problems_come_at_once() -> None:
    """One error has a line for each wrong variable and for each broken rule."""
    with pytest.raises(SettingsError) as caught:
        _read(
            {
                "ODDSWIRE_PROFILE": "production",
                "REDIS_POOL_MIN": "20",
                "REDIS_POOL_MAX": "10",
                "REDIS_KEEP_ALIVE": "soon",
                "REDIS_DATABASE": "-1",
                "SESSION_ENCRYPTION": "yes",
            }
        )

    assert [re.split("[ =:]", line)[0] for line in caught.value.problems] == [
        "REDIS_DATABASE",
        "REDIS_KEEP_ALIVE",
        "REDIS_POOL_MIN",
        "REDIS_URL",
        "SESSION_ENCRYPTION",
    ]


@pytest.mark.advanced
@pytest.mark.requirement("G1")
@given(st.sets(st.sampled_from(["override", "environ", "dotenv", "profile"])))
def test_who_is_believed(tmp_path_factory, sources) -> None:
    """Override, then environment, then .env, then profile, then default."""
    environ = {"ODDSWIRE_PROFILE": "staging"} if "profile" in sources else {}
    environ["REDIS_URL"] = "redis://localhost"
    file = tmp_path_factory.mktemp("env") / ".env"
    if "dotenv" in sources:
        file.write_text("REDIS_CONNECT_TIMEOUT=3000\n")
    if "environ" in sources:
        environ["REDIS_CONNECT_TIMEOUT"] = "2000"
    overrides = {"connect_timeout": 1.0} if "override" in sources else {}
    ranked = {"override": 1.0, "environ": 2.0, "dotenv": 3.0, "profile": 15.0}
    expected = next((v for source, v in ranked.items() if source in sources), 10.0)

    assert _read(environ, file, **overrides).connect_timeout == expected


@pytest.mark.advanced
def test_an_override_is_believed_over_nonsense() -> None:
    """The variable of an overridden field is not even read."""
    environ = Recorded({"REDIS_POOL_MIN": "nonsense"})

    assert _read(environ, pool_min=3).pool_min == 3
    assert "REDIS_POOL_MIN" not in environ.asked


@pytest.mark.basic
@pytest.mark.requirement("G1")
@pytest.mark.parametrize("variable", sorted(UNUSED))
def test_a_variable_without_counterpart_gets_a_reason(variable, tmp_path) -> None:
    """Each one that is set, in the environment or the file, gets one line why."""
    file = tmp_path / ".env"
    file.write_text(f"{variable}=1\n")

    for settings in (_read({variable: ""}), _read({}, file)):
        assert settings.warnings == (
            f"{variable} has no effect here: {UNUSED[variable]}",
        )
    assert _read({}).warnings == ()


@pytest.mark.errors
@pytest.mark.requirement("G1")
@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("ODDSWIRE_PROFIL", "; did you mean ODDSWIRE_PROFILE?"),
        ("ODDSWIRE_URL", "; did you mean REDIS_URL?"),
        ("ODDSWIRE_POOL_MAX", "; did you mean REDIS_POOL_MAX?"),
        ("ODDSWIRE_RECONECT_CAP", "; did you mean ODDSWIRE_RECONNECT_CAP?"),
        ("ODDSWIRE_ZZZ", ""),
    ],
)
def test_a_misspelt_variable_gets_a_hint(variable, hint) -> None:
    """An unknown ODDSWIRE_ variable is named with the nearest known one."""
    settings = _read({variable: "CANARY", "UNRELATED": "1"})

    assert settings.warnings == (f"{variable} is not a setting{hint}",)


@pytest.mark.basic
@pytest.mark.requirement("G1")
def test_a_dotenv_file_is_read(tmp_path) -> None:
    """Quotes, export, comments, a byte order mark; dollars stay dollars; last wins."""
    file = tmp_path / ".env"
    file.write_bytes(
        b"\xef\xbb\xbfREDIS_POOL_MIN=5\n"
        b"# a comment\n\n"
        b"export REDIS_POOL_MAX='20' # another\n"
        b'REDIS_URL="redis://h"\n'
        b"REDIS_PASSWORD='a${REDIS_POOL_MIN}$b'\n"
        b"REDIS_POOL_MIN=6\r\n"
        b"SOMETHING_ELSE=1\n"
    )
    settings = _read({}, file)

    assert (settings.pool_min, settings.pool_max) == (6, 20)
    assert settings.endpoint.password == "a${REDIS_POOL_MIN}$b"
    assert settings.warnings == ()


@pytest.mark.basic
def test_no_dotenv_file_is_no_problem(tmp_path) -> None:
    """An absent file, and None, give what the environment alone gives."""
    assert _read({}, tmp_path / "absent") == _read({}, None)


@pytest.mark.errors
@pytest.mark.requirement("G1")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"REDIS_POOL_MIN=3\nCAN ARY\n", "line 2: not NAME=value"),
        (b"REDIS_PASSWORD='CANARY\n", "line 1: not NAME=value"),
        (b"REDIS_PASSWORD\n", "line 1: not NAME=value"),
        (b"REDIS_PASSWORD=CANARY\xff\n", "cannot be read: it is not UTF-8"),
        (None, "cannot be read: Is a directory"),
    ],
    ids=["no assignment", "open quote", "no value", "not UTF-8", "a directory"],
)
def test_a_dotenv_file_that_cannot_be_read_is_an_error(tmp_path, content, says) -> None:
    """Unlike an absent file, an unreadable one is refused; no line is shown."""
    file = tmp_path / ".env"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        _read({}, file)

    assert str(caught.value) == f"{file}, {says}".replace(", cannot", ": cannot")
    assert "CAN" not in str(caught.value)


@pytest.mark.errors
def test_a_wrong_value_in_the_file_says_which_file(tmp_path) -> None:
    """The line names the file, for the environment would be searched in vain."""
    file = tmp_path / ".env"
    file.write_text("REDIS_POOL_MIN=1\n")

    with pytest.raises(SettingsError, match=rf"REDIS_POOL_MIN='1' in {file}: must be"):
        _read({}, file)


@pytest.mark.basic
def test_settings_without_from_env_never_look(monkeypatch, tmp_path) -> None:
    """Settings() ignores the environment and any .env; from_env reads both."""
    monkeypatch.setenv("REDIS_POOL_MIN", "7")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("REDIS_POOL_MAX=70\n")

    assert (Settings().pool_min, Settings().pool_max) == (2, 10)
    read = Settings.from_env()
    assert (read.pool_min, read.pool_max) == (7, 70)


@pytest.mark.advanced
@pytest.mark.requirement("X1")
@given(st.dictionaries(st.sampled_from(sorted(BY_VARIABLE)), st.text(max_size=6)))
def test_no_environment_raises_anything_else(environ) -> None:
    """Whatever is set together: Settings, or SettingsError with lines."""
    problems = _problems(environ)
    if not problems:
        assert _read(environ).profile in PROFILES
    assert len(problems) == len(set(problems))


# --- whose file, whose password


@pytest.mark.errors
@pytest.mark.requirement("X2")
@pytest.mark.parametrize(
    ("mode", "owner", "says"),
    [
        (0o600, 12345, "belongs to another user"),
        (0o602, None, "everybody may write to it"),
        (0o666, None, "everybody may write to it"),
    ],
)
def test_a_strangers_dotenv_is_refused(tmp_path, monkeypatch, mode, owner, says):
    """A file that another user can write decides nothing, and the line says why."""
    file = tmp_path / ".env"
    file.write_text("REDIS_URL=redis://evil\n")
    file.chmod(mode)
    if owner is not None:
        monkeypatch.setattr("os.geteuid", lambda: file.stat().st_uid + owner)
        file.chmod(mode)
        if file.stat().st_uid == 0:
            os.chown(file, owner + 1, -1)
    with pytest.raises(SettingsError) as caught:
        _read({}, file)

    assert says in str(caught.value)


@pytest.mark.errors
@pytest.mark.requirement("X2")
@pytest.mark.timeout(10)
def test_a_pipe_in_the_place_of_dotenv_is_a_file_like_others(tmp_path, monkeypatch):
    """A pipe without a writer holds nobody up, and a stranger's decides nothing."""
    pipe = tmp_path / ".env"
    os.mkfifo(pipe, 0o600)
    mine = os.geteuid()
    assert _read({"REDIS_URL": "redis://h"}, pipe).url == "redis://h"
    pipe.chmod(0o666)
    with pytest.raises(SettingsError, match="everybody may write to it"):
        _read({}, pipe)
    reads, writes = os.pipe()
    os.write(writes, b"REDIS_URL=redis://there\n")
    os.close(writes)
    assert _read({}, f"/dev/fd/{reads}").url == "redis://there"
    os.close(reads)
    assert _read({"REDIS_URL": "redis://h"}, "/dev/null").url == "redis://h"
    pipe.chmod(0o600)
    monkeypatch.setattr("os.geteuid", lambda: mine + 1)
    if mine == 0:
        os.chown(pipe, 12345, -1)
    with pytest.raises(SettingsError, match="belongs to another user"):
        _read({}, pipe)


@pytest.mark.errors
@pytest.mark.requirement("X2")
def test_a_file_names_no_program(tmp_path) -> None:
    """The server's program comes from the environment or an argument, never a file."""
    file = tmp_path / ".env"
    file.write_text("ODDSWIRE_SERVER_BIN=./evil.sh\n")
    with pytest.raises(SettingsError, match=r"SERVER_BIN in .*: a program is named by"):
        _read({}, file)

    assert _read({"ODDSWIRE_SERVER_BIN": "/bin/x"}, file).server_bin == "/bin/x"
    assert _read({}, file, server_bin="/bin/y").server_bin == "/bin/y"


COMPLETES = {
    "ODDSWIRE_USERNAME": "me",
    "REDIS_PASSWORD": "CANARY",
    "REDIS_DATABASE": "1",
    "ODDSWIRE_SENTINELS": "10.0.0.1",
    "ODDSWIRE_SENTINEL_USERNAME": "me",
    "ODDSWIRE_SENTINEL_PASSWORD": "CANARY",
}


@pytest.mark.errors
@pytest.mark.requirement("X2", "G1")
@pytest.mark.parametrize("variable", COMPLETES)
def test_a_password_is_not_sent_where_another_source_says(tmp_path, variable) -> None:
    """What completes a URL comes from where the URL is, or it is refused or unused."""
    assert {o.variable for o in OPTIONS if o.completes} == set(COMPLETES)
    field = BY_VARIABLE[variable].field
    file = tmp_path / ".env"
    url, other = "REDIS_URL=redis://h\n", f"{variable}={COMPLETES[variable]}\n"
    for content, environ in (
        (url, {variable: COMPLETES[variable]}),
        (other, {"REDIS_URL": "redis://h"}),
    ):
        file.write_text(content)
        with pytest.raises(SettingsError) as caught:
            _read(environ, file)
        assert variable in str(caught.value)
        assert "give both in one place" in str(caught.value)
        assert "CANARY" not in str(caught.value)
        # The URL of an argument is completed by arguments alone.
        settings = _read(environ, file, url="redis://other")
        assert getattr(settings, field) is None
        assert any(variable in line for line in settings.warnings)
    file.write_text(url + other)
    assert getattr(_read({}, file), field) is not None
    both = {"REDIS_URL": "redis://h", variable: COMPLETES[variable]}
    assert getattr(_read(both, file), field) is not None


@pytest.mark.basic
@pytest.mark.requirement("G1")
@pytest.mark.parametrize(
    "variable",
    ["ODDSWIRE_USERNAME", "REDIS_PASSWORD", "REDIS_DATABASE",
     "ODDSWIRE_SENTINEL_USERNAME", "ODDSWIRE_SENTINEL_PASSWORD"],
)  # fmt: skip
def test_an_empty_credential_is_none(variable) -> None:
    """A server without a password has ``REDIS_PASSWORD=``, and so may the arguments."""
    settings = _read({"REDIS_URL": "redis://h", variable: ""})
    field = BY_VARIABLE[variable].field

    assert getattr(settings, field) is None
    assert getattr(Settings(url="redis://h", **{field: ""}), field) is None
