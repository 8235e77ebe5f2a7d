"""The commands: settings in, text or JSON out, an exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import contextmanager
from json import dumps
from typing import TYPE_CHECKING, Annotated, TextIO

import msgspec
import typer

from oddswire import acl as lists
from oddswire.cli import _doctor, _grants, _stats, _text
from oddswire.cli._servers import servers
from oddswire.clock import SystemClock
from oddswire.errors import NoPermission, OddswireError, SettingsError
from oddswire.health import Status
from oddswire.plain import plain_lines
from oddswire.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAILED = 1
BAD_INPUT = 2

app = typer.Typer(
    help="Looks at the servers of REDIS_URL and ODDSWIRE_CACHE_URL.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_URL = typer.Option(
    help="Used in place of REDIS_URL. Other users of the machine see the arguments of "
    "a process: keep the password in REDIS_PASSWORD."
)
_JSON = typer.Option("--json", help="Print one JSON object on stdout.")


@app.command()
def doctor(
    *,
    url: Annotated[str | None, _URL] = None,
    user: Annotated[
        str | None,
        typer.Option(
            help="Judge the rights of this user. The user in the URL must be allowed "
            "to run ACL DRYRUN."
        ),
    ] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Check the servers: what was found, why it matters, what to type.

    The exit code is 0 if no check failed (a warning is no failure), 1 if one failed, 2
    if the settings are wrong.
    """
    with _reported():
        found = servers(_settings(url))
        with progress(sys.stderr) as show:
            diagnosis = asyncio.run(_doctor.examine(found, SystemClock(), show, user))
    _print(diagnosis, _text.diagnosis(diagnosis), json=json)
    if diagnosis.status is Status.FAIL:
        raise typer.Exit(FAILED)


@app.command()
def stats(
    *,
    url: Annotated[str | None, _URL] = None,
    top: Annotated[int, typer.Option(min=0, help="How many commands to show.")] = 10,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Print one snapshot: clients, memory, hit rate, busiest commands, errors.

    The exit code is 1 if a server does not answer, 2 if the settings are wrong.
    """
    with _reported():
        snapshots = asyncio.run(_stats.snapshots(servers(_settings(url))))
    _print(snapshots, _text.snapshots(snapshots, top), json=json)


@app.command()
def acl(
    components: Annotated[
        list[str] | None,
        typer.Argument(help="Parts of the library; default: all, a user for each."),
    ] = None,
    *,
    user: Annotated[
        str | None, typer.Option(help="Make one user of this name for all the parts.")
    ] = None,
    add: Annotated[
        bool,
        typer.Option("--add", help="Add to the user's rights, and remove none."),
    ] = False,
    revealing: Annotated[
        bool,
        typer.Option(
            "--revealing",
            help="Also allow the commands that show the names of all keys of the "
            "server: the cache's tracking, and the search of erase.",
        ),
    ] = False,
    url: Annotated[str | None, _URL] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Print the lines without asking the server."),
    ] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Print ACL SETUSER lines that allow what the parts of the library need, no more.

    The lines set no password. Without --add a line replaces all rights of the user: do
    not use it for the user of a running program. The exit code is 1 if the server does
    not answer, 2 if the settings or the names are wrong.
    """
    with _reported():
        settings = _settings(url)
        chosen = (
            tuple(lists.component(name) for name in dict.fromkeys(components))
            if components
            else lists.COMPONENTS
        )
        without: tuple[str, ...] = ()
        if not offline:
            main = servers(settings)[0]
            without = asyncio.run(_grants.unknown_commands(main, chosen))
        endpoint = settings.endpoint
        cluster = endpoint is not None and bool(endpoint.seeds)
        found = _grants.grants(
            chosen,
            user,
            settings.prefix,
            without,
            add=add,
            revealing=revealing,
            cluster=cluster,
        )
    _print(found, "\n".join(each.line for each in found.users), json=json)
    if found.left_out:
        _say(f"left out, unknown to this server: {', '.join(found.left_out)}")
    if found.withheld:
        _say(
            "not allowed, because they show what belongs to other programs: "
            f"{', '.join(found.withheld)}"
            + ("" if revealing else "; --revealing allows those that show key names")
        )
    if cluster:
        _say("each node of a cluster has users of its own: run the lines on every node")
    _say("no password was set: ACL SETUSER <user> '>...', then ACL SAVE")


def _settings(url: str | None) -> Settings:
    environ = dict(os.environ)  # noqa: TID251 - the command is an application
    # It replaces the variable, so that REDIS_PASSWORD completes it, as its help says.
    return Settings.from_env(environ if url is None else {**environ, "REDIS_URL": url})


@contextmanager
def _reported() -> Iterator[None]:
    """Turn the library's errors into one line and an exit code."""
    try:
        yield
    except SettingsError as error:
        _say(f"oddswire: {error}")
        raise typer.Exit(BAD_INPUT) from None
    except NoPermission as error:
        _say(f"oddswire: {error}; `oddswire acl` prints the lines that allow it")
        raise typer.Exit(FAILED) from None
    except OddswireError as error:
        _say(f"oddswire: {type(error).__name__}: {error}")
        raise typer.Exit(FAILED) from None


def _print(value: msgspec.Struct, text: str, *, json: bool) -> None:
    # The names and errors in it come from servers.
    typer.echo(_escaped(msgspec.json.encode(value)) if json else plain_lines(text))


def _say(line: str) -> None:
    typer.echo(plain_lines(line), err=True)


def _escaped(encoded: bytes) -> str:
    """Return JSON with its unprintable characters escaped, as JSON escapes them."""
    return "".join(
        each if each.isprintable() else dumps(each)[1:-1] for each in encoded.decode()
    )


@contextmanager
def progress(out: TextIO) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text on one line, if `out` is a terminal."""

    def show(text: str) -> None:
        if out.isatty():
            out.write(f"\r\x1b[K{plain_lines(text)}")
            out.flush()

    try:
        yield show
    finally:
        show("")
