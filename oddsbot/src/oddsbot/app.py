"""`App`: everything of a bot's process, opened and closed in order."""

from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiogram import Bot
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    TelegramAPIError,
    TelegramNotFound,
    TelegramUnauthorizedError,
)
from aiogram.fsm.storage.base import StorageKey
from aiogram.types import BotCommand

from oddsbot import limits, markets, wallets
from oddsbot.delivery import (
    ALERTS,
    Courier,
    Home,
    Outbox,
    Sweep,
)
from oddsbot.polymarket import Clob, Data, Gamma, StreamPool
from oddsbot.settings import PREFIX
from oddsbot.store import (
    AlertLog,
    SqlFollowers,
    SqlRules,
    SqlSource,
    SqlTags,
    Tenant,
    UserSession,
    open_database,
    upgrade,
)
from oddsbot.telegram import pictures
from oddsbot.telegram.announcer import Announcer
from oddsbot.telegram.api import KINDS, ApiError, UpdatesApi
from oddsbot.telegram.buttons import Buttons
from oddsbot.telegram.chat import TelegramChat
from oddsbot.telegram.commands import alerts as alert_commands
from oddsbot.telegram.commands import groups, history, person, start
from oddsbot.telegram.commands import markets as market_commands
from oddsbot.telegram.dispatch import dispatcher_for
from oddsbot.telegram.effects import Effects
from oddsbot.telegram.export import Export
from oddsbot.telegram.handles import Handles
from oddsbot.telegram.people import People
from oddsbot.telegram.screens.person import StatusView
from oddsbot.telegram.services import Services
from oddsbot.telegram.session import BoundedSession
from oddsbot.telegram.updates import (
    UPDATES,
    Poller,
    Replicas,
    UpdateQueue,
    a_minute,
)
from oddsbot.telegram.webhook import path_of, webhook_listener
from oddsbot.watch import (
    TOPICS,
    MarketNews,
    MarketTopics,
    Rounds,
    RuleDesk,
    Shard,
    ShardHooks,
    listen,
)
from oddswire import connect
from oddswire.adapters.aiogram import SendLimits, Storage
from oddswire.clock import SystemClock
from oddswire.errors import OddswireError, SettingsError
from oddswire.ratelimit import Priority
from oddswire.web.guard import LOOPBACK
from oddswire.web.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oddsbot.alerts import Rule
    from oddsbot.polymarket import MarketResolved, NewMarket
    from oddsbot.settings import Settings, StatusPage, Webhook
    from oddsbot.store import StoredRule
    from oddswire.cache import Cache
    from oddswire.clock import Clock
    from oddswire.erasure import Receipt
    from oddswire.ratelimit import RateLimiter
    from oddswire.ratelimit import Rule as LimitRule
    from oddswire.wire import Wire

TELEGRAM = "https://api.telegram.org"
_DRAIN = 10.0


class Rules:
    """People's rules; a `telegram.services.RuleBook`.

    Attributes:
        on_change: Called with a rule that was added (True) or removed (False).

    Args:
        desk: Changes them.
    """

    def __init__(self, desk: RuleDesk) -> None:
        self._desk = desk
        self.on_change: Callable[[Rule, bool], object] = lambda _rule, _added: None

    async def of(self, user_id: int) -> list[Rule]:
        """Return a person's rules, in the order of their ids."""
        return [stored.rule for stored in await self._desk.of(user_id)]

    async def standing(self, user_id: int) -> list[StoredRule]:
        """Return a person's rules with where each stands, in the same order."""
        return await self._desk.of(user_id)

    async def add(self, rule: Rule, update_id: int | None = None) -> None:
        """Keep a rule and have it watched; the same rule again changes nothing."""
        await self._desk.add(rule, update_id)
        self.on_change(rule, True)  # noqa: FBT003

    async def change(
        self,
        user_id: int,
        save: Sequence[Rule] = (),
        remove: Sequence[str] = (),
        *,
        update_id: int | None = None,
    ) -> None:
        """Remove and keep rules of a person, all of them or none."""
        before = {each.id: each for each in await self.of(user_id)}
        await self._desk.change(user_id, save, remove, update_id=update_id)
        for gone in remove:
            if gone in before:
                self.on_change(before[gone], False)  # noqa: FBT003
        for rule in save:
            self.on_change(rule, True)  # noqa: FBT003

    async def handled(self, update_id: int) -> bool:
        """Return whether an update changed rules before."""
        return await self._desk.handled(update_id)

    async def remove(self, user_id: int, rule_id: str) -> bool:
        """Delete a person's rule; False when she has none with this id."""
        rules = {each.id: each for each in await self.of(user_id)}
        removed = await self._desk.remove(user_id, rule_id)
        if removed and rule_id in rules:
            self.on_change(rules[rule_id], False)  # noqa: FBT003
        return removed


