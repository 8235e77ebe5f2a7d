"""From Telegram to the commands, by way of a durable queue.

1. `Poller` asks for updates, in one process of all, or a webhook is given them.
2. `UpdateQueue.put` has each in Redis before Telegram is told that we have it.
3. `UpdateQueue.run`, in any process, hands each to the dispatcher: those of one person
   one after the other, in their order.

A process that is killed between two of these steps does the step again, and so the
same update may come to a handler twice: what it brings about has the same id each time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from aiogram.exceptions import TelegramAPIError
from aiogram.types import Update

from oddsbot.telegram.api import Conflict, TelegramAway
from oddswire.connection.backoff import OutageBackoff
from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.errors import CommandRejected, LockLost
from oddswire.keys import Family, KeySpace
from oddswire.logs import LogLines
from oddswire.queue import QueueKey
from oddswire.ratelimit import Rule, SlidingWindow, TokenBucket

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiogram import Bot, Dispatcher

    from oddsbot.telegram.api import UpdatesApi
    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.locks import Locks
    from oddswire.queue import Message, Queue
    from oddswire.ratelimit import RateLimiter

_log = logging.getLogger("oddsbot.telegram")
_NOTICE = Rule("commands.notice", SlidingWindow(1, 60.0), key="user")
_TOO_FAST = (
    "That was too much at once: I answer {} things a minute. What you sent now is "
    "lost; go on in a minute."
)
_ADMITTED = Family("update_admitted", int, int)
_REMEMBERED = 3_600
POLLING = "telegram.polling"
"""The lock of the process that asks for updates."""
_LOCK_TTL = 10.0
_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_CONFLICT_PAUSE = 5.0
_LOOK_AGAIN = 30.0
_REPLICA_MS = 1_000
# Telegram's own, anonymous admins, channels: these are of many chats, and of no person.
_EVERYBODY = frozenset({777_000, 1_087_968_824, 136_817_688})
_MORE = 16  # handlers at the same time, each of another person


class Received(msgspec.Struct, frozen=True):
    """An update as Telegram sent it.

    Attributes:
        body: In JSON.
        flood: Instead of it: the person who asked for too much, and is answered that.
        at: When it was put into the queue, Unix seconds.
    """

    body: str
    flood: int = 0
    at: float = 0.0


UPDATES = QueueKey("updates", Received, retry_base=0.2, retry_cap=10.0, max_attempts=50)
"""By person; see `line_of`."""


class BadUpdate(ValueError):
    """It is no update of the Bot API."""


class UpdateQueue:
    """Updates, durable before they are confirmed, each handled at least once.

    Args:
        queue: Of `UPDATES`.
        dispatcher: Handles them.
        bot: Whose they are.
        limiter: Counts what a person asks for.
        rules: How much that may be; their key is ``user``.
        prefix: What the keys of this part begin with.
        clock: Tells when an update came.
    """

    def __init__(
        self,
        queue: Queue[Received],
        dispatcher: Dispatcher,
        bot: Bot,
        limiter: RateLimiter,
        rules: Sequence[Rule],
        prefix: str,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._keys = KeySpace(prefix)
        limiter.add(*rules, _NOTICE)
        self._limiter = limiter
        self._rules = [rule.name for rule in rules]
        self._a_minute = a_minute(rules)
        self._queue = queue
        self._dispatcher = dispatcher
        self._bot = bot
        self._lines = LogLines(_log)

    async def put(self, body: str) -> int:
        """Put one in; when it returns, the server has it, and once.

        An update of somebody who asks for too much is dropped here, before it costs a
        place in the queue; once a minute she is answered that it was. So is what people
        say to each other in a group: there the bot answers commands alone.

        Returns:
            The update's id.

        Raises:
            BadUpdate: It is none; nothing was kept.
            OddswireError: It may or may not be kept; the same one may be put again.
        """
        update_id, update = _read(body)
        if _is_talk(update):
            return update_id
        person = _who(update)
        received = Received(body, at=self._clock.now())
        if person and not await self._admits(update_id, person):
            subject = f"{self._bot.id}:{person}"
            told = await self._limiter.hit(_NOTICE.name, user=subject)
            if not told or person < 0:
                return update_id  # a group is told nothing: most of it is not for us
            received = Received("", flood=person)
        await self._queue.enqueue(line_of(update), received, dedup_id=f"u{update_id}")
        return update_id

    async def put_all(self, bodies: Sequence[str]) -> int:
        """Put some in, those of one person in their order; return the last id.

        One that cannot be read is left out, and logged: it would come for ever.

        Raises:
            OddswireError: Some may be kept; the same ones may be put again.
        """
        lines: dict[int, list[str]] = {}
        last = -1
        for body in bodies:
            try:
                update_id, update = _read(body)
            except BadUpdate as error:
                self._lines.write(logging.WARNING, "update_unreadable", reason=error)
            else:
                last = max(last, update_id)
                lines.setdefault(line_of(update), []).append(body)

        async def put(line: Sequence[str]) -> None:
            for body in line:
                await self.put(body)

        # The lines together: a batch costs as many trips to Redis as one update.
        await asyncio.gather(*map(put, lines.values()))
        return last

    async def _admits(self, update_id: int, person: int) -> bool:
        """Return whether an update is within its person's limit.

        Telegram may hand the same update out again, after a kill or because it wants
        to: it is counted once, and what was decided of it stays.
        """
        key = self._keys.key(_ADMITTED, self._bot.id, update_id)
        client = self._queue.client
        subject = f"{self._bot.id}:{person}"
        # Noted as admitted while it is counted, in one trip: killed after it, it is
        # admitted.
        decided, hit = await asyncio.gather(
            client.set(key, "1", ex=_REMEMBERED, nx=True, get=True),
            self._limiter.hit(*self._rules, user=subject),
        )
        if decided is not None:
            await self._limiter.refund(hit)
            return decided in (b"1", "1")
        if not hit:
            await client.set(key, "0", ex=_REMEMBERED)
        return bool(hit)

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Handle updates until `stop` is set; what is being handled is finished.

        Cancelled, what is being handled comes again to another process.

        Raises:
            OddswireError: A refusal that waiting does not mend.
        """
        await self._queue.consume(self._handle, concurrency=_MORE, stop=stop)

    async def _handle(self, message: Message[Received]) -> None:
        if message.value.flood:
            with suppress(TelegramAPIError):
                text = _TOO_FAST.format(self._a_minute)
                await self._bot.send_message(message.value.flood, text)
            return
        try:
            update = Update.model_validate_json(
                message.value.body, context={"bot": self._bot}
            )
        except ValueError as error:
            # A form that is newer than aiogram: no other attempt reads it better.
            self._lines.write(
                logging.WARNING, "update_unreadable", reason=type(error).__name__
            )
            return
        put_at = message.value.at or None
        await self._dispatcher.feed_update(self._bot, update, put_at=put_at)


