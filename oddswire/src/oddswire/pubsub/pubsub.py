"""`PubSub`: publish to topics, subscribe to them, read what they keep."""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING, Any, Self, TypeVar

from oddswire._numbers import check_duration, check_int, shown
from oddswire.client import keyspace
from oddswire.clock import SystemClock
from oddswire.errors import (
    ClosedError,
    InvalidKey,
    TopicError,
)
from oddswire.pubsub._chain import Head
from oddswire.pubsub._latest import LatestBuffer, read_latest
from oddswire.pubsub._log import LogBuffer, read_log
from oddswire.pubsub._offsets import Offsets
from oddswire.pubsub._publish import publish
from oddswire.pubsub._subscriber import Subscriber
from oddswire.pubsub._topic_state import TopicState
from oddswire.pubsub._volatile import VolatileBuffer
from oddswire.pubsub.consumer import Consumer
from oddswire.pubsub.statistics import PubSubStats
from oddswire.pubsub.subscription import Subscription
from oddswire.pubsub.topic import Delivery, Keyed, Selection, Topic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.events import Events
    from oddswire.pubsub._buffer import Buffer
    from oddswire.pubsub.messages import Gap, Message, Published
    from oddswire.pubsub.topic import Source

T = TypeVar("T")

_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}-[0-9a-f]{16}")
_MOST_QUEUED = 10_000_000


