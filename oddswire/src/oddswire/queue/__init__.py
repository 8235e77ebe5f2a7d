"""A durable queue: at least once, in order for each user, with a kill switch."""

from oddswire.queue._queue import Queue
from oddswire.queue.key import QueueKey
from oddswire.queue.messages import DeadLetter, Message
from oddswire.queue.statistics import QueueCounts, QueueStats

__all__ = ["DeadLetter", "Message", "Queue", "QueueCounts", "QueueKey", "QueueStats"]
