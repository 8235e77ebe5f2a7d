"""The demo in a browser: the bot itself, between two stand-ins, with a person."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from oddsbot.alerts import Base, Direction, PriceRule
from oddsbot.app import App
from oddsbot.settings import ROLES, Telegram
from oddsbot.standin.polymarket import Recording, Replay
from oddsbot.standin.telegram import Act, BotApi, Panel
from oddsbot.standin.telegram import Fault as ApiFault
from oddswire import Client
from oddswire.clock import SystemClock
from oddswire.errors import OddswireError

from .courier import CourierProcess
from .ledger import Gap, Ledger, Message, Promise
from .live import FIGURES, Live
from .run import own_redis, own_server
from .tour import Seen, Tour

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from oddsbot.alerts import Rule
    from oddsbot.settings import Settings
    from oddswire import EmbeddedServer

    from .ledger import Account
    from .options import Options

_REFRESH = 0.5
_SILENCE = 1.5
"""Seconds after which the demo begins the conversation itself."""
# A person asked at most so many real seconds before the rule was kept: from then on it
# may have been judged. So many after it, it is judged for certain.
_ANSWERED = 15.0
_APPLIED = 2.0
# A feed that was cut is back after at most so many real seconds.
_RECONNECTED = 4.0
_FROZEN = 20.0
# So many real seconds after the tour shows its alert, its level is first reached.
_SOON = (8.0, 25.0)
_FIND_EVERY = 4.0
_HYSTERESIS = Decimal("0.01")


async def show(
    options: Options,
    settings: Settings,
    *,
    stop: asyncio.Event,
    opened: Callable[[Scene], object],
) -> Account:
    """Let people talk to the bot until `stop` is set; return how it stands then.

    Args:
        options: What to play; a speed and a place to keep data.
        settings: Of the bot; where the services are, the demo decides.
        stop: Ends it.
        opened: Called once everything is there, with the scene.

    Raises:
        ReplayError: The recording cannot be used, or the port cannot be opened.
        EmbeddedFailed: The server cannot start, or not start again.
        OddswireError: A refusal of the server that waiting does not mend.
    """
    recording = await asyncio.to_thread(Recording.load, options.recording)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="oddsbot-")
        stack.push_async_callback(asyncio.to_thread, folder.cleanup)
        database = Path(options.data_dir or folder.name) / "bot.db"
        ledger = await asyncio.to_thread(Ledger, options.recording, database)
        replay = await enter(Replay(recording, speed=options.speed, port=options.port))
        server, url = await enter(own_redis(options, settings.redis.server_bin))
        first = next(iter(recording.markets.values()))
        link = f"https://polymarket.com/event/{first.slug}"
        panel = Panel(
            says={
                "Say /start": "/start",
                "Paste a link": link,
                "All alerts": "/alerts",
                "Settings": "/settings",
                "Stop": "/stop",
            },
            acts={},
            figures=FIGURES,
        )
        api = await enter(BotApi(clock.now, panel=panel))
        redis = own_server(settings.redis, url)
        if options.session_ttl is not None:
            redis = msgspec.structs.replace(redis, session_ttl=options.session_ttl)
        settings = msgspec.structs.replace(
            settings,
            redis=redis,
            gamma_url=replay.gamma_url,
            clob_url=replay.clob_url,
            data_url=replay.data_url,
            ws_url=replay.ws_url,
            database_url=f"sqlite:///{database}",
            telegram=Telegram(token=api.token, api_url=api.url),
            # Alerts are delivered by a process of their own, which can be killed.
            roles=ROLES - {"deliver"},
        )
        app = await enter(
            App(
                settings,
                api.token,
                clock=clock,
                api_url=api.url,
                # The recording begins again in the past.
                shard=f"demo-{secrets.token_hex(4)}",
            )
        )
        courier = await enter(CourierProcess(settings, Path(folder.name)))
        scene = Scene(replay, server, url, api, app, courier, ledger, panel, link)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(app.run(stop), name="bot")
            others = [tasks.create_task(each, name="scene") for each in scene.tasks()]
            replay.start()
            scene.began = clock.now()
            opened(scene)
            await asyncio.wait([running])
            for task in others:
                task.cancel()
        return await scene.account()


class Scene:
    """What a person sees of the demo, and what she can break.

    Attributes:
        api: The chats.
        kills: How often the server was killed by the button.
        began: When the recorded time began, seconds since 1970.
    """

    def __init__(
        self,
        replay: Replay,
        server: EmbeddedServer,
        url: str,
        api: BotApi,
        app: App,
        courier: CourierProcess,
        ledger: Ledger,
        panel: Panel,
        link: str,
    ) -> None:
        self.api = api
        self.kills = 0
        self.began = 0.0
        self._replay = replay
        self._server, self._url = server, url
        self._courier = courier
        self._ledger = ledger
        self._panel = panel
        self._link = link
        self._clock = SystemClock()
        self._live = Live(app.metrics, lambda: app.shard.ticks, self._clock)
        self._first = next(iter(replay.recording.markets.values()))
        self._tour = Tour(panel, link)
        self._level = "50"
        self._level_at = 0.0
        self._emptied = self._confirmed = 0
        self._jobs: set[asyncio.Task[None]] = set()
        self._rules: dict[str, Promise] = {}
        self._sides = {
            token: (market.market_id, side)
            for market in replay.recording.markets.values()
            for token, side in zip(market.tokens, ("UP", "DOWN"), strict=True)
        }
        app.rules.on_change = self._note
        panel.acts = {
            "kill": Act("Kill Redis", self.kill),
            "empty": Act("Empty Redis", self.empty),
            "cut": Act("Cut the feed", self.cut),
            "freeze": Act("Freeze a market", self.freeze),
            "flood": Act("Answer 429", self.flood),
            "courier": Act("Kill the courier", self.kill_courier),
        }

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return what runs beside the bot."""
        return [
            self._keep_server(),
            self._courier.keep_running(),
            self._live.sample(),
            self._refresh(),
            self._begin(),
        ]

    # --- what a person breaks

    def kill(self) -> None:
        """End the server as ``kill -9`` does; it is started again with its data."""
        self.kills += 1
        self._live.note("you killed Redis")
        self._server.kill()

    def empty(self) -> None:
        """Delete all that Redis has."""
        self._emptied += 1
        self._live.note("you emptied Redis")
        self._do(self._flush())

    def cut(self) -> None:
        """End the links to the feed; the bot connects again."""
        self._live.note("you cut the link to the feed")
        self._do(self._interrupt(_RECONNECTED))
        self._replay.disconnect()

    def freeze(self) -> None:
        """Let the feed be silent about the first market for 20 s."""
        self._live.note(f"you froze a market for {_FROZEN:.0f} s")
        self._do(self._silence(self._first.market_id, set(self._first.tokens)))

    def flood(self) -> None:
        """Have Telegram refuse the next three messages, each for 2 s."""
        self._live.note("Telegram answers 429 to the next three calls")
        self.api.faults.planned.append(ApiFault(kind="flood", times=3, seconds=2))

    def kill_courier(self) -> None:
        """End the process that delivers, as ``kill -9`` does; it is started again."""
        self._live.note("you killed the courier")
        self._courier.kill()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        job = asyncio.get_running_loop().create_task(work, name="act")
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _flush(self) -> None:
        with suppress(OddswireError):  # a killed server is empty of answers, too
            async with Client.from_url(self._url) as client:
                await client.flushall()

    async def _interrupt(self, seconds: float, market: str | None = None) -> None:
        """Take down that the bot may miss prices from now on, for so long."""
        gap = Gap(begin=self._replay.played_until, market=market)
        self._ledger.gap(gap)
        await self._clock.sleep(seconds)
        gap.end = self._replay.position

    async def _silence(self, market: str, tokens: set[str]) -> None:
        frozen = self._replay.faults.frozen_assets
        frozen |= tokens
        try:
            await self._interrupt(_FROZEN, market)
        finally:
            frozen -= tokens

    # --- what goes on by itself

    async def _keep_server(self) -> NoReturn:
        while True:
            await self._server.wait_exit()
            await self._server.restart()

    async def _begin(self) -> None:
        """Say the first words for a visitor who says nothing: she sees an answer."""
        await self._clock.sleep(_SILENCE)
        world = self.api.world
        if not world.sent:
            person = next(iter(world.people))
            world.say(person, "/start")
            world.say(person, self._link)

    async def _refresh(self) -> NoReturn:
        while True:
            account = await self.account()
            self._panel.show(
                self._line(account),
                values=self._live.values(account.p50, account.p99),
                events=self._live.events(),
            )
            if self._tour.wants_level:
                await self._find_level()
            self._tour.look(self._seen(account), self._level)
            await self._clock.sleep(_REFRESH)

    async def account(self) -> Account:
        """Return how it stands."""
        chats = [Message(each.chat, each.text, each.at) for each in self.api.world.sent]
        until, now = self._replay.played_until, self._clock.monotonic()
        return await asyncio.to_thread(
            self._ledger.account, until, chats, now, self._played
        )

    async def played(self, seconds: float) -> None:
        """Wait until so many recorded seconds more were played."""
        await self._clock.sleep(seconds / self._replay.speed)

    def _played(self, at: int) -> float:
        start, speed = self._replay.recording.start, self._replay.speed
        return self.began + (at - start) / 1000 / speed

    def _seen(self, account: Account) -> Seen:
        world = self.api.world
        said = [
            message.get("text", "")
            for room in world.rooms.values()
            for message in room.messages.values()
            if message.get("from", {}).get("id") in world.people
        ]
        return Seen(
            links=sum("polymarket.com/" in text for text in said),
            cards=sum(
                each.text.startswith(self._first.question) for each in world.sent
            ),
            rules=self._confirmed,
            delivered=account.delivered,
            broken=self.kills + self._emptied,
        )

    async def _find_level(self) -> None:
        """Find a price that the recording soon comes to, and often."""
        now = self._clock.monotonic()
        if now < self._level_at:
            return
        self._level_at = now + _FIND_EVERY
        early, late = (int(each * 1000 * self._replay.speed) for each in _SOON)
        level = await asyncio.to_thread(
            self._ledger.lively,
            *(self._first.market_id, "UP", self._replay.position),
            *((early, late), _HYSTERESIS),
        )
        if level is not None:
            self._level = f"{int(level * 100)}"

    def _line(self, account: Account) -> str:
        parts = [
            f"{account.due} due, {account.delivered} delivered, {account.lost} lost"
        ]
        if account.waiting:
            parts.append(f"{account.waiting} on the way")
        if account.repeated:
            parts.append(f"{account.repeated} repeated, each says so")
        if account.wrong:
            parts.append(f"{account.wrong} wrong")
        if account.unseen:
            parts.append(f"{account.unseen} unseen, for the feed was broken")
        if account.kept_back:
            parts.append(f"{account.kept_back} kept back as people wish")
        broken = (
            ("Redis killed", self.kills),
            ("emptied", self._emptied),
            ("courier killed", self._courier.kills),
        )
        parts += [f"{what} {times}×" for what, times in broken if times]
        recording = self._replay.recording
        length = max(1, recording.end - recording.start)
        done = (self._replay.position - recording.start) / length
        parts.append("the recording is over" if done >= 1 else f"{done:.0%} played")
        return " · ".join(parts)

    def _note(self, rule: Rule, added: bool) -> None:  # noqa: FBT001
        """Take down what the bot confirmed or took back."""
        now = self._replay.position
        self._confirmed += added
        if not added or rule.paused:
            promise = self._rules.pop(rule.id, None)
            if promise is not None:
                promise.ended = now
        elif isinstance(rule, PriceRule) and rule.id not in self._rules:
            market, side = self._sides[rule.asset_id]
            above = rule.direction is Direction.ABOVE
            seen = rule.base or Base()
            played = self._replay.played_until
            promise = Promise(
                rule=rule.id,
                person=rule.user_id,
                market=market,
                side=side,
                sign=1 if above else -1,
                level=Decimal(rule.level),
                hysteresis=rule.hysteresis,
                base=seen.bid if above else seen.ask,
                asked=played - int(_ANSWERED * self._replay.speed * 1000),
                confirmed=now + int(_APPLIED * self._replay.speed * 1000),
            )
            self._rules[rule.id] = promise
            self._ledger.promise(promise)
