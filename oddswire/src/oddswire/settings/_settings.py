"""`Settings`: every choice that the library leaves open, in one frozen value."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, Unpack, get_args

import msgspec
from msgspec import structs

from oddswire._numbers import shown
from oddswire._text import closest
from oddswire.errors import SettingsError
from oddswire.settings import _environment, _rules, url_options
from oddswire.settings.endpoint import MAX_DATABASE, Endpoint
from oddswire.settings.options import Option
from oddswire.settings.overrides import Overrides
from oddswire.settings.profiles import PROFILES, Profile
from oddswire.settings.values import (
    Addresses,
    Count,
    Duration,
    Flag,
    Prefix,
    ReadFrom,
    Text,
    Url,
)

_DAY = 86_400.0
_MIB = 1024 * 1024
_PATH = Text("the path of a file")


def _ms(low: float, high: float) -> Duration:
    return Duration(low, high, milliseconds=True)


_HOST = r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?"
_HOSTS = Text(
    'names, or suffixes such as ".svc.cluster.local", with commas between',
    rf"{_HOST}(\s*,\s*{_HOST})*",
)
_CHOICES = Text(f"one of {', '.join(PROFILES)}", "|".join(PROFILES))
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
    `from_env`. Durations are float seconds, sizes are bytes.
    `docs/reference/configuration.md` has a line for each field; fields without a
    default below differ by profile.

    Options in the query of `url` (``?socket_timeout=5``, as redis-py names them) become
    the fields that are their counterparts and are no longer in `url`.

    A changed copy (`msgspec.structs.replace`) is checked again. It keeps what the first
    one took from its profile, also when `profile` is what changes.

    Raises:
        SettingsError: One line for each problem, all at once, without secrets.
    """

    # fmt: off
    # --- where the server is
    profile: Annotated[Profile, Option(
        "ODDSWIRE_PROFILE", _CHOICES,
        "which defaults and which safety rules apply")] = "development"
    url: Annotated[str | None, Option(
        "REDIS_URL", Url(),
        "the server; unset: a server of our own, in development and test only")] = None
    cache_url: Annotated[str | None, Option(
        "ODDSWIRE_CACHE_URL", Url(),
        "a second, disposable server for the cache, with its own credentials; unset: "
        "the same server")] = None
    username: Annotated[str | None, Option(
        "ODDSWIRE_USERNAME", Text("an ACL user name"), "completes the URL", blank=True,
        completes=True)] = None
    password: Annotated[str | None, Option(
        "REDIS_PASSWORD", Text("a password"), "completes the URL", secret=True,
        blank=True, completes=True)] = None
    database: Annotated[int | None, Option(
        "REDIS_DATABASE", Count(0, MAX_DATABASE), "completes the URL", blank=True,
        completes=True)] = None
    sentinels: Annotated[str | None, Option(
        "ODDSWIRE_SENTINELS", Addresses(26379),
        "who knows where the primary is; the host of the URL is then its name",
        completes=True)] = None
    sentinel_username: Annotated[str | None, Option(
        "ODDSWIRE_SENTINEL_USERNAME", Text("an ACL user name"),
        "at the sentinels themselves", blank=True, completes=True)] = None
    sentinel_password: Annotated[str | None, Option(
        "ODDSWIRE_SENTINEL_PASSWORD", Text("a password"), "at the sentinels themselves",
        secret=True, blank=True, completes=True)] = None
    prefix: Annotated[str, Option(
        "REDIS_KEY_PREFIX", Prefix(), "what every key begins with")] = _BY_PROFILE
    tls_verify: Annotated[bool, Option(
        "REDIS_TLS_REJECT_UNAUTHORIZED", Flag(),
        "check the server's certificate and name (rediss:// only); staging and "
        "production do")] = True
    tls_check_hostname: Annotated[bool, Option(
        "ODDSWIRE_TLS_CHECK_HOSTNAME", Flag(),
        "check that the certificate is for the server's name, beside its authority; "
        "staging and production do")] = True
    tls_ca_file: Annotated[str | None, Option(
        "ODDSWIRE_TLS_CA_FILE", _PATH,
        "authorities to trust instead of the system's, PEM")] = None
    tls_cert_file: Annotated[str | None, Option(
        "ODDSWIRE_TLS_CERT_FILE", _PATH, "our certificate for mutual TLS, PEM")] = None
    tls_key_file: Annotated[str | None, Option(
        "ODDSWIRE_TLS_KEY_FILE", _PATH, "the key of our certificate, PEM")] = None
    server_bin: Annotated[str | None, Option(
        "ODDSWIRE_SERVER_BIN", _PATH,
        "the program that a server of our own runs; not from a file",
        program=True)] = None
    private_hosts: Annotated[str | None, Option(
        "ODDSWIRE_PRIVATE_HOSTS", _HOSTS,
        "names that lead to a private network: production sends plaintext to no other "
        "name")] = None
    read_from: Annotated[ReadFrom, Option(
        "ODDSWIRE_READ_FROM", Text("primary or replica", "primary|replica"),
        "where commands go that only read; of a cluster alone, and a replica is behind "
        "its primary")] = "primary"
    # --- connections
    pool_min: Annotated[int, Option(
        "REDIS_POOL_MIN", Count(2, 1000),
        "connections kept open: one for commands, one for the cache, the rest "
        "exclusive")] = 2
    pool_max: Annotated[int, Option(
        "REDIS_POOL_MAX", Count(2, 1000),
        "connections of all kinds together, at most; not below pool_min")] = 10
    acquire_timeout: Annotated[float, Option(
        "REDIS_POOL_ACQUIRE_TIMEOUT", _ms(0.001, 3600),
        "longest wait for an exclusive connection")] = 30.0
    pool_idle: Annotated[float, Option(
        "REDIS_POOL_IDLE_TIMEOUT", _ms(0.1, _DAY),
        "an exclusive connection unused for so long is closed")] = 30.0
    connect_timeout: Annotated[float, Option(
        "REDIS_CONNECT_TIMEOUT", _ms(0.001, 3600),
        "opening a connection, TLS and handshake included")] = _BY_PROFILE
    command_timeout: Annotated[float, Option(
        "REDIS_COMMAND_TIMEOUT", _ms(0.001, 3600),
        "one call, its waits and retries included")] = 5.0
    side_timeout: Annotated[float, Option(
        "ODDSWIRE_SIDE_TIMEOUT", Duration(0.001, 60),
        "the same for calls of the limiter and the cache")] = 0.05
    drain_timeout: Annotated[float, Option(
        "REDIS_POOL_DESTROY_TIMEOUT", _ms(0, 3600),
        "how long closing waits for calls in flight")] = 5.0
    keepalive: Annotated[float, Option(
        "REDIS_KEEP_ALIVE", _ms(1, 7200),
        "silence after which the kernel probes the link")] = _BY_PROFILE
    tcp_user_timeout: Annotated[float, Option(
        "ODDSWIRE_TCP_USER_TIMEOUT", Duration(0.1, 3600),
        "sent bytes unacknowledged for so long end the connection (Linux)")] = 10.0
    retries: Annotated[int, Option(
        "REDIS_MAX_RETRIES", Count(0, 100),
        "further attempts of a call that is safe to repeat, within its deadline",
    )] = _BY_PROFILE
    reconnect_delay: Annotated[float, Option(
        "REDIS_RETRY_DELAY", _ms(0.001, 60),
        "pause before the second attempt to connect; doubles with each")] = 0.05
    reconnect_cap: Annotated[float, Option(
        "ODDSWIRE_RECONNECT_CAP", Duration(0.001, 3600),
        "longest of these pauses; not below reconnect_delay")] = 5.0
    reconnect_attempts: Annotated[int, Option(
        "ODDSWIRE_RECONNECT_ATTEMPTS", Count(1, 10_000),
        "failed attempts in a row that open the circuit")] = 10
    reconnect_probe: Annotated[float, Option(
        "ODDSWIRE_RECONNECT_PROBE", Duration(0.1, 3600),
        "pause between attempts while the circuit is open")] = 15.0
    heartbeat: Annotated[float, Option(
        "REDIS_HEALTH_CHECK_INTERVAL", _ms(0.1, 3600),
        "silence after which the command connection is pinged")] = 30.0
    heartbeat_tracked: Annotated[float, Option(
        "ODDSWIRE_HEARTBEAT_TRACKED", Duration(0.05, 3600),
        "the same for the cache's connection, while its memory is read")] = 0.5
    heartbeat_subscriber: Annotated[float, Option(
        "ODDSWIRE_HEARTBEAT_SUBSCRIBER", Duration(0.05, 3600),
        "the same for the subscriber's connection")] = 4.0
    heartbeat_answer: Annotated[float, Option(
        "ODDSWIRE_HEARTBEAT_ANSWER", Duration(0.05, 3600),
        "a ping unanswered for so long ends the connection")] = 2.0
    inflight_commands: Annotated[int, Option(
        "ODDSWIRE_INFLIGHT_COMMANDS", Count(1, 1_000_000),
        "commands on one connection that wait for their replies, at most")] = 4096
    inflight_bytes: Annotated[int, Option(
        "ODDSWIRE_INFLIGHT_BYTES", Count(1024, 1024 * _MIB, "bytes"),
        "bytes of these commands, at most")] = 16 * _MIB
    slow_above: Annotated[float, Option(
        "ODDSWIRE_SLOW_ABOVE", Duration(0.001, 3600),
        "a reply that takes longer counts as slow in the statistics")] = 0.1
    # --- sessions
    session_ttl: Annotated[float, Option(
        "SESSION_DEFAULT_TTL", Duration(1, 365 * _DAY),
        "a conversation without activity ends")] = 86_400.0
    session_max: Annotated[int, Option(
        "SESSION_MAX_CONCURRENT", Count(1, 100_000_000),
        "live sessions, at most")] = 10_000
    session_cleanup: Annotated[float, Option(
        "SESSION_CLEANUP_INTERVAL", _ms(1, _DAY),
        "pause between removals of ended sessions")] = 300.0
    session_compression: Annotated[bool, Option(
        "SESSION_COMPRESSION", Flag(), "compress sessions")] = False
    session_encryption: Annotated[bool, Option(
        "SESSION_ENCRYPTION", Flag(), "encrypt sessions; needs a key")] = False
    encryption_key: Annotated[str | None, Option(
        "ODDSWIRE_ENCRYPTION_KEY", Text("64 hexadecimal digits", "[0-9A-Fa-f]{64}"),
        "the key; the file is safer, for it is in no process listing",
        secret=True)] = None
    encryption_key_file: Annotated[str | None, Option(
        "ODDSWIRE_ENCRYPTION_KEY_FILE", _PATH, "a file that holds the keys")] = None
    # --- cache
    cache_ttl: Annotated[float, Option(
        "CACHE_DEFAULT_TTL", Duration(1, 365 * _DAY),
        "a value without a time to live of its own is kept so long")] = 300.0
    cache_max_size: Annotated[int, Option(
        "CACHE_MAX_SIZE", Count(_MIB, 1024**4, "bytes"),
        "memory of the cache in the server, at most")] = 1024 * _MIB
    cache_compress_above: Annotated[int, Option(
        "CACHE_COMPRESSION_THRESHOLD", Count(0, 1024 * _MIB, "bytes"),
        "larger values are compressed")] = 1024
    cache_publish: Annotated[bool, Option(
        "ODDSWIRE_CACHE_PUBLISH", Flag(),
        "the cache publishes its writes, for processes that are refused CLIENT "
        "TRACKING; in all processes or in none")] = False
    # --- rate limits
    rate_limit_window: Annotated[float, Option(
        "RATE_LIMIT_WINDOW_MS", _ms(0.001, 31 * _DAY),
        "window of the default rule")] = 900.0
    rate_limit_requests: Annotated[int, Option(
        "RATE_LIMIT_MAX_REQUESTS", Count(1, 1_000_000_000),
        "requests of the default rule in a window")] = 100
    rate_limit_processes: Annotated[int, Option(
        "ODDSWIRE_RATE_LIMIT_PROCESSES", Count(1, 10_000),
        "processes that share the limits, for a local share while Redis is away")] = 1
    # fmt: on

    notices: tuple[str, ...] = ()
    """What `from_env` noticed about variables that have no effect."""

    def __post_init__(self) -> None:
        values = {option.field: getattr(self, option.field) for option in OPTIONS}
        names = {option.field: option.field for option in OPTIONS}
        accepted, problems = _judged(values, names)
        if not _are_texts(self.notices):
            problems.append(
                f"notices {shown(self.notices)}: accepted is a tuple of texts"
            )
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
        reading = _environment.read(OPTIONS, environ, dotenv, overrides)
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
        """What is allowed and may surprise, one line each, for a log."""
        return (*self.notices, *_rules.warnings(msgspec.structs.asdict(self)))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"Settings({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own lists every field as it is, and with them the secrets.
        return [
            (field, _masked(field, getattr(self, field)))
            for field, default in _defaults().items()
            if getattr(self, field) != default
        ]


def _declared(field: str, annotation: Any) -> Option:
    """Return the option of a field, from ``Annotated[type, Option(...)]``."""
    option: Option = annotation.__metadata__[0]
    optional = NoneType in get_args(annotation.__origin__)
    return structs.replace(option, field=field, optional=optional)


OPTIONS: Final[tuple[Option, ...]] = tuple(
    _declared(field, annotation)
    for field, annotation in Settings.__annotations__.items()
    if field != "notices"
)
"""Every setting, in the order of the reference page."""

_OPTION = {option.field: option for option in OPTIONS}


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, str) for each in value)


def _masked(field: str, value: Any) -> Any:
    if _OPTION[field].secret:
        return "***"
    if field not in _URLS:
        return value
    try:
        return Endpoint.from_url(value).safe_url
    except SettingsError:
        return "***"  # refused: there is no telling where the password ends


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
    }.get(name) or closest(name, fields)
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
    return f"{name} is not a setting{hint}"
