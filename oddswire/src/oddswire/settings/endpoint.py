"""`Endpoint`: where a server is and who we are there, read from a URL."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, unquote_to_bytes, urlencode, urlsplit

import msgspec

from oddswire.errors import SettingsError
from oddswire.settings import url_options

if TYPE_CHECKING:
    from collections.abc import Iterator

Reach = Literal["local", "private", "public"]

MAX_DATABASE = 2_147_483_647

_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
# The C library takes these for IPv4 addresses in other notations, such as 134744072.
_NUMERIC = re.compile(r"(.*\.)?([0-9]+|0[xX][0-9A-Fa-f]*)\.?")
_ACCEPTED = "redis://, rediss://, unix:// or cluster://"
# Names that no public name server answers for.
_PRIVATE_SUFFIXES = (
    ".local", ".internal", ".lan", ".localdomain", ".home.arpa", ".test", ".svc",
)  # fmt: skip


CLUSTER_SCHEMES = frozenset({"cluster", "clusters"})
_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
    "cluster": "cluster",
    "clusters": "clusters",
}
# A host may be named twice, and a list is no place for thousands.
_MOST_SEEDS = 100


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A server's address, and the name and database to use there.

    Attributes:
        host: Name or IP address; None for a unix socket.
        port: TCP port.
        path: Unix socket; None for TCP.
        tls: Whether the connection is encrypted.
        username: ACL user; None for the default user.
        password: Never shown by `repr`, `str` or an error.
        database: Number of the database.
        options: The other options of the URL's query, as redis-py names them.
        seeds: The nodes of a cluster that are asked for the others; `host` and `port`
            are the first of them. Empty for one server.
    """

    host: str | None = None
    port: int = 6379
    path: str | None = None
    tls: bool = False
    username: str | None = None
    password: str | None = None
    database: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    seeds: tuple[tuple[str, int], ...] = ()

    @classmethod
    def from_url(cls, url: str) -> Endpoint:
        """Read a ``redis://``, ``rediss://``, ``unix://`` or ``cluster://`` URL.

        ``valkey://`` and ``valkeys://`` are the first two by another name.
        ``cluster://host:port,host:port`` names some nodes of a cluster, and
        ``clusters://`` the same with TLS; the database there is 0. User and
        password are percent-decoded. The database is the path (``redis://host/3``) or
        ``?db=3``. Other options are redis-py's; see `oddswire.settings.url_options`.

        Raises:
            SettingsError: One line that repeats nothing of the URL: in a malformed one
                there is no telling where the password ends.
        """
        if not isinstance(url, str):
            raise SettingsError(f"the URL must be a str, not {type(url).__name__}")
        if not url:
            raise SettingsError(f"the URL is empty; give {_ACCEPTED}")
        if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in url):
            raise SettingsError("the URL has white space or a control character in it")
        try:
            parts = urlsplit(url)
        except ValueError:
            # Its text repeats the host, which may be a piece of the password.
            raise SettingsError(
                "the URL is malformed: check the brackets of the host"
            ) from None
        scheme = _SCHEMES.get(parts.scheme.lower())
        if scheme is None or "://" not in url:
            raise SettingsError(f"the URL must begin with {_ACCEPTED}")
        if parts.fragment or "#" in url:
            raise SettingsError("the URL has a #; in a password it is written %23")
        user, _, address = parts.netloc.rpartition("@")
        name, _, secret = user.partition(":")
        location, options = url_options.read(parts.query)
        username = _once("user", _decoded(name), location.get("username"))
        password = _once("password", _decoded(secret), location.get("password"))
        queried = _database(location["db"]) if "db" in location else None
        if scheme == "unix":
            if address:
                raise SettingsError(
                    "the URL of a socket has three slashes: unix:///path"
                )
            path = _decoded(parts.path)
            # The longest that an address of Linux can hold, with the closing NUL.
            if not path.strip("/") or len(path.encode()) > 107:
                raise SettingsError(
                    "the URL needs the path of a socket of at most 107 bytes"
                )
            return cls(
                path=path,
                username=username,
                password=password,
                database=queried,
                options=options,
            )
        database = _database(parts.path.strip("/")) if parts.path.strip("/") else None
        if None not in (database, queried) and database != queried:
            raise SettingsError("the URL names two databases, in its path and in ?db=")
        database = database if queried is None else queried
        seeds = _seeds(address, database) if scheme in CLUSTER_SCHEMES else ()
        host, port = seeds[0] if seeds else _address(address)[:2]
        return cls(
            host=host,
            port=port,
            tls=scheme in ("rediss", "clusters"),
            username=username,
            password=password,
            database=database,
            options=options,
            seeds=seeds,
        )

    def at(self, host: str, port: int) -> Endpoint:
        """Return the endpoint of one node of this cluster: same user, same TLS."""
        return msgspec.structs.replace(
            self, host=host, port=port, seeds=(), database=None
        )

    @property
    def fields(self) -> dict[str, Any]:
        """What the options say, by field of `Settings`."""
        read = {
            url_options.FIELDS[name][0]: url_options.FIELDS[name][1](text)
            for name, text in self.options
            if name in url_options.FIELDS
        }
        return {field: value for field, value in read.items() if value is not None}

    @property
    def arguments(self) -> dict[str, Any]:
        """What the options say, by argument of redis-py's client."""
        return {
            name: url_options.ARGUMENTS[name](text)
            for name, text in self.options
            if name in url_options.ARGUMENTS
        }

    def without_fields(self) -> Endpoint:
        """Return it without the options that `fields` has."""
        kept = tuple(each for each in self.options if each[0] in url_options.ARGUMENTS)
        return msgspec.structs.replace(self, options=kept)

    @property
    def address(self) -> str:
        """``host:port``, that of each seed, or the path of the socket: fit for logs."""
        if self.path is not None:
            return self.path
        seeds = self.seeds or ((self.host or "", self.port),)
        return ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in seeds
        )

    @property
    def url(self) -> str:
        """The URL of all of it, password included."""
        user = quote(self.username or "", safe="")
        secret = f":{quote(self.password, safe='')}" if self.password else ""
        return self._url(f"{user}{secret}@" if user or secret else "")

    @property
    def safe_url(self) -> str:
        """The URL with ``***`` for user and password: fit for logs."""
        return self._url("***@" if self.username or self.password else "")

    def _url(self, who: str) -> str:
        if self.path is not None:
            database = () if self.database is None else (("db", str(self.database)),)
            return f"unix://{who}{quote(self.path)}{_query(database + self.options)}"
        path = "" if self.database is None else f"/{self.database}"
        scheme = ("cluster" if self.seeds else "redis") + ("s" if self.tls else "")
        return f"{scheme}://{who}{self.address}{path}{_query(self.options)}"

    @property
    def reach(self) -> Reach:
        """How far the bytes may travel, judged by the address alone.

        ``local``: they stay on this machine. ``private``: an address that is not routed
        on the internet, a name of one label, or one under a suffix such as
        ``.internal``. ``public``: everything else.
        """
        if self.host is None:
            return "local"
        name = _plain(self.host)
        try:
            ip = ipaddress.ip_address(name)
        except ValueError:
            if name == "localhost" or name.endswith(".localhost"):
                return "local"
            private = "." not in name or name.endswith(_PRIVATE_SUFFIXES)
            return "private" if private else "public"
        return _reach_of(ip)

    def reach_declared(self, private_hosts: str | None) -> Reach:
        """How far the bytes may travel, if no name is private that nobody declared.

        What a name resolves to is its zone's decision, and a name that looks private
        can be answered by anybody. Only ``localhost`` is taken by its name.

        Args:
            private_hosts: `Settings.private_hosts`: names, or suffixes that begin with
                a dot, with commas between.
        """
        if self.host is None:
            return "local"
        name = _plain(self.host)
        try:
            ip = ipaddress.ip_address(name)
        except ValueError:
            if name == "localhost":
                return "local"
            declared = [_plain(each) for each in (private_hosts or "").split(",")]
            private = any(
                name.endswith(each) if each.startswith(".") else name == each
                for each in declared
                if each
            )
            return "private" if private else "public"
        return _reach_of(ip)

    def __repr__(self) -> str:
        return f"Endpoint({self.safe_url!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own lists the fields, and with them the password.
        return [("url", self.safe_url)]


