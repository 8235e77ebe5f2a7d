"""From settings, or redis-py's arguments, to a pool of exclusive connections."""

from __future__ import annotations

import codecs
import inspect
import re
import ssl
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import redis.asyncio as aredis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from oddswire._numbers import is_int
from oddswire.client._hooks import REDIS
from oddswire.client._sentinel import primary_of, sentinel_pool
from oddswire.connection.credentials import fan_out
from oddswire.connection.dial import keepalive_options
from oddswire.connection.pool import ExclusivePool
from oddswire.errors import SettingsError
from oddswire.settings import (
    OPTIONS,
    Endpoint,
    Settings,
    not_a_setting,
    plaintext_refused,
)
from oddswire.settings.values import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FIELDS = frozenset(field.name for field in msgspec.structs.fields(Settings))

# redis-py's arguments that our own settings decide.
_OURS = frozenset(
    {
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "max_connections",
        "socket_keepalive",
        "socket_keepalive_options",
        "health_check_interval",
        "maint_notifications_config",
        "auto_close_connection_pool",
        "event_dispatcher",
    }
)

# None is no absence there: it has redis-py send no CLIENT SETINFO.
_NONE_IS_A_VALUE = frozenset({"driver_info", "lib_name", "lib_version"})

_MOST_CONNECTIONS = 2**31  # redis-py's own default, which means "any number"

# Connections that are not exclusive: the command connection and the cache's tracked
# one.
_SHARED = 2


