"""What tests may do inside the library, in words of what happens there.

Behaviour is reached by the public API, keys in the server by `support.keys`. What is
left is here, and this is the only file that reaches into private attributes for many
tests: a fault that cannot be brought about from outside, or a look at what a part keeps
in memory. `.ci/check_reaches.py` counts the others.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

from oddswire.embedded._ask import ask, info
from oddswire.errors import ConnectionLost
from oddswire.queue._store import _SCRIPTS
from support.keys import SessionKeys

# --- connections


def drop_connection(client):
    """End the connection of a client, of a `tracked` one, or of a `SimpleClient`."""
    connection = client._link.wire if hasattr(client, "_link") else client._wire
    connection.abort(ConnectionLost("cut"))


def connection_of(client):
    """Return the connection that a client has now."""
    return client._link.wire


def start_connecting(client):
    """Have a client connect, without a call that waits for it."""
    client._link._start()


def skip_backoff(client):
    """Let the next call connect at once, as if the pause before it had passed."""
    client._link._next_attempt = 0.0


# --- sessions


def advance_server_clock(sessions, seconds):
    """Have the server's clock stand so many seconds on, for these sessions."""
    sessions._store.shift += round(seconds * 1e6)


def session_keys(sessions):
    """Return the keys of sessions, with users and values named as they name them."""
    return SessionKeys(sessions._store._space.prefix, sessions._store.names)


async def reconcile(sessions, user_id):
    """Have a session in Redis be made as the source of record has it."""
    await sessions._backing.reconcile(user_id)


async def traces(sessions, user_id):
    """Return the keys that speak of a user, as erasing looks for them."""
    return await sessions._store.traces(user_id)


def mirrored(sessions, index, value=""):
    """Return the names of a value's users from memory; None: not believed now."""
    return sessions._upkeep.mirrored((index, value))


def mirror_complete(sessions):
    """Return whether the indexes in memory have been built."""
    return sessions._upkeep.mirror.whole


def is_following(sessions):
    """Return whether changes are followed: somebody read lately."""
    return sessions._upkeep._wanted.is_set()


def follow(sessions, feed, clock):
    """Return a coroutine that follows a feed of the test's own, in place of the log."""
    sessions._upkeep._clock = clock
    sessions._near.following = True
    return sessions._upkeep.follow(feed)


async def stop_follower(sessions):
    """End the following of changes, and have what is in memory believed for ever."""
    tasks = sessions._upkeep._tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    sessions._near.trusted_until = float("inf")


def kept_in_memory(sessions):
    """Return how many sessions are in this process's memory."""
    return len(sessions._near)


def lines_of(sessions):
    """Return how many users' changes are lined up in this process."""
    return len(sessions._turns)


def session_steps(sessions):
    """Return the steps of a change, by name: (owner, name of the method)."""
    ledger = None if sessions._backing is None else sessions._backing.ledger
    return {
        "store": (sessions._store, "save"),
        "mark": (ledger, "mark"),
        "restore": (ledger, "restore"),
        "keep": (sessions._near, "put"),
        "forget": (sessions._near, "drop"),
        "mirror": (sessions._upkeep.mirror, "apply"),
    }


def rebuilds(*sessions):
    """Return how often these processes built everything from the source of record."""
    return sum(each._rebuilding.rebuilt for each in sessions)


async def mend(sessions):
    """Have sessions look once for what is to be mended."""
    await sessions._rebuilding.mend()


async def built_in(sessions):
    """Return the run id of the server that everything was built in."""
    return (await sessions._backing.ledger.built())[0]


# --- cache


async def beat(cache):
    """Have a cache prove once that its memory is right."""
    await cache._lease.beat()


async def believed(*caches, within=20.0):
    """Wait until each cache believes its memory."""
    for cache in caches:
        assert await cache._lease.wait(within)


def believed_until(cache):
    """Return until when a cache believes its memory, by the boot-time clock."""
    return cache._lease.until


def leased_connection(cache):
    """Return the connection whose server a cache believes, and the one that it has."""
    return cache._lease.reads.connection, cache._wire.client.command_connection()


async def told(*caches):
    """Have each cache read what its server has said until now: replies are in order."""
    for cache in caches:
        await cache._wire.call(("PING",))


async def tracking_id(cache):
    """Return the id of a cache's tracking connection."""
    return await cache._wire.call(("CLIENT", "ID"))


def void(cache):
    """Make void all that a cache has in memory, as when its connection is lost."""
    cache._wire.drop()


def deafen(cache):
    """Have a cache hear of no change any more, though its connection is up."""
    cache._wire._listeners.clear()


def held(cache):
    """Return the values that a cache has in memory, believed or not."""
    return {key: item.value for key, item in cache._items.items() if item.lives()}


async def read_from_redis(cache, key, kind=object):
    """Read an entry from Redis, whatever memory has of it; return it with details."""
    return (await cache._shared.fetch(cache._spaces.place(key), kind)).item


async def remember_use(cache, key):
    """Have a cache count a key of its memory among the hot ones once more."""
    await cache._hot.remember([cache._items[key]])


def loads_behind(cache):
    """Return the loads that go on behind their callers."""
    return cache._flights._tasks


async def weigh(cache, client, limit=None):
    """Have a cache keep to its cap (or another) now."""
    if limit is not None:
        cache._cap.limit = limit
    await cache._cap.enforce(client)


# --- topics


def drop_subscriber(pubsub):
    """End the subscriber connection, if there is one."""
    connection = pubsub._reader._wire
    if connection is not None and connection.error is None:
        connection._transport.abort()


def is_subscribed(pubsub):
    """Return whether anything is subscribed at the server."""
    return bool(pubsub._reader._subscribed)


async def publish_as(pubsub, topic, data):
    """Publish bytes in place of an encoded value, in a frame that is in order."""

    class Raw:
        def encode(self, _):
            return data

    line = pubsub._line(getattr(topic, "topic", topic))
    codec, line.codec = line.codec, Raw()
    try:
        return await pubsub.publish(topic, None)
    finally:
        line.codec = codec


@contextmanager
def unheard(pubsub, topic):
    """While the block lasts, what is published gets lost on its way to the readers."""
    line = pubsub._line(topic)
    channel, line.channel = line.channel, b"nowhere"
    try:
        yield
    finally:
        line.channel = channel


def push_to(pubsub):
    """Return what the parser calls with each message for subscribers."""
    return pubsub._reader._on_push


def last_link(subscription):
    """Return the link of the last message that a subscription was given."""
    return subscription._inboxes[0]._link


async def find_gap(subscription):
    """Have a subscription look for what it missed, without its reader."""
    await subscription._inboxes[0].recover()


async def save_position(subscription):
    """Have a subscription write its position; return how many writes have failed."""
    subscription._positions.note(subscription._inboxes)
    await subscription._positions.save()
    return subscription._positions.errors


# --- queue


def leases(queue):
    """Return what hands out leases, for a consumer by hand: take, renew, settle."""
    return queue._store


def queue_script(name):
    """Return the digest by which a script of the queue is called."""
    return _SCRIPTS[name].sha.encode()


# --- embedded servers

# `ask(url, *command)`, `info(url, section)`: one question on a connection of its own.
__all__ = ["ask", "info"]


def watched_by_process(server, watched):
    """Have a server be ended by a watching process, as where the kernel cannot."""
    server._watched = watched
    return server


def pick_ports(server, pick):
    """Have a server try the ports that a function returns."""
    server._pick_port = pick
