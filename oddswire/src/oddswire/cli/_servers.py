"""The servers that the settings name, each with settings of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from oddswire.errors import OddswireError, SettingsError
from oddswire.settings import Settings

if TYPE_CHECKING:
    from oddswire.client import Client
    from oddswire.settings.endpoint import Endpoint


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One server.

    Attributes:
        name: ``"main"``, or ``"cache"`` for the one of `cache_url`.
        settings: The settings, with the server's address in `url`.
        durable: Whether it holds data that users asked for.
    """

    name: str
    settings: Settings
    durable: bool

    @property
    def endpoint(self) -> Endpoint:
        """The server's address.

        Raises:
            SettingsError: The settings name no server.
        """
        if (endpoint := self.settings.endpoint) is None:
            raise SettingsError("no server is named: set REDIS_URL, or give --url")
        return endpoint


async def nodes_of(server: Server, client: Client) -> list[tuple[Server, Client]]:
    """Return the server and its client; of a cluster, those of each primary.

    If the cluster does not answer, the cluster itself is returned.
    """
    try:
        nodes = await client.primaries()
    except OddswireError:
        return [(server, client)]
    return [
        (
            msgspec.structs.replace(server, settings=node.settings)
            if client.is_cluster
            else server,
            node,
        )
        for node in nodes
    ]


def servers(settings: Settings) -> tuple[Server, ...]:
    """Return every server that the settings name.

    Raises:
        SettingsError: They name none.
    """
    main = Server(name="main", settings=settings, durable=True)
    _ = main.endpoint
    if settings.cache_url is None or settings.cache_url == settings.url:
        return (main,)
    return (main, Server(name="cache", settings=settings.for_cache(), durable=False))