def a_minute(rules: Sequence[Rule]) -> int:
    """Return what a person may ask for in a minute, by the first rule.

    Raises:
        TypeError: It counts by something else than a window or a bucket.
    """
    match rules[0].limit:
        case SlidingWindow(most, per):
            return int(most * 60 / per)
        case TokenBucket(rate, _):
            return int(rate * 60)
    raise TypeError("what a person asks for is counted by a window or a bucket")


def _read(body: str) -> tuple[int, dict[str, Any]]:
    """Return an update's id, and the update."""
    try:
        update: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadUpdate("an update is an object of JSON") from error
    number = update.get("update_id") if isinstance(update, dict) else None
    if type(number) is not int or not 0 <= number < 2**63:
        raise BadUpdate("an update has an update_id, a whole number")
    return number, update


def line_of(update: Mapping[str, Any]) -> int:
    """Return the line of an update: its person's, else its chat's, else one of all.

    The number is a hash: who erases a person neither finds nor removes the line in
    which that very request is being handled.
    """
    digest = hashlib.sha256(f"line:{_who(update)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _who(update: Mapping[str, Any]) -> int:
    """Return the person of an update, else its chat, else 0.

    What is said in a group is the group's: the commands that a person gives to other
    bots there are none of what she asks for here.
    """
    for content in update.values():
        if isinstance(content, dict):
            chat = _chat_of(content)
            people = content.get("from"), content.get("user"), chat
            for each in (chat, *people) if _is_group(chat) else people:
                number: Any = each.get("id") if isinstance(each, dict) else None
                fits = type(number) is int and -(2**63) <= number < 2**63
                if fits and number not in _EVERYBODY:
                    return int(number)
    return 0


def _chat_of(content: Mapping[str, Any]) -> Any:
    message = content.get("message")
    return content.get("chat") or (
        message.get("chat") if isinstance(message, dict) else None
    )


def _is_group(chat: Any) -> bool:
    number = chat.get("id") if isinstance(chat, dict) else None
    return type(number) is int and number < 0


def _is_talk(update: Mapping[str, Any]) -> bool:
    """Return whether an update is a message of a group that is no command."""
    message = update.get("message")
    if not isinstance(message, dict) or not _is_group(message.get("chat")):
        return False
    text = message.get("text")
    return not (isinstance(text, str) and text.startswith("/"))


class Replicas:
    """Waits until a replica has what was written, where there is one.

    A write that the primary acknowledged is lost with it in a failover. A replica that
    does not come after is waited for a second: then the bot goes on, and says so.

    Args:
        client: Whose writes.
        clock: Tells when to look again whether there are replicas.
    """

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._lines = LogLines(_log)
        self._there = False
        self._looked = -_LOOK_AGAIN

    async def wait(self) -> None:
        """Wait until one replica has every write that was answered so far.

        Raises:
            OddswireError: Redis could not be asked.
        """
        now = self._clock.monotonic()
        if now - self._looked >= _LOOK_AGAIN:
            self._there = await self._has_replicas()
            self._looked = now
        if self._there and not await self._client.wait(1, _REPLICA_MS):
            self._looked = now - _LOOK_AGAIN
            self._lines.write(
                logging.WARNING,
                "updates_unreplicated",
                reason="no replica of Redis has them yet; a failover now loses them",
            )

    async def _has_replicas(self) -> bool:
        try:
            found = await self._client.info("replication")
        except CommandRejected:
            return False  # a hosted server that does not say
        return int(found.get("connected_slaves", 0)) > 0


class Poller:
    """Asks for updates, in one process of all that run it.

    Args:
        api: Where.
        updates: What gets them.
        replicas: Waited for before updates are confirmed.
        locks: Decide which process asks.
        clock: Sleeps between tries.
    """

    def __init__(
        self,
        api: UpdatesApi,
        updates: UpdateQueue,
        replicas: Replicas,
        locks: Locks,
        clock: Clock,
    ) -> None:
        self._api = api
        self._updates = updates
        self._replicas = replicas
        self._locks = locks
        self._clock = clock
        self._lines = LogLines(_log)

    async def run(self) -> None:
        """Poll until cancelled; an update that was not confirmed comes again.

        Raises:
            ApiError: The token is not valid.
            OddswireError: A refusal of Redis that waiting does not mend.
        """
        outage = OutageBackoff()
        while True:
            try:
                async with self._locks.lock(POLLING, _LOCK_TTL):
                    outage.over()
                    await self._poll()
            except LockLost:
                self._lines.write(
                    logging.WARNING,
                    "polling_lost",
                    reason="another process polls Telegram now, this one stands by",
                )
            except TRANSIENT_ERRORS as error:
                await outage.wait(error)

    async def _poll(self) -> None:
        offset = 0
        pause = _PAUSE
        told = False
        while True:
            try:
                bodies = await self._api.get_updates(offset)
            except Conflict as error:
                if not told:
                    self._lines.write(
                        logging.WARNING,
                        "polling_conflict",
                        reason=f"{error}; waiting for it to stop",
                    )
                told = True
                await self._clock.sleep(_CONFLICT_PAUSE)
                continue
            except TelegramAway as error:
                self._lines.write(logging.WARNING, "telegram_away", reason=error)
                await self._clock.sleep(error.retry_after or pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause, told = _PAUSE, False
            if bodies:
                # Not the highest of all: after a week without updates Telegram numbers
                # them from anywhere, and what is not confirmed comes for ever.
                offset = await self._take(bodies) or offset

    async def _take(self, bodies: Sequence[str]) -> int:
        """Put updates in, through outages; return the offset that confirms them.

        0: none could be read.
        """
        outage = OutageBackoff()
        while True:
            try:
                last = await self._updates.put_all(bodies)
                await self._replicas.wait()
            except TRANSIENT_ERRORS as error:
                await outage.wait(error)
            else:
                return last + 1
