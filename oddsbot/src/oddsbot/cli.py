"""The `oddsbot` command."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
import typer
from rich.console import Console

from oddsbot.demo import DemoError, Options, View, run
from oddsbot.polymarket import PolymarketError
from oddsbot.replay import ReplayError, sample
from oddsbot.settings import Settings
from oddsbot.standin.telegram import BotApi
from oddswire.clock import SystemClock
from oddswire.errors import OddswireError
from oddswire.plain import plain_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddsbot.demo import Report

DISAGREES = 1
BAD_INPUT = 2

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
    # SQLAlchemy takes its time to import, and the demo needs none of it.
    from oddsbot import store  # noqa: PLC0415

    async with store.open_database(url) as engine:
        return await store.upgrade(engine)


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
    stop = _stop_on_signals()
    async with BotApi(SystemClock().now, port=port) as api:
        addresses = {
            "api": api.url,
            "token": api.token,
            "page": api.page_url(),
            "control": api.control_token,
        }
        text = (
            msgspec.json.encode(addresses).decode()
            if json
            else "\n".join(f"{name:<8} {value}" for name, value in addresses.items())
        )
        print(text, flush=True)  # noqa: T201 - its purpose
        await stop.wait()


@app.command()
def demo(
    *,
    recording: Annotated[
        Path | None,
        typer.Option(help="A .books.jsonl.gz file; default: the one that comes along."),
    ] = None,
    speed: Annotated[
        float, typer.Option(help="Recorded seconds a second; inf: as fast as it goes.")
    ] = 60.0,
    seconds: Annotated[
        float | None, typer.Option(help="Play that long; default: to the end.")
    ] = None,
    headless: Annotated[
        bool, typer.Option("--headless", help="Print alerts as lines, draw nothing.")
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
) -> None:
    """Play recorded order books to three users; an own server, no account, no network.

    Ctrl-C stops it in order. At its end an independent checker works out which
    alerts had to come: the exit code is 1 when it disagrees, and 2 when the demo
    could not run.
    """
    try:
        options = Options(
            recording=recording if recording is not None else sample(),
            speed=speed,
            seconds=seconds,
            data_dir=data_dir,
            port=port,
        )
        settings = Settings.from_env()
        if headless or json:
            report = asyncio.run(_headless(options, settings, json=json))
        else:
            report = asyncio.run(_in_terminal(options, settings))
    except (DemoError, OddswireError, PolymarketError, ReplayError) as error:
        _refuse(error)
    text = report.json() if json else plain_lines(report.text())
    print(text)  # noqa: T201 - its purpose
    if not report.check.agrees:
        raise typer.Exit(DISAGREES)


def main() -> None:
    """Run the command line."""
    app()


async def _headless(options: Options, settings: Settings, *, json: bool) -> Report:
    out = sys.stderr if json else sys.stdout
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Plain("%(message)s"))
    return await run(
        options,
        settings.redis,
        stop=_stop_on_signals(),
        write=lambda line: print(line, file=out, flush=True),
    )


async def _in_terminal(options: Options, settings: Settings) -> Report:
    view = View(Console())
    logging.basicConfig(
        format="%(message)s", level=logging.WARNING, handlers=[_Lines(view.write)]
    )
    return await run(
        options,
        settings.redis,
        stop=_stop_on_signals(),
        write=view.write,
        view=view.show,
    )


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
