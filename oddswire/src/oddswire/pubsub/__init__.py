"""Topics that never lose silently: live, newest value, or log."""

from oddswire.pubsub.handlers import Handling
from oddswire.pubsub.messages import Gap, GapReason, Message, Published
from oddswire.pubsub.pubsub import PubSub
from oddswire.pubsub.statistics import Statistics, TopicStatistics
from oddswire.pubsub.subscription import Subscription
from oddswire.pubsub.topic import Delivery, Keyed, Matching, Topic

__all__ = [
    "Delivery",
    "Gap",
    "GapReason",
    "Handling",
    "Keyed",
    "Matching",
    "Message",
    "PubSub",
    "Published",
    "Statistics",
    "Subscription",
    "Topic",
    "TopicStatistics",
]