class PubSub:
    """Topics on one server or on a cluster; ``async with``, single use.

    The first subscription opens the subscriber connection; on a cluster, the first one
    to a topic of each node.

    Args:
        client: Publishes and reads; the subscriber connection goes to its server.
        prefix: What every key and channel begins with; None: as its settings say.
        topics: Those that may be used; none: any.
        check_every: Seconds between two readings of the heads of topics; a reading
            finds a loss of the last message.
        clock: For the lag.

    Raises:
        TopicError: Two topics of one name that differ, or what is no topic; or
            `check_every` is not above 0.
    """

    def __init__(
        self,
        client: Client,
        *,
        prefix: str | None = None,
        topics: Iterable[Topic[Any]] = (),
        check_every: float = 4.0,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._space = keyspace(client, prefix)
        self._clock = SystemClock() if clock is None else clock
        check_duration("check_every", check_every, 0.001, inf, TopicError)
        self._check_every = check_every
        self._states: dict[str, TopicState] = {}
        self._subscriptions: set[Subscription[Any]] = set()
        self._subscriber: Subscriber | None = None
        self._open: bool | None = None
        for topic in topics:
            if not isinstance(topic, Topic):
                raise TopicError(f"topics are Topic objects, not {shown(topic)}")
            self._states[topic.name] = self._known(topic) or self._new_state(topic)
        self._topics_fixed = bool(self._states)

    @property
    def events(self) -> Events:
        """Where changes of state are emitted: those of its client."""
        return self._client.events

    async def __aenter__(self) -> Self:
        if self._open is not None:
            raise ClosedError("a PubSub is used once: make another")
        self._open = True
        self._subscriber = Subscriber(self._client, every=self._check_every)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open = False
        for subscription in list(self._subscriptions):
            subscription.close()
        if self._subscriber is not None:
            await self._subscriber.aclose()

    # --- publishing

    async def publish(
        self,
        topic: Topic[T] | Keyed[T],
        value: T,
        *,
        version: int | None = None,
        dedup_id: str | None = None,
    ) -> Published:
        """Publish a value.

        Where a repetition does no harm (a `dedup_id`, a `version`) it is sent again
        when the connection is lost, within the client's timeout.

        Args:
            topic: Where; ``topic[key]`` for one with keys.
            value: Of the topic's type.
            version: LATEST only: it is refused unless it is above the key's present
                one, such as the time the source gives. Default: the server's clock.
            dedup_id: VOLATILE and LOG only: a second publish of this id within the
                topic's `retention` does nothing and returns the first one's id.

        Raises:
            TopicError: The topic, key, version or id is none that can be used.
            CodecError: Not a value of the type, or too large.
            OddswireError: As from any command; with `Outcome.UNKNOWN` it may have been
                published. Cancelled, it may have been too.
        """
        key, state = self._target(topic)
        return await publish(
            self._client, state, key, value, version=version, dedup_id=dedup_id
        )

    # --- subscribing

    def subscribe(
        self,
        *topics: Source[T],
        start: str | float = "latest",
        position: str | None = None,
        queue: int = 1024,
    ) -> Subscription[T]:
        """Return a subscription; entering it fixes where it begins.

        Args:
            *topics: Topics, ``topic[key]``, ``topic.matching("user:*")``.
            start: Of LOG topics: ``"latest"``, ``"earliest"``, the `id` of a message
                to go on after, or a time (seconds since 1970) from which on to read.
                VOLATILE begins with what is published next, LATEST with the newest
                values.
            position: LOG topics only: go on where the reader of this name ended;
                `start` is for its first time. One reader at a time may use a name.
            queue: Messages of each topic that may wait.

        Raises:
            TopicError: An argument is wrong, or a topic is not among the declared ones.
        """
        if not topics:
            raise TopicError("subscribe to at least one topic")
        check_int("queue", queue, 1, _MOST_QUEUED, TopicError)
        chosen = [Selection(topic) for topic in topics]
        names = [each.topic.name for each in chosen]
        if position is not None and len(set(names)) < len(names):
            raise TopicError("with a position, each topic is subscribed to once")
        states = [self._state_of(each.topic) for each in chosen]
        logs = [state.topic.delivery is Delivery.LOG for state in states]
        start_at = _parse_start(start)
        if (start_at is not None or position is not None) and not all(logs):
            raise TopicError(
                "start and position are for LOG topics: nothing else is kept"
            )
        try:
            offsets = (
                None if position is None else Offsets(self._client, states, position)
            )
        except InvalidKey as error:
            raise TopicError(f"position {shown(position)}: {error}") from None

        def buffers(wake: Callable[[], None]) -> list[Buffer]:
            made: list[Buffer] = []
            for state, each in zip(states, chosen, strict=True):
                match state.topic.delivery:
                    case Delivery.LOG:
                        buffer: Buffer = LogBuffer(
                            state,
                            each,
                            wake,
                            client=self._client,
                            queue=queue,
                            start=start_at,
                        )
                    case Delivery.LATEST:
                        buffer = LatestBuffer(state, each, wake, client=self._client)
                    case Delivery.VOLATILE:
                        buffer = VolatileBuffer(state, each, wake, queue=queue)
                made.append(buffer)
            return made

        if self._subscriber is None or not self._open:
            raise ClosedError("enter the PubSub first: async with PubSub(...)")
        return Subscription(self._subscriber, buffers, offsets, self._subscriptions)

    def handle(
        self,
        handler: Callable[[Message[T]], Awaitable[object] | object],
        *topics: Source[T],
        on_gap: Callable[[Gap], Awaitable[object] | object] | None = None,
        on_error: Callable[[Message[T] | Gap, BaseException], object] | None = None,
        concurrency: int = 1,
        timeout: float | None = None,
        start: str | float = "latest",
        position: str | None = None,
        queue: int = 1024,
    ) -> Consumer[T]:
        """Return what calls `handler` with each message while its block is open.

        Args:
            handler: Called with a message; what it returns is awaited if it can be.
            *topics: As for `subscribe`.
            on_gap: Called with each gap, after the messages before it were handled.
            on_error: Called with the event and what its handler raised. An exception
                of its own is only counted.
            concurrency: Handlers that may run at once; messages of one key stay in
                order.
            timeout: Seconds after which a handler is cancelled.
            start: As for `subscribe`.
            position: As for `subscribe`; with it `concurrency` is 1, for a position
                says that everything before it is done.
            queue: As for `subscribe`.

        Raises:
            TopicError: An argument is wrong.
        """
        if position is not None and concurrency != 1:
            raise TopicError("with a position, concurrency is 1")
        return Consumer(
            self.subscribe(*topics, start=start, position=position, queue=queue),
            lambda name: self._states[name].counts,
            handler,
            on_gap=on_gap,
            on_error=on_error,
            concurrency=concurrency,
            timeout=timeout,
        )

    # --- reading what is kept

    async def latest(self, topic: Topic[T]) -> dict[str, T]:
        """Return the newest value of each key of a LATEST topic.

        A value that cannot be read is left out and counted as unreadable.

        Raises:
            TopicError: Another kind of topic.
            OddswireError: As from any command.
        """
        state = self._state_of(topic)
        if state.topic.delivery is not Delivery.LATEST:
            raise TopicError(f"topic {topic.name} is not LATEST: it keeps no values")
        values: dict[str, T] = {}
        for key, value in (await read_latest(self._client, state)).items():
            try:
                values[key.decode()] = state.codec.decode(value.payload)
            except ValueError:  # CodecError is one
                state.counts.unreadable += 1
        return values

    async def history(
        self, topic: Topic[T], *, after: str | None = None, limit: int = 100
    ) -> list[Message[T]]:
        """Return messages that a LOG topic keeps, oldest first.

        It says nothing of what is missing before them; a subscription does.

        Args:
            topic: A LOG topic.
            after: The id of a message; default: from the oldest one kept.
            limit: At most so many.

        Raises:
            TopicError: Another kind of topic, no id, or a limit below 1.
            OddswireError: As from any command.
        """
        state = self._state_of(topic)
        if state.topic.delivery is not Delivery.LOG:
            raise TopicError(f"topic {topic.name} is not LOG: it keeps no messages")
        check_int("limit", limit, 1, _MOST_QUEUED, TopicError)
        if after is not None and not (isinstance(after, str) and _ID.fullmatch(after)):
            raise TopicError(f"{shown(after)} is not the id of a message")
        start = "-" if after is None else f"({after.rpartition('-')[0]}"
        messages: list[Message[T]] = []
        for _, link, _, key, payload in await read_log(
            self._client, state, start, limit
        ):
            message = state.message(link, key, payload)
            if message is not None:
                messages.append(message)
        return messages

    def stats(self) -> PubSubStats:
        """Return what was counted since it was made."""
        subscriber = self._subscriber
        topics = {}
        for name, state in self._states.items():
            buffers = [] if subscriber is None else subscriber.buffers(state)
            topics[name] = state.counts.snapshot(
                subscriptions=len(buffers),
                depth=sum(buffer.depth for buffer in buffers),
            )
        return PubSubStats(
            topics=topics,
            connects=0 if subscriber is None else subscriber.connects,
            refused=0 if subscriber is None else subscriber.refused,
            errors=0 if subscriber is None else subscriber.errors,
        )

    # --- topics

    def _state_of(self, topic: Topic[Any]) -> TopicState:
        if not isinstance(topic, Topic):
            raise TopicError(f"a Topic is needed, not {type(topic).__name__}")
        state = self._known(topic)
        if state is None:
            if self._topics_fixed:
                raise TopicError(
                    f"topic {topic.name} is not among those declared: "
                    f"{', '.join(self._states)}"
                )
            state = self._states[topic.name] = self._new_state(topic)
        return state

    def _known(self, topic: Topic[Any]) -> TopicState | None:
        state = self._states.get(topic.name)
        if state is not None and state.topic is not topic and state.topic != topic:
            raise TopicError(
                f"topic {topic.name} is declared twice and differently: keep one "
                "Topic object for every use"
            )
        return state

    def _new_state(self, topic: Topic[Any]) -> TopicState:
        try:
            return TopicState(topic, self._space, self._clock)
        except TypeError as error:
            raise TopicError(f"topic {topic.name}: {error}") from None

    def _target(self, topic: Topic[Any] | Keyed[Any]) -> tuple[bytes, TopicState]:
        if isinstance(topic, Keyed):
            return topic.key.encode(), self._state_of(topic.topic)
        return b"", self._state_of(topic)


def _parse_start(start: str | float) -> Head | bytes | None:
    match start:
        case "latest":
            return None
        case "earliest":
            return b"-"
        case str() if _ID.fullmatch(start):
            return Head(-1, start.encode(), b"")
        case int() | float() if 0 <= start < 1e13:
            return b"%d-0" % round(start * 1000)
    raise TopicError(
        f"start is 'latest', 'earliest', the id of a message or a time in seconds, "
        f"not {shown(start)}"
    )
