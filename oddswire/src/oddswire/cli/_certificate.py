"""How long the server's certificate is valid."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from oddswire.connection.deadline import Deadline

if TYPE_CHECKING:
    from oddswire.settings import Settings
    from oddswire.settings.endpoint import Endpoint


async def days_left(endpoint: Endpoint, settings: Settings, now: float) -> float:
    """Return the days until the certificate ends; opens a connection of its own.

    Args:
        endpoint: A server that speaks TLS.
        settings: They name the authorities to trust, and our own certificate.
        now: Seconds since 1970.

    Raises:
        OSError: There is no connection (`TimeoutError` is an OSError), or the
            certificate is not trusted (`ssl.SSLError` is one too).
    """
    # In a thread: it reads files.
    context = await asyncio.to_thread(_context, settings)
    async with Deadline(settings.connect_timeout):
        _, writer = await asyncio.open_connection(
            endpoint.host, endpoint.port, ssl=context
        )
    try:
        ends = writer.get_extra_info("peercert")["notAfter"]
    finally:
        # Nothing was sent, so there is nothing to wait for.
        writer.transport.abort()
    return (ssl.cert_time_to_seconds(ends) - now) / 86_400


def _context(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.tls_ca_file)
    if settings.tls_cert_file is not None:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return context
