"""The `oddsbot` command.

SQLAlchemy, aiogram, aiohttp and redis-py take seconds to import. Each command imports
what it needs when it runs, so `--help` and a wrong option are answered at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import webbrowser
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import msgspec
import typer

from oddsbot.demo import DemoError, Options
from oddsbot.loop import run as run_loop
from oddsbot.settings import PREFIX, Settings, roles_of
from oddswire.clock import SystemClock
from oddswire.errors import OddswireError, SettingsError
from oddswire.plain import plain_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from oddsbot.app import App
    from oddsbot.check import Finding
    from oddsbot.delivery import File
    from oddsbot.demo import Report
    from oddsbot.demo.browser import Scene
    from oddsbot.standin.polymarket import Replay
    from oddswire.erasure import Receipt

T = TypeVar("T")

DISAGREES = 1
BAD_INPUT = 2
# Recorded seconds a second; a person follows the slower one.
_SPEED, _BROWSER_SPEED = 60.0, 6.0

app = typer.Typer(
    help="A Polymarket bot: alerts on prices and resolutions.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


database_app = typer.Typer(
    help="The database that keeps users and rules.", no_args_is_help=True
)
app.add_typer(database_app, name="db")


@database_app.command()
def upgrade(
    database: Annotated[
        str | None,
        typer.Option(help="Its URL; default: DATABASE_URL, else sqlite:///oddsbot.db."),
    ] = None,
) -> None:
    """Bring the bot's own tables to the newest form; run it before each new version."""
    try:
        url = Settings.from_env().database_url if database is None else database
        revision = asyncio.run(_upgraded(url))
    except OddswireError as error:
        _refuse(error)
    print(f"the tables are at revision {revision}")  # noqa: T201 - its purpose


async def _upgraded(url: str) -> str:
    from oddsbot import store

    async with store.open_database(url) as engine:
        return await store.upgrade(engine)


@database_app.command()
def adopt() -> None:
    """Give the database and the Redis of another bot to the one of the token."""
    try:
        settings = Settings.from_env()
        bot_id = asyncio.run(_adopted(settings))
    except OddswireError as error:
        _refuse(error)
    print(f"they belong to the bot {bot_id}")  # noqa: T201 - its purpose


async def _adopted(settings: Settings) -> int:
    from oddsbot import store
    from oddswire import Client

    bot_id = settings.telegram.bot_id
    if bot_id is None or settings.redis.url is None:
        raise SettingsError("TELEGRAM_BOT_TOKEN and REDIS_URL: give both")
    async with (
        store.open_database(settings.database_url) as engine,
        Client.from_settings(settings.redis) as client,
    ):
        await store.upgrade(engine)
        await store.Tenant(engine, client, PREFIX).adopt(bot_id)
    return bot_id


users_app = typer.Typer(
    help="What the bot keeps of a person, for who runs it.", no_args_is_help=True
)
app.add_typer(users_app, name="users")

_Person = Annotated[int, typer.Argument(help="Her Telegram id.")]


@users_app.command("export")
def export_user(person: _Person) -> None:
    """Write all that is kept of a person into files here, as /export sends them."""
    for name in _on_data(_exported, person):
        print(name)  # noqa: T201 - its purpose


@users_app.command("erase")
def erase_user(
    person: _Person,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Without it nothing is done.")] = (
        False
    ),
) -> None:
    """Delete everything of a person, as /erase does; exit code 1: something is left."""
    if not yes:
        _refuse(SettingsError("everything of her is deleted for good: give --yes"))
    receipt = _on_data(_erased, person)
    for part in receipt.parts:
        print(f"{part.part}: {part.removed} removed, {len(part.left)} left")  # noqa: T201 - its purpose
    if not receipt.complete:
        raise typer.Exit(DISAGREES)


def _on_data(work: Callable[[App, int], Coroutine[Any, Any, T]], person: int) -> T:
    """Do something with the bot's data, while the bot runs or not."""

    async def done(settings: Settings) -> T:
        from oddsbot.app import App

        telegram = settings.telegram
        if not telegram.token or settings.redis.url is None:
            raise SettingsError("TELEGRAM_BOT_TOKEN and REDIS_URL: give both")
        url = telegram.api_url
        async with App(
            settings, telegram.token, clock=SystemClock(), api_url=url
        ) as bot:
            return await work(bot, person)

    try:
        settings = msgspec.structs.replace(Settings.from_env(), status=None)
        return asyncio.run(done(settings))
    except (OddswireError, OSError) as error:
        _refuse(error)


