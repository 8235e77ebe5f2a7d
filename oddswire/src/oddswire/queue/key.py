"""`QueueKey`: the name of a queue, the type of its messages, and how they are tried."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from oddswire.queue._queue import Queue

if TYPE_CHECKING:
    from oddswire.client import Client

T = TypeVar("T")


class QueueKey(msgspec.Struct, Generic[T], frozen=True):
    """Names a queue and its messages' type; ``wire.queues[key]`` is a `Queue` of it.

    It is a constant of the program, as a `Topic` is. The other fields are those of
    `Queue`.

    Attributes:
        name: Of the queue; the same in every process.
        type: What msgspec decodes.

    Example:
        >>> ALERTS = QueueKey("alerts", Alert)
        >>> async with oddswire.connect(queues=[ALERTS]) as wire:
        ...     await wire.queues[ALERTS].enqueue(7, Alert(...))
    """

    name: str
    type: builtins.type[T]  # by its module: in here `type` is this very field
    dedup_window: float = msgspec.field(default=86_400.0)
    max_attempts: int = msgspec.field(default=8)
    retry_base: float = msgspec.field(default=1.0)
    retry_cap: float = msgspec.field(default=300.0)
    lease: float = msgspec.field(default=10.0)
    timeout: float = msgspec.field(default=60.0)
    poll: float = msgspec.field(default=1.0)
    dead_limit: int = msgspec.field(default=10_000)

    def open(self, client: Client, *, prefix: str | None = None) -> Queue[T]:
        """Return the queue, on a client.

        Args:
            client: Where.
            prefix: What its keys begin with; None: as the client's settings say.

        Raises:
            QueueError: A duration or a number is not above 0.
            TypeError: msgspec does not support the type.
        """
        fields = msgspec.structs.asdict(self)
        name, type_ = fields.pop("name"), fields.pop("type")
        return Queue(client, name, type_, prefix=prefix, **fields)
