"""`Settings`: every choice that the library leaves open, in one frozen value."""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self, Unpack

import msgspec

from oddswire.errors import SettingsError
from oddswire.settings import _environment, _rules, url_options
from oddswire.settings.endpoint import Endpoint
from oddswire.settings.options import OPTIONS
from oddswire.settings.profiles import PROFILES, Profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from oddswire.settings.overrides import Overrides

_MIB = 1024 * 1024
_SECRETS = frozenset(option.field for option in OPTIONS if option.secret)
_OPTION = {option.field: option for option in OPTIONS}
_URLS = frozenset({"url", "cache_url"})
# Stands where nothing was given and the profile decides.
_BY_PROFILE: Any = msgspec.UNSET


class _Named(type(msgspec.Struct)):  # type: ignore[misc]
    """Refuses an unknown field by a `SettingsError` that says which was meant."""

    # A type checker looks at the fields themselves.
    if not TYPE_CHECKING:

        def __call__(cls, *args: Any, **given: Any) -> Any:
            if args:
                raise SettingsError(
                    "Settings takes its fields by name: Settings(url=...)"
                )
            unknown = given.keys() - set(cls.__struct_fields__)
            if unknown:
                raise SettingsError(*(not_a_setting(name) for name in sorted(unknown)))
            return super().__call__(**given)


class Settings(msgspec.Struct, frozen=True, kw_only=True, metaclass=_Named):
    """Where the server is, and how to behave towards it.

    Frozen, checked when it is made, and never from the environment: for that there is
    `from_env`. Durations are float seconds, sizes are bytes. `docs/configuration.md`
    has a line for each field; fields without a default below differ by profile.

    Options in the query of `url` (``?socket_timeout=5``, as redis-py names them) become
    the fields that are their counterparts and are no longer in `url`.

    A changed copy (`msgspec.structs.replace`) is checked again. It keeps what the first
    one took from its profile, also when `profile` is what changes.

    Raises:
        SettingsError: One line for each problem, all at once, without secrets.
    """

    profile: Profile = "development"
    url: str | None = None
    cache_url: str | None = None
    username: str | None = None
    password: str | None = None
    database: int | None = None
    sentinels: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    prefix: str = _BY_PROFILE
    tls_verify: bool = True
    tls_check_hostname: bool = True
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    server_bin: str | None = None
    private_hosts: str | None = None

    pool_min: int = 2
    pool_max: int = 10
    acquire_timeout: float = 30.0
    pool_idle: float = 30.0
    connect_timeout: float = _BY_PROFILE
    command_timeout: float = 5.0
    side_timeout: float = 0.05
    drain_timeout: float = 5.0
    keepalive: float = _BY_PROFILE
    tcp_user_timeout: float = 10.0
    retries: int = _BY_PROFILE
    reconnect_delay: float = 0.05
    reconnect_cap: float = 5.0
    reconnect_attempts: int = 10
    reconnect_probe: float = 15.0
    heartbeat: float = 30.0
    heartbeat_tracked: float = 0.5
    heartbeat_subscriber: float = 4.0
    heartbeat_answer: float = 2.0
    inflight_commands: int = 4096
    inflight_bytes: int = 16 * _MIB
    slow_above: float = 0.1

    session_ttl: float = 86_400.0
    session_max: int = 10_000
    session_cleanup: float = 300.0
    session_compression: bool = False
    session_encryption: bool = False
    encryption_key: str | None = None
    encryption_key_file: str | None = None

    cache_ttl: float = 300.0
    cache_max_size: int = 1024 * _MIB
    cache_compress_above: int = 1024
    cache_publish: bool = False

    rate_limit_window: float = 900.0
    rate_limit_requests: int = 100
    rate_limit_processes: int = 1

    notices: tuple[str, ...] = ()
    """What `from_env` noticed about variables that have no effect."""

    def __post_init__(self) -> None:
        values = {option.field: getattr(self, option.field) for option in OPTIONS}
        names = {option.field: option.field for option in OPTIONS}
        accepted, problems = _judged(values, names)
        if problems:
            raise SettingsError(*problems)
        for field, value in accepted.items():
            msgspec.structs.force_setattr(self, field, value)

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] = os.environ,  # noqa: TID251 - its one home
        dotenv: str | Path | None = ".env",
        **overrides: Unpack[Overrides],
    ) -> Self:
        """Read settings: overrides, then the environment, then `dotenv`, then defaults.

        User, password, database and sentinels are taken only from where the URL is:
        with `url` among the overrides, none of them is read. The file may name no
        program, and must belong to the process's user or root.

        Blocks while it reads the file: call it before the event loop runs.

        Args:
            environ: The environment.
            dotenv: A file of ``NAME=value`` lines; it may be missing. None: no file.
            **overrides: Fields of `Settings`; their variables are not read at all.

        Raises:
            SettingsError: One line for each problem of the file, of a variable and of
                the settings together.
        """
        unknown = overrides.keys() - _defaults().keys()
        if unknown:
            raise SettingsError(*(not_a_setting(name) for name in sorted(unknown)))
        reading = _environment.read(environ, dotenv, overrides)
        given: dict[str, Any] = {**reading.values, **overrides}
        values = {**_defaults(), **given}
        names = {
            option.field: option.field if option.field in overrides else option.variable
            for option in OPTIONS
        }
        readable = {
            field: value
            for field, value in values.items()
            if field not in reading.unreadable
        }
        # Judged here as well as by the constructor: here the variables have names, and
        # what is wrong with the file does not hide what is wrong with a value.
        problems = reading.problems + _judged(readable, names)[1]
        if problems:
            raise SettingsError(*problems)
        return cls(**given, notices=reading.notices)

    @property
    def endpoint(self) -> Endpoint | None:
        """Where `url` leads, completed; None when there is no URL."""
        return _rules.endpoint_of(msgspec.structs.asdict(self))

    @property
    def cache_endpoint(self) -> Endpoint | None:
        """Where the cache's server is: `cache_url`, else `endpoint`."""
        if self.cache_url is not None:
            return Endpoint.from_url(self.cache_url)
        return self.endpoint

    def for_cache(self) -> Self:
        """Return the settings of the cache's server: these, unless `cache_url` is set.

        That URL has its own credentials and options; nothing of `url` is sent there.
        """
        if self.cache_url is None:
            return self
        endpoint = Endpoint.from_url(self.cache_url)
        without = {option.field: None for option in OPTIONS if option.completes}
        given = {**without, **endpoint.fields, "url": endpoint.without_fields().url}
        return msgspec.structs.replace(self, cache_url=None, **given)

    @property
    def full_url(self) -> str:
        """`endpoint` as a URL, password included: not for logs.

        Raises:
            SettingsError: There is no URL.
        """
        if (endpoint := self.endpoint) is None:
            raise SettingsError("url is not set: there is no server to connect to")
        return endpoint.url

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed and may surprise, one line each, for whoever logs."""
        return (*self.notices, *_rules.warnings(msgspec.structs.asdict(self)))

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"Settings({told})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own lists every field as it is, and with them the secrets.
        return [
            (field, _masked(field, getattr(self, field)))
            for field, default in _defaults().items()
            if getattr(self, field) != default
        ]


def _masked(field: str, value: Any) -> Any:
    if field in _SECRETS:
        return "***"
    return Endpoint.from_url(value).safe_url if field in _URLS else value


def _defaults() -> dict[str, Any]:
    return {
        field.name: field.default
        for field in msgspec.structs.fields(Settings)
        if field.name != "notices"
    }


def _judged(
    values: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values that are accepted, by field, and a line for each problem."""
    values, names, clashes = _with_url_options(values, names)
    # A wrong profile is a problem of its own, not one of each field it decides.
    decided = PROFILES["development"]
    for profile, decides in PROFILES.items():
        if profile == values.get("profile"):
            decided = decides
    accepted: dict[str, Any] = {}
    problems = []
    for option in OPTIONS:
        if option.field not in values:
            continue
        value = values[option.field]
        if value == "" and option.blank:
            value = None
        if value is _BY_PROFILE:
            value = decided[option.field]
        try:
            missing = value is None and option.optional
            accepted[option.field] = None if missing else option.kind.check(value)
        except ValueError as error:
            shown = _environment.shown(option, value)
            problems.append(f"{names[option.field]}{shown}: {error}")
    return accepted, [*problems, *clashes, *_rules.problems(accepted, names)]


