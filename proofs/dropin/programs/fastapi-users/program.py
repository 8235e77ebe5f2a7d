"""fastapi-users: access tokens in Redis."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace

import redis.asyncio
from fastapi_users import exceptions
from fastapi_users.authentication import RedisStrategy


class Manager:
    """As much of a user manager as the strategy asks for."""

    def __init__(self, *users):
        self.users = {user.id: user for user in users}

    def parse_id(self, value):
        try:
            return uuid.UUID(value)
        except ValueError as error:
            raise exceptions.InvalidID from error

    async def get(self, user_id):
        try:
            return self.users[user_id]
        except KeyError as error:
            raise exceptions.UserNotExists from error


async def run(url):
    client = redis.asyncio.Redis.from_url(url, decode_responses=True)
    users = [SimpleNamespace(id=uuid.uuid4(), name=f"u{n}") for n in range(20)]
    gone = SimpleNamespace(id=uuid.uuid4())
    manager = Manager(*users)
    strategy = RedisStrategy(client, lifetime_seconds=100)
    tokens = await asyncio.gather(*(strategy.write_token(user) for user in users))
    read = await asyncio.gather(*(strategy.read_token(t, manager) for t in tokens))
    seen = {"read": [user.name for user in read]}
    key = f"fastapi_users_token:{tokens[0]}"
    seen["lifetime"] = await client.ttl(key) in range(60, 101)
    await client.set("fastapi_users_token:odd", "no id")
    lost = await strategy.write_token(gone)
    seen["none"] = [
        await strategy.read_token(token, manager) for token in (None, "x", "odd", lost)
    ]
    await strategy.destroy_token(tokens[0], users[0])
    seen["destroyed"] = await strategy.read_token(tokens[0], manager)
    lasting = RedisStrategy(client, key_prefix="other:")
    token = await lasting.write_token(users[1])
    seen["for ever"] = await client.ttl(f"other:{token}")
    await client.aclose()
    return seen
