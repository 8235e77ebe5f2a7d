"""What a person sends: a link of Polymarket, an address, a deep link, or words."""

from __future__ import annotations

import re
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import msgspec

from oddsbot.telegram.addresses import AddressError, checked_address

_HOSTS = frozenset({"polymarket.com", "www.polymarket.com", "m.polymarket.com"})
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,199}\Z")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_LANGUAGE = re.compile(r"[a-z]{2}(-[a-z]{2,4})?\Z", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,19}\Z")
_RULE = re.compile(r"[0-9a-f]{16}\Z")
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
# A part of another address, or of another host's name, is none of ours.
_INSIDE = re.compile(
    r"(?<![\w./@:%-])(?:https?://)?(?:www\.|m\.)?polymarket\.com/(?:(?![<>()\[\]\"])[!-~])+",
    re.IGNORECASE,
)
_LINK = re.compile(r"://|polymarket\.com/", re.IGNORECASE)
_ADDRESS = re.compile(r"(?<!\w)0x[0-9a-f]{40}(?!\w)", re.IGNORECASE)
_ENS = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.eth\Z", re.IGNORECASE)
_AROUND = "<>()[]{}\"'“”«».,;:!?…*~|"
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
_NO_ENS = (
    "I cannot look up ENS names. Send the wallet's address, 0x and 40 characters, or "
    "the link of its profile."
)


def parse(text: str) -> Sent:
    """Return what a message names; never raises.

    A link or an address may stand among other words, as in a text that was shared.

    Args:
        text: As it was sent.
    """
    words = text.split()
    first = words[0].strip(_AROUND) if words else ""
    sent: Sent | None = None
    if first[:2].lower() == "0x":
        sent = _wallet(first)
    elif _SCHEME.match(first) or _INSIDE.match(first) or first.lower() in _HOSTS:
        sent = _link(first)
    elif len(words) == 1 and _ENS.match(first):
        sent = Refused(_NO_ENS)
    if sent is None or isinstance(sent, Refused):
        sent = _inside(text) or sent
    if sent is None and words and words[0].startswith("@") and _NAME.match(first[1:]):
        sent = ProfileLink(first[1:])
    if sent is not None:
        return sent
    searched = " ".join(text[: 4 * WORDS].split())[:WORDS]
    return Words(searched) if searched else Refused("Send a link, or a few words.")


def split(text: str) -> tuple[str, str]:
    """Return the link in what a command was given, and the rest; "" for none."""
    words = text.split()
    link = next((word for word in words if _LINK.search(word)), "")
    return link, " ".join(word for word in words if word is not link)


def _inside(text: str) -> Sent | None:
    """Return the first link or address among other words that can be read."""
    for found in _INSIDE.finditer(text):
        sent = _link(found[0].rstrip(_AROUND))
        if not isinstance(sent, Refused):
            return sent
    for found in _ADDRESS.finditer(text):
        wallet = _wallet(found[0])
        if not isinstance(wallet, Refused):
            return wallet
    return None


def _wallet(text: str) -> Wallet | Refused:
    try:
        return Wallet(checked_address(text))
    except AddressError as error:
        return Refused(str(error))


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
    # Slugs are in small letters; names and addresses are as they are.
    match [part.lower() for part in parts]:
        case ["event", slug] if _SLUG.match(slug):
            return EventLink(slug)
        case ["event", slug, market, *_] if _SLUG.match(slug) and _SLUG.match(market):
            return EventLink(slug, market)
        case ["market", slug, *_] if _SLUG.match(slug):
            return MarketLink(slug)
        case ["sports" | "esports", _, *_, slug] if "-" in slug and _SLUG.match(slug):
            return EventLink(slug)  # sports/nba/games/week/1/nba-lal-bos-2026-01-01
    match parts:
        case ["profile", who, *_] | [who] if who[:2].lower() == "0x":
            return _wallet(who)
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
