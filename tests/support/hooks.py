"""What tests may do inside the library, in words of what happens there.

Behaviour is reached by the public API, keys in the server by `support.keys`. What is
left is here, and this is the only file that reaches into private attributes for many
tests: a fault that cannot be brought about from outside, or a look at what a part keeps
in memory. `.ci/check_reaches.py` counts the others.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

from oddswire.cache._tracking import TrackingConnection
from oddswire.client._cluster_keys import keys_of
from oddswire.client._cluster_replicas import READ_OF_ONE_KEY
from oddswire.embedded._ask import ask, info
from oddswire.errors import ConnectionLost
from oddswire.queue._store import (
    _SCRIPTS,
    Settlement,  # noqa: F401 - for tests of leases
)
from oddswire.scripts import load
from oddswire.sessions import _scripts
from support.keys import SessionKeys
from support.waiting import eventually

# --- sentinels


def answer_as_sentinels(primary, known, ask):
    """Have a primary know an answer, and be told others: `ask` in place of asking."""
    primary._known, primary._ask = known, ask


# --- waits and bounds that are too long for a test

_LIMITS = {
    "alert is lost": "oddsbot.demo.ledger.PATIENCE",
    "blocking grace": "oddswire.client._exclusive.BLOCKING_GRACE",
    "cluster settles": "oddswire.embedded.topology._SETTLE_SECONDS",
    "data directory": "oddswire.embedded.server._LOCK_SECONDS",
    "delivery ends": "oddsbot.delivery.courier._LAST_MOMENT",
    "hot keys": "oddswire.cache._hot._KEPT",
    "log is emptied": "oddswire.sessions._sessions._HEARD",
    "look at a load": "oddswire.cache._loader._POLL",
    "look at a lock": "oddswire.locks._PATIENCE",
    "page of rules": "oddsbot.store.rules._PAGE",
    "turn of a reader": "oddsbot.polymarket.slices._TURN",
    "turns of waiters": "oddswire.ratelimit._wait_queue._TURNS",
    "server starts": "oddswire.embedded.server._START_SECONDS",
    "server stops": "oddswire.embedded.server._STOP_SECONDS",
    "silence": "oddswire.connection.multiplexer._SILENT_AT_LEAST",
}


def limit(monkeypatch, name, value):
    """Have a wait (seconds) or a bound of the library be another for this test."""
    monkeypatch.setattr(_LIMITS[name], value)


# --- connections


def drop_connection(client):
    """End the connection of a client, of a `tracked` one, or of a `SimpleClient`."""
    connection = (
        client._command.current if hasattr(client, "_command") else client._connection
    )
    connection.abort(ConnectionLost("cut"))


def connection_of(client):
    """Return the connection that a client has now."""
    return client._command.current


def server_info(client):
    """Return what the server said of itself when a client connected."""
    return client._command.server_info


def start_connecting(client):
    """Have a client connect, without a call that waits for it."""
    client._command._start()


def skip_backoff(client):
    """Let the next call connect at once, as if the pause before it had passed."""
    client._command._next_attempt = 0.0


def sentinels_of(client):
    """Return redis-py's clients of the sentinels that a client asks."""
    return client.connection_pool.primary._manager.sentinels


