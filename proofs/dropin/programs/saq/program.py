"""saq: jobs through a worker on its Redis queue."""

from __future__ import annotations

import asyncio

from saq import Queue, Worker


async def add(ctx, *, one, two):
    return one + two


async def stubborn(ctx):
    if ctx["job"].attempts < 3:
        raise ValueError("not yet")
    return ctx["job"].attempts


async def sleeps(ctx):
    await asyncio.sleep(30)


async def run(url):
    queue = Queue.from_url(url)
    await queue.connect()
    seen = {}
    worker = Worker(
        queue, functions=[add, stubborn, sleeps], concurrency=5, dequeue_timeout=1
    )
    later = await queue.enqueue("add", one=1, two=2, scheduled=4_000_000_000)
    seen["unique"] = [
        (await queue.enqueue("add", key="k", one=1, two=1, scheduled=4_000_000_000))
        is not None,
        (await queue.enqueue("add", key="k", one=1, two=1)) is None,
    ]
    seen["counts"] = [await queue.count(kind) for kind in ("queued", "incomplete")]
    working = asyncio.create_task(worker.start())
    # Its first sweep takes a job for lost that is enqueued at the same moment.
    await asyncio.sleep(0.5)
    seen["apply"] = await queue.apply("add", one=3, two=4, timeout=10)
    seen["map"] = await queue.map("add", [{"one": n, "two": n} for n in range(20)])
    seen["retried"] = await queue.apply("stubborn", retries=5, retry_delay=0.01)
    job = await queue.enqueue("sleeps", timeout=60)
    while (await queue.job(job.key)).status != "active":
        await asyncio.sleep(0.02)
    await queue.abort(job, "enough")
    await job.refresh(until_complete=10)
    seen["aborted"] = [str(job.status), job.error]
    seen["later"] = str((await queue.job(later.key)).status)
    async with queue.batch():
        batched = await queue.enqueue("add", one=5, two=5)
    await batched.refresh(until_complete=10)
    seen["batched"] = [str(batched.status), batched.result]
    info = await queue.info(jobs=True)
    seen["info"] = [info["active"], info["queued"], len(info["jobs"]) > 0]
    await worker.stop()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await queue.disconnect()
    return seen
