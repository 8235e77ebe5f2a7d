"""`Access`: whether a request has the token of a listener. No input or output."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections import OrderedDict
from enum import Enum
from typing import TYPE_CHECKING

from oddswire.counters import Window
from oddswire.errors import SettingsError
from oddswire.web.guard import limit_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from oddswire.clock import Clock

_SHORTEST = 16
_ADDRESSES = 1_000


def read_token(path: Path) -> str:
    """Return the token in a file: its whole text, without white space around it.

    Raises:
        SettingsError: The file cannot be read, or its text is no valid token.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        # The content is a secret: the error names the exception's class alone.
        raise SettingsError(
            f"the token file {str(path)!r} cannot be read: {type(error).__name__}"
        ) from None
    return check_token(text)


def check_token(token: str) -> str:
    """Return the token if it is valid.

    Raises:
        SettingsError: It is too short, or has characters that a header cannot have.
    """
    printable = token.isascii() and token.isprintable() and " " not in token
    if len(token) < _SHORTEST or not printable:
        raise SettingsError(
            f"a token has {_SHORTEST} characters or more, of ASCII and without spaces: "
            "make one with openssl rand -hex 32"
        )
    return token


class Answer(Enum):
    """Whether a request is allowed."""

    YES = "yes"
    NO = "no"
    LATER = "later"


class Access:
    """Judges the header Authorization.

    A program sends ``Bearer <token>``; a browser sends ``Basic``, with the token as
    the password and any user name. An address that failed ten times within a minute is
    refused for the rest of that minute, also with the right token.

    Args:
        token: The token; None: everybody is allowed.
        clock: The time.
        failures: Failures within a minute after which an address is refused.

    Raises:
        SettingsError: The token is too short, or cannot stand in a header.
    """

    def __init__(self, token: str | None, clock: Clock, *, failures: int = 10) -> None:
        self.protected = token is not None
        self._token = b"" if token is None else check_token(token).encode()
        self._clock = clock
        self._most = failures
        # By network, in the order of their last failures; the oldest are forgotten.
        self._failed: OrderedDict[str, Window] = OrderedDict()

    def judge(self, headers: Sequence[str], address: str) -> Answer:
        """Return whether a request is allowed; a failure is counted.

        Args:
            headers: Each value of Authorization.
            address: The client's address.
        """
        if not self.protected:
            return Answer.YES
        now = self._clock.monotonic()
        keys = limit_key(address)
        if any(self._failures(key, now) >= self._most for key in keys):
            return Answer.LATER
        given = _token(headers[0]) if len(headers) == 1 else None
        if given is not None and hmac.compare_digest(given, self._token):
            return Answer.YES
        # A browser sends its first request without a token: that is no guess.
        if headers:
            for key in keys:
                window = self._failed.pop(key, None) or Window()
                window.record(now, failed=1)
                self._failed[key] = window
            while len(self._failed) > _ADDRESSES:
                self._failed.popitem(last=False)
        return Answer.NO

    def _failures(self, key: str, now: float) -> int:
        window = self._failed.get(key)
        return 0 if window is None else window.counts(now)[1]


def _token(header: str) -> bytes | None:
    scheme, _, rest = header.partition(" ")
    match scheme.lower():
        case "bearer":
            # A header may hold bytes that are not text: the bytes are compared.
            return rest.encode("utf-8", "surrogateescape")
        case "basic":
            try:
                decoded = base64.b64decode(rest, validate=True)
            except (binascii.Error, ValueError):
                return None
            return decoded.partition(b":")[2]
    return None
