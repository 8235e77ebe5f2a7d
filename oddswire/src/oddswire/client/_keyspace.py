"""`keyspace`: the keys of a part, under the prefix of the client's settings."""

from __future__ import annotations

from oddswire.client._client import Client
from oddswire.errors import SettingsError
from oddswire.keys import KeySpace


def keyspace(client: object, prefix: str | None) -> KeySpace:
    """Return the keys under `prefix`; None: the prefix of the client's settings.

    Two bots on one Redis keep their data apart by their settings, in every part.

    Args:
        client: Of the part.
        prefix: In place of that of the settings.

    Raises:
        SettingsError: `client` is something else, such as a URL, which is not repeated:
            it may hold a password.
    """
    if not isinstance(client, Client):
        what = "a URL or another text" if isinstance(client, str | bytes) else None
        raise SettingsError(
            f"client must be an oddswire.Client, not {what or type(client).__name__}: "
            "give Client.from_url(url)"
        )
    return KeySpace(client.settings.prefix if prefix is None else prefix)
