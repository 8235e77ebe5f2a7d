"""OpenTelemetry's and Sentry's own instrumentation: what each sees of both clients.

Run by ``make conformance``, set up before the library is imported and after it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any


def _main(order: str) -> int:
    """Compare what is seen of redis-py's client and of ours; 0 if it is the same."""
    import sentry_sdk
    from opentelemetry.instrumentation.redis import RedisInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )
    from sentry_sdk.integrations.redis import RedisIntegration

    events: list[Any] = []

    class Transport(sentry_sdk.transport.Transport):
        def capture_envelope(self, envelope: Any) -> None:
            """Keep the transactions."""
            found = (item.get_transaction_event() for item in envelope.items)
            events.extend(each for each in found if each)

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def set_up() -> None:
        RedisInstrumentor().instrument(tracer_provider=provider)
        sentry_sdk.init(
            dsn="http://a@localhost/1",
            transport=Transport,
            traces_sample_rate=1.0,
            integrations=[RedisIntegration()],
            default_integrations=False,
        )

    if order == "first":
        set_up()
    import redis.asyncio as aredis

    import oddswire

    if order == "last":
        set_up()

    async def seen(kind: Any, url: str) -> tuple[list[str], list[str]]:
        client = kind.from_url(url)
        await client.ping()
        exporter.clear()
        events.clear()
        with sentry_sdk.start_transaction(name="t"):
            await client.set("k", "v")
            await client.get("k")
            async with client.pipeline() as batch:
                await batch.set("a", 1).get("a").execute()
            await client.blpop("none", timeout=0.05)
        await client.aclose()
        return (
            [span.name for span in exporter.get_finished_spans()],
            [span["description"] for event in events for span in event["spans"]],
        )

    async def both() -> int:
        async with oddswire.EmbeddedServer() as server:
            theirs = await seen(aredis.Redis, server.url)
            ours = await seen(oddswire.Client, server.url)
        print(f"set up {order}: OpenTelemetry {ours[0]}, Sentry {ours[1]}")
        return int(ours != theirs or len(ours[0]) != 4)

    return asyncio.run(both())


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(_main(sys.argv[1]))
    codes = [
        subprocess.run([sys.executable, __file__, order], check=False).returncode
        for order in ("first", "last")
    ]
    sys.exit(any(codes))
