"""The options of a URL (``?socket_timeout=5``), as redis-py names them.

Hosting services and other libraries hand out URLs with redis-py's options. Each has a
counterpart here, a field of `Settings` or an argument of the client, or the error names
it.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from oddswire._text import closest
from oddswire.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

_TRUE = ("true", "yes", "on", "1", "t", "y")
_FALSE = ("false", "no", "off", "0", "f", "n")


def _flag(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("true or false")


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise ValueError("seconds")
    return float(text)


def _interval(text: str) -> float | None:
    # redis-py's 0 is its default and means none; here a connection always has one.
    return _seconds(text) or None


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError("a whole number")
    return int(text)


def _protocol(text: str) -> int:
    if text not in ("2", "3"):
        raise ValueError("2 or 3")
    return int(text)


def _certificates(text: str) -> bool:
    named = text.lower().removeprefix("cert_")
    if named in ("required", "optional", "1", "2"):
        return True  # to a client both mean the same
    if named in ("none", "0"):
        return False
    raise ValueError("required, optional or none")


def _text(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("printable text")
    return text


FIELDS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "socket_timeout": ("command_timeout", _seconds),
    "socket_connect_timeout": ("connect_timeout", _seconds),
    "health_check_interval": ("heartbeat", _interval),
    "max_connections": ("pool_max", _number),
    "timeout": ("acquire_timeout", _seconds),
    "ssl_cert_reqs": ("tls_verify", _certificates),
    "ssl_check_hostname": ("tls_check_hostname", _flag),
    "ssl_ca_certs": ("tls_ca_file", _text),
    "ssl_certfile": ("tls_cert_file", _text),
    "ssl_keyfile": ("tls_key_file", _text),
}
"""redis-py's name to the field of `Settings`, and what reads its text."""

ARGUMENTS: Final[dict[str, Callable[[str], Any]]] = {
    "decode_responses": _flag,
    "encoding": _text,
    "encoding_errors": _text,
    "client_name": _text,
    "lib_name": _text,
    "lib_version": _text,
    "protocol": _protocol,
}
"""Arguments of the client that redis-py has, and what reads their text."""

# Always so here, however they are set: probes of the kernel, and repeating what is safe
# to repeat.
_ALWAYS: dict[str, Callable[[str], Any]] = {
    "socket_keepalive": _flag,
    "retry_on_timeout": _flag,
}
_LOCATION = ("db", "username", "password")


@cache
def _redis_names() -> frozenset[str]:
    """Return the names of redis-py's arguments of connections."""
    takers = (SSLConnection, UnixDomainSocketConnection)
    mro = {each for taker in takers for each in taker.__mro__ if each is not object}
    return frozenset(
        name for each in mro for name in inspect.signature(each).parameters
    ) - {"args", "kwargs"}


def read(query: str) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Return what says where the server is (db, username, password), and the options.

    Raises:
        SettingsError: The query is malformed, or an option has no counterpart or a
            value that is not accepted. The value is never repeated.
    """
    if not query:
        return {}, ()
    try:
        # An @ that is not written %40 follows a password that has a ? in it: then the
        # query is a piece of that password, and nothing of it is named.
        if "@" in query:
            raise ValueError  # noqa: TRY301 - one answer to both
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise SettingsError(
            "the URL has a query that is not ?name=value, such as ?db=0; "
            "a ? in a password is %3F"
        ) from None
    location: dict[str, str] = {}
    options: dict[str, str] = {}
    for name, text in pairs:
        found = location if name in _LOCATION else options
        if name in found:
            raise SettingsError(f"the URL gives ?{name}= twice")
        if name not in _LOCATION:
            _check(name, text)
        found[name] = text
    return location, tuple(sorted(options.items()))


def _check(name: str, text: str) -> None:
    reader = FIELDS[name][1] if name in FIELDS else {**ARGUMENTS, **_ALWAYS}.get(name)
    if reader is None:
        raise SettingsError(_unknown(name))
    try:
        reader(text)
    except ValueError as error:
        raise SettingsError(f"the URL's option {name} must be {error}") from None


def _unknown(name: str) -> str:
    if not re.fullmatch("[A-Za-z_]{1,40}", name):
        return "the URL has an option that redis-py does not have"
    if name in _redis_names():
        return (
            f"the URL's option {name} has no counterpart in the settings; give it to "
            f"Client.from_url(url, {name}=...)"
        )
    known = [*FIELDS, *ARGUMENTS, *_ALWAYS, *_LOCATION]
    close = closest(name, known)
    hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
    return f"the URL's option {name} is none of redis-py's{hint}"
