"""What the bot is told by its environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit

import msgspec

import oddswire
from oddswire.errors import SettingsError
from oddswire.settings import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PREFIX = "polymarket:"

# Variable -> field, default, accepted schemes.
_URLS = {
    "POLYMARKET_GAMMA_URL": (
        "gamma_url",
        "https://gamma-api.polymarket.com",
        ("https", "http"),
    ),
    "POLYMARKET_CLOB_URL": (
        "clob_url",
        "https://clob.polymarket.com",
        ("https", "http"),
    ),
    "POLYMARKET_DATA_URL": (
        "data_url",
        "https://data-api.polymarket.com",
        ("https", "http"),
    ),
    "POLYMARKET_RTDS_URL": (
        "rtds_url",
        "wss://ws-live-data.polymarket.com",
        ("wss", "ws"),
    ),
    "POLYMARKET_WS_URL": (
        "ws_url",
        "wss://ws-subscriptions-clob.polymarket.com/ws/market",
        ("wss", "ws"),
    ),
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The bot's settings.

    Attributes:
        redis: Those of the Redis layer; their key prefix is the bot's.
        gamma_url: Where Polymarket's markets are described.
        clob_url: Where its order books are.
        ws_url: Where its market channel is.
        data_url: Where wallets, trades and the oracle's states are.
        rtds_url: Where RTDS is.
        database_url: Of the source of record, from ``DATABASE_URL``.
    """

    redis: oddswire.Settings
    gamma_url: str
    clob_url: str
    ws_url: str
    data_url: str = _URLS["POLYMARKET_DATA_URL"][1]
    rtds_url: str = _URLS["POLYMARKET_RTDS_URL"][1]
    database_url: str = "sqlite:///oddsbot.db"

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] = os.environ,  # noqa: TID251 - the bot is an application
        dotenv: str | Path | None = ".env",
    ) -> Self:
        """Read ``POLYMARKET_*_URL``, and everything that `oddswire.Settings` reads.

        Blocks while it reads the file: call it before the event loop runs.

        Args:
            environ: The environment.
            dotenv: A file of ``NAME=value`` lines for the Redis layer; it may be
                missing. None: no file.

        Raises:
            SettingsError: One line for each problem.
        """
        problems = list(_problems(environ))
        try:
            redis = oddswire.Settings.from_env(environ, dotenv, prefix=PREFIX)
        except SettingsError as error:
            raise SettingsError(*error.problems, *problems) from error
        if problems:
            raise SettingsError(*problems)
        database = environ.get("DATABASE_URL")
        if database is not None and (refused := _database_refused(database, redis)):
            raise SettingsError(refused)
        urls = {
            field: environ.get(variable, default)
            for variable, (field, default, _) in _URLS.items()
        }
        if "DATABASE_URL" in environ:
            urls["database_url"] = environ["DATABASE_URL"]
        return cls(redis=redis, **urls)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"Settings({fields})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own has the database's password.
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        scheme, _, rest = self.database_url.partition("://")
        shown["database_url"] = f"{scheme}://***@{rest.rpartition('@')[2]}"
        if "@" not in rest:
            shown["database_url"] = self.database_url
        return list(shown.items())


def _database_refused(url: str, redis: oddswire.Settings) -> str | None:
    """Return why production does not connect to a database; None: it does."""
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        # The query may name hosts of its own, several with commas between.
        hosts = (options.get("host") or parts.hostname or "localhost").split(",")
        reaches = {
            Endpoint(host=host.partition(":")[0]).reach_declared(redis.private_hosts)
            for host in hosts
            if not host.startswith("/")
        }
    except ValueError:
        return None  # the engine refuses it, with what to give
    verified = options.get("ssl", options.get("sslmode")) in (
        "verify-ca",
        "verify-full",
    )
    if (
        redis.profile != "production"
        or not parts.scheme.startswith("postgres")
        or verified
        or "public" not in reaches
    ):
        return None
    # Not repeated: it may hold a password.
    return (
        "DATABASE_URL: production sends no plaintext to a public address: add "
        "?ssl=verify-full, give the private address of the server, or declare its name "
        "private with ODDSWIRE_PRIVATE_HOSTS"
    )


def _problems(environ: Mapping[str, str]) -> Iterator[str]:
    for variable, (_, default, schemes) in _URLS.items():
        if variable not in environ:
            continue
        try:
            parts = urlsplit(environ[variable])
            usable = parts.scheme in schemes and bool(parts.hostname)
        except ValueError:
            usable = False
        if not usable:
            # Not repeated: an URL may hold a password.
            yield f"{variable} is no {schemes[0]}:// URL; give one like {default}"