async def _exported(bot: App, person: int) -> list[str]:
    return [
        await asyncio.to_thread(_write_private, file)
        async for file in bot.export.files(person)
    ]


def _write_private(file: File) -> str:
    descriptor = os.open(file.name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as target:  # noqa: PTH123 - it has a descriptor
        target.write(file.data)
    return file.name


async def _erased(bot: App, person: int) -> Receipt:
    return await bot.erase(person)


standin_app = typer.Typer(
    help="Services that a bot talks to, on this machine.", no_args_is_help=True
)
app.add_typer(standin_app, name="standin")


@standin_app.callback()
def standin() -> None:
    """Serve what a bot talks to, without account or network."""


@standin_app.command()
def telegram(
    *,
    port: Annotated[int, typer.Option(help="To listen on; default: any free one.")] = 0,
    json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as one JSON object.")
    ] = False,
) -> None:
    """Serve a Bot API and a page that shows its chats, until Ctrl-C.

    Any bot takes the printed API as its base and the token as its own. The page's
    address opens once; the control token is for programs that set faults.
    """
    try:
        asyncio.run(_serve_telegram(port, json=json))
    except (OSError, OverflowError) as error:
        _refuse(error)


async def _serve_telegram(port: int, *, json: bool) -> None:
    from oddsbot.standin.telegram import BotApi

    stop = _stop_on_signals()
    async with BotApi(SystemClock().now, port=port) as api:
        addresses = {
            "api": api.url,
            "token": api.token,
            "page": api.page_url(),
            "control": api.control_token,
        }
        _print_addresses(addresses, json=json)
        await stop.wait()


