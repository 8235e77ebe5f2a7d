"""What the bot is told by its environment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec

import oddswire
from oddswire.errors import SettingsError
from oddswire.settings import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Where Telegram posts updates to, and where this process listens for them."""

    scheme: str
    host: str
    port: int | None
    secret: str
    bind_host: str
    bind_port: int

    def __repr__(self) -> str:
        return f"Webhook({self.scheme}://{self.host}, {self.bind_host})"


class Telegram(msgspec.Struct, frozen=True, kw_only=True):
    """The bot's account.

    Attributes:
        token: Of the bot, from ``TELEGRAM_BOT_TOKEN`` or ``TELEGRAM_BOT_TOKEN_FILE``;
            empty: none was given.
        api_url: Of the Bot API.
        webhook: None: updates are polled.
    """

    token: str = ""
    api_url: str = "https://api.telegram.org"
    webhook: Webhook | None = None

    @property
    def bot_id(self) -> int | None:
        """The number of the bot, which its token begins with; None without a token."""
        return int(self.token.partition(":")[0]) if self.token else None

    def __repr__(self) -> str:
        token = "***" if self.token else "none"
        how = "polling" if self.webhook is None else "webhook"
        return f"Telegram(token={token}, {how})"


class StatusPage(msgspec.Struct, frozen=True, kw_only=True):
    """Where this process answers probes, Prometheus and people."""

    bind_host: str
    bind_port: int
    names: tuple[str, ...]
    token: str | None

    def __repr__(self) -> str:
        return f"StatusPage({self.bind_host}:{self.bind_port})"


