"""Errors between processes: pickle, copy, and a pool of processes."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import json
import pickle
import pkgutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis._parsers.base import BaseParser

import oddswire
from oddswire.connection.errors import clone_error, from_redis, reply_error
from oddswire.errors import CommandRejected, OddswireError, Outcome

PROGRAM = Path(__file__).with_name("in_a_process_pool.py")

# Extras that are not installed everywhere, and a program that runs when imported.
_NOT_IMPORTED = ("oddswire.adapters.", "oddswire.testing.pytest", ".__main__")


def _all_classes():
    for module in pkgutil.walk_packages(oddswire.__path__, "oddswire."):
        if not any(part in module.name for part in _NOT_IMPORTED):
            importlib.import_module(module.name)
    found, waiting = {OddswireError}, [OddswireError]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            # Those made of redis-py's finer classes are met as replies, below.
            if cls not in found and cls.__module__.startswith("oddswire."):
                found.add(cls)
                waiting.append(cls)
    return sorted(found, key=lambda cls: f"{cls.__module__}.{cls.__qualname__}")


def _made(cls):
    needed = {
        each.name: {"retry_after": 1.5, "reason": "damaged"}[each.name]
        for each in inspect.signature(cls).parameters.values()
        if each.kind is each.KEYWORD_ONLY and each.default is each.empty
    }
    error = cls("what happened", **needed)
    error.outcome = Outcome.UNKNOWN
    error.add_note("seen by a caller")
    return error


def _same(there, error):
    return (
        type(there) is type(error)
        and str(there) == str(error)
        and there.args == error.args
        and vars(there) == vars(error)
        and there.outcome is error.outcome
    )


def _travels(error):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert _same(pickle.loads(pickle.dumps(error, protocol)), error)
    assert _same(copy.copy(error), error)
    assert _same(copy.deepcopy(error), error)


@pytest.mark.requirement("C7")
@pytest.mark.errors
@pytest.mark.parametrize("cls", _all_classes(), ids=lambda cls: cls.__qualname__)
def test_every_class_survives_pickle_and_copy(cls):
    """Whatever class there is, an error of it keeps its text, outcome and fields."""
    _travels(_made(cls))


@pytest.mark.requirement("C7")
@pytest.mark.errors
@pytest.mark.parametrize(
    "word",
    [
        *BaseParser.EXCEPTION_CLASSES,
        *("WRONGTYPE", "MISCONF", "NOREPLICAS", "BUSY", "UNBLOCKED", "BUSYGROUP"),
        *("UNKILLABLE", "NOTBUSY", "INPROG"),
    ],
)
@pytest.mark.parametrize("tail", ["1 host:1", "no. script: f, on @user_script:1."])
def test_every_error_reply_survives_pickle_and_copy(word, tail):
    """Each kind of error reply, of a command or of a script, keeps all it says."""
    _travels(reply_error(f"{word} {tail}"))


@pytest.mark.requirement("C7")
@pytest.mark.errors
@given(st.text(max_size=60), st.sampled_from(Outcome))
def test_any_reply_survives(text, outcome):
    """Whatever a server may say, its error is the same after a journey."""
    error = from_redis(BaseParser.parse_error(text or "ERR"), outcome=outcome)
    _travels(error)
    if isinstance(error, OddswireError):
        assert clone_error(error, Outcome.NOT_SENT).outcome is Outcome.NOT_SENT
        assert error.outcome in set(Outcome)


@pytest.mark.requirement("C7")
@pytest.mark.integration
async def test_an_error_comes_out_of_a_process_pool(server):
    """What a call raises in a process of a pool is raised here, outcome included."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), server.url, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    (mro, outcome, _), *others = map(json.loads, printed.splitlines())

    assert mro[:2] == ["NoScriptError", "CommandRejected"]
    assert outcome == Outcome.REJECTED
    assert [(mro[0], outcome) for mro, outcome, _ in others] == [
        ("MovedError", Outcome.REJECTED),
        ("ScriptFailed", Outcome.UNKNOWN),
        ("NotShared", Outcome.NOT_SENT),
    ]


@pytest.mark.requirement("C7")
@pytest.mark.errors
async def test_a_malformed_redirection_harms_nobody_else(client):
    """MOVED without an address, as a script may say it, is the error of its call."""
    said = client.eval("return redis.error_reply('MOVED')", 0)
    refused, pong = await asyncio.gather(said, client.ping(), return_exceptions=True)

    assert type(refused) is CommandRejected
    assert refused.outcome is Outcome.REJECTED
    assert pong is True
