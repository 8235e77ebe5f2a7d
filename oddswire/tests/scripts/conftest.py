import pytest

from oddswire import Client


@pytest.fixture
async def client(server):
    """Return a client of the shared server."""
    client = Client.from_url(server.url)
    yield client
    await client.aclose()
