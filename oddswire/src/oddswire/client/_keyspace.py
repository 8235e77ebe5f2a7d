"""`keyspace`: the keys of a part, under the prefix of the client's settings."""

from __future__ import annotations

from oddswire.client._client import Client
from oddswire.errors import NotOnCluster, SettingsError
from oddswire.keys import KeySpace


def keyspace(
    client: object, prefix: str | None, *, on_cluster: bool = False
) -> KeySpace:
    """Return the keys under `prefix`; None: the prefix of the client's settings.

    Two bots on one Redis keep their data apart by their settings, in every part.

    Args:
        client: Of the part.
        prefix: In place of that of the settings.
        on_cluster: Whether the part runs on a cluster.

    Raises:
        SettingsError: `client` is something else, such as a URL, which is not repeated:
            it may hold a password.
        NotOnCluster: `client` is of a cluster, and the part does not run there.
    """
    if not isinstance(client, Client):
        what = "a URL or another text" if isinstance(client, str | bytes) else None
        raise SettingsError(
            f"client must be an oddswire.Client, not {what or type(client).__name__}: "
            "give Client.from_url(url)"
        )
    if client.is_cluster and not on_cluster:
        raise NotOnCluster(
            "this part does not run on a cluster yet: give it a client of one server"
        )
    return KeySpace(client.settings.prefix if prefix is None else prefix)
