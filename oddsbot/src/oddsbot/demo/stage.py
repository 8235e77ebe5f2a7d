"""`Stage`: the parts of a running demo, put together."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from oddsbot.alerts import RuleAlert
from oddsbot.delivery import (
    ALERTS,
    Courier,
    Decision,
    Home,
    Outbox,
    PrintedChat,
    text_of,
)
from oddsbot.limits import Upstream, books
from oddsbot.markets_watch import MarketPolls
from oddsbot.polymarket import Clob, Data, StreamPool
from oddsbot.settings import PREFIX
from oddsbot.store import AlertLog, Fate, SqlRules
from oddsbot.watch import (
    ErrorHandler,
    MarketTopics,
    Rounds,
    Shard,
    ShardHooks,
    SystemReports,
)
from oddswire.clock import SystemClock

from . import cast, checker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import aiohttp
    from sqlalchemy.ext.asyncio import AsyncEngine

    from oddsbot.alerts import Alert
    from oddsbot.markets_watch import Change
    from oddsbot.polymarket import Gamma, GammaMarket, Silence
    from oddsbot.standin.polymarket import Replay
    from oddswire import EmbeddedServer, Wire
    from oddswire.sessions import Session

# Seconds between two looks at the markets, and two reports: a run may last a second.
_EVERY = 0.5
_PROCESS = "demo"


class Stage:
    """The road from the feed to the chat, for three users; a view reads it.

    Nothing runs yet: `run` starts the parts and stops them.

    Args:
        server: The demo's own, entered.
        replay: The recorded Polymarket, entered.
        wire: Of that server, entered.
        engine: A database of this run's own, with its tables and the users.
        session: Makes the connections.
        gamma: The recorded Gamma.
        markets: What the recording is about, as Gamma describes it.
        until: The recorded moment at which the playing ends, ms.
        write: Takes each line that the stand-in chat prints.
        silence: When the feed's is asked about.

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
        wire: Wire[Session],
        engine: AsyncEngine,
        session: aiohttp.ClientSession,
        gamma: Gamma,
        *,
        markets: Sequence[GammaMarket],
        until: int,
        write: Callable[[str], object],
        silence: Silence | None = None,
    ) -> None:
        self.server = server
        self.replay = replay
        self.client = client = wire.client
        self.pubsub = pubsub = wire.pubsub
        self.markets = markets
        self.until = until
        self.clock = clock = SystemClock()
        self.restarts = 0
        self.told: list[checker.Told] = []
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rules = list(cast.price_rules(replay.recording, markets, until))
        self.followers = cast.followers(markets)
        self.chat = PrintedChat(write, cast.PEOPLE)
        self.topics = topics = MarketTopics(pubsub, clock)
        self.queue = wire.queues[ALERTS]
        self.stored, self.log = SqlRules(engine), AlertLog(engine)
        home = Home(client, PREFIX)
        self.outbox = Outbox(self.queue, self.log, home, clock)
        self.courier = Courier(self.queue, self.log, home, self._deliver, clock)
        self.outcomes = {
            token.token_id: token.outcome
            for market in markets
            for token in market.tokens
        }
        self.questions = {market.condition_id: market.question for market in markets}
        upstream = Upstream(wire.limiter)
        self.feed = StreamPool(
            session,
            replay.ws_url,
            books(Clob(session, replay.clob_url), upstream),
            self.outcomes,
            silence=silence,
        )
        self.shard = Shard(
            # A queue that outlived an earlier run knows the alerts of its shard.
            Rounds(engine, f"demo-{secrets.token_hex(4)}", self.stored, clock),
            self.stored,
            self.feed,
            wire.locks,
            self.outbox,
            clock,
            followers=self.followers,
            hooks=ShardHooks(
                topics.prices.put, topics.resolutions.put, topics.new_markets.put
            ),
        )
        self.polls = MarketPolls(
            gamma,
            Data(session, replay.data_url),
            upstream,
            clock,
            followed=self._followed,
            # Published only: the checker compares the alerts with what the feed told.
            tell=self._publish,
            markets_every=_EVERY,
        )
        self.reports = SystemReports(
            pubsub,
            clock,
            _PROCESS,
            check=wire.health.check,
            numbers=self._numbers,
            every=_EVERY,
        )
        self.errors = ErrorHandler(self.reports, _PROCESS, asyncio.get_running_loop())

    def _numbers(self) -> Mapping[str, float]:
        return {
            "frames": self.feed.counters.streams.frames,
            "ticks": self.shard.ticks,
            "rounds": self.shard.rounds,
            "delivered": len(self.told),
        }

    async def _followed(self) -> Iterable[str]:
        return self.questions

    async def _publish(self, change: Change) -> None:
        self.topics.put(change)

    async def _deliver(self, alert: Alert, *, again: bool) -> Decision:
        text = text_of(alert, self.questions, self.outcomes)
        try:
            await self.chat.send(alert.user_id, text)
        except OSError as error:
            if not self.closed.done():
                self.closed.set_exception(error)
            raise
        # In the terminal a copy that may be a repeat looks like any other.
        _ = again
        name = alert.rule_id if isinstance(alert, RuleAlert) else alert.market
        self.told.append(checker.Told(alert.at, alert.user_id, name))
        return Decision(Fate.SENT)
