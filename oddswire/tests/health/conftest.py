"""What the tests of health share: a server to hurt, and waiting for what one did."""

from __future__ import annotations

import pytest


@pytest.fixture
def server(own):
    """Each test has a server of its own."""
    return own