def settings_with(settings: Settings | None, fields: dict[str, Any]) -> Settings:
    """Return the settings, or the defaults, with other values of these fields.

    Raises:
        SettingsError: A field is wrong, or `settings` is something else.
    """
    if settings is None:
        return Settings(**fields)
    if not isinstance(settings, Settings):
        raise SettingsError("settings must be an oddswire.Settings; a URL is url=")
    return msgspec.structs.replace(settings, **fields) if fields else settings


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (fields of Settings, redis-py's arguments).

    Where redis-py and we have the same thing under two names, redis-py's is taken too,
    so that a program which passed it keeps its meaning. An argument of redis-py's that
    is None or empty is not given: programs pass on what a variable leaves unset.

    Raises:
        SettingsError: A name that neither of them knows, which would be ignored; or a
            value that redis-py would fail on later, with an error of Python's.
    """
    options = {
        name: value
        for name, value in options.items()
        if name in _FIELDS or not _is_absent(name, value)
    }
    # Beside a URL they complete it; alone they are redis-py's, like host and port.
    alike = {"username": "username", "password": "password", "database": "db"}
    with_url = bool(options.get("url"))
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    if with_url:
        options = _url_first(options)
    for name, value in options.items():
        if name == "db" and with_url:
            ours["database"] = _checked(name, value)
        elif name in alike and not with_url:
            if not _is_absent(name, value):
                theirs[alike[name]] = value
        else:
            (ours if name in _FIELDS else theirs)[name] = value
    theirs = {name: _checked(name, value) for name, value in theirs.items()}
    known = _redis_options()
    unknown = theirs.keys() - known
    if unknown and "connection_class" not in theirs:
        raise SettingsError(*(not_a_setting(each, known) for each in sorted(unknown)))
    for name, field in (
        ("socket_timeout", "command_timeout"),
        ("socket_connect_timeout", "connect_timeout"),
    ):
        if name in theirs:
            ours.setdefault(field, theirs[name])
    return {**_wishes(theirs), **ours}, theirs


def _is_absent(name: str, value: Any) -> bool:
    if value is None:
        return name not in _NONE_IS_A_VALUE
    return isinstance(value, str) and not value


def _checked(name: str, value: Any) -> Any:
    """Return an argument of redis-py's as it is used."""
    if name not in _CHECKS:
        return value
    check, accepted = _CHECKS[name]
    try:
        return check(value)
    except (TypeError, ValueError, LookupError, OverflowError):
        raise SettingsError(f"{name} must be {accepted}") from None


def _protocol(version: Any) -> int:
    if int(version) not in (2, 3):
        raise ValueError
    return int(version)


def _encoding(name: str) -> str:
    codecs.lookup(name)
    return name


def _encoding_errors(name: str) -> str:
    codecs.lookup_error(name)
    return name


def _class(kind: Any) -> Any:
    if not isinstance(kind, type):
        raise TypeError
    return kind


def _having(method: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not callable(getattr(value, method, None)):
            raise TypeError
        return value

    return check


# redis-py's arguments whose wrong value would fail later, and not by their name.
_CHECKS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "db": (int, "a whole number"),
    "port": (int, "a whole number"),
    "protocol": (_protocol, "2 or 3"),
    "socket_read_size": (int, "a whole number of bytes"),
    "socket_timeout": (float, "a number of seconds"),
    "socket_connect_timeout": (float, "a number of seconds"),
    "encoding": (_encoding, "an encoding of Python's, such as 'utf-8'"),
    "encoding_errors": (_encoding_errors, "'strict', 'replace' or the like"),
    "connection_class": (_class, "a class"),
    "encoder_class": (_class, "a class"),
    "parser_class": (_class, "a class"),
    "credential_provider": (
        _having("get_credentials_async"),
        "a redis.credentials.CredentialProvider",
    ),
    "health_check_interval": (float, "a number of seconds"),
    "retry": (_having("get_retries"), "a redis.asyncio.retry.Retry"),
}


def _url_first(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options without those that the URL has too: it wins, as redis-py's.

    The size is redis-py's here, which may be any number.
    """
    endpoint = Endpoint.from_url(options["url"])
    of_url = dict(endpoint.options)
    kept = {name: value for name, value in options.items() if name not in of_url}
    if "max_connections" in of_url:
        kept["max_connections"] = int(of_url.pop("max_connections"))
        left = msgspec.structs.replace(endpoint, options=tuple(of_url.items()))
        kept["url"] = left.url
    return kept


@cache
def _redis_options() -> frozenset[str]:
    """Return the names of the arguments of redis-py's connections and client."""
    takers = (
        REDIS,
        AbstractConnection,
        Connection,
        SSLConnection,
        UnixDomainSocketConnection,
    )
    names = {name for taker in takers for name in inspect.signature(taker).parameters}
    return frozenset(names - {"kwargs", "args"})


def open_pool(
    settings: Settings, options: dict[str, Any], *, shared: bool = True
) -> ExclusivePool:
    """Return the pool of exclusive connections; it opens none before the first lease.

    Args:
        settings: Where, and how many.
        options: redis-py's arguments; of `max_connections` any number, as there.
        shared: Whether the client has connections beside it, which count too.
    """
    notices = options.get("maint_notifications_config")
    if notices is not None and notices.enabled is True:
        raise SettingsError(
            "maint_notifications_config: maintenance notices are honoured on no "
            "connection of ours; leave it out, or give enabled=False"
        )
    if settings.endpoint is not None and settings.endpoint.seeds:
        raise SettingsError(
            "cluster:// is many servers, and this is a client of one: use "
            "Client.from_url or Client.from_settings"
        )
    arguments = _arguments(settings)
    arguments |= {name: v for name, v in options.items() if name not in _OURS}
    if arguments.get("credential_provider") is not None:
        # Not its own: redis-py's pub/sub would take the only callback it has.
        arguments["credential_provider"] = fan_out(arguments["credential_provider"])
    if settings.endpoint is not None:
        arguments |= settings.endpoint.arguments
    if "host" in options and arguments.pop("path", None) is not None:
        # The address of the arguments stands in place of the settings' socket.
        arguments["connection_class"] = options.get("connection_class", Connection)
    path = arguments.pop("unix_socket_path", None)
    if path is not None:
        arguments |= {"path": path, "connection_class": UnixDomainSocketConnection}
    if arguments.pop("ssl", False):
        arguments["connection_class"] = SSLConnection
    if arguments.get("connection_class") is UnixDomainSocketConnection:
        for name in ("host", "port"):
            arguments.pop(name, None)
    elif arguments.get("connection_class") is not SSLConnection:
        arguments = {n: v for n, v in arguments.items() if not n.startswith("ssl_")}
    if issubclass(arguments["connection_class"], Connection):
        arguments |= {
            "socket_keepalive": True,
            "socket_keepalive_options": keepalive_options(
                settings.keepalive, settings.tcp_user_timeout
            ),
        }
    arguments |= {
        "max_size": _exclusive_at_most(settings, options, shared=shared),
        "min_idle": settings.pool_min - _SHARED,
        "idle": settings.pool_idle,
        "acquire_timeout": settings.acquire_timeout,
        "connect_timeout": settings.connect_timeout,
    }
    if settings.sentinels is not None:
        if "host" not in arguments:
            raise SettingsError(
                "sentinels is set and the URL names no primary: redis://mymaster/0"
            )
        return sentinel_pool(settings, arguments)
    return ExclusivePool(**arguments)


def settings_of_pool(pool: aredis.ConnectionPool) -> dict[str, Any]:
    """Return what a caller's pool wishes, by field of Settings."""
    arguments = pool.connection_kwargs
    found: dict[str, Any] = _wishes(arguments)
    for name, field in (
        ("socket_timeout", "command_timeout"),
        ("socket_connect_timeout", "connect_timeout"),
    ):
        if arguments.get(name):
            found[field] = _within(field, arguments[name])
    if isinstance(pool, aredis.BlockingConnectionPool) and pool.timeout:
        found["acquire_timeout"] = _within("acquire_timeout", pool.timeout)
    return found


def _wishes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what redis-py's arguments say of health checks and attempts."""
    found: dict[str, Any] = {}
    if interval := arguments.get("health_check_interval"):
        found["heartbeat"] = _within("heartbeat", interval)
    if (retry := arguments.get("retry")) is not None:
        times = retry.get_retries()
        found["retries"] = min(times, 100) if times >= 0 else 100
    return found


def _within(field: str, seconds: float) -> float:
    """Return the value that the field takes for a number of redis-py's: any."""
    kind = next(option.kind for option in OPTIONS if option.field == field)
    assert isinstance(kind, Duration)  # noqa: S101 - of these fields
    return min(max(float(seconds), kind.low), kind.high)


def _exclusive_at_most(
    settings: Settings, options: dict[str, Any], *, shared: bool
) -> int:
    size = options.get("max_connections") or 0
    if isinstance(size, str) and re.fullmatch("[0-9]{1,10}", size):
        size = int(size)  # as a variable has it
    if not is_int(size, 0, _MOST_CONNECTIONS):
        raise SettingsError("max_connections must be a whole number, 1 or more")
    if not size:
        return max(1, settings.pool_max - _SHARED)
    # Of two, one for commands and one exclusive: the cache's is the third.
    return size if not shared else size - 1 if size <= _SHARED else size - _SHARED


def _arguments(settings: Settings) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "connection_class": Connection,
        "socket_timeout": settings.command_timeout,
        "socket_connect_timeout": settings.connect_timeout,
        # redis-py would send any command again, INCR too, up to ten times.
        "retry": Retry(NoBackoff(), 0),
    }
    taken = inspect.signature(AbstractConnection.__init__).parameters
    if "maint_notifications_config" in taken:
        # Since redis-py 8. Left on, an idle connection that the server closed fails the
        # next command (its issue 4252).
        off = MaintNotificationsConfig(enabled=False)
        arguments["maint_notifications_config"] = off
    endpoint = settings.endpoint
    if endpoint is None:
        return arguments
    arguments |= {
        "username": endpoint.username,
        "password": endpoint.password,
        "db": endpoint.database or 0,
    }
    if endpoint.path is not None:
        return arguments | {
            "path": endpoint.path,
            "connection_class": UnixDomainSocketConnection,
        }
    arguments |= {"host": endpoint.host, "port": endpoint.port}
    if endpoint.tls:
        arguments["connection_class"] = SSLConnection
        arguments |= {
            "ssl_ca_certs": settings.tls_ca_file,
            "ssl_certfile": settings.tls_cert_file,
            "ssl_keyfile": settings.tls_key_file,
        }
        if not settings.tls_verify:
            arguments |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
        if not settings.tls_check_hostname:
            arguments["ssl_check_hostname"] = False
    return arguments


def refuse_insecure(settings: Settings, pool: aredis.ConnectionPool) -> None:
    """Refuse a pool whose connections the profile does not allow.

    redis-py's own arguments, and pools of the caller, name a server and its TLS beside
    the settings.

    Raises:
        SettingsError: Plaintext to a public address, or TLS that is not verified.
    """
    if settings.profile not in ("staging", "production"):
        return
    manager = getattr(pool, "sentinel_manager", None)
    asked = [each.connection_pool for each in manager.sentinels] if manager else []
    for each in (pool, *asked):
        arguments, kind = each.connection_kwargs, each.connection_class
        secure = issubclass(kind, SSLConnection)
        if secure:
            tls = each.make_connection().ssl_context
            if tls.cert_reqs is ssl.CERT_NONE or not tls.check_hostname:
                raise SettingsError(
                    f"{settings.profile} does not talk to a server whose certificate "
                    "is not checked: remove ssl_cert_reqs and ssl_check_hostname, or "
                    "trust your own authority with ssl_ca_certs"
                )
        known = primary_of(settings, each) is None and "path" not in arguments
        if known and settings.profile == "production":
            host, port = arguments.get("host", "localhost"), arguments.get("port", 6379)
            there = Endpoint(host=host, port=int(port), tls=secure)
            if why := plaintext_refused(there, settings.private_hosts):
                raise SettingsError(f"{there.safe_url}: {why}")
