"""A run of the demo: opens everything, plays, drains, compares, closes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NoReturn

import aiohttp
import msgspec

from oddsbot.delivery import ALERTS
from oddsbot.limits import POLYMARKET
from oddsbot.polymarket import Gamma
from oddsbot.standin.polymarket import Recording, Replay
from oddsbot.store import SqlSource, open_database, upgrade
from oddsbot.watch import TOPICS
from oddswire import EmbeddedServer, connect
from oddswire.embedded import EmbeddedCluster
from oddswire.errors import OddswireError
from oddswire.sessions import SourceRecord

from . import cast, checker
from .report import Check, Feed, Latency, OutboxState, Recorded, RedisUse, Report
from .stage import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from sqlalchemy.ext.asyncio import AsyncEngine

    from oddsbot.polymarket import Silence
    from oddswire import Settings
    from oddswire.queue import QueueStats

    from .options import Options

# For what is under way when the playing is over: longer than a restart takes.
_DRAIN_SECONDS = 20.0
_MARK_AGAIN = 0.2

# A trade of nothing: it carries a time and no price.
_MARK = (
    '{{"event_type":"last_trade_price","market":"mark","asset_id":"mark",'
    '"timestamp":"{at}","price":"0.5"}}'
)


async def run(
    options: Options,
    settings: Settings,
    *,
    stop: asyncio.Event,
    write: Callable[[str], object],
    view: Callable[[Stage], Coroutine[Any, Any, object]] | None = None,
    silence: Silence | None = None,
) -> Report:
    """Play a recording to three users and say what came of it.

    Args:
        options: What to play, and how.
        settings: Of the Redis layer; where the server is, the demo decides.
        stop: When it is set, the playing ends, what was found is delivered, and the
            report is made of that part.
        write: Takes each line that the stand-in chat prints.
        view: Runs beside the playing and is cancelled at its end.
        silence: When the feed's is asked about; None: as in the bot.

    Raises:
        ReplayError: The recording cannot be used, or the port cannot be opened.
        EmbeddedFailed: The server cannot start, or not start again.
        OddswireError: A refusal of the server that waiting does not mend.
    """
    recording = await asyncio.to_thread(Recording.load, options.recording)
    until = options.until(recording)
    try:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            replay = await enter(
                Replay(recording, speed=options.speed, port=options.port, until=until)
            )
            server, url = await enter(own_redis(options, settings.server_bin))
            wire = await enter(
                connect(
                    own_server(settings, url),
                    topics=TOPICS,
                    rules=POLYMARKET,
                    queues=[ALERTS],
                )
            )
            engine = await enter(_own_database())
            session = await enter(aiohttp.ClientSession())
            gamma = Gamma(session, replay.gamma_url)
            markets = await gamma.markets_by_condition(*recording.markets)
            stage = Stage(
                server,
                replay,
                wire,
                engine,
                session,
                gamma,
                markets=list(markets.values()),
                until=until,
                write=write,
                silence=silence,
            )
            return await _Run(options, stage, stop).play(view)
    except BaseExceptionGroup as group:
        raise _first(group) from group


@contextlib.asynccontextmanager
async def own_redis(
    options: Options, binary: str | None
) -> AsyncIterator[tuple[EmbeddedServer, str]]:
    """Start Redis; yield the server that may be killed meanwhile, and the URL.

    Of a cluster it is one of three primaries, and the URL names all of them.
    """
    # With everysec a reply may leave before its write is in the file, and a killed
    # server takes an acknowledged update or alert with it.
    args: tuple[str, ...] = ("--appendfsync", "always")
    if options.cluster:
        args = ("--appendonly", "yes", *args)
        async with EmbeddedCluster(primaries=3, args=args, binary=binary) as cluster:
            yield cluster.primaries[0], cluster.cluster_url
        return
    async with EmbeddedServer(
        data_dir=options.data_dir, aof=True, args=args, binary=binary
    ) as server:
        yield server, server.url


@contextlib.asynccontextmanager
async def _own_database() -> AsyncIterator[AsyncEngine]:
    """Hold a database that knows the demo's users, and ends with the run.

    A recording begins again in the past. So nothing of an earlier run is due any more,
    although the queue may still have messages of it.
    """
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="oddsbot-")
    try:
        async with open_database(f"sqlite:///{folder.name}/demo.db") as engine:
            await upgrade(engine)
            source = SqlSource(engine)
            for user_id in cast.PEOPLE:
                await source.save(_person(user_id), 0)
            yield engine
    finally:
        await asyncio.to_thread(folder.cleanup)


def _person(user_id: int) -> SourceRecord:
    return SourceRecord(
        user_id=user_id, version=1, schema=1, created=0, active=0, on=True, data=b""
    )


def own_server(settings: Settings, url: str) -> Settings:
    """Return settings of the Redis layer for a server of the demo's own."""
    return msgspec.structs.replace(
        settings, url=url, cache_url=None, username=None, password=None, database=None
    )


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Run:
    def __init__(
        self,
        options: Options,
        stage: Stage,
        stop: asyncio.Event,
    ) -> None:
        self._options = options
        self._stage = stage
        self._stop = stop

    async def play(
        self, view: Callable[[Stage], Coroutine[Any, Any, object]] | None
    ) -> Report:
        stage = self._stage
        async with stage.feed, _logged_to(stage.errors), asyncio.TaskGroup() as tasks:
            for rule in stage.rules:
                await stage.stored.save(rule)
            watching = tasks.create_task(stage.shard.run(), name="watch")
            others = [
                tasks.create_task(coroutine, name=name)
                for name, coroutine in (
                    ("keep the server running", self._keep_running()),
                    ("outbox", stage.outbox.run()),
                    ("courier", stage.courier.run()),
                    ("print", self._print()),
                    ("topics", stage.topics.run()),
                    ("polls", stage.polls.run()),
                    ("reports", stage.reports.run()),
                    *([("view", view(stage))] if view is not None else []),
                )
            ]
            began = stage.clock.monotonic()
            interrupted = await self._stopped_during(self._perform())
            drained = await self._drain(watching)
            seconds = stage.clock.monotonic() - began
            for task in others:
                task.cancel()
        return await self._report(seconds, interrupted=interrupted, drained=drained)

    async def _keep_running(self) -> NoReturn:
        while True:
            await self._stage.server.wait_exit()
            self._stage.restarts += 1
            await self._stage.server.restart()

    async def _print(self) -> None:
        await self._stage.closed

    async def _perform(self) -> None:
        """Play the recording and return when the shard has seen all of it."""
        replay, shard = self._stage.replay, self._stage.shard
        # Who subscribes later misses how the prices were at first, and so does a rule
        # that nobody has begun to judge.
        await replay.wait_subscribed(*self._stage.outcomes)
        await shard.judging.wait()
        replay.start()
        await replay.finished()
        end = self._stage.until + 1
        while shard.seen_until < end:
            # A mark on the same road as the events cannot overtake them; a connection
            # that is being made anew loses it, so it is sent until it was seen.
            await replay.inject(_MARK.format(at=end))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MARK_AGAIN):
                    await shard.wait_seen(end)

    async def _stopped_during(self, work: Coroutine[Any, Any, None]) -> bool:
        """Wait for `work` or for the stop; True if the stop came first."""
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(work)
            stopping = tasks.create_task(self._stop.wait())
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopped = not working.done()
            working.cancel()
            stopping.cancel()
        return stopped

    async def _drain(self, watching: asyncio.Task[None]) -> bool:
        """Deliver what was found; False if that took too long."""
        stage = self._stage
        stage.shard.stop()
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await asyncio.wait([watching])
                await stage.outbox.wait_queued()
                await stage.courier.wait_empty()
                await stage.topics.resolutions.wait_published()
        except TimeoutError:
            return False
        finally:
            watching.cancel()
        return True

    async def _report(
        self, seconds: float, *, interrupted: bool, drained: bool
    ) -> Report:
        stage, options = self._stage, self._options
        recording, counters = stage.replay.recording, stage.feed.counters.streams
        used = stage.client.stats()
        told = Counter(cast.PEOPLE[one.user] for one in stage.told)
        # Where the reading was stopped, other events of that very moment may have been
        # on their way: the check ends before it.
        end = stage.shard.seen_until if interrupted else stage.until + 1
        quantile = stage.courier.latency.quantile
        return Report(
            interrupted=interrupted,
            seconds=seconds,
            speed=options.speed if math.isfinite(options.speed) else None,
            recording=Recorded(
                name=options.recording.name,
                markets=len(recording.markets),
                skipped_lines=recording.skipped,
                first_skipped=recording.first_skipped,
                warning=recording.warning,
                seconds_played=max(0, end - 1 - recording.start) / 1000,
            ),
            feed=Feed(
                frames=counters.frames,
                bad_frames=counters.bad_frames,
                skipped_events=counters.skipped.total(),
                ticks=stage.shard.ticks,
                reconnects=counters.reconnects,
                gaps=stage.feed.counters.gaps,
            ),
            alerts={name: told[name] for name in cast.PEOPLE.values()},
            latency_ms=Latency(
                p50=_ms(quantile(0.5)),
                p99=_ms(quantile(0.99)),
                max=_ms(stage.courier.latency.max),
            ),
            redis=RedisUse(
                commands=used.total,
                restarts=stage.restarts,
                reconnects=used.connects - 1,
                price_writes=stage.topics.prices.writes,
            ),
            outbox=await self._outbox_state(),
            check=await self._check(end, drained=drained),
        )

    async def _outbox_state(self) -> OutboxState:
        stage = self._stage
        left: QueueStats | None = None
        # Without an answer the report says so; it is not the end of it.
        with contextlib.suppress(OddswireError):
            left = await stage.queue.stats()
        return OutboxState(
            pending=left.leased if left else None,
            lag=left.depth - left.leased if left else None,
            dead_letters=left.dead_letters if left else None,
            repeats_prevented=stage.queue.counts.duplicates,
        )

    async def _check(self, end: int, *, drained: bool) -> Check:
        stage = self._stage
        rules = cast.for_checker(stage.rules, stage.markets)
        wanted = await asyncio.to_thread(
            checker.expected,
            self._options.recording,
            rules,
            stage.followers,
            until=end - 1,
        )
        # What nobody could see cannot be asked for, and what is seen late looks
        # different: after a gap only order and repetition are judged.
        counters = stage.feed.counters
        complete = counters.streams.reconnects == counters.gaps == 0
        told = [one for one in stage.told if one.at < end]
        verdict = checker.compare(wanted, told, complete=complete)
        told_twice = [one for one in verdict.unexpected if one in set(wanted)]
        wrong = (
            [verdict.missing, verdict.unexpected, verdict.out_of_order]
            if complete
            else [told_twice, verdict.out_of_order]
        )
        return Check(
            agrees=drained and not any(wrong),
            complete=complete,
            expected=len(wanted),
            missing=_lines(verdict.missing),
            unexpected=_lines(verdict.unexpected),
            out_of_order=_lines(verdict.out_of_order),
            drained=drained,
        )


@contextlib.asynccontextmanager
async def _logged_to(handler: logging.Handler) -> AsyncIterator[None]:
    logger = logging.getLogger("oddsbot")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _lines(told: list[checker.Told]) -> list[str]:
    return [f"{cast.PEOPLE[one.user]}: {one.name} at {one.at}" for one in told]
