"""`Client.set` against redis-py's own."""

from __future__ import annotations

import datetime as dt

import pytest
import redis.asyncio as aredis
from hypothesis import given
from hypothesis import strategies as st

from oddswire import Client

_LIFETIMES = st.one_of(
    st.none(),
    st.integers(-1, 100),
    st.booleans(),
    st.timedeltas(),
    st.sampled_from(["5", "x", 1.5]),
)
_FLAGS = st.sampled_from([False, False, True, 1, None])
_TIMES = st.sampled_from([None, None, None, 5, dt.datetime(2030, 1, 1)])  # noqa: DTZ001 - redis-py takes either
_RARE = st.sampled_from([None, None, None, "v", b""])
_OPTIONS = {
    **dict.fromkeys(("ex", "px"), _LIFETIMES),
    **dict.fromkeys(("nx", "xx", "keepttl", "get"), _FLAGS),
    **dict.fromkeys(("exat", "pxat"), _TIMES),
    **dict.fromkeys(("ifeq", "ifne", "ifdeq", "ifdne"), _RARE),
}


class _Recording:
    def execute_command(self, *args, **options):
        return args, [type(arg) for arg in args], options


class _Ours(_Recording, Client):
    def __init__(self):
        """Connect to nothing."""


class _Theirs(_Recording, aredis.Redis):
    def __init__(self):
        """Connect to nothing."""


def _outcome(client, args, options):
    try:
        return client.set(*args, **options)
    except Exception as error:  # noqa: BLE001 - its kind is compared
        return type(error), str(error)


@pytest.mark.advanced
@pytest.mark.filterwarnings("ignore:Call to .set.")
@given(
    value=st.one_of(st.text(), st.binary(), st.integers(), st.none()),
    options=st.fixed_dictionaries({}, optional=_OPTIONS),
)
def test_set_sends_what_redis_py_sends(value, options):
    """Whatever the options, what is sent or raised is redis-py's, to the argument."""
    ours = _outcome(_Ours(), ("k", value), options)

    assert ours == _outcome(_Theirs(), ("k", value), options)


@pytest.mark.advanced
@given(lifetime=_LIFETIMES, nx=_FLAGS, xx=_FLAGS, by=st.sampled_from(["ex", "px"]))
def test_everyday_forms_of_set_are_redis_pys(lifetime, nx, xx, by):
    """The forms that do not go through redis-py's method send the same."""
    options = {by: lifetime, "nx": nx, "xx": xx}
    ours = _outcome(_Ours(), ("k", "v"), options)

    assert ours == _outcome(_Theirs(), ("k", "v"), options)
