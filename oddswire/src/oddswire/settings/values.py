"""What a setting accepts, as a value and as the environment's text.

Every kind has `accepts`, which completes "must be ...", `check` for a value and
`parse` for text. Both return the value in the field's type and raise ValueError with a
text that never repeats what was given: it may be a secret.
"""

from __future__ import annotations

import re
from typing import Any, Literal, Protocol

import msgspec

from oddswire._numbers import is_int, is_number
from oddswire.keys import KeySpace
from oddswire.settings.endpoint import Endpoint, addresses

_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?")


ReadFrom = Literal["primary", "replica"]
"""Where a command that only reads goes."""


class Kind(Protocol):
    """One of the classes below."""

    @property
    def accepts(self) -> str:
        """What is accepted, in the environment's unit."""

    def check(self, value: object) -> Any:
        """Return `value` in the field's type; ValueError if it is not accepted."""

    def parse(self, text: str) -> Any:
        """Return what `text` says; ValueError if it is not accepted."""


class Duration(msgspec.Struct, frozen=True):
    """Float seconds; the environment has seconds, or milliseconds.

    Attributes:
        low: The shortest, in seconds.
        high: The longest, in seconds.
        milliseconds: The environment's unit.
    """

    low: float
    high: float
    milliseconds: bool = False

    @property
    def accepts(self) -> str:
        """The unit and the range."""
        unit, scale = ("milliseconds", 1000) if self.milliseconds else ("seconds", 1)
        return f"{unit}, {self.low * scale:.12g} to {self.high * scale:.12g}"

    def check(self, value: object) -> float:
        """Take an int or a float of seconds."""
        if not is_number(value, self.low, self.high):
            raise ValueError(f"must be seconds, {self.low:.12g} to {self.high:.12g}")
        return float(value)

    def parse(self, text: str) -> float:
        """Read plain decimal digits: no exponent, no underscore, no infinity."""
        try:
            if _DECIMAL.fullmatch(text):
                return self.check(float(text) / (1000 if self.milliseconds else 1))
        except ValueError:
            pass
        raise ValueError(f"must be {self.accepts}")


class Count(msgspec.Struct, frozen=True):
    """A whole number.

    Attributes:
        low: The smallest.
        high: The largest.
        of: What is counted, such as ``bytes``.
    """

    low: int
    high: int
    of: str = ""

    @property
    def accepts(self) -> str:
        """The range."""
        return f"a whole number{self.of and ' of '}{self.of}, {self.low} to {self.high}"

    def check(self, value: object) -> int:
        """Take an int."""
        if not is_int(value, self.low, self.high):
            raise ValueError(f"must be {self.accepts}")
        return value

    def parse(self, text: str) -> int:
        """Read decimal digits."""
        if not _DECIMAL.fullmatch(text) or "." in text:
            raise ValueError(f"must be {self.accepts}")
        return self.check(int(text))


class Flag(msgspec.Struct, frozen=True):
    """On or off."""

    accepts: str = "true or false"

    def check(self, value: object) -> bool:
        """Take a bool."""
        if not isinstance(value, bool):
            raise ValueError("must be True or False")  # noqa: TRY004 - all refusals are ValueErrors
        return value

    def parse(self, text: str) -> bool:
        """Read true, yes, on, 1 or their opposites, in any case."""
        match text.lower():
            case "true" | "yes" | "on" | "1":
                return True
            case "false" | "no" | "off" | "0":
                return False
        raise ValueError(f"must be {self.accepts}")


class Text(msgspec.Struct, frozen=True):
    """A text of at least one character, without white space around it.

    Attributes:
        accepts: What it is.
        pattern: What it must match as a whole.
    """

    accepts: str
    pattern: str = r"[\s\S]+"

    def check(self, value: object) -> str:
        """Take a str."""
        if isinstance(value, str):
            if value.strip() != value:
                raise ValueError("must not begin or end with white space")
            if re.fullmatch(self.pattern, value):
                return value
        raise ValueError(f"must be {self.accepts}")

    parse = check


class Prefix(msgspec.Struct, frozen=True):
    """What all keys begin with."""

    accepts: str = 'one segment of [A-Za-z0-9_.-] and a colon, such as "oddswire:"'

    def check(self, value: object) -> str:
        """Take a str of at most 64 characters."""
        try:
            if isinstance(value, str) and len(value) <= 64:
                return KeySpace(value).prefix
        except ValueError:
            pass
        raise ValueError(f"must be {self.accepts}, at most 64 characters")

    parse = check


class Addresses(msgspec.Struct, frozen=True):
    """Hosts and ports, with commas between.

    Attributes:
        port: Of those that name none.
    """

    port: int
    accepts: str = (
        "host:port of each sentinel, with commas between; of IPv6 [::1]:26379"
    )

    def check(self, value: object) -> str:
        """Take a str; white space and a comma at the end do not count."""
        try:
            if isinstance(value, str) and list(addresses(value, self.port)):
                return value.strip()
        except ValueError:
            pass
        raise ValueError(f"must be {self.accepts}")

    parse = check


class Url(msgspec.Struct, frozen=True):
    """Where a server is."""

    accepts: str = (
        "redis://, rediss://, unix:// or cluster://, for example "
        "rediss://user:password@host:6379/0"
    )

    def check(self, value: object) -> str:
        """Take a str that `Endpoint.from_url` reads."""
        if not isinstance(value, str):
            raise ValueError(f"must be {self.accepts}")  # noqa: TRY004 - all refusals are ValueErrors
        Endpoint.from_url(value)
        return value

    parse = check
