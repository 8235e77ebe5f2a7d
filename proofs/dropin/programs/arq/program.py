"""arq: jobs through a worker, on the pool that `create_pool` makes."""

from __future__ import annotations

from arq import Retry, create_pool, cron
from arq.connections import RedisSettings
from arq.jobs import Job
from arq.worker import Worker

ran: list[str] = []


async def add(ctx, one, two):
    ran.append("add")
    return one + two


async def stubborn(ctx):
    if ctx["job_try"] < 3:
        raise Retry(defer=0.01)
    return ctx["job_try"]


async def breaks(ctx):
    raise ValueError("broken")


async def clock(ctx):
    ran.append("clock")


async def run(url):
    pool = await create_pool(RedisSettings.from_dsn(url))
    seen = {}
    jobs = [await pool.enqueue_job("add", n, 1) for n in range(20)]
    tried = await pool.enqueue_job("stubborn")
    broken = await pool.enqueue_job("breaks")
    once = await pool.enqueue_job("add", 1, 1, _job_id="once")
    seen["a second job of one id"] = await pool.enqueue_job("add", 1, 1, _job_id="once")
    later = await pool.enqueue_job("add", 1, 1, _defer_by=3600, _queue_name="later")
    seen["queued"] = len(await pool.queued_jobs())
    seen["status before"] = [str(await job.status()) for job in (once, later)]
    worker = Worker(
        functions=[add, stubborn, breaks],
        redis_pool=pool,
        burst=True,
        poll_delay=0.02,
        max_jobs=10,
        handle_signals=False,
    )
    await worker.main()
    seen["done"] = [worker.jobs_complete, worker.jobs_failed, worker.jobs_retried]
    seen["results"] = [await job.result(timeout=5) for job in jobs]
    seen["retried"] = await tried.result(timeout=5)
    try:
        await broken.result(timeout=5)
    except ValueError as error:
        seen["failed"] = repr(error)
    seen["status after"] = [str(await job.status()) for job in (once, later)]
    seen["unknown"] = str(await Job("nobody", pool).status())
    seen["all results"] = len(await pool.all_job_results())
    seconds = set(range(60))
    ticking = Worker(
        cron_jobs=[cron(clock, second=seconds, run_at_startup=True, max_tries=1)],
        redis_pool=pool,
        queue_name="ticking",
        burst=True,
        poll_delay=0.02,
        handle_signals=False,
        max_burst_jobs=1,
    )
    await ticking.main()
    seen["cron"] = "clock" in ran
    await pool.aclose()
    return seen
