"""taskiq-redis: tasks through its list and stream brokers, with its result backend."""

from __future__ import annotations

import asyncio
import datetime as dt

from taskiq import ScheduledTask
from taskiq.api import run_receiver_task
from taskiq_redis import (
    ListQueueBroker,
    ListRedisScheduleSource,
    PubSubBroker,
    RedisAsyncResultBackend,
    RedisStreamBroker,
)


async def through(broker, *, is_worker_wait=0.0):
    @broker.task
    async def double(value: int) -> int:
        return value * 2

    @broker.task
    async def breaks() -> None:
        raise ValueError("broken")

    broker.is_worker_process = True
    await broker.startup()
    receiver = asyncio.create_task(run_receiver_task(broker, run_startup=False))
    await asyncio.sleep(is_worker_wait)
    tasks = await asyncio.gather(*(double.kiq(n) for n in range(40)))
    results = await asyncio.gather(*(task.wait_result(timeout=20) for task in tasks))
    failed = await (await breaks.kiq()).wait_result(timeout=20)
    receiver.cancel()
    await asyncio.gather(receiver, return_exceptions=True)
    await broker.shutdown()
    return [[each.return_value for each in results], failed.is_err, repr(failed.error)]


async def run(url):
    seen = {}
    for kind in (ListQueueBroker, RedisStreamBroker, PubSubBroker):
        broker = kind(url, queue_name=kind.__name__).with_result_backend(
            RedisAsyncResultBackend(url, result_ex_time=60)
        )
        wait = 1.0 if kind is PubSubBroker else 0.0
        seen[kind.__name__] = await through(broker, is_worker_wait=wait)
    source = ListRedisScheduleSource(url)
    await source.startup()
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    common = {"task_name": "t", "labels": {}, "args": [], "kwargs": {}}
    for name, when in (("cron", {"cron": "* * * * *"}), ("once", {"time": past})):
        await source.add_schedule(ScheduledTask(**common, schedule_id=name, **when))
    found = await source.get_schedules()
    seen["schedules"] = sorted(each.schedule_id for each in found)
    await source.delete_schedule("cron")
    seen["deleted"] = [each.schedule_id for each in await source.get_schedules()]
    await source.shutdown()
    return seen
