"""A durable queue: at least once, in order for each user, with a kill switch."""

from oddswire.queue._queue import Queue
from oddswire.queue.key import QueueKey
from oddswire.queue.messages import Counts, DeadLetter, Message, QueueStatistics

__all__ = ["Counts", "DeadLetter", "Message", "Queue", "QueueKey", "QueueStatistics"]
