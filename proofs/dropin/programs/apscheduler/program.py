"""APScheduler 4: events between schedulers through Redis."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

import redis.asyncio
from apscheduler import AsyncScheduler, JobReleased, ScheduleAdded
from apscheduler.eventbrokers.redis import RedisEventBroker

ran = []


async def tick(value):
    ran.append(value)
    return value * 2


async def until(what):
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.02)


async def between(one, other):
    """Return what a broker hears of another's events."""
    heard = []
    log = logging.getLogger("program")
    async with AsyncExitStack() as stack:
        for broker in (one, other):
            await broker.start(stack, log)
        other.subscribe(lambda event: heard.append(event.schedule_id), {ScheduleAdded})
        for n in range(20):
            await one.publish(
                ScheduleAdded(schedule_id=f"s{n}", task_id="t", next_fire_time=None)
            )
        await until(lambda: len(heard) == 20)
    return heard


async def run(url):
    client = redis.asyncio.Redis.from_url(url)
    options = {"stop_check_interval": 0.2}
    seen = {
        "by URL": await between(
            *(RedisEventBroker(url, channel="u", **options) for _ in range(2))
        ),
        "by client": await between(
            *(RedisEventBroker(client, channel="c", **options) for _ in range(2))
        ),
    }
    released = []
    broker = RedisEventBroker(client, channel="s", **options)
    async with AsyncScheduler(event_broker=broker) as scheduler:
        scheduler.subscribe(
            lambda event: released.append(str(event.outcome)), {JobReleased}
        )
        await scheduler.start_in_background()
        for n in range(5):
            await scheduler.add_job(tick, args=[n])
        await until(lambda: len(released) == 5)
        seen["result"] = await scheduler.run_job(tick, args=[21])
    seen["jobs"] = [sorted(ran), released[:5]]
    await client.aclose()
    return seen
