from __future__ import annotations

import pytest

from support.status_site import serving


@pytest.fixture
async def site(server, prefix):
    """The status of a wire on the server that the whole run shares."""
    async with serving(url=server.url, prefix=prefix) as site:
        await site.ready()
        yield site
