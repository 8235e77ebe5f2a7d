"""Counts of topics: plain integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from oddswire.counters import Histogram, HistogramSnapshot

if TYPE_CHECKING:
    from oddswire.pubsub.messages import GapReason

LAG_BUCKETS = (
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 60.0, 600.0,
)  # fmt: skip


class TopicStats(msgspec.Struct, frozen=True, kw_only=True):
    """One topic, since the `PubSub` was made; of this process alone.

    Attributes:
        published: Messages that the server took.
        duplicates: Publishes whose `dedup_id` was known, and messages that came twice
            to a subscription and were passed on once.
        outdated: Publishes and arrivals of a version that was not newer.
        delivered: Messages that subscriptions yielded.
        dropped: Messages that left a full queue: of VOLATILE lost and announced, of LOG
            read again from the log.
        conflated: Values that a newer one replaced before they were read.
        unreadable: Messages that are no value of the type, announced as gaps.
        foreign: What came on the channel and was published by something else.
        gaps: Gaps that subscriptions yielded, by reason.
        recoveries: Times that a subscription read from the server what it missed.
        recovered: Messages read in this way.
        handled: Messages that handlers finished.
        handler_errors: Handlers that raised, hung or were cancelled from within.
        subscriptions: Open now.
        depth: Messages that wait in their queues now.
        lag: Seconds from the publish, by the server's clock, to the delivery, by ours.
    """

    published: int
    duplicates: int
    outdated: int
    delivered: int
    dropped: int
    conflated: int
    unreadable: int
    foreign: int
    gaps: dict[str, int]
    recoveries: int
    recovered: int
    handled: int
    handler_errors: int
    subscriptions: int
    depth: int
    lag: HistogramSnapshot


class PubSubStats(msgspec.Struct, frozen=True, kw_only=True):
    """All topics.

    Attributes:
        topics: By name.
        connects: Subscriber connections that were opened.
        refused: Subscriptions that the server refused, such as by its ACL.
        errors: Calls of the subscriber that failed; each is tried again.
    """

    topics: dict[str, TopicStats]
    connects: int
    refused: int
    errors: int


class TopicCounts:
    """The numbers of one topic, while they change.

    Attributes:
        lags: Of the messages delivered last, in seconds. A state appends one for each,
            and calls `flush_lags` when there are many.
    """

    __slots__ = ("_lag", "conflated", "dropped", "duplicates", "foreign", "gaps",
                 "handled", "handler_errors", "lags", "outdated", "published",
                 "recovered", "recoveries", "unreadable")  # fmt: skip

    def __init__(self) -> None:
        self.published = self.duplicates = self.outdated = 0
        self.dropped = self.conflated = self.unreadable = self.foreign = 0
        self.recoveries = self.recovered = self.handled = self.handler_errors = 0
        self.gaps: dict[GapReason, int] = {}
        self.lags: list[float] = []
        self._lag = Histogram(LAG_BUCKETS)

    def flush_lags(self) -> None:
        """Count the `lags` of the messages that were delivered since the last time."""
        self._lag.observe_all(self.lags)
        self.lags.clear()

    def snapshot(self, *, subscriptions: int, depth: int) -> TopicStats:
        """Return them as they are now."""
        self.flush_lags()
        return TopicStats(
            published=self.published,
            duplicates=self.duplicates,
            outdated=self.outdated,
            delivered=self._lag.count,
            dropped=self.dropped,
            conflated=self.conflated,
            unreadable=self.unreadable,
            foreign=self.foreign,
            gaps={reason.value: count for reason, count in self.gaps.items()},
            recoveries=self.recoveries,
            recovered=self.recovered,
            handled=self.handled,
            handler_errors=self.handler_errors,
            subscriptions=subscriptions,
            depth=depth,
            lag=self._lag.snapshot(),
        )
