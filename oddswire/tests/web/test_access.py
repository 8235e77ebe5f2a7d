from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.clock import ManualClock
from oddswire.errors import SettingsError
from oddswire.web.access import Access, Answer, read_token

TOKEN = "a-token-of-32-characters-or-more"
RIGHT = [f"Bearer {TOKEN}"]
WRONG = ["Bearer another-token-of-32-characters"]


def basic(text):
    """Return the header that a browser sends."""
    return [f"Basic {base64.b64encode(text.encode()).decode()}"]


@pytest.mark.basic
@pytest.mark.requirement("X6")
@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        (RIGHT, Answer.YES),
        (basic(f"anybody:{TOKEN}"), Answer.YES),
        ([], Answer.NO),
        (WRONG, Answer.NO),
        ([TOKEN], Answer.NO),
        ([*RIGHT, *RIGHT], Answer.NO),
        (basic(f"{TOKEN}:"), Answer.NO),
        (["Basic %%%"], Answer.NO),
        (["Bearer t\udcffken"], Answer.NO),
        ([f"Bearer {TOKEN} "], Answer.NO),
    ],
)
def test_one_header_with_the_whole_token_is_admitted(headers, answer):
    """A program or a browser with the token is admitted, and nothing else is."""
    assert Access(TOKEN, ManualClock()).judge(headers, "10.0.0.1") is answer


@pytest.mark.errors
@pytest.mark.requirement("X6")
async def test_an_address_that_guesses_is_refused_for_a_while():
    """After ten wrong tokens a network waits, also with the right one."""
    clock = ManualClock()
    access = Access(TOKEN, clock)
    for _ in range(10):
        assert access.judge(WRONG, "2001:db8::1") is Answer.NO
    # Another address of the same /64 is the same client.
    assert access.judge(RIGHT, "2001:db8::2") is Answer.LATER
    assert access.judge(RIGHT, "10.0.0.1") is Answer.YES
    await clock.advance(61.0)
    assert access.judge(RIGHT, "2001:db8::2") is Answer.YES


@pytest.mark.errors
@pytest.mark.requirement("X6")
def test_a_browser_that_asks_first_without_a_token_is_no_guess():
    """A request without the header counts as no failure."""
    access = Access(TOKEN, ManualClock())
    for _ in range(30):
        assert access.judge([], "10.0.0.1") is Answer.NO
    assert access.judge(RIGHT, "10.0.0.1") is Answer.YES


@pytest.mark.errors
@pytest.mark.requirement("X6")
@given(header=st.text())
def test_any_header_is_an_answer(header):
    """Whatever is sent is judged and raises nothing."""
    answer = Access(TOKEN, ManualClock()).judge([header], "10.0.0.1")
    assert answer is Answer.NO or header.partition(" ")[2]


@pytest.mark.errors
@pytest.mark.requirement("X6", "X3")
def test_a_token_file_is_read_or_refused_without_its_content(tmp_path):
    """A file with a token is its token; the error of another one repeats nothing."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(path) == TOKEN
    for content in (b"short-secret", b"sec ret" * 9, "sécret".encode() * 9, b""):
        path.write_bytes(content)
        with pytest.raises(SettingsError) as caught:
            read_token(path)
        assert "cret" not in str(caught.value)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_token(tmp_path / "absent")
