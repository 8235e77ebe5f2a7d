"""A real Valkey or Redis of one's own: for development, for tests, for a demo.

`EmbeddedServer` starts one server that dies with this process. `EmbeddedCluster` and
`EmbeddedSentinels` start the two topologies from the same program.
"""

from __future__ import annotations

from oddswire.embedded.binary import find_binary
from oddswire.embedded.server import EmbeddedServer
from oddswire.embedded.topology import EmbeddedCluster, EmbeddedSentinels

__all__ = ["EmbeddedCluster", "EmbeddedSentinels", "EmbeddedServer", "find_binary"]