class App:
    """A bot: `async with`, then `run`.

    Args:
        settings: Where everything is.
        token: Of the bot.
        clock: Sleeps, and tells the time.
        api_url: Of the Bot API.
        shard: Which markets; a feed that begins again in the past is another one.
        polls_every: Seconds between two questions about watched markets.
        commands: How much a person may ask for.
        sending: How much Telegram admits.
        minute: Seconds of the minute in which a person's alerts of a market count.

    Raises:
        SettingsError: On entering: Redis or the database belongs to another bot.
        OddswireError: On entering: Redis or the database cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        token: str,
        *,
        clock: Clock,
        api_url: str = TELEGRAM,
        shard: str = "0",
        polls_every: float = 60.0,
        commands: Sequence[LimitRule] = limits.COMMANDS,
        sending: limits.SendRules = limits.TELEGRAM,
        minute: float = 60.0,
    ) -> None:
        self._minute = minute
        self._sending = sending
        self._commands = tuple(commands)
        self._settings = settings
        self._token = token
        self._clock = clock
        self._api_url = api_url
        self._shard = shard
        self._polls_every = polls_every
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _open(self, stack: AsyncExitStack) -> None:
        settings, clock, token = self._settings, self._clock, self._token
        enter = stack.enter_async_context
        engine = await enter(open_database(settings.database_url))
        await upgrade(engine)
        wire = await enter(
            connect(
                settings.redis,
                session=UserSession,
                source=SqlSource(engine),
                namespaces=(
                    *markets.NAMESPACES,
                    *wallets.NAMESPACES,
                    *pictures.NAMESPACES,
                ),
                topics=TOPICS,
                rules=limits.POLYMARKET,
                queues=[UPDATES, ALERTS],
            )
        )
        bot_id = int(token.partition(":")[0])
        if refused := await Tenant(engine, wire.client, PREFIX).claim(bot_id):
            raise SettingsError(refused)
        if settings.status is not None:
            await _show_status(stack, wire, settings.status)
        http = await enter(aiohttp.ClientSession())
        upstream = limits.Upstream(wire.limiter)
        gamma = Gamma(http, settings.gamma_url)
        clob = Clob(http, settings.clob_url)
        self.markets = markets.Markets(
            wire.cache, gamma, clob, upstream, ages=markets.Ages()
        )
        data = Data(http, settings.data_url)
        self.wallets = wallets.Wallets(wire.cache, gamma, data, upstream)
        self.feed = await enter(
            StreamPool(
                http,
                settings.ws_url,
                limits.books(clob, upstream),
                clock=clock.monotonic,
                sleep=clock.sleep,
            )
        )
        self._stored = stored = SqlRules(engine)
        log = AlertLog(engine)
        self.followers = followers = SqlFollowers(engine)
        self.tags = tags = SqlTags(engine)
        self.pubsub = wire.pubsub
        self.rules = Rules(RuleDesk(stored, wire.pubsub, look=self._look))
        # Answers go before alerts, which leave a fifth of what Telegram admits to them.
        self.bot = bot = await enter(self._bot(wire.limiter, Priority.HIGH))
        alerting = await enter(self._bot(wire.limiter, Priority.LOW))
        buttons = Buttons(token)
        self.chat = TelegramChat(bot, buttons, wire.cache)
        self.alert_chat = TelegramChat(alerting, buttons, wire.cache)
        self.sessions = wire.sessions
        self.metrics = wire.metrics
        self._wire = wire
        self._queue = queue = wire.queues[ALERTS]
        self.handles = Handles(wire.client, PREFIX)
        self._storage = storage = Storage(wire.client)
        people = People(wire.sessions, clock)
        self.export = Export(
            people, self.rules.standing, log, self._conversation, clock
        )
        services = Services(
            chat=self.chat,
            markets=self.markets,
            wallets=self.wallets,
            rules=self.rules,
            followers=followers,
            tags=tags,
            people=people,
            clock=clock,
            effects=Effects(token),
            handles=self.handles,
            # Its library reads files while it is imported.
            pictures=await asyncio.to_thread(_pictures, wire.cache, self.markets),
            log=log,
            status=self.status,
            erase=self.erase,
            export=self.export,
            asked=a_minute(self._commands),
            max_rules=settings.max_rules,
        )
        self.dispatcher = dispatcher_for(
            services,
            buttons,
            storage,
            groups.router(),
            start.router(),
            alert_commands.router(),
            history.router(),
            market_commands.router(),
            person.router(),
            market_commands.text_router(),
        )
        self.updates = UpdateQueue(
            wire.queues[UPDATES],
            self.dispatcher,
            bot,
            wire.limiter,
            self._commands,
            PREFIX,
            clock,
        )
        api = UpdatesApi(http, self._api_url, token)
        # On a cluster the replicas of the node that has the queue.
        of_updates = wire.client.at(f"{{{UPDATES.name}}}")
        self._replicas = replicas = Replicas(of_updates, clock)
        self.poller = Poller(api, self.updates, replicas, wire.locks, clock)
        home = Home(wire.client, PREFIX)
        self.outbox = Outbox(queue, log, home, clock)
        self.log = log
        announcer = Announcer(
            self.alert_chat,
            self.sessions,
            stored,
            log,
            self.markets,
            clock,
            minute=self._minute,
        )
        self.courier = Courier(
            queue, log, home, announcer.deliver, clock, announcer.summarize
        )
        self.sweep = Sweep(queue, log, wire.locks, clock)
        self.topics = MarketTopics(wire.pubsub, clock)
        self.news = MarketNews(
            Rounds(engine, f"{self._shard}.results", stored, clock),
            followers,
            tags,
            stored,
            gamma,
            data,
            upstream,
            wire.locks,
            self.outbox,
            clock,
            on_change=self.topics.put,
            every=self._polls_every,
        )
        self.shard = Shard(
            Rounds(engine, self._shard, stored, clock),
            stored,
            self.feed,
            wire.locks,
            self.outbox,
            clock,
            hooks=ShardHooks(self.topics.prices.put, self._resolved, self._listed),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; what is in hand is finished, within 10 s.

        1. No new update and no new alert is taken. 2. What is being handled or
        delivered is finished, what was judged is kept. 3. The rest is cancelled: it
        comes again to the next process.

        Raises:
            ApiError: Telegram does not know the token.
            OddswireError: A refusal that waiting does not mend.
        """
        roles, webhook = self._settings.roles, self._settings.telegram.webhook
        finishing: list[asyncio.Task[None]] = []
        others: list[asyncio.Task[None]] = []
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            if "updates" in roles:
                handling = self.updates.run(stop)
                finishing.append(tasks.create_task(handling, name="updates"))
                if webhook is None:
                    polling = self.poller.run()
                    others.append(tasks.create_task(polling, name="poll"))
                else:
                    await stack.enter_async_context(
                        webhook_listener(webhook, self.updates, self._replicas)
                    )
                    await self._set_webhook(webhook)
            if "watch" in roles:
                finishing.append(tasks.create_task(self.shard.run(), name="watch"))
                rules = listen(self.pubsub, self.shard.look)
                others.append(tasks.create_task(rules, name="rules"))
                others.append(tasks.create_task(self.outbox.run(), name="outbox"))
                others.append(tasks.create_task(self.news.run(), name="news"))
                others.append(tasks.create_task(self.topics.run(), name="topics"))
            if "deliver" in roles:
                delivering = self.courier.run(stop)
                finishing.append(tasks.create_task(delivering, name="deliver"))
                others.append(tasks.create_task(self.sweep.run(), name="sweep"))
            await stop.wait()
            for task in others:
                if task.get_name() == "poll":
                    task.cancel()
            self.shard.stop()
            if finishing:
                await asyncio.wait(finishing, timeout=_DRAIN)
            for task in (*finishing, *others):
                task.cancel()

    def _bot(self, limiter: RateLimiter, priority: Priority) -> Bot:
        server = TelegramAPIServer.from_base(self._api_url)
        bot = Bot(self._token, session=BoundedSession(api=server))
        rules = self._sending._asdict()
        bot.session.middleware(
            SendLimits(limiter, **rules, priority=lambda _: priority)
        )
        return bot

    async def _set_webhook(self, webhook: Webhook) -> None:
        port = "" if webhook.port is None else f":{webhook.port}"
        address = f"{webhook.scheme}://{webhook.host}{port}{path_of(webhook.secret)}"
        await self.bot.set_webhook(
            address, secret_token=webhook.secret, allowed_updates=list(KINDS)
        )

    def _resolved(self, event: MarketResolved) -> None:
        self.news.hear(event)
        self.topics.resolutions.put(event)

    def _listed(self, event: NewMarket) -> None:
        self.news.hear(event)
        self.topics.new_markets.put(event)

    def _look(self) -> None:
        # The commands are made before the shard.
        self.shard.look()

    async def erase(self, person: int) -> Receipt:
        """Delete everything of a person; may be repeated.

        Raises:
            OddswireError: Redis or the database could not be asked; a part may be done.
        """
        for rule in await self.rules.of(person):
            await self.rules.remove(person, rule.id)
        receipt = await self._wire.erase(person)
        await self._storage.set_state(self._conversation_of(person), None)
        await self._storage.set_data(self._conversation_of(person), {})
        return receipt

    def _conversation_of(self, person: int) -> StorageKey:
        return StorageKey(bot_id=self.bot.id, chat_id=person, user_id=person)

    async def _conversation(self, person: int) -> dict[str, Any]:
        key = self._conversation_of(person)
        step = await self._storage.get_state(key)
        return {"step": step, **await self._storage.get_data(key)}

    async def status(self) -> StatusView:
        """Look at how the bot is."""
        problems = []
        waiting = None
        try:
            report = await self._wire.health.check()
            waiting = (await self._queue.stats()).depth
        except OddswireError:
            problems.append("Redis does not answer: messages wait and come later.")
        else:
            if report.status == "fail":
                problems.append("Redis has a problem: messages may come late.")
        counters = self.feed.counters
        last = counters.streams.last_sign_at
        if self.feed.down_for:
            problems.append("The link to Polymarket's prices is down, I connect again.")
        return StatusView(
            last_event=None if last is None else self._clock.monotonic() - last,
            followed=len(self.feed.assets),
            gaps=counters.gaps,
            waiting=waiting,
            problems=problems,
        )


