"""The demo in a browser: the bot itself, between two stand-ins, with a person."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from oddsbot.alerts import Base, Direction, PriceRule
from oddsbot.app import App
from oddsbot.standin.polymarket import Recording, Replay
from oddsbot.standin.telegram import Act, BotApi, Panel
from oddswire.clock import SystemClock

from .ledger import Ledger, Promise
from .run import own_redis, own_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddsbot.alerts import Rule
    from oddsbot.settings import Settings
    from oddswire import EmbeddedServer

    from .ledger import Account
    from .options import Options

_REFRESH = 0.5
_SILENCE = 3.0
"""Seconds after which the demo begins the conversation itself."""
# Real seconds after which a rule that was confirmed is judged for certain.
_APPLIED = 2.0


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
    ledger = await asyncio.to_thread(Ledger, options.recording)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="oddsbot-")
        stack.push_async_callback(asyncio.to_thread, folder.cleanup)
        replay = await enter(Replay(recording, speed=options.speed, port=options.port))
        server, url = await enter(own_redis(options, settings.redis.server_bin))
        first = next(iter(recording.markets.values()))
        panel = Panel(
            says={
                "1  Say /start": "/start",
                "2  Paste a market's link": f"https://polymarket.com/event/{first.slug}",
                "3  Ask for an alert": "/alert 55",
                "All alerts": "/alerts",
                "Stop": "/stop",
            },
            acts={"kill": Act("Kill Redis", lambda: scene.kill())},  # noqa: PLW0108
        )
        api = await enter(BotApi(clock.now, panel=panel))
        database = Path(options.data_dir or folder.name) / "bot.db"
        settings = msgspec.structs.replace(
            settings,
            redis=own_server(settings.redis, url),
            gamma_url=replay.gamma_url,
            clob_url=replay.clob_url,
            data_url=replay.data_url,
            ws_url=replay.ws_url,
            database_url=f"sqlite:///{database}",
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
        scene = Scene(replay, server, api, app, ledger, panel)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(app.run(stop), name="bot")
            others = [
                tasks.create_task(scene.keep_running(), name="keep the server running"),
                tasks.create_task(scene.show_account(), name="account"),
                tasks.create_task(scene.begin(first.slug), name="begin"),
            ]
            replay.start()
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
    """

    def __init__(
        self,
        replay: Replay,
        server: EmbeddedServer,
        api: BotApi,
        app: App,
        ledger: Ledger,
        panel: Panel,
    ) -> None:
        self.api = api
        self.kills = 0
        self._replay = replay
        self._server = server
        self._ledger = ledger
        self._panel = panel
        self._clock = SystemClock()
        self._rules: dict[str, Promise] = {}
        self._sides = {
            token: (market.market_id, side)
            for market in replay.recording.markets.values()
            for token, side in zip(market.tokens, ("UP", "DOWN"), strict=True)
        }
        app.rules.on_change = self._note

    def kill(self) -> None:
        """End the server as ``kill -9`` does."""
        self.kills += 1
        self._server.kill()

    async def keep_running(self) -> NoReturn:
        """Start the server again each time it ended."""
        while True:
            await self._server.wait_exit()
            await self._server.restart()

    async def begin(self, slug: str) -> None:
        """Say the first words for a visitor who says nothing: she sees an answer."""
        await self._clock.sleep(_SILENCE)
        world = self.api.world
        if not world.sent:
            person = next(iter(world.people))
            world.say(person, "/start")
            world.say(person, f"https://polymarket.com/event/{slug}")

    async def show_account(self) -> NoReturn:
        """Keep the line of the page as it is now."""
        while True:
            self._panel.show(self._line(await self.account()))
            await self._clock.sleep(_REFRESH)

    async def account(self) -> Account:
        """Return how it stands."""
        sent = [(each.chat, each.text) for each in self.api.world.sent]
        until, now = self._replay.played_until, self._clock.monotonic()
        return await asyncio.to_thread(self._ledger.account, until, sent, now)

    def _line(self, account: Account) -> str:
        parts = [
            f"{account.due} due, {account.delivered} delivered, {account.lost} lost"
        ]
        if account.waiting:
            parts.append(f"{account.waiting} on the way")
        if account.wrong:
            parts.append(f"{account.wrong} wrong")
        if self.kills:
            parts.append(f"Redis killed {self.kills}×")
        recording = self._replay.recording
        length = max(1, recording.end - recording.start)
        done = (self._replay.position - recording.start) / length
        parts.append("the recording is over" if done >= 1 else f"{done:.0%} played")
        return " · ".join(parts)

    def _note(self, rule: Rule, added: bool) -> None:  # noqa: FBT001
        """Take down what the bot confirmed or took back."""
        now = self._replay.position
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
                person=rule.user_id,
                market=market,
                side=side,
                sign=1 if above else -1,
                level=Decimal(rule.level),
                hysteresis=rule.hysteresis,
                base=seen.bid if above else seen.ask,
                asked=played,
                confirmed=now + int(_APPLIED * self._replay.speed * 1000),
            )
            self._rules[rule.id] = promise
            self._ledger.promise(promise)
