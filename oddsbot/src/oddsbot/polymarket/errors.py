"""Every error of the Polymarket adapters, under one root.

``except PolymarketError`` catches all of them. None is retried here: the caller
knows whether its user is still waiting.
"""

from __future__ import annotations


class PolymarketError(Exception):
    """The root of the errors of `oddsbot.polymarket`."""


# --- the websocket


class BadFrame(PolymarketError, ValueError):
    """A websocket frame is not a JSON object or array; nothing in it can be used."""


class TooManyAssets(PolymarketError, ValueError):
    """More assets than one market connection serves with a first book."""


# --- the HTTP answers


class NotFound(PolymarketError, LookupError):
    """There is no such market, event or order book."""


class RequestRefused(PolymarketError):
    """Polymarket refused the request itself; sending it again will not help.

    Attributes:
        status: The HTTP status, 400 to 499.
    """

    def __init__(self, *args: object, status: int = 400) -> None:
        # The default is for pickle, which calls the class without it.
        super().__init__(*args)
        self.status = status


class RateLimitedUpstream(PolymarketError):
    """Polymarket answered 429: too many requests from this address.

    Attributes:
        retry_after: Seconds to wait as the answer says, None where it does not.
    """

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


class UpstreamUnavailable(PolymarketError):
    """No answer in time, no connection, or the server says it cannot serve now."""


class BadAnswer(PolymarketError, ValueError):
    """An answer came and does not have the shape this endpoint promises."""


class Unreadable(BadAnswer):
    """Polymarket answered about this, and this part of the answer cannot be read.

    Whether it exists, and how it stands, is not known.
    """