@standin_app.command()
def polymarket(
    *,
    recording: Annotated[
        Path | None,
        typer.Option(
            help="A .books.jsonl.gz or .bbo-changes.csv.gz file; default: the one that "
            "comes along."
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option(help="Recorded seconds a second; inf: as fast as it goes.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of what generated wallets do.")] = 1,
    port: Annotated[int, typer.Option(help="To listen on; default: any free one.")] = 0,
    switch: Annotated[
        list[str] | None,
        typer.Option(
            help="Break something: no_resolved, no_first_book, frozen_assets=ID,ID, "
            "disconnect, freeze, thaw, bad_frame, unknown_event, again and "
            "again after =ITEMS of the recording; late=SECONDS, twice, backwards, "
            "partial, same_cursor, rewritten; "
            "or limited, restarting, error, paused, html, slow, cut, each with "
            "=PATH,TIMES,SECONDS. May be given several times."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as one JSON object.")
    ] = False,
) -> None:
    """Serve a local Polymarket that plays a recording, until Ctrl-C.

    Books and markets are recorded, wallets and their trades generated; the page says
    which is which. Programs change switches by POST /control with the control token.
    """
    from oddsbot.standin.polymarket import (
        Recording,
        Replay,
        ReplayError,
        parse_switch,
        sample,
    )

    try:
        switches = [parse_switch(each) for each in switch or ()]
        played = Recording.load(recording if recording is not None else sample())
        standin = Replay(played, speed=speed, port=port, seed=seed)
        asyncio.run(_serve_polymarket(standin, switches, json=json))
    except (OSError, OverflowError, ValueError, ReplayError) as error:
        _refuse(error)


async def _serve_polymarket(
    standin: Replay, switches: list[tuple[str, object]], *, json: bool
) -> None:
    stop = _stop_on_signals()
    async with standin:
        for name, value in switches:
            standin.faults.switch(name, value)
        standin.start()
        _print_addresses(
            {
                "gamma": standin.gamma_url,
                "clob": standin.clob_url,
                "data": standin.data_url,
                "market": standin.ws_url,
                "rtds": standin.live_url,
                "page": f"{standin.gamma_url}/",
                "control": standin.control_token,
            },
            json=json,
        )
        await stop.wait()


def _print_addresses(addresses: dict[str, str], *, json: bool) -> None:
    text = (
        msgspec.json.encode(addresses).decode()
        if json
        else "\n".join(f"{name:<8} {value}" for name, value in addresses.items())
    )
    print(text, flush=True)  # noqa: T201 - its purpose


@app.command()
def demo(
    *,
    recording: Annotated[
        Path | None,
        typer.Option(help="A .books.jsonl.gz file; default: the one that comes along."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            help="Recorded seconds a second; inf: as fast as it goes. "
            "Default: 60, in the browser 6."
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Play that long; default: to the end.")
    ] = None,
    browser: Annotated[
        bool,
        typer.Option("--browser", help="The chat page, also where no terminal is."),
    ] = False,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Draw prices and alerts in the terminal.")
    ] = False,
    headless: Annotated[
        bool,
        typer.Option(
            "--headless",
            help="Print alerts as lines, draw nothing; by itself where no terminal is.",
        ),
    ] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="Headless, and one JSON object on stdout at the end."
        ),
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where the server keeps its data; default: nowhere."),
    ] = None,
    port: Annotated[
        int,
        typer.Option(help="Port of the recorded Polymarket; default: any free one."),
    ] = 0,
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Redis is a cluster of three primaries."),
    ] = False,
    session_ttl: Annotated[
        float | None,
        typer.Option(
            help="Seconds of silence that end a conversation; default: a day."
        ),
    ] = None,
) -> None:
    """Talk to the bot in a browser, while recorded order books are played to it.

    An own server, no account, no network. With --terminal or --headless, or where
    stdout is no terminal, three users are played to instead of a person. Ctrl-C stops
    it in order. An independent checker works out which alerts had to come: the exit
    code is 1 when it disagrees, and 2 when the demo could not run.
    """
    in_browser = browser or not (
        terminal or headless or json or not sys.stdout.isatty()
    )
    default = _BROWSER_SPEED if in_browser else _SPEED
    from oddsbot.polymarket import PolymarketError
    from oddsbot.standin.polymarket import ReplayError, sample

    try:
        if browser + terminal + (headless or json) > 1:
            raise DemoError("give one of --browser, --terminal and --headless")  # noqa: TRY301
        options = Options(
            recording=recording if recording is not None else sample(),
            speed=speed if speed is not None else default,
            seconds=seconds,
            data_dir=data_dir,
            port=port,
            cluster=cluster,
            session_ttl=session_ttl,
        )
        settings = Settings.from_env()
        if in_browser:
            asyncio.run(_in_browser(options, settings))
            return
        if terminal:
            report = _in_terminal(options, settings)
        else:
            report = _headless(options, settings, json=json)
    except (DemoError, OddswireError, PolymarketError, ReplayError) as error:
        _refuse(error)
    text = report.json() if json else plain_lines(report.text())
    print(text)  # noqa: T201 - its purpose
    if not report.check.agrees:
        raise typer.Exit(DISAGREES)


@app.command("run")
def run_bot(
    *,
    role: Annotated[
        str | None,
        typer.Option(help="updates, watch, deliver, with commas; default: all of it."),
    ] = None,
    standin: Annotated[
        bool,
        typer.Option(
            "--standin", help="Against both stand-ins: no account and no network."
        ),
    ] = False,
) -> None:
    """Run the bot until Ctrl-C; settings come from the environment.

    Everything in one process by default; with --role several processes share it. Exit
    code 2: it could not start, and a line says what to do.
    """
    from oddsbot.polymarket import PolymarketError
    from oddsbot.standin.polymarket import ReplayError

    try:
        settings = Settings.from_env()
        if role is not None:
            roles = roles_of(role, "--role")
            settings = msgspec.structs.replace(settings, roles=roles)
        run_loop(_run_bot(settings, standin=standin))
    except (OddswireError, PolymarketError, ReplayError, OSError) as error:
        _refuse(error)


