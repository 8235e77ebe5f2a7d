"""Topics that never lose silently: live, newest value, or log."""

from oddswire.pubsub.consumer import Consumer
from oddswire.pubsub.messages import Gap, GapReason, Message, Published
from oddswire.pubsub.pubsub import PubSub
from oddswire.pubsub.statistics import PubSubStats, TopicStats
from oddswire.pubsub.subscription import Subscription
from oddswire.pubsub.topic import Delivery, Keyed, Matching, Topic

__all__ = [
    "Consumer",
    "Delivery",
    "Gap",
    "GapReason",
    "Keyed",
    "Matching",
    "Message",
    "PubSub",
    "PubSubStats",
    "Published",
    "Subscription",
    "Topic",
    "TopicStats",
]
