"""Reads the environment and the .env file; decides nothing about the values."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import msgspec

from oddswire._text import closest
from oddswire.settings.options import UNUSED, Option

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path


class Reading(msgspec.Struct, frozen=True):
    """What was found.

    Attributes:
        values: Values by field.
        unreadable: Fields whose text was not accepted.
        problems: One line for each.
        notices: One line for each variable that has no effect.
    """

    values: dict[str, Any]
    unreadable: frozenset[str]
    problems: list[str]
    notices: tuple[str, ...]


def read(
    options: Sequence[Option],
    environ: Mapping[str, str],
    dotenv: str | Path | None,
    given: Collection[str],
) -> Reading:
    """Read the variable of every option, except for fields that are `given`.

    The environment comes before the file. What completes a URL is taken only from where
    the URL is: a password is not sent where another source says. Raises nothing: what
    is wrong with the file is a problem like any other.
    """
    values: dict[str, Any] = {}
    unreadable: set[str] = set()
    in_file, problems = _dotenv(dotenv)
    found: dict[str, str] = {}  # field to where its text was
    notices: list[str] = []
    for option in options:
        if option.field in given:
            continue
        text, where = environ.get(option.variable), ""
        if text is None:
            text, where = in_file.get(option.variable), f" in {dotenv}"
        if text is None or (option.blank and not text):
            continue
        if option.completes and "url" in given:
            notices.append(
                f"{option.variable}{where} is not used: it belongs to the server of "
                "REDIS_URL, and url= names the server here"
            )
            continue
        if option.program and where:
            problems.append(
                f"{option.variable}{where}: a program is named by the environment or "
                f"by {option.field}=, not by a file"
            )
            continue
        found[option.field] = where
        try:
            values[option.field] = option.kind.parse(text)
        except ValueError as error:
            unreadable.add(option.field)
            what = f"{option.variable}{shown(option, text)}{where}"
            problems.append(f"{what}: {error}" if text else f"{what}: {_empty(option)}")
    problems += _strangers(options, found, dotenv)
    notices += _notices(options, {**in_file, **environ})
    return Reading(values, frozenset(unreadable), problems, tuple(notices))


def _strangers(
    options: Sequence[Option], found: Mapping[str, str], dotenv: object
) -> list[str]:
    """Return a line for each variable that completes the URL of another source."""
    if "url" not in found:
        return []
    here = {"": "the environment", f" in {dotenv}": str(dotenv)}
    return [
        f"{option.variable} is in {here[found[option.field]]} and REDIS_URL in "
        f"{here[found['url']]}: they belong to one server, so give both in one place"
        for option in options
        if option.completes and found.get(option.field, found["url"]) != found["url"]
    ]


def shown(option: Option, value: object) -> str:
    """Return ``=value``, or nothing where a value that is wrong may show a secret."""
    if option.secret or "url" in option.field:
        return ""
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        return f"=<{type(value).__name__}>"
    if "@" in text or "://" in text:
        return ""  # a URL where none belongs, perhaps with its password
    return f"={text}" if len(text) <= 80 else f"={text[:77]}..."


def _empty(option: Option) -> str:
    return f"is empty: remove it, or give {option.kind.accepts}"


def _dotenv(path: str | Path | None) -> tuple[dict[str, str], list[str]]:
    if path is None:
        return {}, []
    found: dict[str, str] = {}
    problems = []
    try:
        # A file that Windows editors saved begins with a byte order mark.
        with open(path, encoding="utf-8-sig", opener=_opened) as stream:
            if refused := _not_ours(stream.fileno()):
                return {}, [f"{path}: {refused}"]
            # Here, for most programs have no such file. `dotenv_values` would skip a
            # line that it cannot read, and log that.
            from dotenv.parser import parse_stream  # noqa: PLC0415

            for binding in parse_stream(stream):
                if binding.error or (binding.key and binding.value is None):
                    # Never the line itself: it may hold a secret.
                    problems.append(
                        f"{path}, line {binding.original.line}: not NAME=value"
                    )
                elif binding.key is not None:
                    found[binding.key] = binding.value or ""
    except FileNotFoundError:
        return {}, []
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        return {}, [f"{path}: cannot be read: {why}"]
    return found, problems


def _opened(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to is empty, and not waited for."""
    file = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(file, True)
    return file


def _not_ours(file: int) -> str | None:
    """Return why a file must not say where passwords are sent; None: it may.

    It may merely lie in the directory: of a clone, a download, /tmp.
    """
    state = os.fstat(file)
    if not hasattr(os, "geteuid"):
        return None
    if state.st_uid not in (0, os.geteuid()):
        return "it belongs to another user: take it over (chown), or set dotenv=None"
    # A device, such as /dev/null, keeps nothing that is written to it.
    if state.st_mode & stat.S_IWOTH and not stat.S_ISCHR(state.st_mode):
        return "everybody may write to it: chmod o-w"
    return None


def _notices(options: Sequence[Option], present: Mapping[str, str]) -> list[str]:
    known = {option.variable: option.field for option in options}
    notices = [
        f"{variable} has no effect here: {why}"
        for variable, why in UNUSED.items()
        if variable in present
    ]
    for name in sorted(present):
        if name.startswith("ODDSWIRE_") and name not in known:
            meant = _meant(name, known)
            hint = f"; did you mean {meant}?" if meant else ""
            notices.append(f"{name} is not a setting{hint}")
    return notices


def _meant(name: str, known: Mapping[str, str]) -> str | None:
    field = name.removeprefix("ODDSWIRE_").lower()
    for variable, named in known.items():
        if named == field:
            return variable
    return next(iter(closest(name, known)), None)
