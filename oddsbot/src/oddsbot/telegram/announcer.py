"""`Announcer`: what becomes of an alert when it is due, and the card that is sent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING

import msgspec
from aiogram.exceptions import TelegramForbiddenError

from oddsbot.alerts import (
    Disputed,
    Moved,
    Opened,
    Proposed,
    QuoteAlert,
    Resolved,
    RuleAlert,
    VolumeReached,
    tag_id,
)
from oddsbot.delivery import Decision, repeated
from oddsbot.polymarket import PolymarketError
from oddsbot.store import Digest, Fate, Kind
from oddswire.errors import OddswireError

from .screens.fired import digest_card, fired_card, opened_digest_card

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddsbot.alerts import Alert
    from oddsbot.delivery import Card
    from oddsbot.markets import Markets
    from oddsbot.store import AlertLog, SqlRules, UserSession
    from oddswire.clock import Clock
    from oddswire.sessions import Sessions

    from .chat import TelegramChat

_KINDS = {
    Proposed: Kind.PROPOSAL,
    Disputed: Kind.DISPUTE,
    Resolved: Kind.RESOLUTION,
    VolumeReached: Kind.VOLUME,
    Opened: Kind.NEW_MARKET,
}


class Announcer:
    """Asks each person's settings about an alert, and sends what they let through.

    `deliver` and `summarize` are what a `Courier` calls.

    Args:
        chat: Sends.
        sessions: What each person wants.
        rules: Those that alerts are of.
        log: How many alerts of a market a person was told of.
        markets: What a card says beside the alert; it does without.
        clock: Tells the time.
        minute: Seconds of the minute in which a person's alerts of a market count; new
            events of a tag count in sixty of them.
    """

    def __init__(
        self,
        chat: TelegramChat,
        sessions: Sessions[UserSession],
        rules: SqlRules,
        log: AlertLog,
        markets: Markets,
        clock: Clock,
        *,
        minute: float,
    ) -> None:
        self._chat = chat
        self._sessions = sessions
        self._rules = rules
        self._log = log
        self._markets = markets
        self._clock = clock
        self._minute = minute

    async def deliver(self, alert: Alert, *, again: bool) -> Decision:
        """Send an alert, unless its person does not want it now; return its fate."""
        session = await self._sessions.get(alert.user_id)
        moment = self._clock.now()
        if session is None or not session.is_active:
            return Decision(Fate.STOPPED)
        if session.muted_until > moment:
            return Decision(Fate.MUTED)
        if isinstance(alert, Moved) and (small := _too_small(alert, session)):
            return Decision(Fate.FILTERED, small)
        kind = _KINDS.get(type(alert), Kind.PRICE)
        if not session.notifications.wants(kind):
            return Decision(Fate.FILTERED, f"{kind} is switched off")
        rule = None
        if isinstance(alert, RuleAlert):
            stored = await self._rules.get(alert.user_id, alert.rule_id)
            rule = None if stored is None else stored.rule
            if rule is None or rule.paused:
                gone = "stopped" if rule is None else "paused"
                return Decision(Fate.WITHDRAWN, f"the alert was {gone} meanwhile")
        digest = await self._digest_of(alert, session, moment)
        if digest is not None:
            return Decision(Fate.HELD, digest=digest)
        market = now = None
        try:
            market = await self._markets.market(alert.market)
            if isinstance(alert, QuoteAlert):
                now = await self._markets.price(alert.asset_id)
        except (PolymarketError, OddswireError):
            pass  # the alert matters, and what it could be shown with does not
        card = fired_card(
            alert, market, now, rule=rule, sent_at=moment, odds=session.display.odds
        )
        return await self._send(alert.user_id, session, card, again=again)

    async def summarize(
        self, user_id: int, held: Sequence[Alert], *, again: bool
    ) -> Decision:
        """Send one card of the alerts that were held back; return their fate."""
        session = await self._sessions.get(user_id)
        if session is None or not session.is_active:
            return Decision(Fate.STOPPED)
        if session.muted_until > self._clock.now():
            return Decision(Fate.MUTED)
        if isinstance(held[0], Opened):
            opened = [each for each in held if isinstance(each, Opened)]
            return await self._summarize_tag(user_id, session, opened, again=again)
        # One that ended by firing is wanted; one that is gone or paused is not.
        standing = await self._rules.of(user_id)
        wanted = {each.rule.id for each in standing if not each.rule.paused}
        alerts = [
            each
            for each in held
            if isinstance(each, RuleAlert) and each.rule_id in wanted
        ]
        if not alerts:
            return Decision(Fate.WITHDRAWN, "the alerts were stopped meanwhile")
        market, prices = None, {}
        with suppress(PolymarketError, OddswireError):
            market = await self._markets.market(alerts[0].market)
            assets = {a.asset_id for a in alerts if isinstance(a, QuoteAlert)}
            prices = await self._markets.prices(assets)
        card = digest_card(alerts, market, prices, session.display.odds)
        return await self._send(user_id, session, card, again=again)

    async def _summarize_tag(
        self, person: int, session: UserSession, held: Sequence[Opened], *, again: bool
    ) -> Decision:
        """Send one card of what was held back of a tag; return its fate."""
        if not session.notifications.wants(Kind.NEW_MARKET):
            return Decision(Fate.FILTERED, f"{Kind.NEW_MARKET} is switched off")
        if held[0].tag not in session.tags:
            return Decision(Fate.WITHDRAWN, "the tag is not followed any more")
        return await self._send(person, session, opened_digest_card(held), again=again)

    async def _digest_of(
        self, alert: Alert, session: UserSession, moment: float
    ) -> Digest | None:
        """Return the digest for an alert above the limit; None: it is below."""
        person, market = alert.user_id, ""
        if isinstance(alert, RuleAlert):
            most, span = session.per_minute, self._minute
            subject = market = alert.market
            counted = {"market": market}
        elif isinstance(alert, Opened):
            most, span = session.per_hour, 60 * self._minute
            subject = tag_id(alert.tag)
            counted = {"rule_id": subject}
        else:
            return None
        if not most or await self._log.told(person, moment - span, **counted) < most:
            return None
        end = ceil(moment / span + 1e-9) * span
        return Digest(
            user_id=person,
            id=f"more:{subject}:{end:.0f}",
            market=market,
            due_at=ceil(end),
        )

    async def _send(
        self, person: int, session: UserSession, card: Card, *, again: bool
    ) -> Decision:
        if await _is_quiet(session, self._clock.now()):
            card = msgspec.structs.replace(card, silent=True)
        try:
            number = await self._chat.send(person, repeated(card) if again else card)
        except TelegramForbiddenError:
            await self._sessions.deactivate(person)
            return Decision(Fate.STOPPED, "the person blocked the bot")
        return Decision(Fate.SENT, message_id=number)


def _too_small(alert: Moved, session: UserSession) -> str:
    """Return why a move is left out; empty: it is not."""
    least = round(session.thresholds.price_change * 100)
    moved = abs(alert.price - alert.reference) * 100
    return f"a move below {least}¢" if moved < least else ""


async def _is_quiet(session: UserSession, moment: float) -> bool:
    """Return whether a person is not to be disturbed.

    A time zone that another machine knows, and this one does not, silences nothing.
    """
    try:
        # The first use of a time zone reads a file.
        return await asyncio.to_thread(
            session.is_quiet, datetime.fromtimestamp(moment, UTC)
        )
    except (KeyError, ValueError, OSError):
        return False
