"""Sessions: concurrent updates beside aiogram's, memory, near reads, lookups, growth.

``make bench`` has them up to 10^5 sessions, ``make growth`` up to 10^6.
"""

# ruff: noqa: S101 - what is timed is checked first

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import redis.asyncio as aredis
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.storage.redis import RedisEventIsolation, RedisStorage
from timing import Effort, figure, ratio, rounds

from oddswire import Client, EmbeddedServer
from oddswire.codec import Keyring
from oddswire.sessions import Collection, Expiring, Record, Sessions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

UPDATES = 50
WATCHERS = 20
SHAPE = (
    "a user name, four preferences, two thresholds, a time zone and three wallets with "
    "an alias each, out of as many wallets as half the users; sealed with AES-256-GCM, "
    "users and wallets hidden in keys; in a server that packs small hashes, as the "
    "embedded one does"
)
FLOORS = {
    "50 updates of one session": "100x",
    "memory of 10,000": "12 MB, linear",
    "near read": "3 us",
    "lookup of 20 among 100,000": "100 us of server time",
}


class Wallet(msgspec.Struct, omit_defaults=True):
    """A wallet that is followed."""

    alias: str = ""
    muted: bool = False


class User(Record):
    """The shape that is measured."""

    username: str = ""
    preferences: dict[str, bool] = {}  # noqa: RUF012 - msgspec copies it
    thresholds: dict[str, float] = {}  # noqa: RUF012 - msgspec copies it
    timezone: str = "UTC"
    wallets: Annotated[dict[str, Wallet], Collection(100, index="wallet")] = {}  # noqa: RUF012
    conversation: Annotated[dict[str, str], Expiring()] = {}  # noqa: RUF012


def fill(number: int, people: int, user: User) -> None:
    """Make one user of the shape."""
    user.username = f"user{number}"
    user.preferences = {"positions": True, "prices": number % 2 == 0, "news": False}
    user.preferences["resolutions"] = True
    user.thresholds = {"position": 100.0 * (number % 7), "change": 0.05}
    user.timezone = "Europe/Oslo"
    for each in range(3):
        wallet = (number * 3 + each * 7919) % max(people // 2, 1)
        user.wallets[address(wallet)] = Wallet(alias=f"whale {each}")


def address(number: int) -> str:
    """Return a wallet."""
    return f"0x{number * 0x9E3779B97F4A7C15 % 2**160:040x}"


async def measure(
    server: EmbeddedServer, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return what the page shows; growth to 10^5 only with full effort."""
    say("sessions: 50 updates of one session")
    found: dict[str, Any] = {"shape": SHAPE}
    found["updates"] = await _updates(server, effort)
    sizes = [1_000, 10_000] if effort.rounds < 9 else [1_000, 10_000, 100_000]
    found["growth"] = [await grow(size, say) for size in sizes]
    return found


# --- concurrent updates


async def _updates(server: EmbeddedServer, effort: Effort) -> dict[str, Any]:
    keyring = Keyring.from_text(Keyring.new_line(1))
    async with (
        Client.from_url(server.url) as client,
        Sessions(client, User, prefix="bench:", keyring=keyring) as sessions,
        aredis.Redis.from_url(server.url) as plain,
    ):
        await sessions.update(1, lambda _: None, create=True)
        aiogram = partial(_aiogram, plain)
        # Its lock is asked for every 100 ms, so that each turn of it takes seconds.
        turns = Effort(3, effort.seconds)
        values = await rounds(
            {"oddswire": partial(_ours, sessions), "aiogram": aiogram}, turns
        )
        await sessions.delete(1)
    return {
        "figures": {
            name: figure([seconds * 1e3 for seconds in each])
            for name, each in values.items()
        },
        "ratio": ratio(values["aiogram"], values["oddswire"]),
    }


async def _ours(sessions: Sessions[User]) -> float:
    def change(number: int, user: User) -> None:
        user.preferences[f"n{number}"] = True

    await sessions.update(1, lambda user: user.preferences.clear())
    started = perf_counter()
    await asyncio.gather(
        *(sessions.update(1, partial(change, number)) for number in range(UPDATES))
    )
    took = perf_counter() - started
    user = await sessions.get(1, fresh=True)
    assert user is not None
    assert len(user.preferences) == UPDATES
    return took


async def _aiogram(plain: aredis.Redis) -> float:
    storage = RedisStorage(plain)
    isolation = RedisEventIsolation(plain)
    key = StorageKey(bot_id=1, chat_id=1, user_id=1)
    await storage.set_data(key, {"n": []})

    async def change(number: int) -> None:
        async with isolation.lock(key):
            data = await storage.get_data(key)
            data["n"].append(number)
            await storage.set_data(key, data)

    started = perf_counter()
    await asyncio.gather(*map(change, range(UPDATES)))
    took = perf_counter() - started
    assert len((await storage.get_data(key))["n"]) == UPDATES
    await plain.delete("fsm:1:1:data")
    return took


# --- growth


async def grow(size: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Fill a server of its own with so many sessions, and measure them."""
    say(f"sessions: {size:,}")
    args = ("--save", "", "--maxmemory-policy", "noeviction")
    async with (
        EmbeddedServer(args=args) as server,
        Client.from_url(server.url) as client,
    ):
        keyring = Keyring.from_text(Keyring.new_line(1))
        sessions = Sessions(client, User, keyring=keyring, cap=size + 10)
        before, started = await _used(client), perf_counter()
        for start in range(0, size, 500):
            await asyncio.gather(
                *(
                    sessions.update(number, partial(fill, number, size), create=True)
                    for number in range(start, min(start + 500, size))
                )
            )
        took, held = perf_counter() - started, await _used(client) - before
        crowd = address(10**9)
        for number in range(WATCHERS):
            await sessions.add_to(number, "wallets", crowd, Wallet())
        assert len(await sessions.users_for("wallet", crowd)) == WATCHERS

        async def save(number: int) -> None:
            await sessions.update(
                number % size, lambda u: u.thresholds.update(change=0.1)
            )

        found = {
            "sessions": size,
            "bytes_each": held / size,
            "megabytes": held / 1e6,
            "created_per_s": size / took,
            "server_us": {
                "lookup": await _server_us(
                    client, lambda _: sessions.users_for("wallet", crowd)
                ),
                # Read and save: two scripts of one session.
                "read and save": await _server_us(client, save),
                "stats": await _server_us(client, lambda _: sessions.stats()),
            },
        }
        if size <= 100_000:
            found["near_us"] = await _near_us(client, keyring, size)
        return found


async def _used(client: Client) -> int:
    return int((await client.info("memory"))["used_memory"])


async def _server_us(client: Client, call: Callable[[int], Awaitable[Any]]) -> float:
    times = []
    for _ in range(5):
        await call(0)
        await client.config_resetstat()
        for number in range(300):
            await call(number)
        stats = await client.info("commandstats")
        evalsha = stats["cmdstat_evalsha"]
        times.append(float(evalsha["usec"]) / float(evalsha["calls"]))
    return figure(times).median


async def _near_us(client: Client, keyring: Keyring, size: int) -> float:
    async with Sessions(client, User, keyring=keyring, cap=size + 10) as sessions:
        while not (await sessions.stats()).local_hits:
            await sessions.get(5)
            await asyncio.sleep(0.01)
        times = []
        for _ in range(9):
            # Nothing is waited for: CPU, so that other processes do not count.
            started = process_time()
            for _ in range(2_000):
                await sessions.get(5)
            times.append((process_time() - started) / 2_000 * 1e6)
        return figure(times).median
