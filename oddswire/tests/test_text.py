"""What a server answered, as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire._text import text


@pytest.mark.basic
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_reply_is_the_same_text_decoded_or_not(value):
    """A reply is the same text from a client that decodes and one that does not."""
    assert text(value) == text(value.encode()) == value


@pytest.mark.errors
@given(st.binary())
def test_bytes_of_another_program_raise_only_where_the_caller_asks(value):
    """Bytes that are no UTF-8 become marks, and raise where the caller asks so."""
    try:
        expected = value.decode()
    except UnicodeDecodeError:
        assert "\ufffd" in text(value)
        with pytest.raises(UnicodeDecodeError):
            text(value, errors="strict")
    else:
        assert text(value) == text(value, errors="strict") == expected