def _decoded(text: str) -> str:
    if _ESCAPE.search(text):
        raise SettingsError(
            "the URL has a % without two hexadecimal digits; write % as %25"
        )
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise SettingsError("the URL has %-escapes that are not UTF-8") from None


def addresses(text: str, port: int) -> Iterator[tuple[str, int]]:
    """Yield the addresses of ``host:port, [::1]:port, host``; a comma may end it.

    Args:
        text: Names, IPv4 addresses, IPv6 addresses (in brackets, if a port follows).
        port: Of those that name none.

    Raises:
        SettingsError: One of them is no address.
    """
    for each in text.strip().removesuffix(",").split(","):
        address = each.strip()
        try:
            yield str(ipaddress.IPv6Address(address)), port
        except ValueError:
            host, given, named = _address(address)
            yield host, given if named else port


def _seeds(text: str, database: int | None) -> tuple[tuple[str, int], ...]:
    if database:
        raise SettingsError("a cluster has the database 0 alone: name none in the URL")
    found = tuple(dict.fromkeys(addresses(text, 6379)))
    if len(found) > _MOST_SEEDS:
        raise SettingsError(
            f"the URL names more than {_MOST_SEEDS} nodes; some will do"
        )
    return found


def _once(what: str, first: str, second: str | None) -> str | None:
    if first and second and first != second:
        raise SettingsError(f"the URL names two {what}s, before the @ and in its query")
    return first or second or None


