"""`Stage`: the parts of a running demo, put together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from oddsbot.alerts import Alerts, Resolved
from oddsbot.delivery import Courier, Outbox, PrintedChat, alert_queue, text_of
from oddsbot.polymarket import MarketStream
from oddsbot.settings import PREFIX
from oddsbot.watch import Prices, Resolutions, Watcher
from oddswire.clock import SystemClock

from . import cast, checker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import aiohttp

    from oddsbot.alerts import Alert
    from oddsbot.polymarket import GammaMarket
    from oddsbot.replay import Replay
    from oddswire import Client, EmbeddedServer
    from oddswire.pubsub import PubSub


class Stage:
    """The road from the feed to the chat, for three users; a view reads it.

    Nothing runs yet: `run` starts the parts and stops them.

    Args:
        server: The demo's own, entered.
        replay: The recorded Polymarket, entered.
        client: Of that server.
        pubsub: The topics there.
        session: Makes the websocket connection.
        markets: What the recording is about, as Gamma describes it.
        until: The recorded moment at which the playing ends, ms.
        write: Takes each line that the stand-in chat prints.

    Attributes:
        told: What the chat was given, in order.
        restarts: How often the server ended unasked and was started again.
        closed: Gets the error when there is nowhere to print to any more. The queue
            would try again, and the demo has nobody to show it to.
    """

    def __init__(
        self,
        server: EmbeddedServer,
        replay: Replay,
        client: Client,
        pubsub: PubSub,
        session: aiohttp.ClientSession,
        *,
        markets: Sequence[GammaMarket],
        until: int,
        write: Callable[[str], object],
    ) -> None:
        self.server = server
        self.replay = replay
        self.client = client
        self.pubsub = pubsub
        self.markets = markets
        self.until = until
        self.clock = clock = SystemClock()
        self.began = clock.now()
        self.restarts = 0
        self.told: list[checker.Told] = []
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rules = list(cast.price_rules(replay.recording, markets, until))
        self.followers = cast.followers(markets)
        self.chat = PrintedChat(write, cast.PEOPLE)
        self.prices = Prices(pubsub, clock)
        self.resolutions = Resolutions(pubsub, clock)
        self.queue = alert_queue(client, PREFIX)
        self.outbox = Outbox(self.queue)
        self.courier = Courier(self.queue, self._deliver, clock)
        self.outcomes = {
            token.token_id: token.outcome
            for market in markets
            for token in market.tokens
        }
        self.questions = {market.condition_id: market.question for market in markets}
        self.stream = MarketStream(session, replay.ws_url, self.outcomes)
        self.watcher = Watcher(
            self.stream,
            Alerts(self.rules, self.followers),
            self.outbox.put,
            clock,
            on_tick=self.prices.put,
            on_resolved=self.resolutions.put,
        )

    async def _deliver(self, alert: Alert) -> None:
        text = text_of(alert, self.questions, self.outcomes)
        try:
            await self.chat.send(alert.user_id, text)
        except OSError as error:
            if not self.closed.done():
                self.closed.set_exception(error)
            raise
        # An earlier run with the same data directory may have left alerts: they are
        # delivered, and this playing did not cause them.
        if alert.seen_at >= self.began:
            name = alert.market if isinstance(alert, Resolved) else alert.rule_id
            self.told.append(checker.Told(alert.at, alert.user_id, name))
