"""Prints the tables of reference/configuration.md, made from the settings."""

from __future__ import annotations

from typing import Any

import msgspec

from oddswire.settings import OPTIONS, PROFILES, UNUSED, Option, Settings
from oddswire.settings.values import Duration


def render() -> str:
    """Return the tables of `docs/reference/configuration.md` in Markdown.

    Defaults are in the environment's unit, as one would write them there.
    """
    lines = [
        "| variable | field | accepts | default | meaning |",
        "| --- | --- | --- | --- | --- |",
        *(_row(option) for option in OPTIONS),
        "",
        "| default by profile | " + " | ".join(PROFILES) + " |",
        "| --- |" + " --- |" * len(PROFILES),
        *(_profile_row(option) for option in OPTIONS if _by_profile(option)),
        "",
        "| variable | why it has no effect |",
        "| --- | --- |",
        *(f"| `{variable}` | {why} |" for variable, why in UNUSED.items()),
    ]
    return "\n".join(lines)


_URL = (
    "redis://, rediss://, unix:// or cluster://, for example "
    "rediss://user:password@host:6379/0"
)
# The table says in fewer words what an error message says in a sentence.
SHORTER = (
    ("a whole number of bytes, ", "bytes, "),
    ("a whole number, ", ""),
    ("milliseconds, ", "ms, "),
    ("the path of a file", "a path"),
    (_URL, "a URL"),
)


def _accepts(option: Option) -> str:
    accepts = option.kind.accepts
    for long, short in SHORTER:
        accepts = accepts.replace(long, short)
    return accepts


def _by_profile(option: Option) -> bool:
    return option.field in PROFILES["development"]


def _row(option: Option) -> str:
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    default = "by profile"
    if not _by_profile(option):
        default = _written(option, defaults[option.field])
    return (
        f"| `{option.variable}` | `{option.field}` | {_accepts(option)} "
        f"| {default} | {option.doc} |"
    )


def _profile_row(option: Option) -> str:
    values = (_written(option, decides[option.field]) for decides in PROFILES.values())
    return f"| `{option.variable}` | {' | '.join(values)} |"


def _written(option: Option, value: Any) -> str:
    match option.kind, value:
        case _, None:
            return "-"
        case Duration(milliseconds=True), _:
            return f"{value * 1000:.12g}"
        case Duration(), _:
            return f"{value:.12g}"
        case _, bool():
            return str(value).lower()
    return str(value)


if __name__ == "__main__":
    print(render())
