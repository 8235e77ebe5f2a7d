from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.plain import plain, plain_lines

ATTACKS = [
    ("Rain?\nBen: Yes", "Rain? Ben: Yes"),
    ("a\r\n\tb\x0b\x0cc\x1cd\x85e\u2028f\u2029g", "a b c d e f g"),
    ("\x1b]0;PWNED\x07\x1b[2J", "\\x1b]0;PWNED\\x07\\x1b[2J"),
    ("\x9b31m", "\\x9b31m"),
    ("\u202eevil\u2066", "\\u202eevil\\u2066"),
    ("\u200b\ufeff\u2060\u00ad", "\\u200b\\ufeff\\u2060\\xad"),
    ("\ud800 half", "\\ud800 half"),
    ("\U000e0041", "\\U000e0041"),
    (
        "Will it \N{RAINBOW} rain? 👩\u200d🚀 ❤\ufe0f",
        "Will it 🌈 rain? 👩\u200d🚀 ❤\ufe0f",
    ),
    ("[red]not[/] <b>markup</b> *here*", "[red]not[/] <b>markup</b> *here*"),
    (b"bytes \xff\x1b", "bytes \N{REPLACEMENT CHARACTER}\\x1b"),
    (10**6000, "<int>"),
    (None, "None"),
]


@pytest.mark.errors
@pytest.mark.requirement("X4")
@pytest.mark.parametrize(("text", "shown"), ATTACKS, ids=range(len(ATTACKS)))
def test_what_an_attack_becomes(text, shown):
    """Each way to steer a terminal or forge a line is shown and has no effect."""
    assert plain(text) == shown


@pytest.mark.errors
@pytest.mark.requirement("X4")
@given(text=st.text(), limit=st.integers(1, 40))
def test_any_text_is_one_short_harmless_line(text, limit):
    """No control, separator, invisible or bidi character, and no more than asked."""
    line = plain(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    line.encode()  # no half of a surrogate pair
    categories = {unicodedata.category(each) for each in line} - {"Cf"}
    assert not categories & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(line) & set(
        "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b"
    )
    assert plain(line, limit) == line
    lines = plain_lines(text)
    assert lines.count("\n") == text.count("\n")
    assert not {unicodedata.category(each) for each in lines.replace("\n", "")} & {"Cc"}


@pytest.mark.performance
@pytest.mark.requirement("X4")
def test_length_costs_nothing():
    """A line of 50 MB is cut before anything is done with it."""
    assert plain("\x1b" * 50_000_000, 10) == "\\x1b\\x1b\\…"
