"""Numbers that a caller gives: each check refuses what only looks like one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire._numbers import check_duration, check_int, is_int, is_number
from oddswire.errors import SettingsError

NO_NUMBERS = (
    *(True, False, None, "3", b"3", [3], 3j, math.nan, object),
    10**5000,  # Python prints no int of so many digits
)


@pytest.mark.basic
@given(st.integers(), st.integers(), st.integers())
def test_a_whole_number_is_accepted_in_its_range_alone(value, low, high):
    """A whole number is accepted from the lower bound to the upper, both included."""
    inside = low <= value <= high
    assert is_int(value, low, high) is inside
    if inside:
        check_int("n", value, low, high, SettingsError)
    else:
        with pytest.raises(SettingsError, match=f"^n .*from {low} to {high}"):
            check_int("n", value, low, high, SettingsError)


@pytest.mark.basic
@given(st.floats() | st.integers(-10, 10), st.floats(-5, 5), st.floats(-5, 5))
def test_seconds_are_accepted_in_their_range_alone(value, low, high):
    """Seconds are an int or a float in the range; NaN is in none."""
    assert is_number(value, low, high) is (low <= value <= high)


@pytest.mark.errors
@pytest.mark.parametrize("value", NO_NUMBERS, ids=range(len(NO_NUMBERS)))
def test_what_only_looks_like_a_number_is_refused_by_name(value):
    """What is no number is refused with the argument's name, however it prints."""
    with pytest.raises(SettingsError, match=r"^limit .*0 to 10$"):
        check_int("limit", value, 0, 10, SettingsError)
    with pytest.raises(SettingsError, match=r"^timeout .*0\.1 to 60$"):
        check_duration("timeout", value, 0.1, 60.0, SettingsError)
