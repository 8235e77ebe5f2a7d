"""In redis-py's place for those who build on it; `make dropin` runs their own tests."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from oddswire import EmbeddedServer


@pytest.mark.requirement("C15")
@pytest.mark.integration
async def test_what_stands_on_redis_py_runs_on_our_client():
    """Unmodified, aiogram's storage, limits and cashews work, and it is our client."""
    program = Path(__file__).with_name("dropped_in.py")
    async with EmbeddedServer() as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            program,
            server.url,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(output) == {
        "aiogram": [True, "asked", {"market": "btc"}],
        "limits": [True, True, True, False],
        "cashews": [True, [42, 42, 42], 1],
        "derived": [True, "value"],
    }
