"""One HTTP call to Polymarket: a JSON body, or one typed error."""

from __future__ import annotations

import logging
import re
from collections import Counter
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from aiohttp import ClientError, ClientTimeout
from yarl import URL

from ._reading import decoder
from .errors import (
    BadAnswer,
    NotFound,
    RateLimitedUpstream,
    RequestRefused,
    UpstreamUnavailable,
)
from .slices import decoding, paced

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aiohttp import ClientResponse, ClientSession

_T = TypeVar("_T")
_MOST_NAMES = 1_000
_MOST_LINES = 100  # of an answer, looked at
_MAX_BODY = 8 * 1024 * 1024
"""Bytes of an answer, decompressed: 500 recorded books have 2.4 MB, 100 markets 0.7."""
_MAX_ERROR = 64 * 1024
MAX_RETRY_AFTER = 600.0
"""Seconds: one answer must not stop an endpoint for a month."""
_SECONDS = re.compile(r"[0-9]{1,300}(\.[0-9]{1,9})?")

_log = logging.getLogger("oddsbot.polymarket")


async def call(
    session: ClientSession,
    method: str,
    base_url: str,
    path: str,
    *,
    timeout: float,
    params: Iterable[tuple[str, str]] = (),
    json: object = None,
) -> Any:
    """Make one call and return its decoded JSON, numbers with a point as `Decimal`.

    Args:
        session: Makes the call; stays the caller's.
        method: Of HTTP.
        base_url: Without a slash at its end.
        path: With a slash at its start, already quoted.
        timeout: Seconds for everything: connecting, sending, reading the answer.
        params: The query; a name may repeat.
        json: The body, None for none.

    Raises:
        NotFound: 404.
        RateLimitedUpstream: 429.
        RequestRefused: Any other 4xx but 425.
        UpstreamUnavailable: 5xx, 425 (the matching engine restarts), a timeout, no
            connection.
        BadAnswer: A 2xx whose body is not JSON, larger than 8 MiB, or has a list of
            more than 20,000 elements; any 3xx: nobody is sent to another address.
    """
    where = f"{method} {path}"
    url = URL(base_url + path, encoded=True).extend_query(list(params))
    try:
        async with session.request(
            method,
            url,
            json=json,
            timeout=ClientTimeout(total=timeout),
            # An answer may point at a machine of ours: nothing is sent there.
            allow_redirects=False,
        ) as response:
            good = response.status < 300
            body = await _body(response, _MAX_BODY if good else _MAX_ERROR)
    except TimeoutError as error:
        raise UpstreamUnavailable(f"{where}: no answer in {timeout:g} s") from error
    except (ClientError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise UpstreamUnavailable(f"{where}: {reason}") from error
    _check_status(where, response)
    if body is None:
        raise BadAnswer(f"{where}: the answer has more than {_MAX_BODY} bytes")
    try:
        return await paced(decoding(body, decoder.decode))
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"{where}: the answer is not JSON ({error})") from error


async def _body(response: ClientResponse, limit: int) -> bytearray | None:
    """Return what was sent, decompressed; None, and hang up, when it is too much."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            response.close()
            return None
    return body


def segment(text: str) -> str:
    """Return `text` as one segment of a path.

    Raises:
        NotFound: It can be none, so there is nothing to find.
    """
    if text in {"", ".", ".."}:
        raise NotFound(f"{text!r} is not the name of anything on Polymarket")
    return quote(text, safe="", errors="replace")


def bad_answer(where: str, error: Exception) -> BadAnswer:
    """Return the error for an answer that is JSON of another shape."""
    return BadAnswer(f"{where}: the answer has another shape ({error})")


def next_cursor(sent: Any) -> str | None:
    """Return the cursor of the next page as text; None on the last page."""
    if sent is None or sent == "" or isinstance(sent, (bool, dict, list)):
        return None
    return str(sent)


class Found(dict[str, _T], Generic[_T]):
    """What was found of several things that were asked for, by the name they have.

    Attributes:
        unread: Of those that are absent here, the ones whose answer could not be read:
            whether they exist is not known. All others that are absent do not exist.
    """

    unread: frozenset[str] = frozenset()


class LeftOut:
    """Counts the elements of answers that could not be read, and logs each once.

    Attributes:
        counts: How many, by the endpoint.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._named: set[str] = set()

    def note(self, where: str, lines: Sequence[str]) -> None:
        """Count elements; log the first of them that was not logged before.

        Args:
            where: The endpoint.
            lines: For each element its name, a colon, and what is wrong with it.
        """
        self.counts[where] += len(lines)
        new = [line for line in lines[:_MOST_LINES] if self._is_new(where, line)]
        if new:
            example = new[0][:300]
            _log.warning(
                # As Python writes a text: what Polymarket sends ends no line of ours.
                "elements_left_out endpoint=%r count=%d example=%r",
                where,
                len(lines),
                example,
                extra={
                    "event": "elements_left_out",
                    "endpoint": where,
                    "count": len(lines),
                    "example": example,
                },
            )

    def _is_new(self, where: str, line: str) -> bool:
        name, _, _ = line.partition(": ")
        # Places in a list are no names: the next answer has others.
        name = f"{where} {'element' if name.startswith('element ') else name}"
        if name in self._named or len(self._named) >= _MOST_NAMES:
            return False
        self._named.add(name)
        return True


def _check_status(where: str, response: ClientResponse) -> None:
    status = response.status
    if status < 300:
        return
    if status < 400:
        raise BadAnswer(f"{where}: sent to another address ({status})")
    if status == 404:
        raise NotFound(f"{where}: there is none (404)")
    if status == 429:
        raise RateLimitedUpstream(
            f"{where}: too many requests (429)",
            retry_after=_retry_after(response.headers),
        )
    if status == 425 or status >= 500:
        raise UpstreamUnavailable(f"{where}: the server cannot answer now ({status})")
    raise RequestRefused(f"{where}: refused ({status})", status=status)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait, at most ten minutes; None when nothing says so.

    A date counts from the answer's own date: whose clock is right does not matter.
    """
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), MAX_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(text)
        since = parsedate_to_datetime(headers.get("Date", ""))
        seconds = (until - since).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER)