def _query(pairs: tuple[tuple[str, str], ...]) -> str:
    return f"?{urlencode(pairs, quote_via=quote, safe='')}" if pairs else ""


def _plain(host: str) -> str:
    return host.strip().lower().rstrip(".")


def _reach_of(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Reach:
    if isinstance(ip, ipaddress.IPv6Address):
        # Before Python 3.13 the classes of ::ffff:8.8.8.8 are not those of 8.8.8.8. A
        # tunnel's address leads to the IPv4 address within, whatever its own class.
        tunnel = ip.teredo[1] if ip.teredo else None
        inner = ip.ipv4_mapped or ip.sixtofour or tunnel
        if inner is not None:
            return _reach_of(inner)
    if ip.is_loopback:
        return "local"
    return "public" if ip.is_global else "private"


def _database(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > MAX_DATABASE:
        raise SettingsError(
            "the URL must name the database by its number (a / in a password is %2F)"
        )
    return int(text)


def _address(text: str) -> tuple[str, int, bool]:
    """Return host, port, and whether the text names the port."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        try:
            ipaddress.IPv6Address(_decoded(host))
        except ValueError:
            bracket = ""
        if not bracket or (rest and not rest.startswith(":")):
            raise SettingsError("the URL has no IPv6 address between its brackets")
        return _decoded(host), _port(rest[1:]) if rest else 6379, bool(rest)
    host, colon, port = text.partition(":")
    if not host:
        raise SettingsError("the URL has no host; this machine is localhost")
    if _NUMERIC.fullmatch(host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise SettingsError("the URL has a malformed IPv4 address") from None
    elif len(host) > 253 or not _NAME.fullmatch(host):
        raise SettingsError(
            "the URL has no valid host name or address (in a password, write @ as %40, "
            ": as %3A and / as %2F)"
        )
    return host, _port(port) if colon else 6379, bool(colon)


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise SettingsError(
            "the URL has a port that is not 1 to 65535 (in a password, write / as %2F, "
            "? as %3F and # as %23)"
        )
    return int(text)