def _pictures(cache: Cache, known: markets.Markets) -> pictures.Pictures | None:
    """Return what draws charts; None without the extra ``charts``."""
    try:
        from oddsbot.charts import Charts  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return pictures.Pictures(cache, known, Charts())


COMMANDS = (
    ("search", "find events by words"),
    ("top", "what is traded most"),
    ("new", "what is new"),
    ("alert", "tell me at a price"),
    ("alerts", "all my alerts"),
    ("history", "what I had for you, and what became of it"),
    ("why", "why a market gave nothing"),
    ("watchlist", "markets I watch"),
    ("settings", "kinds, quiet hours, time zone"),
    ("mute", "nothing for a time"),
    ("status", "whether everything runs"),
    ("export", "everything that is kept of me, as a file"),
    ("help", "what I can ask for"),
    ("stop", "no more messages"),
)
"""What clients show when somebody types a slash."""


def leave_start_alone() -> None:
    """Have the garbage collector look at nothing that there is now, in this process.

    What the imports made stays until the end. A full collection that goes through it
    holds the loop for 0.2 s, which is in the 99th percentile of the answers.
    """
    gc.collect()
    gc.freeze()


async def run_app(
    settings: Settings, stop: asyncio.Event, say: Callable[[str], object]
) -> None:
    """Run a bot as its settings say, until `stop` is set.

    Args:
        settings: Where everything is, and the bot's account.
        stop: Ends it in order.
        say: Takes each line for the operator.

    Raises:
        ApiError: Telegram does not know the token.
        OddswireError: Redis or the database cannot be used.
    """
    telegram = settings.telegram
    if not telegram.token:
        raise SettingsError(
            "there is no token: copy it from @BotFather into TELEGRAM_BOT_TOKEN, or "
            "try oddsbot run --standin"
        )
    app = App(settings, telegram.token, clock=SystemClock(), api_url=telegram.api_url)
    async with app:
        leave_start_alone()
        try:
            me = await app.bot.get_me()
            names = [BotCommand(command=n, description=d) for n, d in COMMANDS]
            await app.bot.set_my_commands(names)
        except (TelegramUnauthorizedError, TelegramNotFound):
            raise ApiError(
                "Telegram does not know this token: copy it again from @BotFather into "
                "TELEGRAM_BOT_TOKEN"
            ) from None
        except TelegramAPIError as error:
            # It is asked again by whoever polls; nothing is lost meanwhile.
            say(f"Telegram does not answer ({type(error).__name__}), trying again")
        else:
            say(f"@{me.username} runs: {', '.join(sorted(settings.roles))}")
        await app.run(stop)
    say("stopped")


async def _show_status(
    stack: AsyncExitStack, wire: Wire[Any, Any], page: StatusPage
) -> None:
    status = await stack.enter_async_context(
        Status(wire.metrics, wire.health, token=page.token)
    )
    names = (*LOOPBACK, *page.names)
    await stack.enter_async_context(
        status.listener(host=page.bind_host, port=page.bind_port, names=names)
    )
