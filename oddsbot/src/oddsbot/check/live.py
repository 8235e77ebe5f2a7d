"""The contract of each endpoint in use, compared with what is answered now."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import msgspec

from oddsbot.polymarket import (
    GammaEvent,
    GammaMarket,
    OrderBook,
    Position,
    PricePoint,
    Profile,
    Resolution,
    Standing,
    Stats,
)

from .contract import contract_of, drift
from .finding import Finding, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oddsbot.settings import Settings

_TIMEOUT = aiohttp.ClientTimeout(total=15)
_LARGEST = 8 * 1024 * 1024
_MARKET = ("slug", "question", "outcomes", "clobTokenIds", "closed", "endDate")
_EVENT = ("slug", "title", "markets", "closed")


class _Endpoint(NamedTuple):
    """What is asked, and where the rows of its answer are.

    Attributes:
        name: For people.
        base: A field of `Settings`.
        path: With ``{...}`` for what an earlier answer gave.
        rows: Finds the rows in an answer.
        model: What is read of a row.
        relied: Fields that the bot needs, beside those that have no default.
        gives: What later endpoints need, by name.
        body: JSON that is posted; empty: it is a GET.
    """

    name: str
    base: str
    path: str
    rows: Callable[[Any], Any]
    model: type[msgspec.Struct]
    relied: tuple[str, ...] = ()
    gives: Callable[[Any], Mapping[str, str]] = lambda _: {}
    body: str = ""


def _first_token(answer: Any) -> Mapping[str, str]:
    market = answer["markets"][0]
    token = msgspec.json.decode(market["clobTokenIds"], type=list[str])[0]
    return {
        "slug": market["slug"],
        "token": token,
        "id": market["id"],
        "condition": market["conditionId"],
    }


def _first_event(answer: Any) -> Mapping[str, str]:
    event = answer["events"][0]
    return {"event": str(event["id"]), "event_slug": event["slug"]}


def _first_wallet(answer: Any) -> Mapping[str, str]:
    return {"wallet": answer["data"][0]["user_id"]}


class _Value(msgspec.Struct):
    value: Decimal


ENDPOINTS = (
    _Endpoint(
        "gamma markets",
        "gamma_url",
        "/markets/keyset?limit=5&closed=false",
        lambda answer: answer["markets"],
        GammaMarket,
        _MARKET,
        _first_token,
    ),
    _Endpoint(
        "gamma market by slug",
        "gamma_url",
        "/markets/slug/{slug}",
        lambda answer: [answer],
        GammaMarket,
        _MARKET,
    ),
    _Endpoint(
        "gamma market by id",
        "gamma_url",
        "/markets/{id}",
        lambda answer: [answer],
        GammaMarket,
        _MARKET,
    ),
    _Endpoint(
        "gamma events",
        "gamma_url",
        "/events/keyset?limit=5&closed=false&order=volume24hr&ascending=false",
        lambda answer: answer["events"],
        GammaEvent,
        _EVENT,
        _first_event,
    ),
    _Endpoint(
        "gamma event by slug",
        "gamma_url",
        "/events/slug/{event_slug}",
        lambda answer: [answer],
        GammaEvent,
        _EVENT,
    ),
    _Endpoint(
        "gamma event by id",
        "gamma_url",
        "/events/{event}",
        lambda answer: [answer],
        GammaEvent,
        _EVENT,
    ),
    _Endpoint(
        "gamma search",
        "gamma_url",
        "/public-search?q=bitcoin&limit_per_type=5&search_profiles=true",
        lambda answer: answer["events"] or [],
        GammaEvent,
        _EVENT,
    ),
    _Endpoint(
        "clob book",
        "clob_url",
        "/book?token_id={token}",
        lambda answer: [answer],
        OrderBook,
        ("bids", "asks"),
    ),
    _Endpoint(
        "clob history",
        "clob_url",
        "/prices-history?market={token}&interval=1d&fidelity=10",
        lambda answer: answer["history"],
        PricePoint,
    ),
    _Endpoint(
        "clob books",
        "clob_url",
        "/books",
        list,
        OrderBook,
        ("bids", "asks"),
        body='[{{"token_id": "{token}"}}]',
    ),
    _Endpoint(
        "data leaderboard",
        "data_url",
        "/v2/leaderboard?time_period=day&sort_by=PNL&limit=5",
        lambda answer: answer["data"],
        Standing,
        gives=_first_wallet,
    ),
    _Endpoint(
        "data positions",
        "data_url",
        "/v2/positions?user={wallet}&status=OPEN&limit=5",
        lambda answer: answer["data"],
        Position,
        ("token_id", "current_size", "outcome", "title"),
    ),
    _Endpoint(
        "data value",
        "data_url",
        "/v2/value?user={wallet}",
        lambda answer: [answer["data"]],
        _Value,
    ),
    _Endpoint(
        "data stats",
        "data_url",
        "/v2/user-stats?user={wallet}",
        lambda answer: [answer["data"]],
        Stats,
    ),
    _Endpoint(
        "data resolutions",
        "data_url",
        "/v2/resolutions?condition_id={condition}",
        lambda answer: answer["data"],
        Resolution,
    ),
    _Endpoint(
        "gamma profile",
        "gamma_url",
        "/public-profile?address={wallet}",
        lambda answer: [answer],
        Profile,
        ("proxyWallet",),
    ),
)


class _Me(msgspec.Struct):
    id: int
    is_bot: bool
    first_name: str
    username: str


class _WebhookInfo(msgspec.Struct):
    url: str
    has_custom_certificate: bool
    pending_update_count: int


class _Command(msgspec.Struct):
    command: str
    description: str


METHODS = (
    _Endpoint("telegram getMe", "", "getMe", lambda answer: [answer["result"]], _Me),
    _Endpoint(
        "telegram getWebhookInfo",
        "",
        "getWebhookInfo",
        lambda answer: [answer["result"]],
        _WebhookInfo,
    ),
    _Endpoint(
        "telegram getMyCommands",
        "",
        "getMyCommands",
        lambda answer: answer["result"],
        _Command,
    ),
)
"""The methods of the Bot API that only read; the others are not called."""


async def check_live(settings: Settings) -> list[Finding]:
    """Ask each endpoint once and compare; nothing is written anywhere.

    With a token the methods of the Bot API that only read are asked too.

    A field that is missing or of another kind fails, a new one is named.
    """
    given: dict[str, str] = {}
    findings: list[Finding] = []
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as http:
        for endpoint in ENDPOINTS:
            try:
                path = endpoint.path.format_map(given)
                body = endpoint.body.format_map(given)
            except KeyError:
                findings.append(_failed(endpoint, "an earlier answer is missing"))
                continue
            base = getattr(settings, endpoint.base).rstrip("/")
            url = f"{base}{path}"
            findings.append(await _look(http, endpoint, url, given, body))
        telegram = settings.telegram
        for method in METHODS if telegram.token else ():
            url = f"{telegram.api_url}/bot{telegram.token}/{method.path}"
            findings.append(await _look(http, method, url, given))
    return findings


async def _look(
    http: aiohttp.ClientSession,
    endpoint: _Endpoint,
    url: str,
    given: dict[str, str],
    body: str = "",
) -> Finding:
    """Ask once and compare; no text has the address, which may have a token in it."""
    try:
        answer = await _asked(http, url, body)
        rows = list(endpoint.rows(answer))
        given |= endpoint.gives(answer) if rows else {}
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return _failed(endpoint, f"no answer ({type(error).__name__})")
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError):
        return _failed(endpoint, "the answer has another form")
    return _compared(endpoint, rows)


async def _asked(http: aiohttp.ClientSession, url: str, body: str) -> Any:
    async with http.request(
        "POST" if body else "GET",
        url,
        data=body or None,
        headers={"Content-Type": "application/json"} if body else None,
        allow_redirects=False,
        raise_for_status=True,
    ) as response:
        return msgspec.json.decode(await response.content.read(_LARGEST))


def _compared(endpoint: _Endpoint, rows: list[Any]) -> Finding:
    if not rows:
        return Finding(
            name=endpoint.name, state=State.WARN, seen="no rows, so nothing to compare"
        )
    contract = contract_of(endpoint.model)
    needed = set(endpoint.relied)
    needed |= {
        field.encode_name
        for field in msgspec.structs.fields(endpoint.model)
        if field.required
    }
    found = drift(rows, contract, frozenset(contract) - needed)
    new = f"; new: {', '.join(found.new[:20])}" if found.new else ""
    if not found.breaks:
        seen = f"{len(rows)} rows as they are read{new}"
        return Finding(name=endpoint.name, state=State.PASS, seen=seen)
    parts = []
    if found.missing:
        parts.append(f"missing: {', '.join(found.missing)}")
    if found.changed:
        parts.append(f"changed: {', '.join(found.changed)}")
    return Finding(
        name=endpoint.name,
        state=State.FAIL,
        seen=f"{'; '.join(parts)}{new}",
        fix="the model of this endpoint has to follow, see oddsbot/polymarket",
    )


def _failed(endpoint: _Endpoint, why: str) -> Finding:
    return Finding(
        name=endpoint.name,
        state=State.FAIL,
        seen=why,
        fix="look whether the service is reached, and at its changelog",
    )