ROLES = frozenset({"updates", "watch", "deliver"})
"""What a process may do; all of it, unless ``ODDSBOT_ROLES`` names some."""


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
        telegram: The bot's account.
        roles: What this process does.
        max_rules: Alerts that a person may have, from ``ODDSBOT_MAX_RULES``.
        status: From ``STATUS_BIND``; None: nothing listens.
    """

    redis: oddswire.Settings
    gamma_url: str
    clob_url: str
    ws_url: str
    data_url: str = _URLS["POLYMARKET_DATA_URL"][1]
    rtds_url: str = _URLS["POLYMARKET_RTDS_URL"][1]
    database_url: str = "sqlite:///oddsbot.db"
    telegram: Telegram = Telegram()
    roles: frozenset[str] = ROLES
    max_rules: int = 200
    status: StatusPage | None = None

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
        telegram, roles = _telegram(environ), _roles(environ)
        max_rules = _max_rules(environ)
        status = _status(environ)
        database = environ.get("DATABASE_URL")
        if database is not None and (refused := _database_refused(database, redis)):
            raise SettingsError(refused)
        urls = {
            field: environ.get(variable, default)
            for variable, (field, default, _) in _URLS.items()
        }
        if "DATABASE_URL" in environ:
            urls["database_url"] = environ["DATABASE_URL"]
        return cls(
            redis=redis,
            telegram=telegram,
            roles=roles,
            max_rules=max_rules,
            status=status,
            **urls,
        )

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


_TOKEN = re.compile(r"[0-9]{1,20}:[A-Za-z0-9_-]{3,100}\Z")
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,256}\Z")
_BIND = "127.0.0.1:8443"
_MOST_RULES = 10_000


def _telegram(environ: Mapping[str, str]) -> Telegram:
    """Read the bot's account.

    Raises:
        SettingsError: Something is wrong with it; no secret is in the text.
    """
    token = _secret(environ, "TELEGRAM_BOT_TOKEN")
    if token and not _TOKEN.match(token):
        raise SettingsError(
            "TELEGRAM_BOT_TOKEN is no token: copy it from @BotFather, a number, a "
            "colon and letters"
        )
    url = environ.get("TELEGRAM_API_URL", "https://api.telegram.org").rstrip("/")
    if _http(url) is None:
        raise SettingsError(
            "TELEGRAM_API_URL is no https:// URL; give one like "
            "https://api.telegram.org"
        )
    mode = environ.get("TELEGRAM_MODE", "polling")
    if mode not in ("polling", "webhook"):
        raise SettingsError(f"TELEGRAM_MODE={mode!r}: give polling or webhook")
    webhook = _webhook(environ) if mode == "webhook" else None
    return Telegram(token=token, api_url=url, webhook=webhook)


def _webhook(environ: Mapping[str, str]) -> Webhook:
    parts = _http(environ.get("WEBHOOK_URL", ""))
    if parts is None:
        raise SettingsError(
            "WEBHOOK_URL: TELEGRAM_MODE=webhook needs the address by which Telegram "
            "reaches this bot, like https://bot.example.org"
        )
    secret = _secret(environ, "WEBHOOK_SECRET")
    if not _SECRET.match(secret):
        raise SettingsError(
            "WEBHOOK_SECRET: give 16 to 256 letters, digits, _ or -, made at random; "
            "without it anybody could post updates"
        )
    bind_host, bind_port = _bind(environ, "WEBHOOK_BIND", _BIND)
    return Webhook(
        scheme=parts.scheme,
        host=(parts.hostname or "").lower(),
        port=parts.port,
        secret=secret,
        bind_host=bind_host,
        bind_port=bind_port,
    )


def _status(environ: Mapping[str, str]) -> StatusPage | None:
    """Read where the status is shown.

    Raises:
        SettingsError: The address is none.
    """
    token = _secret(environ, "STATUS_TOKEN")
    if "STATUS_BIND" not in environ:
        return None
    host, port = _bind(environ, "STATUS_BIND", "127.0.0.1:9090")
    names = environ.get("STATUS_NAMES", "").lower().split(",")
    return StatusPage(
        bind_host=host,
        bind_port=port,
        names=tuple(name.strip() for name in names if name.strip()),
        token=token or None,
    )


def _bind(environ: Mapping[str, str], name: str, default: str) -> tuple[str, int]:
    """Return (host, port) to listen on.

    Raises:
        SettingsError: It is no address with a port.
    """
    bind = environ.get(name, default)
    host, _, port = bind.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise SettingsError(f"{name}={bind!r}: give an address like {default}")
    return host.strip("[]"), int(port)


def _max_rules(environ: Mapping[str, str]) -> int:
    """Read how many alerts a person may have.

    Raises:
        SettingsError: It is no such number.
    """
    text = environ.get("ODDSBOT_MAX_RULES", "200")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MOST_RULES):
        raise SettingsError(
            f"ODDSBOT_MAX_RULES={text[:40]!r}: give a number from 1 to {_MOST_RULES:,}"
        )
    return int(text[:9])


def _roles(environ: Mapping[str, str]) -> frozenset[str]:
    if "ODDSBOT_ROLES" not in environ:
        return ROLES
    return roles_of(environ["ODDSBOT_ROLES"], "ODDSBOT_ROLES")


def roles_of(text: str, name: str) -> frozenset[str]:
    """Return the roles of a list with commas.

    Raises:
        SettingsError: There is none, or one that nobody knows; `name` says where.
    """
    roles = frozenset(each.strip() for each in text.split(",") if each.strip())
    if not roles or roles - ROLES:
        known = ", ".join(sorted(ROLES))
        raise SettingsError(f"{name}={text!r}: give some of {known}, with commas")
    return roles


def _http(url: str) -> SplitResult | None:
    """Return the parts of an address of HTTP; None for what is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    plain = parts.username is None and parts.password is None
    fits = parts.scheme in ("http", "https") and bool(parts.hostname) and plain
    return parts if fits else None


def _secret(environ: Mapping[str, str], name: str) -> str:
    """Return a secret from a variable, or from the file that ``..._FILE`` names.

    Raises:
        SettingsError: Both are given, or the file cannot be read.
    """
    if f"{name}_FILE" not in environ:
        return environ.get(name, "")
    if name in environ:
        raise SettingsError(f"{name} and {name}_FILE: give one of them")
    try:
        return Path(environ[f"{name}_FILE"]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{name}_FILE cannot be read ({type(error).__name__}): give a file with "
            "the secret alone in it"
        ) from None


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
