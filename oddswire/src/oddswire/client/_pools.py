"""From settings, or redis-py's arguments, to a pool of exclusive wires."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

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

from oddswire.client._sentinel import sentinel_pool
from oddswire.connection.credentials import fan_out
from oddswire.connection.dial import probes
from oddswire.connection.pool import WirePool
from oddswire.errors import SettingsError
from oddswire.settings import Settings

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

# Wires that are not exclusive: the command wire and the cache's tracked one.
_SHARED = 2


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (fields of Settings, redis-py's arguments).

    Where redis-py and we have the same thing under two names, redis-py's is taken too,
    so that a program which passed it keeps its meaning.

    Raises:
        SettingsError: A name that neither of them knows; it would be ignored.
    """
    # Beside a URL they complete it; alone they are redis-py's, like host and port.
    alike = {"username": "username", "password": "password", "database": "db"}
    with_url = bool(options.get("url"))
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    for name, value in options.items():
        if name == "db" and with_url:
            ours["database"] = int(value)
        elif name in alike and not with_url:
            theirs[alike[name]] = value
        else:
            (ours if name in _FIELDS else theirs)[name] = value
    unknown = theirs.keys() - _redis_options()
    if unknown and "connection_class" not in theirs:
        raise SettingsError(
            *(f"{name}: neither a setting nor redis-py's" for name in sorted(unknown))
        )
    for name, field, kind in (
        ("socket_timeout", "command_timeout", float),
        ("socket_connect_timeout", "connect_timeout", float),
        ("max_connections", "pool_max", int),
    ):
        if theirs.get(name) is not None:
            ours.setdefault(field, kind(theirs[name]))
    return ours, theirs


@cache
def _redis_options() -> frozenset[str]:
    """Return the names of the arguments of redis-py's connections and client."""
    takers = (
        aredis.Redis,
        AbstractConnection,
        Connection,
        SSLConnection,
        UnixDomainSocketConnection,
    )
    names = {name for taker in takers for name in inspect.signature(taker).parameters}
    return frozenset(names - {"kwargs", "args"})


def open_pool(settings: Settings, options: dict[str, Any]) -> WirePool:
    """Return the pool of exclusive wires; it opens none before somebody asks."""
    arguments = _arguments(settings)
    arguments |= {name: v for name, v in options.items() if name not in _OURS}
    if arguments.get("credential_provider") is not None:
        # Not its own: redis-py's pub/sub would take the only callback it has.
        arguments["credential_provider"] = fan_out(arguments["credential_provider"])
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
            "socket_keepalive_options": probes(
                settings.keepalive, settings.tcp_user_timeout
            ),
        }
    arguments |= {
        "most": max(1, settings.pool_max - _SHARED),
        "keep": settings.pool_min - _SHARED,
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
    return WirePool(**arguments)


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
    return arguments