async def _run_bot(settings: Settings, *, standin: bool) -> None:
    from oddsbot.app import run_app
    from oddsbot.demo.standins import with_standins
    from oddsbot.standin.polymarket import sample
    from oddsbot.telegram.api import ApiError

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Plain("%(message)s"))
    stop = _stop_on_signals()

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201 - its purpose

    try:
        if standin:
            async with with_standins(settings, sample()) as (settings_, api):
                say(f"page {api.page_url()}")
                await run_app(settings_, stop, say)
        else:
            await run_app(settings, stop, say)
    except* ApiError as errors:
        _refuse(errors.exceptions[0])


@app.command()
def check(
    *,
    live: Annotated[
        bool,
        typer.Option("--live", help="Compare Polymarket's answers with the models."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say whether the bot can run here, and what to do where it cannot.

    Nothing is changed. Exit code 1: something fails; 2: the settings are wrong.
    """
    try:
        settings = Settings.from_env()
        findings = asyncio.run(_checked(settings, live=live))
    except OddswireError as error:
        _refuse(error)
    from oddsbot.check import State, as_json, as_text

    print(as_json(findings) if json else as_text(findings))  # noqa: T201 - its purpose
    if any(each.state is State.FAIL for each in findings):
        raise typer.Exit(DISAGREES)


async def _checked(settings: Settings, *, live: bool) -> list[Finding]:
    from oddsbot.check import check_live, check_local

    if live:
        return await check_live(settings)
    return await check_local(settings, SystemClock())


def main() -> None:
    """Run the command line."""
    app()


def _headless(options: Options, settings: Settings, *, json: bool) -> Report:
    from oddsbot.demo.run import run
    from oddsbot.demo.view import Progress

    out = sys.stderr if json else sys.stdout
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Plain("%(message)s"))

    def write(line: str) -> None:
        print(line, file=out, flush=True)

    async def played() -> Report:
        return await run(
            options,
            settings.redis,
            stop=_stop_on_signals(),
            write=write,
            view=Progress(write).show,
        )

    return asyncio.run(played())


async def _in_browser(options: Options, settings: Settings) -> None:
    print("Starting a server, a recorded Polymarket and the bot ...", flush=True)  # noqa: T201 - its purpose
    from oddsbot.demo.browser import show

    def opened(scene: Scene) -> None:
        print(  # noqa: T201 - its purpose
            "The bot is here; this address opens once:\n\n"
            f"    {scene.api.page_url()}\n\nCtrl-C ends it.",
            flush=True,
        )
        if _has_screen():
            # A text browser would take the terminal.
            webbrowser.open(scene.api.page_url())

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Plain("%(message)s"))
    account = await show(options, settings, stop=_stop_on_signals(), opened=opened)
    print(  # noqa: T201 - its purpose
        f"{account.due} due, {account.delivered} delivered, {account.lost} lost"
        + (f", {account.wrong} wrong" if account.wrong else "")
    )
    for problem in account.problems:
        print(plain_lines(problem))  # noqa: T201 - its purpose
    if account.lost or account.wrong:
        raise typer.Exit(DISAGREES)


def _has_screen() -> bool:
    if sys.platform in {"darwin", "win32"}:
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))  # noqa: TID251 - of the desktop


def _in_terminal(options: Options, settings: Settings) -> Report:
    from rich.console import Console

    from oddsbot.demo.run import run
    from oddsbot.demo.view import View

    view = View(Console())
    logging.basicConfig(
        format="%(message)s", level=logging.WARNING, handlers=[_Lines(view.write)]
    )

    async def played() -> Report:
        return await run(
            options,
            settings.redis,
            stop=_stop_on_signals(),
            write=view.write,
            view=view.show,
        )

    return asyncio.run(played())


class _Plain(logging.Formatter):
    """Lines for a terminal: what Polymarket or Redis said cannot steer it."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_lines(super().format(record))


class _Lines(logging.Handler):
    """Log records as lines of the view, which owns the terminal."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record))


def _stop_on_signals() -> asyncio.Event:
    """Return an event that the first Ctrl-C or SIGTERM sets; the second one kills."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _refuse(error: Exception) -> NoReturn:
    text = str(error) or type(error).__name__
    print(f"oddsbot: {plain_lines(text)}", file=sys.stderr)  # noqa: T201 - its purpose
    raise typer.Exit(BAD_INPUT) from error
