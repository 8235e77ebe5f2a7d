"""Where the parts keep their data, by the families of keys: to look, to damage."""

from __future__ import annotations

from oddswire import keys
from oddswire.keys import KeySpace


def entry_key(prefix, key):
    """Return the key of a cache's entry: `entry_key(prefix, "m:1")`."""
    return KeySpace(prefix).key(keys.CACHE, *key.split(":", 1))


def lease_key(prefix, key):
    """Return the key of the right to load a cache's entry."""
    return KeySpace(prefix).key(keys.CACHE_LEASE, *key.split(":", 1))


def tag_pattern(prefix):
    """Return the pattern of the keys of a cache's tags."""
    return KeySpace(prefix).pattern(keys.CACHE_TAG)


class SessionKeys:
    """The keys of sessions.

    Args:
        prefix: Of the sessions.
        names: Of users and values: `PlainNames()`, or `BlindNames(keyring)`.
    """

    def __init__(self, prefix, names):
        self.names = names
        self.prefix = prefix
        self._space = KeySpace(prefix)
        self.activity = self._space.key(keys.SESSION_ACTIVITY, 0)
        self.expiry = self._space.key(keys.SESSION_EXPIRY, 0)
        self.off = self._space.key(keys.SESSION_OFF, 0)
        self.stats = self._space.key(keys.SESSION_STATS, 0)
        self.log = self._space.key(keys.SESSION_LOG, 0)
        self.marks = self._space.key(keys.SESSION_MARKS, 0)
        self.noted = self._space.key(keys.SESSION_NOTED, 0)

    def pair(self, user_id):
        """Return the keys of a user's two hashes."""
        name = self.names.of_user(user_id)
        return (
            self._space.key(keys.SESSION, 0, name),
            self._space.key(keys.SESSION_SHORT, 0, name),
        )

    def index(self, name, value):
        """Return the key of an index's value."""
        named = self.names.of_value(name, value)
        return self._space.key(keys.SESSION_INDEX, 0, name, named)


class TopicKeys:
    """The keys and the channel of a topic."""

    def __init__(self, topic, prefix="oddswire:"):
        space = KeySpace(prefix)
        self.channel = space.key(keys.TOPIC, topic.name, "").encode()
        self.head = space.key(keys.TOPIC_HEAD, topic.name, "")
        self.log = space.key(keys.TOPIC_LOG, topic.name, "")
        self.newest = space.key(keys.TOPIC_LATEST, topic.name, "")


class LockKeys:
    """The keys of a lock."""

    def __init__(self, prefix, name):
        space = KeySpace(prefix)
        self.holder = space.key(keys.LOCK, name)
        self.queue = space.key(keys.LOCK_QUEUE, name)
        self.waiting = space.key(keys.LOCK_WAITING, name)
        self.released = space.key(keys.LOCK_RELEASED, name)