def _with_url_options(
    values: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[Mapping[str, Any], Mapping[str, str], list[str]]:
    """Return the values with what the URL's options say, and a line for each problem.

    A value that an option gave is called by both names.
    """
    problems = []
    for each, said in _endpoint(values, "cache_url").fields.items():
        try:
            _OPTION[each].kind.check(said)
        except ValueError as error:
            problems.append(f"{names['cache_url']}, by its {_by_url(each)}: {error}")
    endpoint = _endpoint(values, "url")
    if endpoint.without_fields() == endpoint:
        return values, names, problems
    defaults = _defaults()
    names = dict(names)
    for field, said in endpoint.fields.items():
        given = values.get(field, defaults[field])
        by = f"{names['url']}, by its {_by_url(field)}"
        if given not in (defaults[field], said):
            problems.append(
                f"{by}, and {names[field]} say two different things: give it in one of "
                "them"
            )
        names[field] = by
    url = endpoint.without_fields().url
    return {**values, **endpoint.fields, "url": url}, names, problems


def _endpoint(values: Mapping[str, Any], field: str) -> Endpoint:
    """Return where a URL leads; one without options if it is absent or wrong."""
    try:
        return Endpoint.from_url(values[field])
    except (KeyError, TypeError, AttributeError, ValueError):
        return Endpoint()


def _by_url(field: str) -> str:
    [option] = [o for o, (f, _) in url_options.FIELDS.items() if f == field]
    return f"option {option}"


def not_a_setting(name: str, also: Iterable[str] = ()) -> str:
    """Return a line for an argument that is no setting, with what was meant.

    Args:
        name: The argument.
        also: Other arguments that are accepted there.
    """
    fields = [*_defaults(), *also]
    meant = {
        "db": ["database"],
        "host": ["url"],
        "port": ["url"],
        **{option: [field] for option, (field, _) in url_options.FIELDS.items()},
        # More often asked for than the wait that redis-py calls so.
        "timeout": ["command_timeout", "connect_timeout"],
    }.get(name) or get_close_matches(name, fields, n=1, cutoff=0.7)
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
    return f"{name} is not a setting{hint}"
