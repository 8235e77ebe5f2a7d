from __future__ import annotations

import pytest

from oddsbot.delivery import Button


@pytest.mark.errors
@pytest.mark.parametrize("does", [{}, {"data": "a", "url": "https://polymarket.com"}])
def test_a_button_does_exactly_one_thing(does):
    """A button that does nothing, or two things, is refused with what to give."""
    with pytest.raises(ValueError, match="give data, url or share"):
        Button(text="Open", **does)