def half_of(connection, data):
    """Send the first half of some bytes, and no more."""
    connection._transport.write(data[: len(data) // 2])


def pushes_of(client):
    """Return how many push messages the connections of a client have read."""
    return client._connections.metrics.pushes


def commands_known(client):
    """Return how many names of commands a client remembers."""
    return len(client._specs)


def failures_of(client, name):
    """Return the window in which a client counts the failures of a kind."""
    return client._failures.windows[name]


# --- sessions


def advance_server_clock(sessions, seconds):
    """Have the server's clock stand so many seconds on, for these sessions."""
    sessions._store.clock_offset += round(seconds * 1e6)


def session_keys(sessions):
    """Return the keys of sessions, with users and values named as they name them."""
    return SessionKeys(sessions._store._space.prefix, sessions._store.names)


async def reconcile(sessions, user_id):
    """Have a session in Redis be made as the source of record has it."""
    await sessions._write_through.reconcile(user_id)


async def traces(sessions, user_id, *entries):
    """Return the keys that speak of a user, as erasing looks for them."""
    return await sessions._store.traces(user_id, entries)


def mirrored(sessions, index, value=""):
    """Return the names of a value's users from memory; None: not believed now."""
    return sessions._follower.lookup((index, value))


def mirror_complete(sessions):
    """Return whether the indexes in memory have been built."""
    return sessions._follower.replica.complete


def is_following(sessions):
    """Return whether changes are followed: somebody read lately."""
    return sessions._follower.wanted.is_set()


def follow(sessions, feed, clock):
    """Return a coroutine that follows a feed of the test's own, in place of the log."""
    sessions._follower._clock = clock
    sessions._local.following = True
    return sessions._follower.follow(feed)


async def stop_follower(sessions):
    """End the following of changes, and have what is in memory believed for ever."""
    (task,) = [each for each in sessions._tasks if "follower" in each.get_name()]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    sessions._local.trusted_until = float("inf")


def kept_in_memory(sessions):
    """Return how many sessions are in this process's memory."""
    return len(sessions._local)


def lines_of(sessions):
    """Return how many users' changes are lined up in this process."""
    return len(sessions._locks)


@contextmanager
def tapped(sessions, tap):
    """While the block lasts, have sessions send their commands through `tap`."""
    client, sessions._store.client = sessions._store.client, tap
    try:
        yield
    finally:
        sessions._store.client = client


async def noted(sessions, users):
    """Return the versions of users in the source of record, as Redis knows them."""
    return await sessions._write_through.intents.known_versions(users)


def memory_of(sessions):
    """Return the sessions in memory, to be put there by hand."""
    return sessions._local


async def stored_session(sessions, user_id):
    """Return what is stored of a user: what is known of it, its value, and when."""
    stored = await sessions._store.get(user_id)
    snapshot = sessions._opened(user_id, stored)
    return snapshot, sessions._codec.value(user_id, snapshot), stored.now


async def index_in_pages(sessions, index, value):
    """Return the names of an index's value, read as those of a crowd."""
    return await sessions._store.pages((index, value))


def forget_generations(sessions):
    """Forget which life of each session this process has seen."""
    sessions._generations.clear()


def sealed_section(sessions, user_id, generation, section, data):
    """Return bytes sealed as the content of a section, whatever they are."""
    place = sessions._codec._place(user_id, generation, section)
    return sessions._codec.sealer.seal(data, str(user_id), place)


def session_steps(sessions):
    """Return the steps of a change, by name: (owner, name of the method)."""
    through = sessions._write_through
    intents = None if through is None else through.intents
    return {
        "store": (sessions._store, "save"),
        "intent": (intents, "begin"),
        "restore": (intents, "restore"),
        "keep": (sessions._local, "put"),
        "forget": (sessions._local, "drop"),
        "mirror": (sessions._follower.replica, "apply"),
    }


def rebuilds(*sessions):
    """Return how often these processes built everything from the source of record."""
    return sum(each._rebuild.runs for each in sessions)


async def mend(sessions):
    """Have sessions look once for what is to be mended."""
    await sessions._rebuild.mend()


async def built_in(sessions):
    """Return the run id of the server that everything was built in."""
    return (await sessions._rebuild.built())[0]


# --- cache


def _server(cache):
    """The one server of a cache."""
    [server] = cache._servers.all
    return server


async def beat(cache):
    """Have a cache prove once that its memory is right."""
    for server in cache._servers.all:
        await server.coherence.heartbeat()


async def believed(*caches, within=20.0):
    """Wait until each cache believes its memory, of every server that it knows."""
    for cache in caches:
        servers = cache._servers

        def are_believed(servers=servers):
            servers.want()
            leases = [each.coherence for each in servers.all]
            return leases and all(each.now() < each.until for each in leases)

        await eventually(are_believed, within=within)


def believed_until(cache):
    """Return until when a cache believes its memory, by the boot-time clock."""
    return _server(cache).coherence.until


def tracking_connection(client, timeout):
    """Return a connection as a cache has one to be told of changes."""
    return TrackingConnection(client, timeout)


def leased_connection(cache):
    """Return the connection whose server a cache believes, and the one that it has."""
    server = _server(cache)
    return (
        server.coherence.reads.connection,
        server.connection.client.command_connection(),
    )


async def told(*caches):
    """Have each cache read what its servers have said: replies are in order."""
    for cache in caches:
        for server in cache._servers.all:
            await server.connection.call(("PING",))


async def tracking_id(cache):
    """Return the id of a cache's tracking connection."""
    return await _server(cache).connection.call(("CLIENT", "ID"))


def void(cache):
    """Make void all that a cache has in memory, as when its connections are lost."""
    for server in cache._servers.all:
        server.connection.drop()


def deafen(cache):
    """Have a cache hear of no change any more, though its connections are up."""
    for server in cache._servers.all:
        server.connection._listeners.clear()


def held(cache):
    """Return the values that a cache has in memory, believed or not."""
    return {key: item.value for key, item in cache._items.items() if item.lives()}


async def read_from_redis(cache, key, kind=object):
    """Read an entry from Redis, whatever memory has of it; return it with details."""
    return (await cache._l2.fetch(cache._namespaces.key(key), kind)).item


async def remember_use(cache, key):
    """Have a cache count a key of its memory among the hot ones once more."""
    await cache._hot.remember([cache._items[key]])


def loads_behind(cache):
    """Return the loads that go on behind their callers."""
    return cache._loader._tasks


def cache_steps(cache):
    """Return the steps of a load, by name: (owner, name of the method)."""
    connection = _server(cache).connection
    return {"script": (connection, "script"), "look": (cache._l2, "look")}


async def look_at_size(cache, client):
    """Have a cache look whether it has to keep to its cap."""
    await cache._size_limit._check(client)


async def weigh(cache, client, limit=None):
    """Have a cache keep to its cap (or another) now."""
    if limit is not None:
        cache._size_limit.limit = limit
    await cache._size_limit.enforce(client)


# --- topics


def drop_subscriber(pubsub):
    """End the subscriber connections, if there are any."""
    for each in pubsub._subscriber._connections.values():
        connection = each._connection
        if connection is not None and connection.error is None:
            connection._transport.abort()


def is_subscribed(pubsub):
    """Return whether anything is subscribed at the server."""
    return any(each._subscribed for each in pubsub._subscriber._connections.values())


async def publish_as(pubsub, topic, data):
    """Publish bytes in place of an encoded value, in a frame that is in order."""

    class Raw:
        def encode(self, _):
            return data

    state = pubsub._state_of(getattr(topic, "topic", topic))
    codec, state.codec = state.codec, Raw()
    try:
        return await pubsub.publish(topic, None)
    finally:
        state.codec = codec


@contextmanager
def unheard(pubsub, topic):
    """While the block lasts, what is published gets lost on its way to the readers."""
    state = pubsub._state_of(topic)
    channel, state.channel = state.channel, b"nowhere"
    try:
        yield
    finally:
        state.channel = channel


def push_to(pubsub):
    """Return what the parser calls with each message for subscribers."""
    (connection,) = pubsub._subscriber._connections.values()
    return connection._on_push


def last_link(subscription):
    """Return the link of the last message that a subscription was given."""
    return subscription._buffers[0]._link


async def find_gap(subscription):
    """Have a subscription look for what it missed, without its reader."""
    await subscription._buffers[0].recover()


async def save_position(subscription):
    """Have a subscription write its position; return how many writes have failed."""
    subscription._offsets.note(subscription._buffers)
    await subscription._offsets.save()
    return subscription._offsets.errors


def size_of_memory(memory):
    """Return how many places the two queues of a memory have, those of ghosts too."""
    return len(memory._small) + len(memory._main)


def reads_under_way(near):
    """Return the reads whose result may enter memory."""
    return near._tickets


def links_known(chain):
    """Return how many links a chain remembers."""
    assert len(chain._known) == len(chain._past)
    return len(chain._known)


# --- limiter


def limit_of(limiter, name):
    """Return a rule at work, with what is known of its subjects."""
    return limiter._rules[name]


def request_of(limiter, name, **subjects):
    """Return what a limiter sends for a hit of one rule."""
    return limiter._request((name,), 1, subjects)


def wake(limiter, subject):
    """Have a limiter ask again for a subject, as when its time has come."""
    limiter._queue.wake(subject)


def is_idle(limiter):
    """Return whether nobody waits and nothing is under way for who waited."""
    return limiter._queue._task.done()


# --- adapters


def persistence_key(persistence, name):
    """Return the key of what python-telegram-bot keeps under a name."""
    return persistence._key(name)


def conversations_key(persistence, name):
    """Return the key of the states of a conversation handler."""
    return persistence._conversations(name)


def unsaved(persistence, name, data):
    """Return the fields of data that Redis does not have yet."""
    return persistence._changed(name, data).new


def seen_before(persistence, data):
    """Have a persistence know what Redis had when this process last looked."""
    persistence._seen, persistence._reported = data, set()


# --- queue


def leases(queue):
    """Return what hands out leases, for a consumer by hand: take, renew, settle."""
    return queue._store


def decoded(queue, taken):
    """Return the value of a message that was handed out by hand."""
    return queue._codec.decode(taken.data)


def slots_of(window):
    """Return how many slots a window of counts takes."""
    return len(window._total)


def queue_script(name):
    """Return the digest by which a script of the queue is called."""
    return _SCRIPTS[name].sha.encode()


def script(name):
    """Return the digest by which a script is called, by the part that its name has."""
    part, _, rest = name.partition("_")
    if part == "queue":
        return queue_script(rest)
    # Those of sessions begin with what they share.
    of_sessions = getattr(_scripts, rest.upper()) if part == "session" else None
    return (of_sessions or load(name)).sha.encode()


# --- embedded servers

# `ask(url, *command)`, `info(url, section)`: one question on a connection of its own.
__all__ = ["ask", "info"]


def watched_by_process(server, watched):
    """Have a server be ended by a watching process, as where the kernel cannot."""
    server._watched = watched
    return server


def is_released(server):
    """Return whether the process of a server has left nothing open here."""
    return server._process._transport.is_closing()


def pick_ports(server, pick):
    """Have a server try the ports that a function returns."""
    server._pick_port = pick


def sent_to_replicas():
    """The names of the commands of one key that a replica is asked, where it may be."""
    return READ_OF_ONE_KEY


def keys_in_table(words):
    """The keys of a command by the client's own table; None: it is not there."""
    return keys_of(words)
