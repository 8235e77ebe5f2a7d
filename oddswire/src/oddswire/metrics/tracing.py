"""Spans, where a program wants them. Extra ``otel`` (opentelemetry-api).

A span costs some ten times what a cached read costs, so nothing makes one by itself:
a program wraps the loaders and handlers, or the calls, that it wants to see.
"""

from __future__ import annotations

import functools
import inspect
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry.metrics import get_meter_provider
from opentelemetry.trace import SpanKind, StatusCode, get_tracer_provider

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import TracerProvider

    from oddswire.queue import Message

T = TypeVar("T")
# The conventions' own for db.client.operation.duration are too coarse for Redis.
_BUCKETS = (
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01,
    0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip


class Tracing:
    """Wraps what is to be traced.

    Attributes of a span are names of code, classes of errors, and the id of a message;
    no key, no value, no user and no text of an error.

    Args:
        tracers: Default: the global provider.
        meters: Default: the global provider; of the durations.

    Example:
        >>> tracing = Tracing()
        >>> await wire.queue.consume(tracing.handler("messages", deliver))
        >>> await cache.get_or_set("market:1", tracing.loader("market", load))
        >>> with tracing.call("GET"):
        ...     await wire.client.get("greeting")
    """

    def __init__(
        self,
        tracers: TracerProvider | None = None,
        meters: MeterProvider | None = None,
    ) -> None:
        self._tracer = (tracers or get_tracer_provider()).get_tracer("oddswire")
        meter = (meters or get_meter_provider()).get_meter("oddswire")
        self._calls = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._handled = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )

    def loader(self, namespace: str, load: Callable[..., Any]) -> Callable[..., Any]:
        """Return a loader that does the same within a span ``load <namespace>``."""

        async def traced(*args: Any) -> Any:
            with self._span(
                f"load {namespace}",
                SpanKind.INTERNAL,
                {"oddswire.cache.namespace": namespace},
            ):
                value = load(*args)
                return await value if inspect.isawaitable(value) else value

        # With the signature of the loader: it decides what the cache passes.
        return functools.update_wrapper(traced, load)

    def handler(
        self, queue: str, handle: Callable[[Message[T]], Awaitable[object]]
    ) -> Callable[[Message[T]], Awaitable[object]]:
        """Return a handler that does the same within a span ``process <queue>``."""
        attributes = {
            "messaging.system": "oddswire",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
        }

        @functools.wraps(handle)
        async def traced(message: Message[T]) -> object:
            with self._span(
                f"process {queue}",
                SpanKind.CONSUMER,
                attributes,
                self._handled,
                {"messaging.message.id": message.id},
            ):
                return await handle(message)

        return traced

    @contextmanager
    def call(self, operation: str, *, batch: int = 1) -> Iterator[None]:
        """Trace what is within as one call to Redis.

        Args:
            operation: The command as sent, or ``PIPELINE`` or ``MULTI``.
            batch: Commands in it.
        """
        attributes: dict[str, Any] = {
            "db.system.name": "redis",
            "db.operation.name": operation,
        }
        more = {"db.operation.batch.size": batch} if batch > 1 else {}
        with self._span(operation, SpanKind.CLIENT, attributes, self._calls, more):
            yield

    @contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind,
        attributes: dict[str, Any],
        duration: Histogram | None = None,
        more: dict[str, Any] | None = None,
    ) -> Iterator[None]:
        """Open a span; `more` is of the span alone, as a metric's it had no bound."""
        began = time.perf_counter()
        failed: dict[str, str] = {}
        with self._tracer.start_as_current_span(
            name,
            kind=kind,
            attributes={**attributes, **(more or {})},
            # Its message may have a key or a value: the class is enough.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                failed["error.type"] = type(error).__name__
                span.set_attribute("error.type", failed["error.type"])
                span.set_status(StatusCode.ERROR)
                raise
            finally:
                if duration is not None:
                    seconds = time.perf_counter() - began
                    duration.record(seconds, {**attributes, **failed})
