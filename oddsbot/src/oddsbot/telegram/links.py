"""What a person sends: a link of Polymarket, an address, a deep link, or words."""

from __future__ import annotations

import re
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import msgspec

from oddsbot.telegram.addresses import AddressError, checked_address

_HOSTS = frozenset({"polymarket.com", "www.polymarket.com"})
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,199}\Z")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_LANGUAGE = re.compile(r"[a-z]{2}(-[a-z]{2,4})?\Z")
_NUMBER = re.compile(r"[0-9]{1,19}\Z")
_RULE = re.compile(r"[0-9a-f]{16}\Z")
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_LONGEST = 2_048
_LARGEST = 2**63 - 1
WORDS = 200
"""Characters of a search."""


class MarketLink(msgspec.Struct, frozen=True):
    """A market by the last part of its page's address."""

    slug: str


class EventLink(msgspec.Struct, frozen=True):
    """An event by its slug; `market` is the slug of one of its markets, if given."""

    slug: str
    market: str = ""


class ProfileLink(msgspec.Struct, frozen=True):
    """A person of Polymarket by name."""

    name: str


class Wallet(msgspec.Struct, frozen=True):
    """A wallet by its address, in lower case."""

    address: str


class MarketId(msgspec.Struct, frozen=True):
    """A market by Gamma's own number."""

    id: int


class EventId(msgspec.Struct, frozen=True):
    """An event by Gamma's own number."""

    id: int


class RuleId(msgspec.Struct, frozen=True):
    """One of the person's alerts."""

    id: str


class Words(msgspec.Struct, frozen=True):
    """What is none of these: something to search for."""

    text: str


class Refused(msgspec.Struct, frozen=True):
    """What looks like one of these and is not; `why` is a sentence for the person."""

    why: str


Sent: TypeAlias = MarketLink | EventLink | ProfileLink | Wallet | Words | Refused
DeepLink: TypeAlias = MarketId | EventId | Wallet | RuleId

_NOT_OURS = (
    "I read links of polymarket.com: those of a market, an event or a profile. "
    "Send one of these, or a few words to search for."
)


def parse(text: str) -> Sent:
    """Return what a message names; never raises.

    Args:
        text: As it was sent.
    """
    text = text.strip()
    first = text.split(maxsplit=1)[0] if text else ""
    if first[:2].lower() == "0x":
        try:
            return Wallet(checked_address(first))
        except AddressError as error:
            return Refused(str(error))
    if _SCHEME.match(first) or first.lower().startswith(
        ("polymarket.com/", "www.polymarket.com/")
    ):
        return _link(first)
    if first.startswith("@") and _NAME.match(first[1:]):
        return ProfileLink(first[1:])
    words = " ".join(text[: 4 * WORDS].split())[:WORDS]
    return Words(words) if words else Refused("Send a link, or a few words.")


def _link(text: str) -> Sent:
    if len(text) > _LONGEST:
        return Refused(_NOT_OURS)
    if not _SCHEME.match(text):
        text = f"https://{text}"
    try:
        url = urlsplit(text)
        ours = url.hostname in _HOSTS and url.port in (None, 443, 80)
    except ValueError:
        return Refused(_NOT_OURS)
    if not ours or url.username is not None or url.password is not None:
        return Refused(_NOT_OURS)
    parts = [unquote(part, errors="replace") for part in url.path.split("/") if part]
    if parts and _LANGUAGE.match(parts[0]):
        parts = parts[1:]  # polymarket.com/de/event/...
    match parts:
        case ["event", slug] if _SLUG.match(slug):
            return EventLink(slug)
        case ["event", slug, market, *_] if _SLUG.match(slug) and _SLUG.match(market):
            return EventLink(slug, market)
        case ["market", slug, *_] if _SLUG.match(slug):
            return MarketLink(slug)
        case ["profile", who, *_] | [who] if who[:2].lower() == "0x":
            try:
                return Wallet(checked_address(who))
            except AddressError as error:
                return Refused(str(error))
        case ["profile", name, *_] if _NAME.match(name.removeprefix("@")):
            return ProfileLink(name.removeprefix("@"))
        case [name, *_] if name.startswith("@") and _NAME.match(name[1:]):
            return ProfileLink(name[1:])
    return Refused(_NOT_OURS)


def parse_deep_link(payload: str) -> DeepLink | None:
    """Return what the payload of ``/start`` names; None for what is none of ours."""
    kind, _, rest = payload.partition("_")
    match kind:
        case "m" | "e" if _NUMBER.match(rest) and int(rest) <= _LARGEST:
            return MarketId(int(rest)) if kind == "m" else EventId(int(rest))
        case "w":
            try:
                return Wallet(checked_address(rest))
            except AddressError:
                return None
        case "r" if _RULE.match(rest):
            return RuleId(rest)
    return None
