"""Settings, Redis, the database, the clock, Telegram: before the bot is started."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from oddsbot.store import Tenant, open_database, revision_of
from oddsbot.telegram.updates import POLLING
from oddswire import Client
from oddswire.errors import OddswireError
from oddswire.health import Health
from oddswire.locks import Locks

from .finding import Finding, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from oddsbot.settings import Settings
    from oddswire.clock import Clock

_TIMEOUT = aiohttp.ClientTimeout(total=10)
_CLOCK_OFF = 5.0
_STATES = {"pass": State.PASS, "warn": State.WARN, "fail": State.FAIL}


async def check_local(settings: Settings, clock: Clock) -> list[Finding]:
    """Look at everything that the bot needs; nothing is changed.

    Args:
        settings: Of the bot; that they could be read is the first finding.
        clock: This machine's.
    """
    findings = [
        Finding(name="settings", state=State.PASS, seen="read, without problems")
    ]
    findings.append(_token(settings))
    findings += [each async for each in _redis(settings)]
    findings.append(await _database(settings))
    if settings.redis.url and findings[-1].state is State.PASS:
        findings.append(await _tenant(settings))
    findings.append(_key(settings))
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as http:
        services = {
            "gamma": settings.gamma_url,
            "clob": settings.clob_url,
            "data": settings.data_url,
            # Whatever it answers to a request that is no websocket, it is there.
            "prices": settings.ws_url.replace("ws", "http", 1),
        }
        asked = [
            _reaches(f"polymarket {name}", url, http) for name, url in services.items()
        ]
        findings += await asyncio.gather(*asked)
        findings += [each async for each in _telegram(settings, http, clock)]
    return findings


def _token(settings: Settings) -> Finding:
    if settings.telegram.token:
        return Finding(name="token", state=State.PASS, seen="has the form of one")
    return Finding(
        name="token",
        state=State.FAIL,
        seen="there is none",
        fix="copy it from @BotFather into TELEGRAM_BOT_TOKEN, or name its file in "
        "TELEGRAM_BOT_TOKEN_FILE",
    )


def _key(settings: Settings) -> Finding:
    redis = settings.redis
    if redis.session_encryption:
        return Finding(name="key", state=State.PASS, seen="sessions are sealed")
    return Finding(
        name="key",
        state=State.WARN if redis.profile == "production" else State.PASS,
        seen="sessions are stored readable",
        fix="set ODDSWIRE_SESSION_ENCRYPTION=true and a key, "
        "see docs/reference/configuration.md",
    )


async def _redis(settings: Settings) -> AsyncIterator[Finding]:
    if settings.redis.url is None:
        yield Finding(
            name="redis",
            state=State.WARN,
            seen="no REDIS_URL: each process starts a server of its own, whose data "
            "ends with it",
            fix="set REDIS_URL",
        )
        return
    try:
        async with Client.from_settings(settings.redis) as client:
            report = await Health(client).check()
    except OddswireError as error:
        yield Finding(
            name="redis",
            state=State.FAIL,
            seen=f"cannot be asked ({type(error).__name__})",
            fix="start it, or correct REDIS_URL",
        )
        return
    for check in report.checks:
        # What cannot be read is no problem of the bot's, and is said.
        state = _STATES.get(str(check.status), State.WARN)
        fix = "" if state is State.PASS else check.fix
        yield Finding(name=f"redis {check.name}", state=state, seen=check.seen, fix=fix)


async def _database(settings: Settings) -> Finding:
    name = "database"
    try:
        async with open_database(settings.database_url) as engine:
            found, newest = await revision_of(engine)
    except OddswireError as error:
        return Finding(
            name=name,
            state=State.FAIL,
            seen=f"cannot be used ({type(error).__name__})",
            fix="correct DATABASE_URL, or start the database",
        )
    if found == newest:
        return Finding(name=name, state=State.PASS, seen=f"revision {found}")
    return Finding(
        name=name,
        state=State.FAIL,
        seen=f"revision {found or 'none'}, this version needs {newest}",
        fix="run oddsbot db upgrade",
    )


async def _tenant(settings: Settings) -> Finding:
    name, bot_id = "owner", settings.telegram.bot_id
    try:
        async with (
            open_database(settings.database_url) as engine,
            Client.from_settings(settings.redis) as client,
        ):
            tenant = Tenant(engine, client, settings.redis.prefix)
            refused = "" if bot_id is None else await tenant.other_than(bot_id)
    except OddswireError as error:
        seen = f"cannot be asked ({type(error).__name__})"
        return Finding(name=name, state=State.WARN, seen=seen)
    if not refused:
        seen = "Redis and the database are no other bot's"
        return Finding(name=name, state=State.PASS, seen=seen)
    seen, _, fix = refused.partition(": ")
    return Finding(name=name, state=State.FAIL, seen=seen, fix=fix)


async def _reaches(name: str, url: str, http: aiohttp.ClientSession) -> Finding:
    try:
        async with http.get(url, allow_redirects=False) as response:
            seen = f"answers ({response.status})"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Finding(
            name=name,
            state=State.FAIL,
            seen=f"does not answer ({type(error).__name__})",
            fix="look at the network, a proxy, the URL in the environment",
        )
    return Finding(name=name, state=State.PASS, seen=seen)


# --- Telegram


class _Answer(msgspec.Struct):
    ok: bool
    result: Any = None
    description: str = ""


async def _telegram(
    settings: Settings, http: aiohttp.ClientSession, clock: Clock
) -> AsyncIterator[Finding]:
    if not settings.telegram.token:
        return
    base = f"{settings.telegram.api_url}/bot{settings.telegram.token}"

    async def call(method: str, **fields: Any) -> tuple[int, _Answer, str]:
        # No error is shown: aiohttp's have the address, and the token in it.
        async with http.post(f"{base}/{method}", json=fields) as response:
            body = msgspec.json.decode(await response.read(), type=_Answer)
            return response.status, body, response.headers.get("Date", "")

    try:
        status, me, date = await call("getMe")
        _, hook, _ = await call("getWebhookInfo")
        polls = settings.telegram.webhook is None and not _url_of(hook)
        if me.ok and polls and await _we_poll(settings):
            # To ask once more would end the running bot's request with a 409.
            poll = 0
        elif me.ok and polls:
            # Without an offset nothing is confirmed. Whoever else polls asks again
            # within these seconds, and that ends this request with a 409.
            poll, _, _ = await call("getUpdates", timeout=3, limit=1)
        else:
            poll = 200
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
        yield Finding(
            name="telegram",
            state=State.FAIL,
            seen=f"does not answer ({type(error).__name__})",
            fix="look at the network, a proxy, TELEGRAM_API_URL",
        )
        return
    if not me.ok:
        yield Finding(
            name="telegram",
            state=State.FAIL,
            seen=f"refuses the token ({status})",
            fix="copy the token again from @BotFather",
        )
        return
    yield Finding(name="telegram", state=State.PASS, seen=f"the bot is @{_name_of(me)}")
    yield _webhook(settings, hook)
    yield _poller(poll)
    yield _clock(date, clock)


async def _we_poll(settings: Settings) -> bool:
    """Return whether a bot of these settings polls now: its lock is held."""
    if settings.redis.url is None:
        return False
    try:
        async with Client.from_settings(settings.redis) as client:
            lock = Locks(client, prefix=settings.redis.prefix).keys(POLLING, 1)[-1]
            return bool(await client.exists(lock))
    except OddswireError:
        return False


def _name_of(me: _Answer) -> str:
    return str(me.result.get("username", "?")) if isinstance(me.result, dict) else "?"


def _url_of(hook: _Answer) -> str:
    return str(hook.result.get("url", "")) if isinstance(hook.result, dict) else ""


def _webhook(settings: Settings, hook: _Answer) -> Finding:
    is_set = bool(_url_of(hook))
    wanted = settings.telegram.webhook is not None
    if is_set == wanted:
        seen = "is set" if is_set else "none is set, updates are polled"
        return Finding(name="webhook", state=State.PASS, seen=seen)
    if wanted:
        return Finding(
            name="webhook",
            state=State.WARN,
            seen="is not set yet",
            fix="oddsbot run sets it when it starts",
        )
    return Finding(
        name="webhook",
        state=State.FAIL,
        seen="one is set, so updates cannot be polled",
        fix="remove it, or run with TELEGRAM_MODE=webhook",
    )


def _poller(status: int) -> Finding:
    if status == 409:
        return Finding(
            name="poller",
            state=State.FAIL,
            seen="another program polls with this token",
            fix="stop it, or give this bot a token of its own",
        )
    if status == 0:
        return Finding(
            name="poller", state=State.PASS, seen="this bot runs and polls itself"
        )
    return Finding(name="poller", state=State.PASS, seen="nobody else was seen polling")


def _clock(date: str, clock: Clock) -> Finding:
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return Finding(
            name="clock",
            state=State.WARN,
            seen="Telegram's answer has no time to compare",
        )
    off = abs(clock.now() - theirs)
    if off <= _CLOCK_OFF:
        return Finding(
            name="clock", state=State.PASS, seen=f"{off:.0f} s from Telegram's"
        )
    return Finding(
        name="clock",
        state=State.WARN,
        seen=f"{off:,.0f} s from Telegram's",
        fix="have the clock set by NTP: quiet hours and ages go by it",
    )
