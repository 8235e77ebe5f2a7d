"""``oddsbot users``: what an operator does for a person who asks for it."""

from __future__ import annotations

import json
import stat
from decimal import Decimal

import pytest

from oddsbot.alerts import Direction, PriceRule
from oddsbot.app import App
from oddsbot.settings import Settings
from oddsbot.store import FollowedTag, SqlTags, open_database
from oddswire.clock import SystemClock

from .test_cli import TOKEN, one_line

ADA = 1001


@pytest.mark.integration
@pytest.mark.requirement("B2", "S9")
async def test_a_person_is_exported_and_erased(tmp_path, own, oddsbot):
    """Her file has what she asked for, and is the operator's alone; then it is gone."""
    environ = {
        "ODDSWIRE_PROFILE": "test",
        "REDIS_URL": own.url,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'bot.db'}",
        "TELEGRAM_BOT_TOKEN": TOKEN,
    }
    rule = PriceRule(
        id="00000000000000aa",
        user_id=ADA,
        market="0xc7",
        asset_id="71",
        direction=Direction.ABOVE,
        level=Decimal("0.7"),
    )
    settings = Settings.from_env(environ, dotenv=None)
    async with App(settings, TOKEN, clock=SystemClock()) as app:
        await app.sessions.update(
            ADA,
            lambda user: user.tags.update(crypto=FollowedTag()),
            create=True,
            also=app.tags.follow(ADA, "crypto"),
        )
        await app.rules.add(rule)

    async def users(*args):
        return await oddsbot("users", *args, str(ADA), **environ)

    async def exported():
        code, out, err = await users("export")
        assert code == 0, err
        return tmp_path / out.strip()

    file = await exported()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    made = json.loads(file.read_text())
    assert [each["asked"]["id"] for each in made["alerts"]] == [rule.id]
    assert made["settings"]["tags"] == {"crypto": {}}
    code, _, err = await users("erase")
    assert (code, "give --yes" in one_line(err)) == (2, True)
    code, out, err = await users("erase", "--yes")
    assert code == 0, err
    assert out.count(", 0 left\n") == len(out.splitlines())
    assert "sessions: 0 removed" not in out
    made = json.loads((await exported()).read_text())
    assert (made["settings"], made["alerts"]) == (None, [])
    async with open_database(environ["DATABASE_URL"]) as engine:
        assert await SqlTags(engine).listings() == {}
