"""Publishing: what is checked, sent, and sent again."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from oddswire.errors import CodecError, ConnectionLost, InvalidKey, Outcome, TopicError
from oddswire.pubsub._topic_state import random_hex
from oddswire.pubsub.messages import Published
from oddswire.pubsub.topic import Delivery
from oddswire.scripts import load

if TYPE_CHECKING:
    from oddswire.client import Client
    from oddswire.pubsub._topic_state import TopicState
    from oddswire.pubsub.topic import Topic

# Lua counts in doubles: whole numbers up to here are exact.
_MOST_VERSION = 2**53


async def publish(
    client: Client,
    state: TopicState,
    key: bytes,
    value: Any,
    *,
    version: int | None,
    dedup_id: str | None,
) -> Published:
    """Publish a value; see `PubSub.publish`."""
    latest = state.topic.delivery is Delivery.LATEST
    _check(state.topic, version, dedup_id, latest=latest)
    try:
        payload = state.codec.encode(value)
    except CodecError as error:
        raise CodecError(
            f"topic {state.topic.name}: {error}", reason=error.reason
        ) from None
    deadline = monotonic() + client.timeout
    attempts = client.retries
    harmless = dedup_id is not None or version is not None
    bounded = client
    while True:
        try:
            if latest:
                reply = await send_latest(bounded, state, key, payload, version)
            else:
                reply = await _send(bounded, state, key, payload, dedup_id)
            break
        except ConnectionLost as error:
            left = deadline - monotonic()
            repeatable = harmless or error.outcome is Outcome.NOT_SENT
            if not repeatable or attempts < 1 or left <= 0:
                raise
            attempts -= 1
            bounded = client.bounded(left)
    number, link, known, subscribers = reply
    if not known:
        state.counts.published += 1
    elif latest:
        state.counts.outdated += 1
    else:
        state.counts.duplicates += 1
    return Published(
        id=link.decode(),
        sequence=int(number),
        subscribers=subscribers,
        duplicate=bool(known) and not latest,
        outdated=bool(known) and latest,
    )


async def send_latest(
    client: Client, state: TopicState, key: bytes, payload: bytes, version: int | None
) -> list[Any]:
    """Run topic_latest.lua; see there."""
    reply: list[Any] = await _LATEST.run(
        client,
        [state.head, state.newest],
        [
            state.channel,
            key,
            payload,
            random_hex(),
            "" if version is None else version,
            state.life,
            state.head_life,
            _command(client),
        ],
    )
    return reply


async def _send(
    client: Client, state: TopicState, key: bytes, payload: bytes, dedup_id: str | None
) -> list[Any]:
    """Run topic_publish.lua; see there."""
    logs = state.topic.delivery is Delivery.LOG
    # What keeps no log names its head twice: while a slot moves, a cluster refuses a
    # script of which one key is there and another is not.
    keys = [state.head, state.log if logs else state.head]
    if dedup_id is not None:
        try:
            keys.append(state.dedup(dedup_id))
        except InvalidKey as error:
            raise TopicError(f"dedup_id: {error}") from None
    reply: list[Any] = await _MESSAGE.run(
        client,
        keys,
        [
            state.channel,
            key,
            payload,
            random_hex(),
            state.topic.history if logs else 0,
            state.life,
            state.head_life,
            _command(client),
        ],
    )
    return reply


def _command(client: Client) -> str:
    """Return what publishes: PUBLISH of a cluster would go to each of its nodes."""
    return "SPUBLISH" if client.in_cluster else "PUBLISH"


def _check(
    topic: Topic[Any], version: int | None, dedup_id: str | None, *, latest: bool
) -> None:
    if version is not None:
        if not latest:
            raise TopicError(f"topic {topic.name}: a version is for LATEST topics")
        if type(version) is not int or not 0 <= version < _MOST_VERSION:
            raise TopicError(
                f"topic {topic.name}: a version is a whole number from 0 to 2**53"
            )
    if dedup_id == "":
        raise TopicError("dedup_id is empty: leave it out where there is none")
    if dedup_id is not None and latest:
        raise TopicError(
            f"topic {topic.name}: a LATEST topic knows duplicates by their version"
        )


_MESSAGE = load("topic_publish")
_LATEST = load("topic_latest")
